"""The ledger of a scraping job: whole after any kill, one list a folder, readable while a job writes."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data.scraping.fetching import Fetched
from speakerlib.data.scraping.ledger import LEDGER, Ledger, State, open_ledger, read_ledger

VIDEOS = ["-video_0001", "_video_0002", "video_00003", "video_00004"]
OUTCOMES = ["done", "gone", "blocked", "failed"]


def listing(videos=VIDEOS, utterances=2):
    """Every video serves two speakers."""
    return pd.DataFrame([(speaker, video, f"{number:05d}", number * 10.0, number * 10.0 + 4.04)
                         for speaker in ("id90001", "id90002") for video in videos for number in range(utterances)],
                        columns=["speaker", "video", "utterance", "start", "end"])


def result(video, outcome="done", reason="", samples=64640, message=""):
    written = [(speaker, f"{number:05d}", samples, "ab" * 32, "") for speaker in ("id90001", "id90002")
               for number in range(2)] if outcome == "done" else []
    return Fetched(video, outcome, reason, message, 1.5, 1000, 60.0, tuple(written))


def outcomes(output):
    return dict(read_ledger(output)[0][["video", "outcome"]].itertuples(index=False))


def test_a_new_ledger_holds_the_list_with_every_video_pending(tmp_path):
    table = listing()
    open_ledger(tmp_path / "out", table).close()
    videos, utterances, meta = read_ledger(tmp_path / "out")
    assert list(videos["video"]) == VIDEOS and set(videos["outcome"]) == {"pending"}
    pd.testing.assert_frame_equal(utterances[list(table.columns)],
                                  table.sort_values(["speaker", "video", "utterance"], ignore_index=True))
    assert set(utterances["sha256"]) == {""} and set(utterances["num_samples"]) == {0}
    assert meta["num_videos"] == "4" and meta["num_utterances"] == "16"
    assert os.listdir(tmp_path / "out") == [LEDGER]


def test_a_result_is_kept_with_its_utterances_reason_tries_and_bytes(tmp_path):
    with_skip = Fetched(VIDEOS[0], "done", "", "", 2.5, 4321, 61.0, (
        ("id90001", "00000", 64640, "cd" * 32, ""), ("id90001", "00001", 100, "", "past the end: ends at 14.0 s")))
    ledger = open_ledger(tmp_path, listing())
    ledger.record(result(VIDEOS[1], "failed", "network", message="HTTP Error 503"))
    ledger.record(result(VIDEOS[1], "gone", "private", message="Private video"))
    ledger.record(with_skip)
    ledger.close()
    videos, utterances, _ = read_ledger(tmp_path)
    videos = videos.set_index("video")
    row = videos.loc[VIDEOS[1]]
    assert (row["outcome"], row["reason"], row["message"], row["tries"]) == ("gone", "private", "Private video", 2)
    row = videos.loc[VIDEOS[0]]
    assert (row["outcome"], row["tries"], row["seconds"], row["num_bytes"], row["audio_seconds"]) == (
        "done", 1, 2.5, 4321, 61.0)
    mine = utterances[(utterances["video"] == VIDEOS[0]) & (utterances["speaker"] == "id90001")]
    assert list(mine["sha256"]) == ["cd" * 32, ""]
    assert list(mine["skipped"]) == ["", "past the end: ends at 14.0 s"]
    assert videos.loc[VIDEOS[2], "outcome"] == "pending"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(VIDEOS), st.sampled_from(OUTCOMES), st.integers(1, 10**6)), max_size=12))
def test_counts_kept_in_memory_are_those_of_the_ledger(results):
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(folder, listing())
        states = ledger.states()
        for video, outcome, samples in results:
            fetched = result(video, outcome, samples=samples)
            ledger.record(fetched)
            states[video] = State.after(fetched)
        ledger.close()
        reopened = open_ledger(folder, listing())
        assert reopened.states() == states
        assert set(reopened.waiting()) == {video for video, state in states.items()
                                           if state.outcome not in ("done", "gone")}
        assert reopened.waiting(everything=True) == VIDEOS
        reopened.close()


def test_new_videos_are_asked_before_those_that_failed_and_those_that_were_refused(tmp_path):
    ledger = open_ledger(tmp_path, listing())
    ledger.record(result(VIDEOS[0], "blocked", "forbidden"))
    ledger.record(result(VIDEOS[1], "failed", "network"))
    assert ledger.waiting() == [VIDEOS[2], VIDEOS[3], VIDEOS[1], VIDEOS[0]]
    ledger.record(result(VIDEOS[3], "blocked", "bot check"))
    ledger.record(result(VIDEOS[0], "blocked", "forbidden"))
    assert ledger.waiting() == [VIDEOS[2], VIDEOS[1], VIDEOS[3], VIDEOS[0]]  # the one refused last comes last
    ledger.close()


@pytest.mark.parametrize(("reason", "asked"), [("private", 1), ("removed", 1), ("unavailable", 2), ("not found", 2)])
def test_what_may_be_said_of_living_videos_too_is_asked_a_second_time(tmp_path, reason, asked):
    ledger = open_ledger(tmp_path, listing(VIDEOS[:1]))
    times = 0
    while ledger.waiting() and times < 5:
        ledger.record(result(VIDEOS[0], "gone", reason))
        times += 1
    assert times == asked


def test_a_video_whose_files_may_be_half_replaced_counts_for_nothing(tmp_path):
    ledger = open_ledger(tmp_path, listing())
    ledger.record(result(VIDEOS[0]))
    ledger.set_done(VIDEOS[0], False)
    utterances = read_ledger(tmp_path)[1]
    assert set(utterances["sha256"]) == {""} and ledger.states()[VIDEOS[0]].num_utterances == 0
    ledger.set_done(VIDEOS[0], True)  # nothing was replaced: as it was
    assert ledger.states()[VIDEOS[0]] == State.after(result(VIDEOS[0]))
    ledger.close()


def test_a_done_video_is_pending_again_when_a_file_of_it_is_missing_or_empty(tmp_path):
    ledger = open_ledger(tmp_path, listing())
    for video in VIDEOS[:3]:
        ledger.record(result(video))
        for speaker in ("id90001", "id90002"):
            (tmp_path / speaker / video).mkdir(parents=True)
            for number in range(2):
                (tmp_path / speaker / video / f"{number:05d}.flac").write_bytes(b"fLaC")
    (tmp_path / "id90002" / VIDEOS[0] / "00001.flac").unlink()
    (tmp_path / "id90001" / VIDEOS[2] / "00000.flac").write_bytes(b"")
    assert ledger.forget_missing() == 2
    ledger.close()
    assert outcomes(tmp_path) == dict(zip(VIDEOS, ["pending", "done", "pending", "pending"]))


@pytest.mark.parametrize("other", [listing(VIDEOS[:3]), listing().assign(end=lambda table: table["end"] + 0.04)])
def test_a_folder_of_another_list_is_refused_and_left_as_it_is(tmp_path, other):
    open_ledger(tmp_path, listing()).close()
    before = (tmp_path / LEDGER).read_bytes()
    with pytest.raises(ValueError, match=r"another list.*16 utterances of 4 videos.*folder of its own"):
        open_ledger(tmp_path, other)
    assert (tmp_path / LEDGER).read_bytes() == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"no ledger, such as 'thesis.tex'"):
        open_ledger(tmp_path, listing())
    with pytest.raises(ValueError, match="is a file"):
        open_ledger(tmp_path / "thesis.tex", listing())
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(FileNotFoundError, match="output folder of a scraping job"):
        read_ledger(tmp_path)


def test_a_list_with_a_name_that_leads_out_of_the_folder_makes_no_ledger(tmp_path):
    table = listing()
    table.loc[3, "video"] = "../../../ab"
    with pytest.raises(ValueError, match="ab"):
        open_ledger(tmp_path, table)
    with pytest.raises(ValueError, match="no utterances"):
        open_ledger(tmp_path, listing([]))
    assert not os.listdir(tmp_path)


def damage(path, how):
    if how == "not SQLite":
        path.write_bytes(b"speaker,video\n" * 1000)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "another database":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.close()
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
        connection.close()


@pytest.mark.parametrize("how", ["not SQLite", "empty", "cut short", "another database", "of a later version"])
def test_what_is_no_ledger_of_ours_is_named_and_left_alone(tmp_path, how):
    open_ledger(tmp_path, listing([f"video{number:06d}" for number in range(200)])).close()
    damage(tmp_path / LEDGER, how)
    before = (tmp_path / LEDGER).read_bytes()
    for read in (read_ledger, lambda output: open_ledger(output, listing())):
        with pytest.raises(ValueError, match=LEDGER):
            read(tmp_path)
    assert (tmp_path / LEDGER).read_bytes() == before


def test_what_a_kill_left_while_the_ledger_was_made_is_removed(tmp_path):
    (tmp_path / ".ledger-x1.part.sqlite").write_bytes(b"half a ledger")
    (tmp_path / ".ledger-x1.part.sqlite-journal").write_bytes(b"and its journal")
    open_ledger(tmp_path, listing()).close()
    assert os.listdir(tmp_path) == [LEDGER]


KILLED = """
import os, signal, sys
from speakerlib.data.scraping.ledger import Ledger
ledger = Ledger(sys.argv[1])
with ledger.transaction() as connection:
    connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the end
    connection.execute("UPDATE videos SET outcome = 'gone', message = hex(randomblob(500))")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_of_a_transaction_changes_nothing(tmp_path):
    videos = [f"video{number:06d}" for number in range(300)]
    with open_ledger(tmp_path, listing(videos)).transaction():
        pass
    before = (tmp_path / LEDGER).read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / LEDGER)], cwd=Path(__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / LEDGER).read_bytes() != before  # the kill did come in the middle
    assert set(outcomes(tmp_path).values()) == {"pending"}
    assert os.listdir(tmp_path) == [LEDGER]


