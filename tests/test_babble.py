"""Babble: voices of the same split, of other speakers than the clip's, a function of the seed."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data.babble import BabblePool


def corpus_of(speakers, takes=3, num_samples=5000):
    """speakers: {name: split}. Utterance i is a tone of its own frequency, so that a mixture tells who is in it."""
    rows = [(name, split, str(take)) for take in range(takes) for name, split in speakers.items()]
    table = pd.DataFrame(rows, columns=["speaker", "split", "utterance"])
    tones = [np.int16(3000) * np.sin(2 * np.pi * (200 + 50 * row) * np.arange(num_samples) / 16000)
             for row in range(len(rows))]
    store = SimpleNamespace(lengths=np.full(len(rows), num_samples), read=lambda row, start=0, length=None:
                            tones[row][start:start + length].astype(np.int16))
    return SimpleNamespace(table=table, waveforms=store)


SPEAKERS = ({f"train{number}": "train" for number in range(9)} | {"val0": "validation", "val1": "validation"}
            | {f"test{number}": "test" for number in range(5)})
CORPUS = corpus_of(SPEAKERS)
POOL = BabblePool(CORPUS)


@settings(max_examples=300, deadline=None)
@given(utterance=st.integers(0, len(CORPUS.table) - 1), seed=st.integers(0, 2 ** 64 - 1))
def test_who_babbles_is_of_the_same_split_and_never_the_speaker(utterance, seed):
    rows, _ = POOL.talkers(utterance, seed)
    own, heard = CORPUS.table.loc[utterance], CORPUS.table.loc[rows]
    assert 3 <= len(rows) <= 6
    assert set(heard["split"]) == {own["split"]}
    assert own["speaker"] not in set(heard["speaker"])
    others = {"train": 8, "validation": 1, "test": 4}[own["split"]]
    assert heard["speaker"].nunique() == min(len(rows), others)  # each once before any twice


def test_everybody_else_is_heard_sooner_or_later():
    heard = {row for seed in range(400) for row in POOL.talkers(0, seed)[0]}
    expected = CORPUS.table[(CORPUS.table["split"] == "train") & (CORPUS.table["speaker"] != "train0")]
    assert heard == set(expected.index)


def test_a_mixture_holds_the_voices_that_were_chosen():
    rows, _ = POOL.talkers(4, 11)
    power = np.abs(np.fft.rfft(POOL.mix([4], [11], 4000)[0])) ** 2
    tones = [round((200 + 50 * row) * 4000 / 16000) for row in range(len(CORPUS.table))]
    loud = {row for row, tone in enumerate(tones) if power[tone - 2:tone + 3].max() > 0.02 * power.max()}
    assert loud == set(rows)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), num_samples=st.integers(100, 12000))
def test_a_mixture_depends_on_its_seed_and_not_on_its_batch(order, num_samples):
    utterances, seeds = np.arange(6), np.uint64(2 ** 63) + np.arange(6, dtype=np.uint64)
    whole = POOL.mix(utterances, seeds, num_samples)  # also longer than any utterance
    assert whole.shape == (6, num_samples) and whole.dtype == np.float32
    np.testing.assert_array_equal(POOL.mix(utterances[order], seeds[order], num_samples), whole[order])
    assert len(np.unique(np.round(whole[:, 50:60], 6), axis=0)) == 6
    if num_samples >= 2000:
        assert (np.abs(20 * np.log10(whole.std(axis=1) / 0.1)) < 4).all()


def test_the_order_of_the_table_makes_no_difference_to_who_is_drawn():
    shuffled = CORPUS.table.sample(frac=1, random_state=0)
    other = BabblePool(SimpleNamespace(table=shuffled.reset_index(drop=True), waveforms=CORPUS.waveforms))
    for seed in range(20):
        names = [sorted(corpus_rows["speaker"]) for corpus_rows in (
            CORPUS.table.loc[POOL.talkers(0, seed)[0]],
            shuffled.reset_index(drop=True).loc[other.talkers(list(shuffled.index).index(0), seed)[0]])]
        assert names[0] == names[1]


def test_a_silent_voice_adds_nothing():
    corpus = corpus_of({"one": "train", "two": "train"})
    corpus.waveforms.read = lambda row, start=0, length=None: np.zeros(length, np.int16)
    assert not BabblePool(corpus).mix([0], [0], 1000).any()


def test_a_speaker_who_is_alone_in_a_split_is_named():
    pool = BabblePool(corpus_of({"one": "train", "two": "train", "three": "test"}))
    with pytest.raises(ValueError, match="'three' is the only one in split 'test'.*Use family I"):
        pool.mix([2], [0], 1000)
