"""Scraping as a user relies on it: the same command goes on, refusals stop it, and whatever stops it loses nothing."""

import errno
import functools
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speakerlib.data.manifests import read_manifest
from speakerlib.data.practice.lists import make_practice
from speakerlib.data.practice.server import serve_practice
from speakerlib.data.scraping import job as scraping
from speakerlib.data.scraping.fetching import Fetched
from speakerlib.data.scraping.job import YOUTUBE, check_template, default_rate, scrape
from speakerlib.data.scraping.ledger import open_ledger, read_ledger
from speakerlib.data.scraping.outcomes import STOPPING, advice
from speakerlib.data.scraping.progress import STOP_AFTER_FAILED, Streak
from speakerlib.data.scraping.url_lists import read_url_lists

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = "http://127.0.0.1:9/{video}.m4a"  # nothing listens there: for jobs whose fetching is replaced


@pytest.fixture(scope="module")
def practice(tmp_path_factory):
    """Twelve short videos of four speakers."""
    return make_practice(tmp_path_factory.mktemp("practice"), num_speakers=4, num_videos=3, num_utterances=2,
                         seconds=6.0, speech=False)


@pytest.fixture(scope="module")
def threads():
    """A client whose two workers are threads, so that a job starts at once."""
    distributed = pytest.importorskip("distributed")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, set_as_default=False,
                            dashboard_address="127.0.0.1:0") as client:
        yield client


IN_PLACE = {}


def pretend_to_fetch(video, url, spans, output, **options):
    """Of the module, so that it is sent to the workers by its name: they are threads and see IN_PLACE."""
    outcome, reason = IN_PLACE["fetch"](video)
    return Fetched(video, outcome, reason, "", 0.1, 10, 60.0, ())


@pytest.fixture
def job(practice, threads, data_folder, tmp_path):
    """scrape of the practice list into tmp_path / "out", with the faults of a server that runs for the call."""
    def run(faults=None, **arguments):
        with serve_practice(practice, faults) as (template, requests):
            job.requests = requests
            return scrape(practice / "url_lists", tmp_path / "out",
                          **{"url_template": template, "client": threads, "retry_seconds": 0.01, **arguments})
    return run


@pytest.fixture
def instead(practice, threads, data_folder, tmp_path, monkeypatch):
    """The same with a function in place of the download: fetch(video) returns (outcome, reason), or raises."""
    monkeypatch.setattr(scraping, "fetch_video", pretend_to_fetch)

    def run(fetch, output=tmp_path / "out", **arguments):
        monkeypatch.setitem(IN_PLACE, "fetch", fetch)
        return scrape(practice / "url_lists", output, **{"url_template": LOOPBACK, "client": threads,
                                                         "retry_seconds": 0.01, **arguments})
    return run


@pytest.fixture
def videos(practice, data_folder):
    """The list's videos, in its order."""
    return list(read_url_lists(practice / "url_lists", progress=False)[0]["video"].drop_duplicates())


def outcomes(output):
    return dict(read_ledger(output)[0][["video", "outcome"]].itertuples(index=False))


def reasons(output):
    return dict(read_ledger(output)[0][["video", "reason"]].itertuples(index=False))


def names(output):
    """What is in the folder besides speakers."""
    return sorted(name for name in os.listdir(output) if not name.startswith("id9"))


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)


TIDY = ["ledger.sqlite", "manifest.csv", "skipped.csv"]


def test_a_whole_job_leaves_the_utterances_the_ledger_and_the_lists(job, practice, tmp_path, capfd):
    table, _ = read_url_lists(practice / "url_lists", progress=False)
    progress = job()
    assert progress.finished and not progress.stopped
    assert progress.counts == {"done": 12, "gone": 0, "blocked": 0, "failed": 0, "pending": 0}
    assert progress.utterances == len(table) and progress.num_bytes > 0
    seconds = 0
    for row in table.itertuples():
        with soundfile.SoundFile(tmp_path / "out" / row.speaker / row.video / f"{row.utterance}.flac") as file:
            assert (file.samplerate, file.channels) == (16000, 1)
            assert abs(file.frames / 16000 - (row.end - row.start)) <= 0.1
            seconds += file.frames / 16000
    assert progress.hours * 3600 == pytest.approx(seconds)
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == len(table)
    assert names(tmp_path / "out") == TIDY
    assert capfd.readouterr().out == ""


