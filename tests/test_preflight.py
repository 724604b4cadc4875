"""Preflight and estimate: what would spoil a job of days is said before it, and its length and size are right."""

import errno
from datetime import date
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakerlib import installation
from speakerlib.data.scraping import preflight as checks
from speakerlib.data.scraping.estimate import describe_estimate, estimate, format_bytes, format_seconds
from speakerlib.data.scraping.preflight import FAIL, OK, WARN, check_output, check_yt_dlp, preflight

YOUTUBE = "https://www.youtube.com/watch?v={video}"
LOOPBACK = "http://127.0.0.1:8000/{video}.m4a"


def test_the_words_are_the_doctors():
    assert (OK, WARN, FAIL) == (installation.OK, installation.WARN, installation.FAIL)


def test_this_computer_can_scrape_from_a_server_of_its_own(tmp_path):
    results = preflight(LOOPBACK, tmp_path / "not" / "yet", num_bytes=1000)
    assert [name for _, name, _, _ in results] == ["yt-dlp", "JavaScript", "decoders", "disk"]
    assert [status for status, *_ in results] == [OK] * 4
    assert not list(tmp_path.iterdir())  # a look leaves nothing


@pytest.mark.parametrize("template, youtube", [
    (YOUTUBE, True), ("https://youtu.be/{video}", True), ("https://M.YouTube.com/watch?v={video}", True),
    (LOOPBACK, False), ("https://notyoutube.com/{video}", False), ("https://youtube.com.example.org/{video}", False),
    ("https://example.org/www.youtube.com/{video}", False),
])
def test_only_youtube_needs_what_youtube_needs(template, youtube):
    assert checks.needs_youtube(template) == youtube


@pytest.mark.parametrize("version, youtube, status, said", [
    ("2026.10.01", True, OK, "31 days old"),
    ("2026.8.1.232815", True, WARN, "92 days old"),  # a nightly
    ("2026.8.1", False, OK, "92 days old"),
    ("master", True, WARN, "without a date"),
    (None, True, FAIL, "not installed"),
])
def test_the_age_of_yt_dlp(monkeypatch, version, youtube, status, said):
    monkeypatch.setattr(checks, "_version", lambda package: version)
    seen, name, text, advice = check_yt_dlp(youtube, today=date(2026, 11, 1))
    assert (seen, name) == (status, "yt-dlp") and said in text
    assert (advice is None) == (status == OK)
    if advice:
        assert "pip install --upgrade yt-dlp yt-dlp-ejs" in advice


@pytest.mark.parametrize("runtimes, ejs, status, said", [
    ([("node", "20.1.0", False), ("deno", "2.5.0", True)], "0.8", OK, "deno 2.5.0"),
    ([("node", "20.1.0", False)], "0.8", WARN, "node 20.1.0 is too old"),
    ([], "0.8", WARN, "neither deno, node, bun nor quickjs"),
    ([("deno", "2.5.0", True)], None, WARN, "yt-dlp-ejs is not installed"),
])
def test_the_javascript_runtime(monkeypatch, runtimes, ejs, status, said):
    monkeypatch.setattr(checks, "_runtimes", lambda: runtimes)
    monkeypatch.setattr(checks, "_version", lambda package: ejs)
    seen, _, text, advice = checks.check_challenges(youtube=True)
    assert seen == status and said in text and (advice is None) == (status == OK)
    assert checks.check_challenges(youtube=False)[0] == OK  # other servers do without


def test_yt_dlp_still_tells_its_runtimes():
    from yt_dlp.globals import supported_js_runtimes

    found = checks._runtimes()
    assert {"deno", "node"} <= set(supported_js_runtimes.value)
    for name, version, supported in found:  # those of this computer, maybe none
        assert name and version and isinstance(supported, bool)


def test_a_missing_decoder_is_named(monkeypatch):
    import av

    real = av.codec.Codec
    monkeypatch.setattr(av.codec, "Codec", lambda name, mode: real("no such" if name == "opus" else name, mode))
    status, _, text, advice = checks.check_decoders()
    assert status == FAIL and "lacks opus" in text and "install" in advice


def test_a_disk_that_is_full_or_read_only_or_no_folder(monkeypatch, tmp_path):
    def free(num_bytes):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=num_bytes))

    free(2e9)
    assert check_output(tmp_path, 1e9)[0] == OK
    assert check_output(tmp_path, 1.9e9)[0] == WARN
    status, _, text, advice = check_output(tmp_path / "new", 3e9)
    assert status == FAIL and "2.0 GB free" in text and "3.0 GB needed" in text and "larger disk" in advice
    (tmp_path / "file").write_text("")
    status, _, text, _ = check_output(tmp_path / "file" / "out")
    assert status == FAIL and "is a file" in text

    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    status, _, text, _ = check_output(tmp_path)
    assert status == FAIL and "Read-only file system" in text


