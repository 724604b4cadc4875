"""Practice for scraping: its lists are read, its videos play, its server fails as it was told to."""

import hashlib
import http.client
import socket
import threading
import time
import tracemalloc
import urllib.request
from contextlib import closing
from itertools import pairwise
from urllib.parse import urlsplit

import numpy as np
import pytest

from speakerlib.data.audio import read_audio
from speakerlib.data.practice import lists as module
from speakerlib.data.practice.lists import make_practice, practice_faults
from speakerlib.data.practice.server import FAULTS, serve_practice
from speakerlib.data.scraping.url_lists import read_url_lists

SMALL = {"num_speakers": 2, "num_utterances": 2, "seconds": 8.0, "speech": False}
CODECS = {".m4a": ["aac"], ".webm": ["opus"], ".mp4": ["aac", "mpeg4"]}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two speakers with three videos each. Not to be changed by a test."""
    return make_practice(tmp_path_factory.mktemp("practice"), **SMALL)


@pytest.fixture
def utterances(small, data_folder):
    table, skipped = read_url_lists(small / "url_lists", progress=False)
    assert not len(skipped)
    return table


def tree(folder):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def one(folder, suffix=".m4a"):
    """The name of the first video of a kind."""
    return min(path.stem for path in (folder / "videos").glob(f"*{suffix}"))


def ask(url, method="GET", **headers):
    """(status, reason, headers, body) of one request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request(method, parts.path, headers=headers)
    with closing(connection), connection.getresponse() as answer:
        return answer.status, answer.reason, answer.headers, answer.read()


def servers():
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name
            or thread.name == "practice server"]


def test_every_speaker_has_their_videos_and_one_in_ten_serves_two(small, utterances):
    assert utterances["speaker"].unique().tolist() == ["id90001", "id90002"]
    whom = utterances.groupby("video")["speaker"].nunique()
    assert sorted(whom) == [1, 1, 1, 1, 1, 2]
    assert set(utterances["video"]) == {path.stem for path in (small / "videos").iterdir()}
    assert {video[0] for video in whom.index} > {"-", "_"}  # which a command line or a path may trip over
    assert set(utterances.groupby(["speaker", "video"]).size()) == {2}


def test_videos_are_what_they_are_called_and_hold_what_is_listed(small, utterances):
    import av

    for path in (small / "videos").iterdir():
        with av.open(str(path)) as container:
            assert [stream.codec_context.name for stream in container.streams] == CODECS[path.suffix]
        sound, spans = read_audio(path), utterances[utterances["video"] == path.stem].sort_values("start")
        expected = 8.0 * spans["speaker"].nunique()
        assert len(sound) / 16000 == pytest.approx(expected, abs=0.1)
        assert spans["start"].iloc[0] >= 0 and spans["end"].iloc[-1] <= expected

        def level(start, end, sound=sound):
            return np.sqrt(np.mean(sound[int((start + 0.1) * 16000):int((end - 0.1) * 16000)] ** 2))

        heard = [level(row.start, row.end) for row in spans.itertuples()]
        gaps = [level(one.end, two.start) for one, two in pairwise(spans.itertuples()) if two.start - one.end > 0.3]
        assert min(heard) > 10 * max([*gaps, 0.001])


def test_lists_vary_as_the_real_ones_do(tmp_path):
    folder = make_practice(tmp_path, **SMALL | {"num_videos": 15, "num_utterances": 4, "seconds": 4})
    texts = [path.read_bytes() for path in folder.glob("url_lists/txt/*/*/*.txt")]
    for sign in (b"\r\n", b"\t", b"(1)", b"ASD Conf", b"FRAME X"):
        assert 0 < sum(sign in text for text in texts) < len(texts), sign
    assert {text[-1:] == b"\n" for text in texts} == {True, False}


def test_the_same_arguments_make_the_same_bytes_and_others_replace_them(small, tmp_path):
    again = make_practice(tmp_path, **SMALL)
    assert tree(again) == tree(small)
    other = tree(make_practice(tmp_path, **SMALL | {"seed": 1}))
    assert len(other) == len(tree(small)) and not set(other.values()) & set(tree(small).values())
    make_practice(tmp_path, **SMALL)
    assert tree(tmp_path) == tree(small)
    assert {path.name for path in tmp_path.iterdir()} == {"practice.json", "url_lists", "videos", ".lock"}


def test_what_was_cut_short_is_completed_and_nothing_else_made(small, tmp_path, monkeypatch):
    make_practice(tmp_path, **SMALL)
    lost = tmp_path / "videos" / f"{one(small, '.webm')}.webm"
    lost.unlink()
    (tmp_path / "videos" / f".{lost.stem}-x.part.webm").write_bytes(b"half")
    next(tmp_path.glob("url_lists/txt/*/*/*.txt")).unlink()
    made = []
    monkeypatch.setattr(module, "write_video", lambda path, *rest, write=module.write_video: (made.append(path),
                                                                                             write(path, *rest)))
    make_practice(tmp_path, **SMALL)
    assert made == [lost] and tree(tmp_path) == tree(small)
    monkeypatch.setattr(module, "write_video", None)
    assert make_practice(tmp_path, **SMALL) == tmp_path