def test_what_is_gone_refused_or_failed_is_told_apart_and_only_the_latter_two_are_asked_again(job, videos, tmp_path):
    faults = dict(zip(videos, ["private", "removed", "forbidden", "not audio", "flaky"]))
    progress = job(faults)
    assert progress.counts == {"done": 8, "gone": 2, "blocked": 1, "failed": 1, "pending": 0}
    assert progress.finished and not progress.stopped
    found, why = outcomes(tmp_path / "out"), reasons(tmp_path / "out")
    assert [found[video] for video in videos[:5]] == ["gone", "gone", "blocked", "failed", "done"]
    assert [why[video] for video in videos[:3]] == ["private", "removed", "forbidden"]
    again = job()  # the server is well now
    assert again.counts["done"] == 10 and again.counts["gone"] == 2
    assert set(outcomes(tmp_path / "out").values()) == {"done", "gone"}
    third = job({video: "missing" for video in videos})  # nobody is asked, so nobody is missing
    assert third.counts == again.counts and third.finished


def test_asked_again_means_asked_of_the_server(practice, threads, videos, data_folder, tmp_path):
    with serve_practice(practice, dict(zip(videos, ["private", "forbidden"]))) as (template, requests):
        scrape(practice / "url_lists", tmp_path / "out", url_template=template, client=threads)
        requests.clear()
        scrape(practice / "url_lists", tmp_path / "out", url_template=template, client=threads)
        assert list(requests) == [videos[1]]


@pytest.mark.parametrize("fault", ["bot check", "rate limit", "forbidden"])
def test_refusals_stop_the_job_which_says_why_and_goes_on_later(job, videos, tmp_path, fault):
    faults = dict.fromkeys(videos[4:], fault)
    progress = job(faults)
    assert fault in progress.stopped and advice(fault) in progress.stopped and "same command" in progress.stopped
    assert not progress.finished and progress.seconds_left is None
    assert progress.counts["gone"] == 0 and progress.counts["done"] == 4
    # On a busy machine some come before the last of the four, which begins the count anew; one more is in flight.
    assert 3 <= progress.counts["blocked"] <= 7
    assert progress.counts["pending"] == 8 - progress.counts["blocked"]
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == progress.utterances
    assert job().counts["done"] == 12


def test_a_video_that_arrives_after_the_job_stopped_is_kept_and_does_not_start_it_again(instead, videos, tmp_path):
    def fetch(video):
        if video == videos[0]:
            wait_for(lambda: list(outcomes(tmp_path / "out").values()).count("blocked") == 3)
            return "done", ""
        return "blocked", "bot check"
    progress = instead(fetch)
    assert progress.stopped and progress.counts["done"] == 1 and progress.counts["blocked"] == 3


def test_videos_refused_each_time_do_not_keep_the_others_from_being_asked(instead, videos, tmp_path):
    def fetch(video):
        return ("blocked", "forbidden") if video in videos[:3] else ("done", "")
    assert instead(fetch, num_workers=1).stopped
    assert instead(fetch, num_workers=1).counts["done"] == 9


def test_ten_videos_that_fail_in_a_row_stop_the_job(instead, videos):
    asked = Counter()

    def fetch(video):
        asked[video] += 1
        return "failed", "network"
    progress = instead(fetch, retry_seconds=100.0)
    assert "network" in progress.stopped and "same command" in progress.stopped
    assert progress.counts["pending"] == 12 - len(asked) and len(asked) in (10, 11)


def test_a_template_that_leads_nowhere_stops_the_job_before_it_gives_the_list_up(instead, videos, tmp_path):
    progress = instead(lambda video: ("gone", "not found"), num_workers=1)
    assert "URL template" in progress.stopped and progress.counts["gone"] == 10
    assert instead(lambda video: ("done", "")).counts["done"] == 12  # with the right one


