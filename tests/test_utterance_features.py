"""Features of whole utterances, the segments cut from them, and the episodes of long support and short queries."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import channels, feature_shards, front_ends, utterance_shards
from speakerlib.data.babble import BabblePool
from speakerlib.data.corpora import import_corpus
from speakerlib.data.kye_front_end import compute_kye
from speakerlib.data.utterance_episodes import LongShortEpisodes, SpeakerBatches, draw_starts
from speakerlib.data.utterance_features import (
    UtteranceFeatures,
    describe_short,
    prepare_utterance_features,
    utterance_front_end,
)

SECONDS = (0.7, 1.3, 2.6)  # of the three utterances of each speaker


@pytest.fixture
def corpus(data_folder, tmp_path):
    random = np.random.default_rng(0)
    for speaker in range(6):
        for take, seconds in enumerate(SECONDS):
            path = tmp_path / "audio" / f"speaker{speaker}" / f"take{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            swell = 1 + np.sin(np.linspace(0, 20, round((seconds + speaker / 100) * 16000)))
            soundfile.write(path, 0.05 * swell * random.standard_normal(len(swell)), 16000, subtype="PCM_16")
    return import_corpus(tmp_path / "audio", name="tiny", progress=False)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few utterances: some end in the middle of a speaker."""
    monkeypatch.setattr(feature_shards, "SHARD_BYTES", 40_000)


@pytest.fixture
def computed(monkeypatch):
    """The list of utterances' samples that features were computed of."""
    counts = []
    compute = utterance_shards.compute_utterance
    monkeypatch.setattr(utterance_shards, "compute_utterance", lambda front_end, samples: (
        counts.append(len(samples)) or compute(front_end, samples)))
    return counts


def changed_samples(corpus, row, seed, family):
    """An utterance through its own channel, computed from the parts."""
    named = corpus.table.iloc[row]
    seeds = channels.clip_seeds(seed, [(f"{named['speaker']}/{named['session']}/{named['utterance']}", 0)])
    waveform = torch.from_numpy(corpus.waveforms.read(row) / np.float32(32768))[None]
    babble = BabblePool(corpus).mix([row], seeds, waveform.shape[1]) if family == "II" else None
    return channels.apply_channels(waveform, seeds, family, babble)[0].numpy() * 32768


def expected_frames(front_end, samples):
    if front_end == "kye":
        return compute_kye(samples).numpy()
    waveform = torch.from_numpy(np.float32(samples) / 32768)[None]
    return front_ends.compute(front_ends.front_end(front_end), waveform)[0].T.float().numpy()


# What is stored and read


@pytest.mark.parametrize("front_end", ["kye", "compact"])
@pytest.mark.parametrize("condition, family", [("recorded", "I"), ("changed", "I"), ("changed", "II")])
def test_frames_are_those_of_the_whole_utterance(corpus, small_shards, front_end, condition, family):
    store = prepare_utterance_features(corpus, front_end, condition, channel_seed=3, channel_family=family,
                                       progress=False)
    assert len(store) == len(corpus.table) == 18 and len(list(store.folder.glob("shard-*.float16"))) > 2
    for row in range(len(store)):
        recorded = corpus.waveforms.read(row)
        samples = recorded if condition == "recorded" else changed_samples(corpus, row, 3, family)
        expected = expected_frames(front_end, samples)
        found = store.frames(row)
        assert found.shape == expected.shape == (store.lengths[row], store.num_mels)
        np.testing.assert_allclose(found.astype(np.float32), expected, rtol=1e-3, atol=0.02)  # float16
    assert store.utterances["speaker"].tolist() == corpus.table["speaker"].tolist()


def test_a_segment_is_a_slice_less_its_mean(corpus):
    store = prepare_utterance_features(corpus, progress=False)
    rows, starts = np.array([5, 2, 5, 8]), np.array([10, 0, 33, 7])
    found = store.segments(rows, starts, 60)
    assert found.shape == (4, 1, 40, 60) and found.dtype == torch.float32 and found.is_contiguous()
    for one, row, start in zip(found, rows, starts):
        frames = store.frames(row)[start:start + 60].astype(np.float32).T
        np.testing.assert_allclose(one[0].numpy(), frames - frames.mean(axis=1, keepdims=True), atol=1e-4)
    assert found.mean(dim=-1).abs().max() < 1e-4
    assert torch.equal(store.whole(5), store.segments([5], [0], store.lengths[5]))