def test_it_can_be_read_while_the_job_writes(tmp_path):
    ledger = open_ledger(tmp_path, listing())
    ledger.record(result(VIDEOS[0]))
    with ledger.transaction() as connection:
        connection.execute("UPDATE videos SET outcome = 'gone'")
        assert outcomes(tmp_path)[VIDEOS[0]] == "done"  # as of the last whole transaction
    assert outcomes(tmp_path)[VIDEOS[0]] == "gone"
    ledger.close()


def test_a_full_disk_is_an_os_error_and_loses_nothing(tmp_path):
    ledger = open_ledger(tmp_path, listing())
    ledger.record(result(VIDEOS[0]))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(OSError, match="disk is not full"):
            ledger.record(result(VIDEOS[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcomes(tmp_path) == dict(zip(VIDEOS, ["done", "pending", "pending", "pending"]))
    ledger.record(result(VIDEOS[1]))  # and goes on when there is room again
    ledger.close()
    assert outcomes(tmp_path)[VIDEOS[1]] == "done"


READ_ONLY = """
import os, sys
from speakerlib.data.scraping.ledger import open_ledger, read_ledger
if os.geteuid() == 0:
    os.setuid(65534)  # permissions do not bind root
assert len(read_ledger(sys.argv[1])[0]) == 4
for attempt in (lambda: open_ledger(sys.argv[1]).set_done("video_00003", True),
                lambda: open_ledger(sys.argv[1] + "/new", read_ledger(sys.argv[1])[1])):
    try:
        attempt()
    except OSError as error:
        print(error)
"""


def test_a_read_only_folder_can_be_read_and_says_so_when_written():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        output = Path(folder) / "out"
        open_ledger(output, listing()).close()
        (output / LEDGER).chmod(0o444)
        output.chmod(0o555)
        child = subprocess.run([sys.executable, "-c", READ_ONLY, str(output)], cwd=Path(__file__).parents[1],
                               capture_output=True, text=True)
        output.chmod(0o755)
    assert child.returncode == 0, child.stderr
    first, second = child.stdout.splitlines()
    assert "readonly" in first and "write to the folder" in first
    assert "denied" in second.lower()


def test_ledger_needs_the_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Ledger(tmp_path / LEDGER)