def test_a_server_that_lacks_most_videos_is_asked_for_all(instead, videos):
    progress = instead(lambda video: ("done", "") if video == videos[3] else ("gone", "not found"), num_workers=1)
    assert not progress.stopped and progress.counts["gone"] == 11


ANSWERS = st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.one_of(
    st.just(("done", "")), st.just(("gone", "private")), st.just(("blocked", "age")), st.just(("failed", "network")),
    st.tuples(st.just("blocked"), st.sampled_from(sorted(STOPPING))))), max_size=60)


@given(ANSWERS, st.integers(1, 4))
def test_a_job_stops_exactly_when_its_rule_says(answers, limit):
    streak = Streak(limit)
    for number, (video, (outcome, reason)) in enumerate(answers):
        told = streak.add(video, outcome, reason)
        so_far = [(name, *answer) for name, answer in answers[:number + 1]]
        done = max((index for index, answer in enumerate(so_far) if answer[1] == "done"), default=-1)
        refusals = sum(answer[1] == "blocked" and answer[2] in STOPPING for answer in so_far[done + 1:])
        other = max((index for index, answer in enumerate(so_far) if answer[1] != "failed"), default=-1)
        failing = {name for name, *_ in so_far[other + 1:]}
        refused = outcome == "blocked" and reason in STOPPING and refusals >= limit
        assert bool(told) == (refused or len(failing) >= STOP_AFTER_FAILED)


def test_a_failed_video_is_tried_again_later_while_others_go_on(instead, videos):
    asked = []

    def fetch(video):
        asked.append((video, time.monotonic()))
        return ("failed", "network") if video == videos[0] else ("done", "")
    progress = instead(fetch, num_workers=1, retry_seconds=0.2)
    assert progress.counts == {"done": 11, "gone": 0, "blocked": 0, "failed": 1, "pending": 0}
    tries = [moment for video, moment in asked if video == videos[0]]
    assert len(tries) == 3
    assert tries[1] - tries[0] >= 0.2 and tries[2] - tries[1] >= 0.8
    assert {video for video, moment in asked if moment < tries[2]} == set(videos)
    assert Counter(video for video, _ in asked) == {**dict.fromkeys(videos, 1), videos[0]: 3}


def test_the_rate_holds_over_all_workers_and_tries(instead, videos):
    asked, begin = [], time.monotonic()

    def fetch(video):
        asked.append(time.monotonic() - begin)
        return ("failed", "network") if video == videos[3] else ("done", "")
    instead(fetch, rate=3600 / 0.05)
    assert len(asked) == 14
    assert all(moment >= 0.05 * number for number, moment in enumerate(sorted(asked)))


def test_no_more_than_num_workers_are_fetched_at_once(instead):
    lock, now, most = threading.Lock(), [0], [0]

    def fetch(video):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return "done", ""
    instead(fetch, num_workers=1)
    assert most[0] == 1


def test_a_mistake_in_fetching_costs_one_video(instead, videos, tmp_path):
    def fetch(video):
        if video == videos[5]:
            raise ZeroDivisionError("an extractor's mistake")
        return "done", ""
    assert instead(fetch).counts == {"done": 11, "gone": 0, "blocked": 0, "failed": 1, "pending": 0}
    row = read_ledger(tmp_path / "out")[0].set_index("video").loc[videos[5]]
    assert row["tries"] == 3 and "an extractor's mistake" in row["message"]