def test_compact_and_log_mel_keep_their_own_normalisation(corpus):
    with_mean = prepare_utterance_features(corpus, "log_mel", progress=False).segments([2], [0], 60)
    without = prepare_utterance_features(corpus, "compact", progress=False).segments([2], [0], 60)
    assert with_mean.mean(dim=-1).abs().max() > 1
    assert torch.allclose(with_mean - with_mean.mean(dim=-1, keepdim=True), without, atol=1e-4)


def test_an_utterance_that_is_too_short_goes_round_and_it_is_said(corpus):
    store = prepare_utterance_features(corpus, progress=False)
    short = int(store.lengths[0])
    assert short < 100
    found = store.segments([0], [20], 200)
    frames = np.tile(store.frames(0), (4, 1))[20:220].astype(np.float32).T
    np.testing.assert_allclose(found[0, 0].numpy(), frames - frames.mean(axis=1, keepdims=True), atol=1e-4)
    assert store.is_short([0, 2], 200).tolist() == [True, False]
    assert describe_short(store, np.arange(18), 200, "enrolments") == (
        "12 of 18 enrolments are shorter than 2.00 s and are repeated end to end to reach it.")
    assert describe_short(store, [2, 5], 200) == ""


def test_enrolment_joins_utterances_of_a_speaker_in_their_order(corpus):
    store = prepare_utterance_features(corpus, progress=False)
    groups = [[0, 1, 2], [3], [5, 4]]
    found = store.joined(groups, 300)
    assert found.shape == (3, 1, 40, 300)
    assert store.is_short(groups, 300).tolist() == [False, True, False]
    for one, group in zip(found, groups):
        frames = np.concatenate([store.frames(row) for row in group])
        frames = np.tile(frames, (5, 1))[:300].astype(np.float32).T
        np.testing.assert_allclose(one[0].numpy(), frames - frames.mean(axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("rows, starts, length", [([2], [250], 60), ([2], [-1], 60), ([0], [70], 200), ([2], [1], 900)])
def test_segments_outside_their_utterance_are_refused(corpus, rows, starts, length):
    store = prepare_utterance_features(corpus, progress=False)
    starts = [store.lengths[rows[0]]] if length == 900 else starts
    with pytest.raises(ValueError, match=f"{length} frames from frame .* of utterance {rows[0]}, which has"):
        store.segments(rows, starts, length)
    with pytest.raises(IndexError, match="no utterance 18; expected 0 to 17"):
        store.segments([18], [0], 10)
    with pytest.raises(ValueError, match="at least one frame"):
        store.segments([2], [0], 0)


def test_a_worker_process_opens_the_store_anew(corpus):
    store = prepare_utterance_features(corpus, progress=False)
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.whole(4), store.whole(4))
    assert len(pickle.dumps(store)) < 2000


# Settings


@pytest.mark.parametrize("wrong, message", [
    ({"front_end": "kyle"}, r"front_end='kyle' is not known; expected one of \['kye', 'compact'"),
    ({"front_end": "boccio"}, "'boccio' scales each clip by its own range"),
    ({"condition": "noisy"}, "condition='noisy' is not known"), ({"channel_family": "III"}, "'III' is not known")])
def test_unknown_settings_are_refused_before_any_work(corpus, data_folder, wrong, message):
    with pytest.raises(ValueError, match=message):
        prepare_utterance_features(corpus, **wrong)
    assert not (data_folder / "features").exists()


def test_every_setting_has_a_folder_of_its_own(corpus):
    settings = [{}, {"front_end": "compact"}, {"condition": "changed"}, {"condition": "changed", "channel_seed": 1}]
    stores = [prepare_utterance_features(corpus, progress=False, **each) for each in settings]
    assert len({store.folder for store in stores}) == 4
    assert [(store.front_end.name, store.condition, store.channel_seed) for store in stores] == [
        ("kye", "recorded", None), ("compact", "recorded", None), ("kye", "changed", 0), ("kye", "changed", 1)]
    assert stores[0].front_end == utterance_front_end("kye")


def test_a_family_that_came_to_mean_other_channels_has_a_folder_of_its_own(corpus, monkeypatch):
    def folder(condition):
        return prepare_utterance_features(corpus, "kye", condition, channel_family="II", progress=False).folder

    changed, recorded = folder("changed"), folder("recorded")
    monkeypatch.setitem(channels.VERSIONS, "II", channels.VERSIONS["II"] + 1)
    assert folder("changed") != changed and folder("recorded") == recorded


@pytest.mark.parametrize("family", ["I", "II"])
def test_features_are_the_same_on_any_number_of_threads_and_in_any_parts(corpus, monkeypatch, family):
    threads, stores = torch.get_num_threads(), []
    try:
        for count, seconds in ((1, 3600), (3, 3600), (3, 4)):  # the last one: two or three utterances at once
            torch.set_num_threads(count)
            monkeypatch.setattr(utterance_shards, "SECONDS_AT_ONCE", seconds)
            store = prepare_utterance_features(corpus, "kye", "changed", channel_family=family, progress=False)
            assert torch.get_num_threads() == count
            stores.append([store.frames(row).copy() for row in range(len(store))])
            shutil.rmtree(store.folder)
    finally:
        torch.set_num_threads(threads)
    for other in stores[1:]:
        assert all(np.array_equal(frames, found) for frames, found in zip(stores[0], other, strict=True))


# Torn files and killed builds


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("tear", [cut_short, Path.unlink])
def test_a_torn_shard_is_noticed_and_it_alone_made_again(corpus, computed, small_shards, capsys, tear):
    store = prepare_utterance_features(corpus, progress=False)
    shards = sorted(store.folder.glob("shard-*.float16"))
    whole = [path.read_bytes() for path in shards]
    del computed[:]
    assert len(prepare_utterance_features(corpus, progress=False)) == 18 and computed == []
    tear(shards[1])
    with pytest.raises(RuntimeError, match="shard-00001.float16 is (torn|missing)"):
        UtteranceFeatures(store.folder)
    prepare_utterance_features(corpus, progress=False)
    assert "shard-00001.float16 is torn or missing; computing it again." in capsys.readouterr().out
    assert 0 < len(computed) < 8
    assert [path.read_bytes() for path in shards] == whole


def test_a_build_that_was_cut_short_goes_on(corpus, computed, small_shards, monkeypatch):
    write = feature_shards.write_shard

    def killed_at_the_second(path, *args):
        if path.name == "shard-00001.float16":
            raise KeyboardInterrupt
        return write(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(feature_shards, "write_shard", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prepare_utterance_features(corpus, progress=False)
    before = len(computed)
    assert 0 < before < 18
    prepare_utterance_features(corpus, progress=False)
    assert len(computed) == 18


def test_an_unfinished_or_another_kind_of_folder_is_not_opened(corpus, tmp_path):
    from speakerlib.data.features import prepare_features

    with pytest.raises(FileNotFoundError, match="no finished features"):
        UtteranceFeatures(tmp_path)
    segments = prepare_features(corpus, segment_seconds=0.5, progress=False)
    with pytest.raises(RuntimeError, match="no features of whole utterances"):
        UtteranceFeatures(segments.folder)


# Episodes


def table(num_speakers, num_utterances, seed=0, first=0):
    random = np.random.default_rng(seed)
    speakers = np.repeat([f"s{number:03d}" for number in range(num_speakers)], num_utterances)
    rows = first + 3 * np.arange(len(speakers))  # row numbers of the corpus, with gaps
    return pd.DataFrame({"utterance": rows, "speaker": speakers, "session": speakers,
                         "frames": random.integers(60, 500, len(rows))}, index=rows)


@settings(max_examples=40, deadline=None)
@given(num_speakers=st.integers(3, 12), num_utterances=st.integers(3, 6), num_way=st.integers(2, 3),
       num_support=st.integers(1, 2), use_variable_length=st.booleans(), seed=st.integers(0, 50),
       step=st.integers(0, 50))
def test_an_episode_is_what_it_says(num_speakers, num_utterances, num_way, num_support, use_variable_length, seed,
                                    step):
    utterances = table(num_speakers, num_utterances)
    episodes = LongShortEpisodes(utterances, num_way, num_support, 1, seed=seed,
                                 use_variable_length=use_variable_length)
    speakers, support, query = episodes.draw(step)
    names = np.sort(utterances["speaker"].unique())
    assert support.length == 200
    assert 100 <= query.length < 200 if use_variable_length else query.length == 200
    assert len(set(speakers)) == num_way
    used = np.concatenate([support.utterances.ravel(), query.utterances.ravel()])
    assert len(set(used)) == len(used) == num_way * (num_support + 1)
    for crops in (support, query):
        assert crops.utterances.shape == crops.starts.shape and len(crops.utterances) == num_way
        owners = utterances["speaker"].loc[crops.utterances.ravel()].to_numpy().reshape(crops.utterances.shape)
        assert (owners == names[speakers][:, None]).all()
        lengths = utterances["frames"].loc[crops.utterances.ravel()].to_numpy().reshape(crops.utterances.shape)
        fits = lengths >= crops.length
        assert (crops.starts[fits] + crops.length <= lengths[fits]).all()
        assert (crops.starts >= 0).all() and (crops.starts < lengths).all()
    again = LongShortEpisodes(utterances.sample(frac=1, random_state=1), num_way, num_support, 1, seed=seed,
                              use_variable_length=use_variable_length).draw(step)
    for one, other in zip((speakers, *support[:2], *query[:2]), (again.speakers, *again.support[:2], *again.query[:2])):
        assert np.array_equal(one, other)


def test_query_lengths_and_starts_are_uniform():
    episodes = LongShortEpisodes(table(4, 4), 2, 1, 2, seed=5)
    lengths = np.array([episodes.draw(step).query.length for step in range(2000)])
    assert lengths.min() <= 102 and lengths.max() >= 197 and lengths.max() < 200
    assert abs(lengths.mean() - 149.5) < 3  # deviation of the mean: 0.65
    starts = draw_starts(np.full(20_000, 204), 200, np.random.default_rng(0))
    assert np.bincount(starts, minlength=5).min() > 3700 and starts.max() == 4  # 4,000 +- 57 each
    assert draw_starts(np.full(5000, 60), 200, np.random.default_rng(0)).max() == 59


def test_steps_and_seeds_give_other_episodes():
    draws = [tuple(LongShortEpisodes(table(12, 6), 3, seed=seed).draw(step).support.utterances.ravel())
             for seed in range(4) for step in range(4)]
    assert len(set(draws)) == 16


def test_too_many_ways_and_lengths_out_of_order_are_refused():
    with pytest.raises(ValueError, match="num_way=20 needs 20 speakers .*split 'test' has 4"):
        LongShortEpisodes(table(4, 4), 20, name="split 'test'")
    with pytest.raises(ValueError, match="queries from 300 frames, support of 200"):
        LongShortEpisodes(table(4, 4), 2, shortest_query=300)


@settings(max_examples=30, deadline=None)
@given(num_speakers=st.integers(1, 9), batch_size=st.integers(1, 30), step=st.integers(0, 99))
def test_a_batch_goes_round_all_speakers_before_one_comes_twice(num_speakers, batch_size, step):
    utterances = table(num_speakers, 4, first=7)
    speakers, support, query = SpeakerBatches(utterances, batch_size, seed=1).draw(step)
    assert query is None and support.utterances.shape == (batch_size, 1) and support.length == 200
    owners = utterances["speaker"].loc[support.utterances.ravel()].to_numpy()
    assert (owners == np.sort(utterances["speaker"].unique())[speakers]).all()
    counts = np.bincount(speakers, minlength=num_speakers)
    assert counts.max() - counts.min() <= 1
    again = SpeakerBatches(utterances, batch_size, seed=1).draw(step)
    assert np.array_equal(again.support.utterances, support.utterances)


def test_an_empty_split_has_no_batch():
    with pytest.raises(ValueError, match="from 0 utterances"):
        SpeakerBatches(table(3, 3).iloc[:0], 10)


def test_an_episode_reads_from_the_store(corpus):
    store = prepare_utterance_features(corpus, progress=False)
    episode = LongShortEpisodes(store.utterances, 4, 1, 2, seed=0).draw(0)
    support, query = episode.support.read(store), episode.query.read(store)
    assert support.shape == (4, 1, 40, 200) and query.shape == (8, 1, 40, episode.query.length)
    row, start = episode.query.utterances[1, 0], episode.query.starts[1, 0]
    assert torch.equal(query[2], store.segments([row], [start], episode.query.length)[0])  # one speaker after the other
