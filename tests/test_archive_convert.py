"""m4a and wav files become FLAC or wav beside them; nothing is deleted before its successor is known to be whole."""

import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile

from speakerlib.data.archives import convert as archive_convert
from speakerlib.data.archives.convert import convert_audio
from speakerlib.data.audio import SAMPLE_RATE, read_audio, to_int16
from speakerlib.data.workers import in_processes


def write_m4a(path, seconds=1.0, seed=0):
    """AAC in m4a, as VoxCeleb2's archives hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, (1, round(SAMPLE_RATE * seconds))).astype(np.float32)
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.fixture
def corpus(tmp_path):
    """A VoxCeleb2 tree of four m4a files and one wav file at another rate, in stereo."""
    for number in range(4):
        write_m4a(tmp_path / f"dev/aac/id0001{number % 2}/21Uxsk56VDQ/{number:05d}.m4a", 0.6 + 0.1 * number, number)
    (tmp_path / "aac/id00017/5MkXgwdrmJw").mkdir(parents=True)
    stereo = np.random.default_rng(9).normal(0, 0.1, (4410, 2))
    soundfile.write(tmp_path / "aac/id00017/5MkXgwdrmJw/00001.wav", stereo, 44100)
    return tmp_path


def convert(folder, *arguments, **options):
    return convert_audio(folder, *arguments, progress=False, num_workers=2, **options)


def paths_in(folder, suffix=""):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(f"*{suffix}")
                  if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize("suffix", [".flac", "wav"])
def test_each_file_gets_a_lossless_one_beside_it_once(suffix, corpus, capsys):
    sources = [corpus / path for path in paths_in(corpus, ".m4a")]
    sources += [corpus / path for path in paths_in(corpus, ".wav")] if suffix == ".flac" else []
    assert convert(corpus, suffix).empty
    states = {}
    for source in sources:
        target = source.with_suffix(f".{suffix.strip('.')}")
        samples, rate = soundfile.read(target, dtype="int16")
        assert rate == SAMPLE_RATE and soundfile.info(target).subtype == "PCM_16"
        assert np.array_equal(samples, to_int16(read_audio(source)))
        states[target] = target.stat().st_ino
    assert len(paths_in(corpus)) == 5 + len(sources)
    os.utime(sources[0], (time.time() + 60, time.time() + 60))  # newer than what was made of it
    convert(corpus, suffix)
    assert f"1 of {len(sources)} files" in capsys.readouterr().out
    changed = [target for target, state in states.items() if target.stat().st_ino != state]
    assert [target.stem for target in changed] == [sources[0].stem]


def test_what_cannot_be_read_is_listed_and_the_rest_is_converted(corpus):
    folder = corpus / "dev/aac/id00010/21Uxsk56VDQ"
    (folder / "00000.m4a").write_bytes((folder / "00000.m4a").read_bytes()[:2000])
    (folder / "00007.m4a").write_bytes(b"")
    soundfile.write(folder / "00002.wav", np.ones(9000) * 0.1, SAMPLE_RATE)  # as 00002.m4a is called
    skipped = convert(corpus, delete_source=True)
    assert [os.path.basename(path) for path in skipped["path"]] == ["00000.m4a", "00002.wav", "00007.m4a"]
    assert "unreadable" in skipped["reason"][0] and "same name as 00002.m4a" in skipped["reason"][1]
    pd.testing.assert_frame_equal(pd.read_csv(corpus / "convert_skipped.csv", dtype="str"), skipped,
                                  check_dtype=False)
    assert len(paths_in(corpus, ".flac")) == 4
    left = [os.path.basename(path) for path in [*paths_in(corpus, ".m4a"), *paths_in(corpus, ".wav")]]
    assert left == ["00000.m4a", "00007.m4a", "00002.wav"]
    for path in left:
        (folder / path).unlink()
    assert convert(corpus).empty and not (corpus / "convert_skipped.csv").exists()


def test_a_source_is_deleted_only_for_a_whole_successor(corpus, monkeypatch):
    sources = [corpus / path for path in paths_in(corpus, ".m4a")]
    lengths = [len(read_audio(source)) for source in sources]
    targets = [source.with_suffix(".flac") for source in sources]
    convert(corpus)
    whole = targets[0].read_bytes()
    targets[0].write_bytes(whole[:len(whole) // 2])  # torn since
    soundfile.write(targets[1], np.zeros(100), SAMPLE_RATE)  # whole, but of something else
    with monkeypatch.context() as patch:  # a disk that does not give back what was written
        patch.setattr(archive_convert, "write_audio", lambda path, samples: None)
        skipped = convert(corpus, delete_source=True)
    assert list(skipped["reason"]) == [f"kept: {target.name} cannot be read back" for target in targets[:2]]
    assert paths_in(corpus, ".m4a") == [str(source.relative_to(corpus)) for source in sources[:2]]
    assert convert(corpus, delete_source=True).empty
    assert not paths_in(corpus, ".m4a") and not paths_in(corpus, ".wav")
    assert [soundfile.info(target).frames for target in targets] == lengths


def test_bad_arguments_are_refused_before_any_work(corpus, tmp_path):
    with pytest.raises(ValueError, match="'.mp3': expected flac or wav"):
        convert(corpus, "mp3")
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_full_disk_stops_the_job_and_is_not_taken_for_a_bad_file(corpus, monkeypatch):
    def full(path, samples):
        raise soundfile.LibsndfileError(2, "No space left on device: ")

    monkeypatch.setattr(archive_convert, "write_audio", full)
    with pytest.raises(OSError, match="goes on"):
        convert(corpus, delete_source=True)
    assert len(paths_in(corpus, ".m4a")) == 4 and not (corpus / "convert_skipped.csv").exists()


def abort_at_13(job):
    if job == 13:
        os.abort()
    if job == 99:
        raise OSError(28, "No space left on device")
    return job, "Jürgen"


def test_a_process_that_crashes_costs_one_job_and_a_full_disk_ends_all():
    answers = dict(in_processes(abort_at_13, range(40), 2))
    assert answers == {job: None if job == 13 else (job, "Jürgen") for job in range(40)}
    with pytest.raises(OSError, match="No space left"):
        list(in_processes(abort_at_13, range(60, 120), 2))


def has_ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_conversions_killed_at_any_moment_end_like_an_undisturbed_one(tmp_path):
    write_m4a(tmp_path / "first.m4a", 2.0)
    data = (tmp_path / "first.m4a").read_bytes()
    (tmp_path / "first.m4a").unlink()
    for number in range(400):
        path = tmp_path / f"aac/id{number % 20:05d}/21Uxsk56VDQ/{number:05d}.m4a"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    command = ("import sys; from speakerlib.data.archives.convert import convert_audio;"
               "convert_audio(sys.argv[1], num_workers=2, delete_source=True)")
    num_killed, num_samples, workers = 0, None, []
    for moment in (1, 100, 200):
        process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            while process.poll() is None and len(paths_in(tmp_path, "[0-9].flac")) < moment:
                time.sleep(0.002)
            workers += psutil.Process(process.pid).children()
        finally:
            process.send_signal(signal.SIGKILL)
            num_killed += process.wait(10) == -signal.SIGKILL
        stems = {path.stem for path in tmp_path.rglob("[0-9]*") if path.suffix in (".m4a", ".flac")}
        assert len(stems) == 400  # each as a source, a result or both
        for path in tmp_path.rglob("[0-9]*.flac"):
            num_samples = num_samples or soundfile.info(path).frames
            assert len(soundfile.read(path)[0]) == num_samples
        deadline = time.monotonic() + 30
        while not all(map(has_ended, workers)):  # by themselves
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert num_killed >= 2 and len(workers) >= 4
    assert convert(tmp_path, delete_source=True).empty
    assert [os.path.splitext(path)[1] for path in paths_in(tmp_path)] == [".flac"] * 400
