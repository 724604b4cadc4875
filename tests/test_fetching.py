"""One video, fetched by the real yt-dlp from this computer: utterances in their places, or the reason why not."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from speakerlib.data.audio import read_audio
from speakerlib.data.practice.lists import make_practice
from speakerlib.data.practice.media import hum, write_video
from speakerlib.data.practice.server import FAULTS, serve_practice
from speakerlib.data.scraping.download import download_audio, read_cookies
from speakerlib.data.scraping.fetching import Fetched, fetch_video
from speakerlib.data.scraping.outcomes import classify
from speakerlib.data.scraping.url_lists import read_url_lists

RATE = 16000
SPANS = [("id1", "00001", 1.0, 3.0)]
COOKIE = "127.0.0.1\tFALSE\t/\tFALSE\t0\tSESSION\tverysecret\n"
EXPECTED = {"missing": ("gone", "not found"), "private": ("gone", "private"), "removed": ("gone", "removed"),
            "terminated": ("gone", "terminated"), "region": ("gone", "region"), "forbidden": ("blocked", "forbidden"),
            "bot check": ("blocked", "bot check"), "rate limit": ("blocked", "rate limit"),
            "stalled": ("failed", "network"), "cut short": ("failed", "network"), "not audio": ("failed", "decode"),
            "flaky": ("failed", "network"), "wrong type": ("done", "")}


@pytest.fixture(scope="module")
def practice(tmp_path_factory):
    """(folder, {video: spans}): six videos, two of each container. Not to be changed by a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKERLIB_DATA", str(tmp_path_factory.mktemp("data")))
        folder = make_practice(tmp_path_factory.mktemp("practice"), 2, 3, 2, 8.0, speech=False)
        table, _ = read_url_lists(folder / "url_lists", progress=False)
    return folder, {video: [(row.speaker, row.utterance, row.start, row.end) for row in rows.itertuples()]
                    for video, rows in table.groupby("video")}


@pytest.fixture
def output(tmp_path, capfd):
    """Where the utterances go; what a worker printed is an error."""
    yield tmp_path / "out put"
    assert capfd.readouterr() == ("", "")


def files(output):
    return sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())


def has_no_leftovers(output):
    return not list((output / ".scraping").iterdir())


def names(spans, video):
    return sorted(f"{speaker}/{video}/{utterance}.flac" for speaker, utterance, _, _ in spans)


def of_kind(practice, suffix):
    """(video, path) of the first video of a container."""
    path = min((practice[0] / "videos").glob(f"*{suffix}"))
    return path.stem, path


