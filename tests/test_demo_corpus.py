"""The demo corpus: its layout, the same bytes for the same seed, nothing lost or left over after a kill."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
import wave
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakerlib.data import demo_corpus as module
from speakerlib.data.demo_corpus import demo_corpus, make_demo_corpus
from speakerlib.data.files import project_folder, read_json, write_json
from speakerlib.data.synthetic_speech import draw_speaker

pytest.importorskip("espeakng_loader", reason="espeak-ng is not installed (the extra 'demo')")
SMALL = {"num_speakers": 3, "num_sessions": 2, "num_utterances": 2, "progress": False}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The smallest corpus, seed 0, made by one worker. Not to be changed by a test."""
    return make_demo_corpus(tmp_path_factory.mktemp("demo"), num_workers=1, **SMALL)


def tree(folder):
    """Path and content of all that is in a folder, but for the lock."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.name != ".lock"}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for name, path in paths.items()}


def read(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def test_layout_is_voxcelebs(small):
    assert {path.name for path in small.iterdir()} == {"wav", "split.csv", "made.json", ".lock"}
    files = sorted(path.relative_to(small / "wav").parts for path in small.glob("wav/**/*.wav"))
    assert [name for speaker, session, name in files] == ["00001.wav", "00002.wav"] * 6
    assert Counter(speaker for speaker, _, _ in files) == {"id90001": 4, "id90002": 4, "id90003": 4}
    sessions = {session for _, session, _ in files}
    assert len(sessions) == 6 and all(len(session) == 11 and session[0].isalnum() for session in sessions)


def test_every_utterance_is_3_to_6_s_at_a_level_of_its_own_and_not_clipped(small):
    waveforms = [read(path) for path in small.glob("wav/*/*/*.wav")]
    assert all(3.05 * 16000 <= len(waveform) <= 6 * 16000 for waveform in waveforms)
    assert all(500 < np.abs(waveform.astype(int)).max() < 32700 for waveform in waveforms)
    assert len({hashlib.sha256(waveform).digest() for waveform in waveforms}) == len(waveforms)


def test_bytes_depend_on_the_seed_alone(small, tmp_path):
    again = make_demo_corpus(tmp_path / "again", num_workers=2, **SMALL)
    assert tree(again) == tree(small)
    other = tree(make_demo_corpus(tmp_path / "other", seed=1, **SMALL))
    other = {content for name, content in other.items() if name.endswith(".wav")}
    assert len(other) == 12 and not other & set(tree(small).values())


def test_a_speaker_is_the_same_among_few_and_among_many(small, tmp_path):
    more = make_demo_corpus(tmp_path, **SMALL | {"num_speakers": 4})
    assert tree(small / "wav").items() < tree(more / "wav").items()


def test_a_speaker_is_one_voice_and_speakers_differ():
    speakers = [draw_speaker(0, number) for number in range(120)]
    assert len(set(speakers)) == 120 and draw_speaker(0, 7) == speakers[7]
    assert len({speaker.accent for speaker in speakers}) > 10
    assert len({speaker.variant for speaker in speakers}) > 20
    assert np.std([speaker.tract for speaker in speakers]) > 0.05


def test_after_kill_9_the_rest_is_made_and_nothing_is_left_over(tmp_path, tmp_path_factory):
    many = SMALL | {"num_speakers": 30}
    code = ("from speakerlib.data.demo_corpus import make_demo_corpus\n"
            f"make_demo_corpus({str(tmp_path)!r}, num_workers=2, **{many})")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=project_folder(), stderr=subprocess.DEVNULL)
    while process.poll() is None and len([*tmp_path.glob("wav/id*")]) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {path.name: path.stat().st_ino for path in tmp_path.glob("wav/id*")}
    assert 2 <= len(done) < 30 and not (tmp_path / "made.json").exists()
    (tmp_path / "wav" / ".id90030" / "half").mkdir(parents=True)  # as a kill may leave it
    make_demo_corpus(tmp_path, **many)
    assert {name: (tmp_path / "wav" / name).stat().st_ino for name in done} == done  # kept, not made again
    assert tree(tmp_path) == tree(make_demo_corpus(tmp_path_factory.mktemp("uninterrupted"), **many))


def test_what_is_made_is_not_made_again(small, monkeypatch):
    monkeypatch.setattr(module, "_make_speaker", None)
    monkeypatch.setattr(module, "espeak_version", None)  # nor is espeak-ng needed
    assert make_demo_corpus(small, **SMALL) == small


@pytest.mark.parametrize("stop_at", ["replace", "write_json", "rmtree", None])
def test_other_parameters_make_it_again_and_a_stop_on_the_way_mixes_nothing(tmp_path, monkeypatch, stop_at):
    make_demo_corpus(tmp_path / "there", **SMALL)
    expected = tree(make_demo_corpus(tmp_path / "expected", seed=5, **SMALL))

    def stop(*arguments):
        raise KeyboardInterrupt

    if stop_at:
        owner = {"replace": os, "write_json": module, "rmtree": module.shutil}[stop_at]
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, stop_at, stop)
            make_demo_corpus(tmp_path / "there", seed=5, **SMALL)
    make_demo_corpus(tmp_path / "there", seed=5, **SMALL)
    assert tree(tmp_path / "there") == expected


def test_an_older_recipe_and_a_lost_speaker_are_made_again(small, tmp_path, capsys):
    folder = make_demo_corpus(tmp_path, **SMALL)
    (folder / "wav" / "id90002").rename(folder / "wav" / ".id90002")
    assert tree(make_demo_corpus(folder, **SMALL)) == tree(small)
    write_json(folder / "made.json", read_json(folder / "made.json") | {"recipe": 0})
    (folder / "wav" / "id90002" / "00001.wav").write_bytes(b"")
    assert tree(make_demo_corpus(folder, **SMALL)) == tree(small)
    assert "recipe 0 -> " in capsys.readouterr().out


def test_speech_that_is_not_a_demo_corpus_is_never_touched(tmp_path):
    recording = tmp_path / "wav" / "id10001" / "video" / "00001.wav"
    recording.parent.mkdir(parents=True)
    recording.write_bytes(b"someone's work")
    with pytest.raises(ValueError, match="not a demo corpus.*Give another folder"):
        make_demo_corpus(tmp_path, **SMALL)
    assert set(tree(tmp_path)) == {"wav", "wav/id10001", "wav/id10001/video", "wav/id10001/video/00001.wav"}


def test_without_espeak_the_error_says_what_to_install_and_nothing_is_lost(small, tmp_path, monkeypatch):
    folder = make_demo_corpus(tmp_path, **SMALL)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install espeakng-loader"):
        make_demo_corpus(folder, seed=3, **SMALL)
    assert tree(folder) == tree(small)


@pytest.mark.parametrize("wrong", [{"num_speakers": 2}, {"num_speakers": 3.0}, {"num_sessions": 0},
                                   {"num_utterances": True}, {"seed": -1}])
def test_bad_parameters_are_refused_before_anything_is_written(tmp_path, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a whole number from"):
        make_demo_corpus(tmp_path / "new", **SMALL | wrong)
    assert not (tmp_path / "new").exists()


def test_the_split_of_120_speakers():
    assert Counter(module._splits(120)) == {"train": 60, "validation": 10, "test": 50}


@given(st.integers(3, 3000))
def test_splits_scale_with_the_number_of_speakers(num_speakers):
    counts = Counter(module._splits(num_speakers))
    assert sum(counts.values()) == num_speakers and set(counts) == {"train", "validation", "test"}
    assert min(counts.values()) >= (2 if num_speakers >= 6 else 1)
    assert abs(counts["train"] - num_speakers / 2) <= 1.5
    assert abs(counts["test"] - num_speakers * 5 / 12) <= 1.5


def test_it_is_imported_as_synthetic_with_its_own_splits(data_folder):
    make_demo_corpus(**SMALL)
    corpus = demo_corpus(progress=False)  # the one that is there, not another of 120 speakers
    assert corpus.name == "demo" and corpus.synthetic and len(corpus.table) == 12
    assert corpus.table.groupby("speaker")["session"].nunique().tolist() == [2, 2, 2]
    with open(data_folder / "corpora" / "demo" / "split.csv", newline="") as file:
        splits = dict(csv.reader(file))
    assert splits.pop("speaker") == "split"
    assert splits == corpus.table.groupby("speaker")["split"].first().to_dict()
    assert demo_corpus(num_speakers=4, progress=False).table["speaker"].nunique() == 4