def the_list(num_videos=100, num_utterances=4, seconds=9.0):
    rows = [("id10001", f"video-{v:05d}", f"{u:05d}", 20.0 * u, 20.0 * u + seconds)
            for v in range(num_videos) for u in range(num_utterances)]
    return pd.DataFrame(rows, columns=["speaker", "video", "utterance", "start", "end"])


def the_ledger(outcomes, num_videos=100, **columns):
    table = pd.DataFrame({"video": [f"video-{v:05d}" for v in range(num_videos)], "seconds": 0.0, "num_bytes": 0})
    table["outcome"] = [name for name, count in outcomes.items() for _ in range(count)]
    for name, values in columns.items():
        table[name] = table["outcome"].map(values)
    return table


def test_an_estimate_before_the_job_states_its_assumptions():
    figures = estimate(the_list(), num_workers=2)
    assert (figures["videos"], figures["utterances"], figures["hours"]) == (100, 400, 1.0)
    assert figures["flac_bytes"] == 3600 * 18_000
    assert figures["download_bytes"] == 100 * 300 * 16_200
    assert figures["seconds"] == 100 * 10 / 2
    assert figures["there"] is None and "assumed" in figures["basis"]
    assert estimate(the_list(), num_workers=2, rate=240)["seconds"] == 100 * 15  # the rate holds it up
    assert estimate(the_list(), num_workers=1, rate=3600)["seconds"] == 100 * 10  # the worker does
    text = describe_estimate(estimate(the_list(), rate=240))
    for said in ("100", "400  1.00 hours", "486.0 MB", "64.8 MB", "25 min  2 workers, at most 240 videos",
                 "Assumed: 5 minutes a video"):
        assert said in text, said
    assert "no limit" in describe_estimate(estimate(the_list(), rate=float("inf")))


def test_long_videos_are_downloaded_to_their_end():
    table = the_list(1)
    table["end"] += 3000.0
    assert estimate(table)["download_bytes"] == 16_200 * 3069


def test_an_estimate_within_the_job_is_measured_on_it_and_leaves_out_what_is_settled():
    videos = the_ledger({"done": 30, "gone": 10, "blocked": 2, "failed": 3, "pending": 55},
                        seconds={"done": 6.0, "gone": 2.0, "blocked": 2.0, "failed": 2.0, "pending": 0.0},
                        num_bytes={"done": 5_000_000, "gone": 0, "blocked": 0, "failed": 0, "pending": 0})
    figures = estimate(the_list(), videos, num_workers=1)
    assert (figures["videos"], figures["utterances"]) == (60, 240)
    assert figures["download_bytes"] == 60 * 5_000_000
    assert figures["seconds"] == pytest.approx(60 * (30 * 6 + 15 * 2) / 45)
    assert figures["there"] == 0.75
    text = describe_estimate(figures)
    assert "easured on 30 videos" in text and "75 % were" in text


def test_few_videos_are_no_measurement_and_a_finished_job_needs_nothing():
    videos = the_ledger({"done": 9, "pending": 91}, seconds={"done": 600.0, "pending": 0.0})
    figures = estimate(the_list(), videos, num_workers=1)
    assert "assumed" in figures["basis"] and figures["seconds"] == 91 * 10
    figures = estimate(the_list(), the_ledger({"done": 60, "gone": 40}))
    assert [figures[name] for name in ("videos", "utterances", "hours", "flac_bytes", "download_bytes", "seconds")
            ] == [0] * 6
    assert "0 s" in describe_estimate(figures)


@pytest.mark.parametrize("wrong", [{"num_workers": 0}, {"rate": 0}, {"rate": -1.0}, {"rate": float("nan")}])
def test_an_estimate_refuses_what_cannot_be(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        estimate(the_list(1), **wrong)


@pytest.mark.parametrize("seconds, text", [
    (None, "?"), (0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 0 min"), (12_000, "3 h 20 min"),
    (86_400 * 1.5, "36 h 0 min"), (86_400 * 3.9, "3 d 22 h"), (86_400 * 5 - 60, "5 d 0 h"),
])
def test_durations_as_a_person_says_them(seconds, text):
    assert format_seconds(seconds) == text


@given(st.integers(0, 10**15))
def test_sizes_are_short_and_right(count):
    number, unit = format_bytes(count).split()
    size = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number.replace(",", "")) * size == pytest.approx(count, rel=0.05, abs=500)