@contextmanager
def serve(answers):
    """A server of {path: (status, headers, body)}; yields its address and the requests: [(path, headers)]."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            requests.append((self.path, dict(self.headers)))
            status, headers, body = answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("suffix", [".m4a", ".webm", ".mp4"])
def test_utterances_are_in_their_places(practice, output, suffix):
    video, path = of_kind(practice, suffix)
    spans = practice[1][video]
    with serve_practice(practice[0]) as (template, _):
        fetched = fetch_video(video, template.format(video=video), spans, output)
    assert (fetched.video, fetched.outcome, fetched.reason, fetched.message) == (video, "done", "", "")
    assert fetched.num_bytes == path.stat().st_size and fetched.seconds > 0
    assert files(output) == names(spans, video) and has_no_leftovers(output)
    whole = read_audio(path)  # through another resampler
    assert abs(fetched.audio_seconds - len(whole) / RATE) < 0.1
    for (speaker, utterance, num_samples, sha256, skipped), span in zip(fetched.utterances, spans, strict=True):
        assert (speaker, utterance, skipped) == (*span[:2], "")
        samples, _ = soundfile.read(output / speaker / video / f"{utterance}.flac", dtype="int16")
        assert len(samples) == num_samples and hashlib.sha256(samples.tobytes()).hexdigest() == sha256
        expected = whole[round(span[2] * RATE):round(span[3] * RATE)]
        assert np.corrcoef(samples[:len(expected)], expected[:len(samples)])[0, 1] > 0.99


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_is_told_and_leaves_nothing(practice, output, fault):
    video, _ = of_kind(practice, ".webm")
    with serve_practice(practice[0], {video: fault}) as (template, _):
        fetched = fetch_video(video, template.format(video=video), practice[1][video], output, timeout=0.5)
    assert (fetched.outcome, fetched.reason) == EXPECTED[fault]
    assert has_no_leftovers(output)
    if fault != "wrong type":
        assert files(output) == [] and fetched.utterances == () and fetched.message


def test_a_video_can_work_at_the_third_time(practice, output):
    video, _ = of_kind(practice, ".mp4")
    with serve_practice(practice[0], {video: "flaky"}) as (template, _):
        outcomes = [fetch_video(video, template.format(video=video), practice[1][video], output).outcome
                    for _ in range(3)]
    assert outcomes == ["failed", "failed", "done"] and files(output) == names(practice[1][video], video)


@pytest.mark.parametrize("suffix", [".m4a", ".webm", ".mp4"])
@pytest.mark.parametrize("announced", [True, False])
def test_half_a_download_replaces_nothing(practice, output, suffix, announced):
    video, path = of_kind(practice, suffix)
    spans, content = practice[1][video], path.read_bytes()
    with serve_practice(practice[0]) as (template, _):
        fetch_video(video, template.format(video=video), spans, output)
    before = {name: (output / name).read_bytes() for name in files(output)}
    kind = {"Content-Type": "audio/mp4"}
    half = {"/half.m4a": (200, kind, content[:len(content) // 2])}
    with serve_practice(practice[0], {video: "cut short"}) as (template, _), serve(half) as (address, _):
        url = template.format(video=video) if announced else f"{address}/half.m4a"  # a server that lies
        fetched = fetch_video(video, url, spans, output)
    assert (fetched.outcome, fetched.reason) == ("failed", "network" if announced else "decode")
    assert {name: (output / name).read_bytes() for name in files(output)} == before and has_no_leftovers(output)


def test_the_same_bytes_give_the_same_hashes(practice, output):
    video, _ = of_kind(practice, ".m4a")
    with serve_practice(practice[0]) as (template, _):
        first, second = (fetch_video(video, template.format(video=video), practice[1][video], output / name)
                         for name in "ab")
    assert first.utterances == second.utterances and len({item[3] for item in first.utterances}) == 2


def test_only_what_is_good_of_a_video_is_written(practice, output):
    video, _ = of_kind(practice, ".m4a")
    spans = [("id1", "00001", 1.0, 3.0), ("id1", "00002", 900.0, 905.0), ("id1", "00003", 1.0, 1.2)]
    with serve_practice(practice[0]) as (template, _):
        fetched = fetch_video(video, template.format(video=video), spans, output)
    assert fetched.outcome == "done" and files(output) == [f"id1/{video}/00001.flac"]
    assert [item[2:] for item in fetched.utterances[1:]] == [
        (0, "", f"past the end: ends at 905.0 s, the audio at {fetched.audio_seconds:.1f} s"), (0, "", "under 0.5 s")]


def test_kept_audio_is_what_was_served(practice, output):
    video, path = of_kind(practice, ".webm")
    (output / ".audio").mkdir(parents=True)
    (output / ".audio" / f"{video}.opus").write_bytes(b"of an earlier time")
    with serve_practice(practice[0]) as (template, _):
        fetch_video(video, template.format(video=video), practice[1][video], output, keep_audio=True)
    kept, = (output / ".audio").iterdir()
    assert kept.stem == video and kept.read_bytes() == path.read_bytes()


def test_what_a_killed_worker_left_is_gone(practice, output):
    video, _ = of_kind(practice, ".m4a")
    left = output / ".scraping" / video / "download"
    left.mkdir(parents=True)
    (left / "audio.m4a").write_bytes(b"half of")
    (left / "audio.m4a.part").write_bytes(b"half of")
    with serve_practice(practice[0]) as (template, _):
        fetched = fetch_video(video, template.format(video=video), practice[1][video], output)
    assert fetched.outcome == "done" and has_no_leftovers(output)


def test_folders_with_marks_of_yt_dlp_and_the_shell(practice, tmp_path):
    video, _ = of_kind(practice, ".m4a")
    output = tmp_path / "100%(id)s $HOME ~ {x} é"
    with serve_practice(practice[0]) as (template, _):
        assert fetch_video(video, template.format(video=video), practice[1][video], output).outcome == "done"
    assert files(output) == names(practice[1][video], video)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize(("video", "spans"), [
    ("../../etc/pa", SPANS), ("a/b/c/d/e/f", SPANS), ("short", SPANS), ("abcdefghijk", [("..", "1", 0.0, 1.0)]),
    ("abcdefghijk", [("a/b", "1", 0.0, 1.0)]), ("abcdefghijk", [("id1", "../x", 0.0, 1.0)]),
    ("abcdefghijk", [("id1", "1", 2.0, 1.0)]), ("abcdefghijk", [])])
def test_ids_and_spans_are_checked_before_anything_happens(output, video, spans):
    with serve({}) as (address, requests), pytest.raises(ValueError):
        fetch_video(video, f"{address}/{video}", spans, output)
    assert requests == [] and not output.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_no_more_is_an_error_of_the_job(practice, output, monkeypatch, number):
    video, _ = of_kind(practice, ".m4a")

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    with serve_practice(practice[0]) as (template, _):
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="is kept; make room.*run the same command again") as caught:
            fetch_video(video, template.format(video=video), practice[1][video], output)
    assert caught.value.errno == number and str(output) in str(caught.value)
    assert files(output) == [] and has_no_leftovers(output)


LIMITED = """
import resource, sys
from speakerlib.data.scraping.fetching import fetch_video
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    fetch_video(sys.argv[1], sys.argv[2], [("id1", "00001", 1.0, 3.0)], sys.argv[3])
except OSError as error:
    print(error.errno)