def test_lists_and_videos_of_someone_else_are_never_touched(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.m4a").write_bytes(b"work")
    with pytest.raises(ValueError, match="is no practice.*Give another folder"):
        make_practice(tmp_path, **SMALL)
    assert set(tree(tmp_path)) == {"videos/mine.m4a"}


@pytest.mark.parametrize("wrong", [{"num_speakers": 0}, {"num_videos": 2.0}, {"num_utterances": True}, {"seed": -1},
                                   {"seconds": 0.5}, {"seconds": float("nan")}])
def test_bad_parameters_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; expected"):
        make_practice(tmp_path / "new", **SMALL | wrong)
    assert not (tmp_path / "new").exists()


def test_voices_are_heard_where_speech_is_asked_for(tmp_path, data_folder):
    pytest.importorskip("espeakng_loader", reason="espeak-ng is not installed (the extra 'demo')")
    folder = make_practice(tmp_path, num_speakers=2, num_videos=2, num_utterances=1, seconds=5)
    table, _ = read_url_lists(folder / "url_lists", progress=False)
    sound = {path.stem: read_audio(path) for path in (folder / "videos").iterdir()}
    spoken = [sound[row.video][int(row.start * 16000):int(row.end * 16000)] for row in table.itertuples()]
    assert len(spoken) == 5 and all(np.sqrt(np.mean(voice ** 2)) > 0.005 for voice in spoken)


@pytest.mark.slow
def test_a_video_of_half_an_hour_does_not_fill_the_memory(tmp_path):
    tracemalloc.start()
    try:
        folder = make_practice(tmp_path, 1, 1, 3, seconds=1800, speech=False)
        assert tracemalloc.get_traced_memory()[1] < 3e7  # its sound alone is 58 MB
    finally:
        tracemalloc.stop()
    import av

    with av.open(str(next((folder / "videos").iterdir()))) as container:
        assert container.duration / 1e6 == pytest.approx(1800, abs=0.1)


def test_faults_are_few_spread_and_the_same_each_time(tmp_path, data_folder):
    folder = make_practice(tmp_path, 6, 3, 1, seconds=1, speech=False)
    table, _ = read_url_lists(folder / "url_lists", progress=False, min_seconds=0)
    faults = practice_faults(table)
    assert set(faults.values()) == {"private", "removed", "terminated", "region", "bot check", "flaky", "not audio"}
    assert len(faults) == 7 and faults == practice_faults(table) != practice_faults(table, seed=1)
    for seed in range(10):  # nobody loses all of their three or four videos
        left = table[~table["video"].isin(practice_faults(table, seed))]
        assert left["speaker"].nunique() == 6
    assert len(practice_faults(table[table["speaker"] == "id90001"])) == table[
        table["speaker"] == "id90001"]["video"].nunique() // 2


def test_the_server_says_what_a_video_is_and_serves_any_part_of_it(small):
    kinds = {".m4a": "audio/mp4", ".webm": "audio/webm", ".mp4": "video/mp4"}
    with serve_practice(small) as (template, requests):
        for suffix, kind in kinds.items():
            url = template.format(video=one(small, suffix))
            content = (small / "videos" / f"{one(small, suffix)}{suffix}").read_bytes()
            status, _, headers, body = ask(url)
            assert (status, headers["Content-Type"], body == content) == (200, kind, True)
            status, _, headers, body = ask(url, "HEAD")
            assert (status, headers["Content-Length"], body) == (200, str(len(content)), b"")
        for asked, expected in [("bytes=10-19", content[10:20]), ("bytes=-7", content[-7:]),
                                (f"bytes={len(content) - 3}-", content[-3:]), ("bytes=5-99999999", content[5:])]:
            status, _, headers, body = ask(url, Range=asked)
            assert (status, body == expected) == (206, True)
            first = content.index(expected) if len(expected) > 20 else int(headers["Content-Range"][6:].split("-")[0])
            assert headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(content)}"
        assert ask(url, Range=f"bytes={len(content)}-")[0] == 416
        for odd in ("bytes=9-3", "bytes=-", "pages=1-2", "bytes=0-1,5-6"):
            assert ask(url, Range=odd)[0] == 200
        assert ask(template.format(video="aaaaaaaaaaa"))[0] == 404
        for path in ("/", "/practice.json", "/../practice.m4a", "/%2e%2e/practice.json", "//etc/passwd.m4a"):
            assert ask(template.replace("/{video}.m4a", path))[0] == 404
    assert requests[one(small, ".m4a")] == 1 and requests["aaaaaaaaaaa"] == 1  # HEAD is not counted


