"""The store gives back every sample, survives kills and full disks, and tells a torn shard."""

import copy
import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import waveform_shards, waveform_store
from speakerlib.data.audio import write_audio
from speakerlib.data.waveform_store import WaveformStore, build_waveform_store

PROJECT = Path(__file__).resolve().parents[1]


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).integers(-30000, 30000, num_samples).astype(np.int16)


@pytest.fixture
def files(tmp_path):
    """Twelve wav files of different lengths, in order."""
    paths = [tmp_path / f"{number:02d}.wav" for number in range(12)]
    for number, path in enumerate(paths):
        write_audio(path, noise(8000 + 100 * number, number))
    return paths


def build(paths, folder, **options):
    return build_waveform_store(paths, folder, **{"progress": False, "num_workers": 2, **options})


def content(folder):
    """Bytes by name of everything in a store but its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_slice_of_every_utterance_comes_back(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    lengths = data.draw(st.lists(st.integers(2, 3000), min_size=1, max_size=9))
    utterances = [noise(length, seed) for seed, length in enumerate(lengths)]
    for number, samples in enumerate(utterances):
        write_audio(folder / f"{number}.wav", samples)
    paths = [folder / f"{number}.wav" for number in range(len(lengths))]
    skipped = build(paths, folder / "store", min_seconds=0,
                    shard_utterances=data.draw(st.integers(1, 10)), num_workers=data.draw(st.integers(1, 4)))
    store = WaveformStore.open(folder / "store")
    assert len(skipped) == 0 and store.lengths.tolist() == lengths
    for number, samples in enumerate(utterances):
        start = data.draw(st.integers(0, len(samples)))
        length = data.draw(st.integers(0, len(samples) - start))
        assert np.array_equal(store.read(number, start, length), samples[start:start + length])
        assert np.array_equal(store.read(number), samples)


def test_nothing_beyond_an_utterance_can_be_read(files, tmp_path):
    build(files, tmp_path / "store")
    store = WaveformStore.open(tmp_path / "store")
    for arguments in [(0, 0, 8001), (0, -1, 10), (0, 7999, 2), (0, 9000), (0, 0, -1)]:
        with pytest.raises(ValueError, match="utterance 0, which has 8000"):
            store.read(*arguments)
    for number in (-1, 12):
        with pytest.raises(IndexError):
            store.read(number)
    assert not store.read(3).flags.writeable


def test_what_cannot_be_used_is_listed_and_the_rest_keeps_its_order(files, tmp_path):
    files[1].write_text("not audio")
    soundfile.write(files[4], np.full(16000, np.nan), 16000, subtype="FLOAT")
    write_audio(files[5], noise(4000))
    files[7].write_bytes(b"")
    write_audio(files[8], np.zeros(16000))
    content_of_9 = files[9].read_bytes()
    files[9].write_bytes(content_of_9[:len(content_of_9) // 2])
    files[11].unlink()
    skipped = build(files, tmp_path / "store", shard_utterances=5)
    assert skipped.index.tolist() == [1, 4, 5, 7, 8, 9, 11]
    assert skipped["path"].tolist() == [str(files[row]) for row in skipped.index]
    assert skipped["reason"].str.split(":").str[0].tolist() == [
        "unreadable", "NaN or infinite samples", "too short", "empty", "silent", "truncated", "missing"]
    assert skipped["reason"][5] == "too short: 0.25 s, at least 0.5 s"
    store = WaveformStore.open(tmp_path / "store")
    for row, number in enumerate([0, 2, 3, 6, 10]):
        assert np.array_equal(store.read(row), noise(8000 + 100 * number, number))
    again = build(files, tmp_path / "store", shard_utterances=5)
    assert again.equals(skipped)


def test_a_store_of_nothing_but_bad_files_opens_empty(tmp_path):
    (tmp_path / "a.wav").write_text("not audio")
    assert len(build([tmp_path / "a.wav"], tmp_path / "store")) == 1
    assert len(WaveformStore.open(tmp_path / "store")) == 0


def test_parts_of_one_file_are_utterances_of_their_own(tmp_path):
    samples = noise(48000)
    write_audio(tmp_path / "a.flac", samples)
    build([tmp_path / "a.flac"] * 2, tmp_path / "store", starts=[0.5, 2.0], durations=[1.5, 0.75])
    store = WaveformStore.open(tmp_path / "store")
    assert np.array_equal(store.read(0), samples[8000:32000])
    assert np.array_equal(store.read(1), samples[32000:44000])


def test_the_bytes_do_not_depend_on_the_workers(files, tmp_path):
    build(files, tmp_path / "one", num_workers=1, shard_utterances=5)
    build(files, tmp_path / "four", num_workers=4, shard_utterances=5)
    assert content(tmp_path / "one") == content(tmp_path / "four")


def test_only_what_changed_is_decoded_again(files, tmp_path, monkeypatch):
    decoded = []
    original = waveform_shards.decode
    monkeypatch.setattr(waveform_shards, "decode", lambda *job: decoded.append(job[0]) or original(*job))
    build(files, tmp_path / "store", shard_utterances=4)
    assert len(decoded) == 12
    before = WaveformStore.open(tmp_path / "store").fingerprint
    decoded.clear()
    build(files, tmp_path / "store", shard_utterances=4)
    assert decoded == []
    write_audio(files[5], noise(8500, 99))  # as long as it was
    build(files, tmp_path / "store", shard_utterances=4)
    assert sorted(decoded) == [str(path) for path in files[4:8]]
    store = WaveformStore.open(tmp_path / "store")
    assert np.array_equal(store.read(5), noise(8500, 99)) and store.fingerprint != before
    build(files[:4], tmp_path / "store", shard_utterances=4)
    assert {path.name for path in (tmp_path / "store").glob("shard*.int16")} == {"shard-00000.int16"}


def test_a_rebuild_that_was_cut_short_is_not_read_as_the_old_store(files, tmp_path, monkeypatch):
    build(files, tmp_path / "store", shard_utterances=6)
    for number in (0, 6):
        write_audio(files[number], noise(8000, 99))
    original = waveform_store.build_shard
    monkeypatch.setattr(waveform_store, "build_shard",
                        lambda folder, number, *rest: 1 / 0 if number else original(folder, number, *rest))
    with pytest.raises(ZeroDivisionError):
        build(files, tmp_path / "store", shard_utterances=6)
    with pytest.raises(FileNotFoundError, match="no finished waveform store"):
        WaveformStore.open(tmp_path / "store")


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_torn_shard_is_named_when_opened_and_rebuilt_alone(files, tmp_path, harm):
    folder = tmp_path / "store"
    build(files, folder, shard_utterances=4)
    whole = content(folder)
    shard = folder / "shard-00001.int16"
    if harm == "remove":
        shard.unlink()
    else:
        samples = bytearray(shard.read_bytes())
        samples[1000] ^= 1
        shard.write_bytes(samples if harm == "flip" else samples[:1000])
    with pytest.raises(RuntimeError, match=r"shard-00001\.int16 is torn.*Import the corpus again"):
        WaveformStore.open(folder)
    build(files, folder, shard_utterances=4)
    assert content(folder) == whole
    WaveformStore.open(folder)


def test_an_unfinished_or_foreign_store_is_not_opened(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished waveform store"):
        WaveformStore.open(tmp_path)
    build(files, tmp_path / "store")
    index = tmp_path / "store" / "index.json"
    index.write_text(index.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(RuntimeError, match="version 99, expected 1"):
        WaveformStore.open(tmp_path / "store")


def test_a_disk_that_fills_up_keeps_the_finished_shards(files, tmp_path, monkeypatch):
    build(files, tmp_path / "whole", shard_utterances=4)
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 3:  # the second shard; its record comes after it
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="shard 2 of 3 was written. Finished and kept: 1") as caught:
        build(files, tmp_path / "store", shard_utterances=4)
    assert caught.value.errno == errno.ENOSPC
    assert set(content(tmp_path / "store")) == {"shard-00000.int16", "shard-00000.json"}
    monkeypatch.setattr(os, "fsync", fsync)
    build(files, tmp_path / "store", shard_utterances=4)
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_too_small_a_disk_is_said_before_any_work(files, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=sum(2 * (8000 + 100 * number) for number in range(12)) - 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="The waveform store needs .* MB"):
        build(files, tmp_path / "store")
    assert not list((tmp_path / "store").glob("shard*"))
    usage.free += 3000
    build(files, tmp_path / "store")


def test_memory_does_not_grow_with_the_corpus():
    results, ahead = [], []

    def work(number):
        results.append(number)
        return number

    with ThreadPoolExecutor(4) as executor:
        calls = ((number,) for number in range(300))
        for taken, number in enumerate(waveform_shards._in_order(executor, 8, work, calls)):
            assert number == taken
            ahead.append(len(results) - taken)
    assert max(ahead) <= 8


def test_more_shards_than_may_be_open_are_read(files, tmp_path, monkeypatch):
    monkeypatch.setattr(waveform_store, "OPEN_SHARDS", 2)
    build(files, tmp_path / "store", shard_utterances=1)
    store = WaveformStore.open(tmp_path / "store")
    views = [store.read(number) for number in range(12)]
    assert len(store._maps) == 2
    assert all(np.array_equal(view, noise(len(view), number)) for number, view in enumerate(views))


def test_a_store_goes_to_worker_processes_without_its_maps(files, tmp_path):
    build(files, tmp_path / "store")
    store = WaveformStore.open(tmp_path / "store")
    store.read(0)
    other = copy.copy(store)  # by the way that processes use
    assert other._maps == {} and np.array_equal(other.read(11), store.read(11))


SLOWLY = """
import sys, time
from speakerlib.data import waveform_shards
from speakerlib.data.waveform_store import build_waveform_store
original = waveform_shards.decode
def decode(*job):
    time.sleep(0.02)
    return original(*job)