"""


def test_a_download_that_the_disk_does_not_take_is_an_error_of_the_job(practice, output):
    video, path = of_kind(practice, ".m4a")
    assert path.stat().st_size > 20000
    with serve_practice(practice[0]) as (template, _):
        ended = subprocess.run([sys.executable, "-c", LIMITED, video, template.format(video=video), str(output)],
                               capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == (f"{errno.EFBIG}\n", "")
    assert files(output) == [] and has_no_leftovers(output)


def test_a_proxy_is_not_asked_for_this_computer(practice, output, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    video, _ = of_kind(practice, ".m4a")
    with serve_practice(practice[0]) as (template, _):
        assert fetch_video(video, template.format(video=video), practice[1][video], output).outcome == "done"


def test_cookies_are_sent_and_never_written(practice, output, tmp_path):
    video, path = of_kind(practice, ".m4a")
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n\n#HttpOnly_" + COOKIE)
    before = cookies.read_bytes(), cookies.stat().st_mtime_ns
    answers = {"/a.m4a": (200, {"Content-Type": "audio/mp4", "Set-Cookie": "SESSION=changed"}, path.read_bytes())}
    with serve(answers) as (address, requests):
        fetched = fetch_video(video, f"{address}/a.m4a", SPANS, output, cookies=cookies)
    assert fetched.outcome == "done" and requests[0][1]["Cookie"] == "SESSION=verysecret"
    assert (cookies.read_bytes(), cookies.stat().st_mtime_ns) == before
    assert "secret" not in repr(fetched)


@pytest.mark.parametrize("text", ["", "# Netscape HTTP Cookie File\n", '[{"name": "verysecret"}]',
                                  COOKIE.replace("\t", " "), COOKIE.replace("\t0\t", "\tverysecret\t")])
def test_a_file_that_holds_no_cookies_is_refused_without_quoting_it(tmp_path, output, text):
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(text)
    with pytest.raises(ValueError, match="cookies.txt") as caught:
        fetch_video("abcdefghijk", "http://127.0.0.1:9/a.m4a", SPANS, output, cookies=cookies)
    assert "verysecret" not in str(caught.value) and has_no_leftovers(output)
    cookies.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text"):
        read_cookies(cookies)


def test_a_page_with_another_video_in_it_is_not_the_video(practice, output):
    _, path = of_kind(practice, ".m4a")
    page = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>%s</body></html>"
    sound = (200, {"Content-Type": "audio/mp4"}, path.read_bytes())
    bodies = {"abcdefghijk": b'<video src="/advert.m4a"></video>',
              "lmnopqrstuv": b'<iframe src="https://www.youtube.com/embed/abcdefghijk"></iframe>',
              "wxyz0123456": b'<script>jwplayer("player").setup({"file": "/advert.m4a"});</script>'}
    answers = {f"/{video}": (200, {"Content-Type": "text/html"}, page % body) for video, body in bodies.items()}
    with serve({**answers, "/advert.m4a": sound}) as (address, requests):
        for video in bodies:
            fetched = fetch_video(video, f"{address}/{video}", SPANS, output)
            assert (fetched.outcome, fetched.reason) == ("failed", "extractor")
    assert "/advert.m4a" not in {path for path, _ in requests} and files(output) == []


def test_a_redirect_is_followed(practice, output):
    video, path = of_kind(practice, ".m4a")
    answers = {"/here": (302, {"Location": "/there.m4a?token=verysecret"}, b""),
               "/there.m4a?token=verysecret": (200, {"Content-Type": "audio/mp4"}, path.read_bytes()),
               "/lost": (302, {"Location": "/gone?token=verysecret"}, b"")}
    with serve(answers) as (address, _):
        assert fetch_video(video, f"{address}/here", SPANS, output).outcome == "done"
        lost = fetch_video(video, f"{address}/lost", SPANS, output)
    assert (lost.outcome, lost.reason) == ("gone", "not found") and "verysecret" not in repr(lost)


def test_a_server_that_is_not_there(output):
    fetched = fetch_video("abcdefghijk", "http://127.0.0.1:9/abcdefghijk.m4a", SPANS, output, timeout=2.0)
    assert isinstance(fetched, Fetched) and (fetched.outcome, fetched.reason) == ("failed", "network")


def test_a_download_that_takes_too_long_is_given_up(practice, tmp_path):
    video, _ = of_kind(practice, ".m4a")
    with serve_practice(practice[0]) as (template, _), pytest.raises(RuntimeError, match="time limit") as caught:
        download_audio(template.format(video=video), tmp_path, max_seconds=0.0)
    assert classify(caught.value) == ("failed", "network")


@pytest.fixture
def youtube(monkeypatch):
    """youtube(answer) puts a function of (extractor, video) in place of what yt-dlp reads from YouTube."""
    from yt_dlp.extractor.youtube import YoutubeIE

    def put(answer):
        monkeypatch.setattr(YoutubeIE, "_real_extract", lambda self, url: answer(self, self._match_id(url)))
    return put


def fetch_youtube(output, spans=SPANS, **options):
    return fetch_video("-bcdefghijk", "https://www.youtube.com/watch?v=-bcdefghijk", spans, output, **options)


def test_of_youtubes_formats_the_audio_is_taken(practice, output, youtube):
    sounds = {suffix: of_kind(practice, suffix)[1] for suffix in (".m4a", ".webm", ".mp4")}
    with serve({f"/a{suffix}": (200, {}, path.read_bytes()) for suffix, path in sounds.items()}) as (address, requests):
        def formats(extractor, video):
            assert extractor._downloader.params["noplaylist"] and "node" in extractor._downloader._js_runtimes
            rows = [(".mp4", "h264", "aac", 5000), (".webm", "none", "opus", 160), (".m4a", "none", "mp4a.40.2", 128)]
            return {"id": video, "title": "x", "formats": [
                {"format_id": suffix, "url": f"{address}/a{suffix}", "ext": suffix[1:], "vcodec": picture,
                 "acodec": sound, "tbr": rate, "protocol": "http"} for suffix, picture, sound, rate in rows]}

        youtube(formats)
        fetched = fetch_youtube(output)
    assert fetched.outcome == "done" and {path for path, _ in requests} == {"/a.m4a"}
    assert files(output) == ["id1/-bcdefghijk/00001.flac"]


@pytest.mark.parametrize(("found", "outcome", "reason"), [
    ({"id": "trailertrai", "title": "x", "url": "http://127.0.0.1:9/a.m4a"}, "failed", "extractor"),
    ({"_type": "url", "url": "https://www.youtube.com/watch?v=trailertrai", "ie_key": "Youtube"}, "failed",
     "extractor"),
    ({"id": "-bcdefghijk", "title": "x", "url": "http://127.0.0.1:9/a.m4a", "live_status": "is_live"}, "failed",
     "not yet"),
    ({"id": "-bcdefghijk", "title": "x", "formats": []}, "failed", "extractor")])
def test_what_is_not_the_video_is_refused(output, youtube, found, outcome, reason):
    youtube(lambda extractor, video: dict(found))
    fetched = fetch_youtube(output)
    assert (fetched.outcome, fetched.reason) == (outcome, reason) and files(output) == []


def test_a_refusal_that_yt_dlp_only_warns_of_is_seen(output, youtube):
    from yt_dlp.utils import ExtractorError

    def refuse(extractor, video):
        extractor.report_warning("Falling back on something")
        extractor.report_warning("Unable to download API page: HTTP Error 429: Too Many Requests")
        raise ExtractorError("Failed to extract any player response")

    youtube(refuse)
    fetched = fetch_youtube(output)
    assert (fetched.outcome, fetched.reason) == ("blocked", "rate limit") and "429" in fetched.message


@pytest.mark.parametrize("error", [TypeError("'NoneType' object is not subscriptable"), KeyError("videoDetails"),
                                   RecursionError("maximum recursion depth exceeded")])
def test_a_mistake_in_an_extractor_is_a_failure_of_that_video(output, youtube, error):
    def stumble(extractor, video):
        raise error

    youtube(stumble)
    fetched = fetch_youtube(output)
    assert (fetched.outcome, fetched.reason) == ("failed", "extractor") and has_no_leftovers(output)


@pytest.mark.slow
def test_half_an_hour(tmp_path, output):
    voice = hum(4.0, 150, np.random.default_rng(0))
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "abcdefghijk.m4a", 1800.0, [(1790 * RATE, voice), (3 * RATE, voice)])
    spans = [("id1", "00002", 1790.0, 1794.0), ("id1", "00001", 3.0, 7.0)]
    with serve_practice(tmp_path) as (template, _):
        fetched = fetch_video("abcdefghijk", template.format(video="abcdefghijk"), spans, output)
    assert fetched.outcome == "done" and abs(fetched.audio_seconds - 1800) < 0.1
    for name in ("00001", "00002"):
        samples, _ = soundfile.read(output / "id1" / "abcdefghijk" / f"{name}.flac", dtype="int16")
        assert np.corrcoef(samples, voice)[0, 1] > 0.99
