"""Feature shards: the right numbers, once, through kills, torn files, full disks and other processes."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import channels, feature_shards, files, front_ends
from speakerlib.data.babble import BabblePool
from speakerlib.data.channels import apply_channels, clip_seeds
from speakerlib.data.corpora import import_corpus
from speakerlib.data.features import FeatureStore, prepare_features, segment_table

SECONDS = (0.9, 3.1, 4.6)  # of the three utterances of each speaker


def write_audio(folder, num_speakers=4):
    random = np.random.default_rng(0)
    for speaker in range(num_speakers):
        for take, seconds in enumerate(SECONDS):
            path = folder / f"speaker{speaker}" / f"take{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            swell = 1 + np.sin(np.linspace(0, 20, round(seconds * 16000)))
            soundfile.write(path, 0.05 * swell * random.standard_normal(len(swell)), 16000, subtype="PCM_16")


@pytest.fixture
def corpus(data_folder, tmp_path):
    """Four speakers, three utterances each: none, two and three segments of 1.5 s."""
    write_audio(tmp_path / "audio")
    return import_corpus(tmp_path / "audio", name="tiny", progress=False)


@pytest.fixture
def small_shards(monkeypatch):
    """Four shards of five segments for the 20 segments of 1.5 s."""
    monkeypatch.setattr(feature_shards, "SHARD_BYTES", 5 * 64 * 151 * 2)


@pytest.fixture
def computed(monkeypatch):
    """The list of batch sizes that the front end was asked for."""
    sizes = []
    compute = front_ends.compute
    monkeypatch.setattr(front_ends, "compute", lambda front_end, waveforms: (
        sizes.append(len(waveforms)) or compute(front_end, waveforms)))
    return sizes


def fake_corpus(lengths, speakers, sessions, name="fake", fingerprint="f0", waveforms=None):
    table = pd.DataFrame({"speaker": speakers, "session": sessions, "split": "train",
                          "utterance": [str(row) for row in range(len(lengths))]})
    store = SimpleNamespace(lengths=np.array(lengths, dtype=np.int64), read=lambda row, start=0, length=None:
                            waveforms[row][start:start + length])
    return SimpleNamespace(name=name, table=table, waveforms=store, fingerprint=fingerprint)


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def shard_files(folder):
    return sorted(path for path in folder.glob("shard-*") if path.suffix != ".json")


# The segments


samples_speaker_session = st.tuples(st.integers(1, 90000), st.integers(0, 3), st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(samples_speaker_session, min_size=1, max_size=30),
       segment_seconds=st.sampled_from([0.5, 1.0, 1.5, 3.0, 0.123]))
def test_segments_are_a_grid_over_each_utterance(rows, segment_seconds):
    lengths, speakers, sessions = zip(*rows)
    corpus = fake_corpus(lengths, [f"s{one}" for one in speakers], [str(one) for one in sessions])
    table = segment_table(corpus, segment_seconds)
    size = round(segment_seconds * 16000)
    assert (table["length"] == size).all()
    grid = [(row, start) for row, length in enumerate(lengths) for start in range(0, length - size + 1, size)]
    assert list(zip(table["utterance"], table["start"])) == grid
    assert table.index.tolist() == list(range(len(grid)))
    for name in ("speaker", "session", "split"):
        assert table[name].tolist() == [corpus.table[name][row] for row in table["utterance"]]
    same_speaker = table[["speaker", "speaker_code"]].drop_duplicates()
    assert same_speaker["speaker"].is_unique and same_speaker["speaker_code"].is_unique
    same_session = table[["speaker", "session", "session_code"]].drop_duplicates()
    assert same_session["session_code"].is_unique
    assert not same_session[["speaker", "session"]].duplicated().any()


def test_segment_ids_are_the_same_in_every_condition_and_front_end(corpus):
    stores = [prepare_features(corpus, name, 1.5, condition, channel_seed=seed, progress=False)
              for name in ("compact", "boccio")
              for condition, seed in (("recorded", 0), ("changed", 0), ("changed", 1))]
    assert len({store.folder for store in stores}) == 6
    for store in stores:
        pd.testing.assert_frame_equal(store.segments, segment_table(corpus, 1.5))


@pytest.mark.parametrize("seconds", [0, -1.5, float("nan"), float("inf"), "1.5", True, None])
def test_segment_seconds_that_are_no_length_are_refused(corpus, seconds):
    with pytest.raises(ValueError, match="segment_seconds=.*from 0.1 to 600"):
        prepare_features(corpus, segment_seconds=seconds)


# What is read


@pytest.mark.parametrize("name", ["compact", "boccio"])
@pytest.mark.parametrize("condition, family", [("recorded", "I"), ("changed", "I"), ("changed", "II")])
def test_what_is_read_is_the_front_end_of_the_segment(corpus, monkeypatch, name, condition, family):
    monkeypatch.setattr(feature_shards, "SHARD_BYTES", 200_000)
    corpus.table["split"] = ["train"] * 6 + ["test"] * 6  # two speakers each: nobody is alone
    store = prepare_features(corpus, name, 1.5, condition, channel_seed=7, channel_family=family, progress=False)
    assert (len(store), store.condition, store.front_end.name) == (20, condition, name)
    ids = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 2))
    found = store.read(ids)
    assert found.shape == (40, 1, store.num_mels, store.num_frames)
    assert found.dtype == torch.float32 and found.is_contiguous()
    for segment, features_read in zip(ids, found):
        row = store.segments.loc[segment]
        clip = corpus.waveforms.read(row["utterance"], row["start"], row["length"]) / np.float32(32768)
        clip = torch.from_numpy(clip)[None]
        if condition == "changed":
            named = corpus.table.loc[row["utterance"]]
            key = f"{named['speaker']}/{named['session']}/{named['utterance']}"
            seeds = clip_seeds(7, [(key, row["start"])])
            babble = BabblePool(corpus).mix([row["utterance"]], seeds, row["length"])
            clip = apply_channels(clip, seeds, family, babble)
        expected = front_ends.normalise(store.front_end, front_ends.compute(store.front_end, clip))
        # At most one level of 255, or one step of a float16: computed alone or in a batch.
        assert (features_read - expected).abs().max() <= (1.0 if name == "boccio" else 2 ** -6)


@pytest.mark.parametrize("name", ["boccio", "compact", "log_mel"])
@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_that_are_kept_are_the_numbers_that_are_read(corpus, monkeypatch, name, threads):
    monkeypatch.setattr(feature_shards, "SHARD_BYTES", 200_000)
    monkeypatch.setattr("speakerlib.data.features.COPY_BYTES", 200_000)  # so that several threads have work
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    store = prepare_features(corpus, name, 1.5, progress=False)
    assert len(shard_files(store.folder)) > 1
    one_by_one = torch.cat([store.read([number]) for number in range(len(store))])
    ids = np.random.default_rng(1).integers(len(store), size=70)
    assert torch.equal(store.read(ids), one_by_one[torch.from_numpy(ids)])
    kept = store.read(ids, keep_bytes=True)
    assert kept.dtype == (torch.uint8 if name == "boccio" else torch.float32)
    assert torch.equal(kept.float(), one_by_one[torch.from_numpy(ids)])
    assert store.read([], keep_bytes=True).shape == (0, 1, store.num_mels, store.num_frames)


def test_the_channel_seed_and_the_condition_change_the_features(corpus):
    recorded, first, second = (
        prepare_features(corpus, condition=condition, channel_seed=seed, progress=False).read(range(20))
        for condition, seed in (("recorded", 0), ("changed", 0), ("changed", 1)))
    assert (recorded - first).abs().mean() > 0.1
    assert (first - second).abs().mean() > 0.1
    again = prepare_features(corpus, condition="recorded", channel_seed=1, progress=False)
    assert torch.equal(again.read(range(20)), recorded)  # no channel, no channel seed


def test_the_family_and_its_version_name_the_folder(corpus, monkeypatch):
    corpus.table["split"] = "train"
    stores = [prepare_features(corpus, condition="changed", channel_family=family, progress=False)
              for family in ("I", "II")]
    assert [store.channel_family for store in stores] == ["I", "II"]
    assert (stores[0].read(range(20)) - stores[1].read(range(20))).abs().mean() > 0.1
    monkeypatch.setitem(channels.VERSIONS, "II", channels.VERSIONS["II"] + 1)
    assert prepare_features(corpus, condition="changed", channel_family="II",
                            progress=False).folder not in {store.folder for store in stores}


def test_a_speaker_alone_in_a_split_has_no_babble(corpus):
    corpus.table["split"] = ["train"] * 9 + ["test"] * 3
    with pytest.raises(ValueError, match="is the only one in split 'test'"):
        prepare_features(corpus, condition="changed", channel_family="II", progress=False)


@pytest.mark.parametrize("ids, error, message", [
    ([0, 20], IndexError, "from 0 to 20; expected 0 to 19"), ([-1], IndexError, "from -1 to -1"),
    ([[0, 1]], ValueError, r"shape \(1, 2\)"), ([0.0], ValueError, "float64"), ([True], ValueError, "bool")])
def test_ids_that_are_not_there_are_refused(corpus, ids, error, message):
    store = prepare_features(corpus, progress=False)
    with pytest.raises(error, match=message):
        store.read(ids)
    assert store.read([]).shape == (0, 1, 64, 151)


def test_a_store_travels_to_a_worker_process_without_its_data(corpus):
    store = prepare_features(corpus, progress=False)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).read([3, 1]), store.read([3, 1]))


# Once, and for these settings only


def test_what_is_there_is_not_computed_again(corpus, computed):
    first = prepare_features(corpus, progress=False)
    assert sum(computed) == len(first) == 20
    second = prepare_features(corpus, progress=False)
    assert sum(computed) == 20
    assert torch.equal(first.read(range(20)), second.read(range(20)))


def test_a_changed_corpus_is_computed_again_and_said(data_folder, capsys, computed, small_shards):
    random = np.random.default_rng(0)
    waveforms = random.integers(-3000, 3000, (20, 24000)).astype(np.int16)
    names = [f"s{row // 5}" for row in range(20)]
    prepare_features(fake_corpus([24000] * 20, names, names, waveforms=waveforms), progress=False)
    fewer = fake_corpus([24000] * 12, names[:12], names[:12], fingerprint="f1", waveforms=waveforms[8:])
    store = prepare_features(fewer, progress=False)
    said = capsys.readouterr().out
    assert "has changed since these features were computed (fingerprint f0, now f1)" in said
    assert sum(computed) == 32
    assert len(store) == 12 and len(shard_files(store.folder)) == 3
    expected = front_ends.compute(store.front_end, torch.from_numpy(waveforms[8:] / np.float32(32768)))
    expected = front_ends.normalise(store.front_end, expected)
    assert (store.read(range(12))[:, 0] - expected).abs().max() <= 2 ** -6


def test_a_rebuild_that_is_cut_short_leaves_nothing_that_opens(corpus, monkeypatch, small_shards):
    store = prepare_features(corpus, progress=False)
    other = SimpleNamespace(**{key: getattr(corpus, key) for key in ("name", "table", "waveforms")},
                            fingerprint="f1")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(front_ends, "compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_features(other, progress=False)
    with pytest.raises(FileNotFoundError, match="no finished features"):
        FeatureStore.open(store.folder)
    assert prepare_features(other, progress=False).fingerprint == "f1"


def test_a_folder_of_another_front_end_or_length_is_refused(corpus):
    boccio = prepare_features(corpus, "boccio", 3.0, progress=False)
    with pytest.raises(ValueError, match="front_end 'boccio' .*; expected front_end 'compact'"):
        FeatureStore.open(boccio.folder, expect={"front_end": "compact"})
    with pytest.raises(ValueError, match="segment_seconds 3.0; expected segment_seconds 1.5"):
        FeatureStore.open(boccio.folder, expect={"front_end": "boccio", "segment_seconds": 1.5})
    compact = prepare_features(corpus, progress=False)
    shutil.rmtree(compact.folder)
    shutil.copytree(boccio.folder, compact.folder)  # a folder under the wrong name
    with pytest.raises(ValueError, match="front_end 'boccio' .*; expected front_end 'compact'"):
        prepare_features(corpus, progress=False)
    assert len(FeatureStore.open(compact.folder)) == len(boccio)  # and nothing in it was deleted


def test_another_record_of_the_same_name_is_another_folder(corpus):
    record = replace(front_ends.FRONT_ENDS["compact"], f_max=7000.0)
    changed = prepare_features(corpus, record, progress=False)
    named = prepare_features(corpus, "compact", progress=False)
    assert changed.folder != named.folder
    assert changed.front_end.f_max == 7000.0
    with pytest.raises(ValueError, match=r"'compact' \(\w{8}\); expected front_end 'compact' \(\w{8}\)"):
        FeatureStore.open(changed.folder, expect={"front_end": "compact"})


@pytest.mark.parametrize("wrong, message", [
    ({"condition": "noisy"}, r"'noisy' is not known; expected one of \['recorded', 'changed'\]"),
    ({"channel_family": "III"}, "'III' is not known"), ({"front_end": "bocio"}, "Did you mean 'boccio'")])
def test_unknown_settings_are_refused_before_any_work(corpus, data_folder, wrong, message):
    with pytest.raises(ValueError, match=message):
        prepare_features(corpus, **wrong)
    assert not (data_folder / "features").exists()


def test_utterances_that_are_too_short_are_counted(corpus, capsys):
    prepare_features(corpus, segment_seconds=4.0, progress=False)
    assert "tiny: 8 of 12 utterances are shorter than 4.0 s and give no segment." in capsys.readouterr().out
    with pytest.raises(ValueError, match="no utterance of segment_seconds=5.0; its longest is 4.60 s"):
        prepare_features(corpus, segment_seconds=5.0, progress=False)


def test_a_store_too_large_to_be_read_through_is_opened_by_its_sizes_alone(corpus, monkeypatch, small_shards):
    store = prepare_features(corpus, "compact", progress=False)
    read, checksum = [], files.checksum
    monkeypatch.setattr(files, "checksum", lambda path: read.append(Path(path).name) or checksum(path))
    monkeypatch.setattr("speakerlib.data.features.CHECK_BYTES", 1)
    FeatureStore.open(store.folder)
    assert read == ["segments.parquet"]


def test_an_unfinished_folder_is_not_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished features"):
        FeatureStore.open(tmp_path)


# Torn files and full disks


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("tear", [cut_short, flip_a_byte, Path.unlink])
def test_a_torn_shard_is_noticed_and_it_alone_made_again(corpus, capsys, computed, small_shards, tear):
    store = prepare_features(corpus, progress=False)
    whole = folder_bytes(store.folder)
    del computed[:]
    tear(shard_files(store.folder)[2])
    with pytest.raises(RuntimeError, match="shard-00002.float16 is (torn|missing).*prepare_features again"):
        FeatureStore.open(store.folder)
    prepare_features(corpus, progress=False)
    assert "shard-00002.float16 is torn or missing; computing it again." in capsys.readouterr().out
    assert computed == [5]
    assert folder_bytes(store.folder) == whole


@pytest.mark.parametrize("name", ["segments.parquet", "shard-00001.json"])
def test_a_torn_table_or_note_is_made_again(corpus, small_shards, name):
    store = prepare_features(corpus, progress=False)
    whole = folder_bytes(store.folder)
    cut_short(store.folder / name)
    if name == "segments.parquet":
        with pytest.raises(RuntimeError, match="segments.parquet is torn"):
            FeatureStore.open(store.folder)
    else:
        (store.folder / "index.json").unlink()  # the note counts only while shards are built
    prepare_features(corpus, progress=False)
    assert folder_bytes(store.folder) == whole


def test_a_disk_that_fills_up_keeps_the_finished_shards(corpus, monkeypatch, computed, small_shards):
    atomic_path = files.atomic_path

    @contextmanager
    def full_at_the_third(path):
        if path.name == "shard-00002.float16":
            yield Path("/dev/full")  # every write to it fails as on a full disk
        else:
            with atomic_path(path) as temporary:
                yield temporary

    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_path", full_at_the_third)
        with pytest.raises(OSError, match="the disk is full; .* keeps its 2 finished shards.*it goes on"):
            prepare_features(corpus, progress=False)
    del computed[:]
    store = prepare_features(corpus, progress=False)
    assert computed == [5, 5]
    assert len(shard_files(store.folder)) == 4


def test_a_disk_that_is_too_small_is_told_before_any_work(corpus, monkeypatch, computed):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    with pytest.raises(OSError, match="Computing features compact-recorded-.* needs .* MB .*SPEAKERLIB_DATA"):
        prepare_features(corpus, progress=False)
    assert computed == []


# Other processes


SCRIPT = """
import sys, time
from speakerlib.data import corpora, feature_shards, features, front_ends
feature_shards.SHARD_BYTES = 5 * 64 * 151 * 2
compute, count = front_ends.compute, 0
def slowly(*args):
    global count
    count += 1
    time.sleep(float(sys.argv[1]))
    return compute(*args)