def test_a_full_disk_stops_the_job_and_loses_nothing(job, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def then_full(progress):
        if progress.counts["done"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(OSError) as raised:
            job(on_progress=then_full, num_workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno in (errno.EFBIG, None)  # None: it was the ledger
    assert "same command" in str(raised.value)
    assert 3 <= list(outcomes(tmp_path / "out").values()).count("done") < 12
    assert ".scraping" not in names(tmp_path / "out")
    assert job().counts["done"] == 12


def test_force_asks_all_again_and_never_makes_worse_what_is_there(job, videos, tmp_path):
    job()
    manifest = (tmp_path / "out" / "manifest.csv").read_bytes()
    paths = sorted((tmp_path / "out").rglob("*.flac"))
    before = {path: path.stat().st_ino for path in paths}
    seen = []
    progress = job({videos[0]: "removed", videos[1]: "not audio"}, force=True, on_progress=seen.append)
    assert seen[0].counts["pending"] == 12
    assert progress.counts["done"] == 12 and progress.utterances == len(paths)
    assert (tmp_path / "out" / "manifest.csv").read_bytes() == manifest
    kept = {path for path in paths if path.stat().st_ino == before[path]}
    assert {path.parent.name for path in kept} == set(videos[:2])
    stopped = job(dict.fromkeys(videos, "bot check"), force=True)
    assert stopped.stopped and outcomes(tmp_path / "out") == dict.fromkeys(videos, "done")


def test_what_an_interrupted_force_was_at_is_done_still_unless_it_was_replaced(job, videos, tmp_path):
    job()
    manifest = (tmp_path / "out" / "manifest.csv").read_bytes()

    def interrupt(progress):
        if progress.counts["done"] == 3:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match="kept"):
        job({videos[5]: "stalled"}, force=True, on_progress=interrupt, timeout=1.0)
    assert set(outcomes(tmp_path / "out").values()) == {"done"}
    assert (tmp_path / "out" / "manifest.csv").read_bytes() == manifest
    with closing(open_ledger(tmp_path / "out")) as ledger:  # as a kill leaves it
        for video in videos[:2]:
            ledger.set_done(video, False)
    path = next((tmp_path / "out").glob(f"*/{videos[1]}/*.flac"))
    soundfile.write(path, np.ones(16000, np.int16), 16000)
    seen = []
    job(on_progress=seen.append)
    assert seen[0].counts["pending"] == 1
    assert (tmp_path / "out" / "manifest.csv").read_bytes() == manifest


def test_the_ledger_vouches_for_nothing_that_is_just_being_replaced(instead, videos, tmp_path):
    instead(lambda video: ("done", ""))
    seen = {}

    def fetch(video):
        seen[video] = outcomes(tmp_path / "out")[video]
        return "done", ""
    instead(fetch, force=True)
    assert seen == dict.fromkeys(videos, "pending")
    assert set(outcomes(tmp_path / "out").values()) == {"done"}


def test_files_that_were_deleted_are_fetched_again(job, tmp_path):
    job()
    manifest = (tmp_path / "out" / "manifest.csv").read_bytes()
    path = sorted((tmp_path / "out").rglob("*.flac"))[3]
    path.unlink()
    seen = []
    job(on_progress=seen.append)
    assert seen[0].counts["pending"] == 1
    assert path.exists() and (tmp_path / "out" / "manifest.csv").read_bytes() == manifest


def test_the_whole_audio_is_kept_on_demand(job, videos, tmp_path):
    job(keep_audio=True)
    assert {path.stem for path in (tmp_path / "out" / ".audio").iterdir()} == set(videos)


def test_progress_comes_at_the_start_after_each_video_while_waiting_and_at_the_end(instead, videos):
    seen = []

    def fetch(video):
        if video == videos[0]:
            time.sleep(2.5)
        return "done", ""
    last = instead(fetch, num_workers=1, on_progress=seen.append)
    assert seen[0].counts["pending"] == seen[0].total == 12 and seen[0].seconds_left is None
    assert [progress.counts["done"] for progress in seen[:3]] == [0, 0, 0]  # it waits, and says so
    assert {progress.counts["done"] for progress in seen} == set(range(13))
    assert seen[-1] == last and last.finished and last.seconds_left == 0
    assert [progress.finished for progress in seen].count(True) == 1
    assert last.recent == tuple((video, "done", "") for video in videos[-5:])
    assert all(sum(progress.counts.values()) == 12 for progress in seen)


def test_a_display_that_breaks_does_not_end_the_job(job):
    def broken(progress):
        raise AttributeError("the widget is closed")
    with pytest.warns(RuntimeWarning, match="the widget is closed"):
        assert job(on_progress=broken).counts["done"] == 12


def test_an_interrupt_from_the_display_keeps_what_is_done(job, tmp_path):
    def stop_button(progress):
        if progress.counts["done"] == 5:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match="same command goes on"):
        job(on_progress=stop_button)
    assert list(outcomes(tmp_path / "out").values()).count("done") == 5
    assert job().counts["done"] == 12


def test_a_second_job_in_the_folder_is_refused_at_once(instead, tmp_path):
    began, release, ended = threading.Event(), threading.Event(), []

    def fetch(video):
        began.set()
        release.wait(30)
        return "done", ""
    first = threading.Thread(target=lambda: ended.append(instead(fetch)))
    first.start()
    assert began.wait(30)
    try:
        with pytest.raises(RuntimeError, match="another job is at work"):
            instead(lambda video: ("done", ""))
    finally:
        release.set()
        first.join()
    assert ended[0].counts["done"] == 12 and names(tmp_path / "out") == TIDY


def test_folders_of_another_list_or_of_something_else_are_left_as_they_are(instead, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="thesis.tex"):
        instead(lambda video: ("done", ""))
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]
    other = make_practice(tmp_path / "other", num_speakers=1, num_videos=1, speech=False)
    with pytest.raises(FileNotFoundError):
        scrape(other / "nothing", tmp_path / "new")
    instead(lambda video: ("done", ""), tmp_path / "first")
    before = {name: (tmp_path / "first" / name).read_bytes() for name in names(tmp_path / "first")}
    with pytest.raises(ValueError, match="another list"):
        scrape(other / "url_lists", tmp_path / "first", url_template=LOOPBACK)
    assert {name: (tmp_path / "first" / name).read_bytes() for name in names(tmp_path / "first")} == before