@pytest.mark.parametrize("fault", [name for name, text in FAULTS.items() if text[:3].isdigit() and name != "flaky"])
def test_refusals_carry_their_wording(small, fault):
    with serve_practice(small, {one(small): fault}) as (template, _):
        status, reason, _, page = ask(template.format(video=one(small)))
        assert f"{status} {reason}" == FAULTS[fault] and 400 <= status < 500
        assert reason.encode() in page
        assert ask(template.format(video=one(small, ".webm")))[0] == 200


def test_faults_of_the_body(small):
    video = one(small)
    content = (small / "videos" / f"{video}.m4a").read_bytes()
    with serve_practice(small, {video: "cut short"}) as (template, _):
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(template.format(video=video), Range="bytes=100-")  # all of it, whatever is asked for
        assert content.startswith(caught.value.partial) and 100 < len(caught.value.partial) < len(content)
    with serve_practice(small, {video: "wrong type"}) as (template, _):
        _, _, headers, body = ask(template.format(video=video))
        assert headers.get_content_type() == "text/html" and body == content
    with serve_practice(small, {video: "not audio"}) as (template, _):
        _, _, headers, body = ask(template.format(video=video))
        assert headers["Content-Type"] == "audio/mp4" and body.startswith(b"<!DOCTYPE html>")
    with serve_practice(small, {video: "flaky"}) as (template, requests):
        assert [ask(template.format(video=video))[0] for _ in range(4)] == [503, 503, 200, 200]
        assert requests == {video: 4}


def test_a_stalled_answer_ends_with_the_client_or_with_the_server(small):
    video = one(small)
    with serve_practice(small, {video: "stalled"}) as (template, _):
        for _ in range(2):
            answer = urllib.request.urlopen(template.format(video=video), timeout=0.3)
            assert answer.read(1) and int(answer.headers["Content-Length"]) > 10_000
            with pytest.raises(TimeoutError):
                answer.read()
            assert len(servers()) == 2
            answer.close()
            deadline = time.monotonic() + 5
            while len(servers()) > 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(servers()) == 1
        waiting = urllib.request.urlopen(template.format(video=video), timeout=10)
    assert not servers()
    with waiting, pytest.raises((http.client.IncompleteRead, OSError)):
        waiting.read()


def test_the_server_ends_with_its_block_even_under_way_and_prints_nothing(small, capfd):
    video = one(small)
    with pytest.raises(KeyError), serve_practice(small, delay=30) as (template, requests):
        url = urlsplit(template)
        early = socket.create_connection((url.hostname, url.port))
        early.sendall(f"GET /{video}.m4a HTTP/1.1\r\n\r\n".encode())
        silent = socket.create_connection((url.hostname, url.port))  # never asks
        while not requests[video]:
            time.sleep(0.01)
        raise KeyError
    assert not servers()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((url.hostname, url.port))
    assert early.recv(1) == silent.recv(1) == b""
    early.close(), silent.close()
    with serve_practice(small) as (template, requests):  # clients that leave, and one that speaks no HTTP
        url = urlsplit(template)
        for talk in (f"GET /{video}.m4a HTTP/1.1\r\n\r\n", "GET /", "\0\n", ""):
            client = socket.create_connection((url.hostname, url.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
            client.sendall(talk.encode())
            client.close()
        assert ask(template.format(video=video))[0] == 200
    assert capfd.readouterr() == ("", "")


def test_wrong_faults_and_a_folder_without_videos_are_named(small, tmp_path):
    with pytest.raises(ValueError, match="has the fault 'gone'; expected one of missing, private"):
        with serve_practice(small, {one(small): "gone"}):
            pass
    with pytest.raises(FileNotFoundError, match="make it with make_practice"):
        with serve_practice(tmp_path):
            pass


@pytest.mark.parametrize("suffix", CODECS)
def test_yt_dlp_downloads_what_is_served(small, tmp_path, suffix):
    with serve_practice(small) as (template, requests):
        downloaded = download(template.format(video=one(small, suffix)), tmp_path)
    assert downloaded.read_bytes() == (small / "videos" / f"{one(small, suffix)}{suffix}").read_bytes()
    assert requests[one(small, suffix)] == 2


@pytest.mark.parametrize("fault", ["private", "bot check"])
def test_yt_dlp_repeats_the_wording(small, tmp_path, fault):
    with serve_practice(small, {one(small): fault}) as (template, _), pytest.raises(Exception) as caught:
        download(template.format(video=one(small)), tmp_path)
    assert FAULTS[fault][4:] in str(caught.value)


def download(url, folder):
    """The one file that yt-dlp brings."""
    yt_dlp = pytest.importorskip("yt_dlp")
    options = {"quiet": True, "noprogress": True, "no_warnings": True, "socket_timeout": 5, "retries": 0,
               "outtmpl": f"{folder}/%(id)s.%(ext)s"}
    with yt_dlp.YoutubeDL(options) as downloader:
        downloader.download([url])
    path, = folder.iterdir()
    return path
