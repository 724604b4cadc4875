"""A scraping job that is killed again and again ends with the same files as one that was left alone."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import soundfile

from speakerlib.data.manifests import read_manifest
from speakerlib.data.practice.lists import make_practice
from speakerlib.data.practice.server import serve_practice
from speakerlib.data.scraping.ledger import LEDGER, read_ledger

ROOT = Path(__file__).resolve().parents[1]
NUM_KILLS = 24
VISIBLE = {LEDGER, f"{LEDGER}-journal", "manifest.csv", "skipped.csv"}


@pytest.mark.slow
def test_a_job_killed_at_twenty_moments_ends_like_one_left_alone(tmp_path, data_folder):
    practice = make_practice(tmp_path / "practice", num_speakers=12, num_videos=6, num_utterances=3, seconds=20.0,
                             speech=False)
    draw, kills = random.Random(), 0
    with serve_practice(practice, delay=0.02) as (template, requests):
        assert start(practice, template, tmp_path / "alone").wait(120) == 0
        num_videos = len(requests)
        hashes = samples_of(tmp_path / "alone")
        assert num_videos == 72 and len(hashes) >= 216
        requests.clear()
        output = tmp_path / "killed"
        for number in range(NUM_KILLS):
            process = start(practice, template, output)
            if number % 6 == 0:  # while it starts: imports, lists, ledger, workers
                time.sleep(draw.uniform(0.0, 3.0))
            else:  # at work; the last ones are near the end, where manifests are written
                wait_for(process, lambda: len(requests) >= num_videos * (number + 1) / NUM_KILLS)
                time.sleep(draw.expovariate(1 / 0.1))
            kills += kill(process)
            check_what_is_visible(output, hashes)
        assert kills >= 20
        assert start(practice, template, output).wait(120) == 0
    videos, utterances, _ = read_ledger(output)
    assert set(videos["outcome"]) == {"done"} and set(videos["tries"]) == {1} and len(videos) == num_videos
    assert (output / "manifest.csv").read_bytes() == (tmp_path / "alone" / "manifest.csv").read_bytes()
    assert (output / "skipped.csv").read_bytes() == (tmp_path / "alone" / "skipped.csv").read_bytes()
    assert files(output) == files(tmp_path / "alone")
    assert set(files(output)) == {LEDGER, "manifest.csv", "skipped.csv", *(f"{'/'.join(key)}.flac" for key in hashes)}
    assert samples_of(output) == hashes


def start(practice, template, output):
    """The command as a user types it."""
    return subprocess.Popen(
        [sys.executable, "-m", "speakerlib", "scrape", "--url-directory", str(practice / "url_lists"), "--output",
         str(output), "--url-template", template, "--retry-seconds", "0.1"],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(process, condition):
    while process.poll() is None and not condition():
        time.sleep(0.005)


def kill(process):
    """kill -9 to the job alone, not to its workers, which must end by themselves; whether it was still there."""
    try:
        workers = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        workers = []
    process.kill()
    killed = process.wait(30) == -signal.SIGKILL
    assert not psutil.wait_procs(workers, timeout=20)[1], "workers outlive their job"
    return killed


def check_what_is_visible(output, hashes):
    """Nothing half-made has a final name, and what the ledger calls done is there."""
    if not output.exists():
        return
    seen = {path for path in files(output) if not path.startswith(".")}
    audio = {path for path in seen if path.endswith(".flac")}
    assert seen - audio <= VISIBLE
    for path in audio:
        assert sha256(output / path) == hashes[tuple(path.removesuffix(".flac").split("/"))], path
    if (output / "manifest.csv").exists():
        read_manifest(output / "manifest.csv")
    if (output / LEDGER).exists():
        _, utterances, _ = read_ledger(output)
        done = utterances[utterances["sha256"] != ""]
        assert {f"{row.speaker}/{row.video}/{row.utterance}.flac" for row in done.itertuples()} <= audio
        assert all(hashes[row.speaker, row.video, row.utterance] == row.sha256 for row in done.itertuples())


def files(folder):
    """All files below it, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def samples_of(output):
    """{(speaker, video, utterance): SHA-256 of its samples}, read from the files."""
    return {tuple(path.removesuffix(".flac").split("/")): sha256(output / path) for path in files(output)
            if path.endswith(".flac")}


def sha256(path):
    samples, _ = soundfile.read(path, dtype="int16")
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