def test_what_cannot_be_used_is_listed_for_as_long_as_it_is_so(practice, threads, data_folder, tmp_path, monkeypatch):
    lists = shutil.copytree(practice / "url_lists", tmp_path / "lists")
    flawed = next(lists.glob("txt/*/*")) / "00099.txt"
    flawed.write_text("FRAME X Y W H\n")
    monkeypatch.setattr(scraping, "fetch_video", pretend_to_fetch)
    monkeypatch.setitem(IN_PLACE, "fetch", lambda video: ("done", ""))
    job = functools.partial(scrape, lists, tmp_path / "out", url_template=LOOPBACK, client=threads)
    assert job().counts["done"] == 12
    assert pd.read_csv(tmp_path / "out" / "unusable.csv").to_dict("records") == [
        {"path": str(flawed.relative_to(lists / "txt")), "reason": "malformed: no frames"}]
    flawed.unlink()
    assert job().finished and names(tmp_path / "out") == TIDY


def test_what_a_killed_job_was_at_is_removed(job, tmp_path):
    job()
    (tmp_path / "out" / ".scraping" / "some_video_").mkdir(parents=True)
    (tmp_path / "out" / ".scraping" / "some_video_" / "audio.m4a.part").write_bytes(b"half")
    job()
    assert names(tmp_path / "out") == TIDY


@pytest.mark.parametrize("wrong", [
    "file:///etc/{video}", "https://www.youtube.com/watch", "https://{video}.example.org/", "{video}", "",
    "https://example.org/{video}/{video}", "ftp://example.org/{video}", "https:///{video}"])
def test_a_template_that_does_not_lead_to_one_video_on_the_web_is_refused(wrong):
    with pytest.raises(ValueError, match="url_template"):
        check_template(wrong)


def test_other_hosts_are_spared_and_this_computer_is_not():
    check_template(YOUTUBE)
    assert default_rate(YOUTUBE) == 240
    assert default_rate("http://192.168.0.7/{video}") == 240
    for host in ("127.0.0.1:8000", "localhost", "[::1]:80", "127.9.9.9"):
        assert default_rate(f"http://{host}/{{video}}") is None


@pytest.mark.parametrize("wrong", [
    {"num_workers": 0}, {"num_workers": 1.5}, {"rate": 0}, {"rate": math.nan}, {"max_tries": 0}, {"timeout": 0},
    {"retry_seconds": -1}, {"stop_after_blocked": 0}, {"min_seconds": -0.1}])