front_ends.compute = slowly
corpus = corpora.open_corpus("tiny")
print("ready", flush=True)
store = features.prepare_features(corpus, condition="changed", progress=False)
print("computed", count, "of", len(store))
"""


def start(data, pause):
    environment = os.environ | {"SPEAKERLIB_DATA": str(data), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(pause)], stdout=subprocess.PIPE, text=True,
                            env=environment, cwd=files.project_folder())


def count_notes(data):
    return len(list((data / "features").glob("tiny/*/shard-*.json")))


@pytest.mark.slow
def test_a_build_that_is_killed_again_and_again_ends_with_the_same_bytes(corpus, data_folder, tmp_path):
    shutil.copytree(data_folder, tmp_path / "other")
    output, _ = start(data_folder, 0).communicate()
    assert "computed 4 of 20" in output
    counts = []
    for enough in (0, 1, 2):  # killed at some moment after so many shards are there
        process = start(tmp_path / "other", 0.25)
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None and count_notes(tmp_path / "other") < enough:
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        counts.append(count_notes(tmp_path / "other"))
    assert counts[-1] >= 2  # a killed build keeps what it finished, and the next one adds to it
    output, _ = start(tmp_path / "other", 0).communicate()
    assert f"computed {4 - counts[-1]} of 20" in output
    uninterrupted, resumed = ((data / "features" / "tiny") for data in (data_folder, tmp_path / "other"))
    (name,) = [path.name for path in uninterrupted.iterdir()]
    assert folder_bytes(uninterrupted / name) == folder_bytes(resumed / name)
    assert not list((resumed / name).glob(".*.part*"))  # what the killed ones left is cleared away


@pytest.mark.slow
def test_of_two_processes_one_builds_and_the_other_waits(corpus, data_folder):
    processes = [start(data_folder, 0.3) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(output.splitlines()[-1] for output in outputs) == ["computed 0 of 20", "computed 4 of 20"]


def test_real_speech_reads_back(so762, data_folder, tmp_path):
    for folder in sorted((so762 / "speech").iterdir())[:3]:
        for path in sorted(folder.iterdir())[:3]:
            (tmp_path / "audio" / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "audio" / folder.name)
    corpus = import_corpus(tmp_path / "audio", name="three", progress=False)
    store = prepare_features(corpus, "compact", 1.5, "changed", progress=False)
    seen = store.read(np.arange(len(store)))
    assert len(store) >= 9
    assert torch.isfinite(seen).all()
    assert seen.std() > 0.3