waveform_shards.decode = decode
build_waveform_store(sys.argv[2:], sys.argv[1], shard_utterances=2, num_workers=1, progress=False)
"""


def test_killed_and_run_again_ends_with_the_same_bytes(files, tmp_path):
    build(files, tmp_path / "whole", shard_utterances=2)
    folder = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, str(folder), *map(str, files)], cwd=PROJECT)
    deadline = time.monotonic() + 60
    second = folder / "shard-00001.json"
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the build ended before it could be killed"
    before = (folder / "shard-00000.int16").stat().st_ino
    with pytest.raises(FileNotFoundError):
        WaveformStore.open(folder)
    build(files, folder, shard_utterances=2)
    assert (folder / "shard-00000.int16").stat().st_ino == before, "a finished shard was built again"
    assert content(folder) == content(tmp_path / "whole")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus", ".m4a"])
def test_the_space_that_a_store_will_take_is_told_without_decoding_where_a_header_tells(tmp_path, suffix, monkeypatch):
    paths, decoded = [str(tmp_path / f"{number}{suffix}") for number in range(3)], []
    waveform = np.random.default_rng(0).normal(0, 0.1, 32000).clip(-1, 1).astype(np.float32)
    for path in paths:
        if suffix == ".m4a":  # soundfile does not know it
            Path(path).write_bytes(b"none")
        else:
            write_audio(path, waveform)
    read = waveform_store.decode
    monkeypatch.setattr(waveform_store, "decode", lambda path, *rest: decoded.append(path) or read(path, *rest))
    estimated = waveform_store._estimate_bytes([(path, 0.0, None) for path in paths])
    assert estimated == (0 if suffix == ".m4a" else pytest.approx(3 * 64000, rel=0.01))
    assert decoded == (paths if suffix == ".m4a" else [])


def test_a_header_that_cannot_be_true_asks_for_no_space(tmp_path):
    samples = np.random.default_rng(0).integers(-3000, 3000, 32000).astype(np.int16)
    write_audio(tmp_path / "a.flac", samples)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] |= 0x0F  # the number of samples in its header: 2 ** 36 or so
    content[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(content)
    assert waveform_store._estimate_bytes([(str(tmp_path / "a.flac"), 0.0, None)]) <= 64000