def test_numbers_out_of_range_are_refused_before_anything_is_made(instead, tmp_path, wrong):
    with pytest.raises(ValueError, match=f"{[*wrong][0]}="):
        instead(lambda video: ("done", ""), **wrong)
    assert not (tmp_path / "out").exists()


def test_cookies_that_are_none_are_refused_before_anything_is_made(instead, tmp_path):
    with pytest.raises(FileNotFoundError, match="cookies"):
        instead(lambda video: ("done", ""), cookies=tmp_path / "absent.txt")
    (tmp_path / "cookies.txt").write_text("SID = very secret")
    with pytest.raises(ValueError, match="cookies") as raised:
        instead(lambda video: ("done", ""), cookies=tmp_path / "cookies.txt")
    assert "secret" not in str(raised.value) and not (tmp_path / "out").exists()


# What follows has workers of its own: processes, as a user has them.

CHILD = """
import os, signal, sys
from speakerlib.data.scraping import job as scraping
from speakerlib.data.scraping.fetching import fetch_video

def crash(video, *arguments, **options):
    if video == os.environ.get("CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return fetch_video(video, *arguments, **options)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    scraping.fetch_video = crash
    def show(progress):
        sys.stderr.write(f"done {progress.counts['done']}\\n")
        sys.stderr.flush()
    lists, output, template = sys.argv[1:]
    try:
        progress = scraping.scrape(lists, output, url_template=template, retry_seconds=0.01, on_progress=show)
    except KeyboardInterrupt as interrupt:
        sys.exit(f"KeyboardInterrupt: {interrupt}")
    print(progress.counts)
"""


@pytest.fixture
def child(practice, data_folder, tmp_path):
    """Starts scrape in a process group of its own."""
    script = tmp_path / "job.py"
    script.write_text(CHILD)

    def start(template, **environment):
        return subprocess.Popen(
            [sys.executable, str(script), str(practice / "url_lists"), str(tmp_path / "out"), template], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return start


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_video_and_the_job_is_silent(child, practice, videos, tmp_path):
    with serve_practice(practice) as (template, _):
        process = child(template, CRASH=videos[4])
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == "{'done': 11, 'gone': 0, 'blocked': 0, 'failed': 1, 'pending': 0}\n"
    row = read_ledger(tmp_path / "out")[0].set_index("video").loc[videos[4]]
    assert (row["reason"], row["tries"]) == ("decode", 3) and "worker" in row["message"]
    assert names(tmp_path / "out") == TIDY


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True], ids=["kernel", "terminal"])
def test_an_interrupt_ends_workers_and_staging_and_the_job_goes_on_later(child, practice, videos, job, tmp_path,
                                                                       whole_group):
    """A notebook interrupts the driver alone; Ctrl-C in a terminal reaches the workers too."""
    with serve_practice(practice, {videos[5]: "stalled"}) as (template, _):  # surely at work on something
        process = child(template)
        for line in process.stderr:
            if line == "done 5\n":
                break
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert "KeyboardInterrupt: Interrupted." in err and "same command goes on" in err and "Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert names(tmp_path / "out") == TIDY
    kept = list(outcomes(tmp_path / "out").values()).count("done")
    assert kept >= 5 and len(read_manifest(tmp_path / "out" / "manifest.csv")) > 0
    assert job().counts["done"] == 12
    assert pd.Series(outcomes(tmp_path / "out")).eq("done").all()


@pytest.mark.slow
def test_a_script_that_its_own_workers_would_run_again_is_told_what_to_change(practice, data_folder, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text("import sys\nfrom speakerlib.data.scraping.job import scrape\n"
                      f"scrape(*sys.argv[1:], url_template={LOOPBACK!r}, num_workers=1)\n")
    ended = subprocess.run([sys.executable, str(script), str(practice / "url_lists"), str(tmp_path / "out")], cwd=ROOT,
                           env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert 'below `if __name__ == "__main__":`' in ended.stderr.splitlines()[-1]
    assert set(outcomes(tmp_path / "out").values()) == {"pending"}
