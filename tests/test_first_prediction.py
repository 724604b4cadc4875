"""Chapter 00's recogniser: right where average spectra tell the speakers apart, lost where they do not."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from speakerlib.data.front_ends import front_end
from speakerlib.experiments import first_prediction
from speakerlib.views import first_prediction as views

MELS = first_prediction.SPECTRA.num_mels


class Spectra:
    """A feature store in memory; `apart` is how far the speakers' average spectra lie from each other."""

    def __init__(self, apart, speakers=8, utterances=20, frames=30):
        names = np.repeat([f"s{i}" for i in range(speakers)], utterances)
        columns = {"speaker": names, "session": "1", "utterance": range(len(names)), "split": "test"}
        self.segments = pd.DataFrame(columns)
        generator = torch.Generator().manual_seed(0)
        means = apart * torch.randn(speakers, 1, MELS, 1, generator=generator)
        noise = torch.randn(speakers, utterances, MELS, frames, generator=generator)
        self.frames = (means + noise).reshape(-1, 1, MELS, frames)

    def read(self, segment_ids):
        return self.frames[torch.as_tensor(segment_ids)]


@pytest.fixture(scope="module")
def stores():
    return {"recorded": Spectra(apart=1.0), "changed": Spectra(apart=0.0)}


@pytest.fixture(scope="module")
def episodes(stores):
    return first_prediction.first_sampler(stores["recorded"].segments, seed=0).draw(0, 200)


def test_levels_are_kept_and_never_mixed_with_the_features_that_networks_learn_from():
    assert not first_prediction.SPECTRA.mean_normalise and front_end("compact").mean_normalise
    assert first_prediction.SPECTRA.name != "compact"


def test_average_spectra_are_mean_and_deviation_over_time(stores):
    ids = np.array([7, 3, 11])
    vectors = first_prediction.average_spectra(stores["recorded"], ids, batch_size=2)
    frames = stores["recorded"].frames[ids, 0].double().numpy()
    expected = np.concatenate([frames.mean(axis=2), frames.std(axis=2, ddof=1)], axis=1)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_accuracy_is_one_where_the_spectra_differ_and_chance_where_they_do_not(stores, episodes):
    results = first_prediction.accuracy_by_condition(stores, episodes)
    assert results["recorded"]["accuracy"] == 1.0
    assert abs(results["changed"]["accuracy"] - 0.2) < 0.05
    assert results["changed"]["low"] < results["changed"]["accuracy"] < results["changed"]["high"]


def test_the_answers_of_one_task_are_those_that_the_accuracy_counts(stores, episodes):
    one = first_prediction.first_sampler(stores["changed"].segments, seed=0).draw(0, 2)
    guesses = [first_prediction.attribute(stores["changed"], one, task)[2].argmin(axis=-1) for task in (0, 1)]
    right = np.mean([answers == np.arange(5)[:, None] for answers in guesses])
    accuracy = first_prediction.accuracy_by_condition({"changed": stores["changed"]}, one)["changed"]["accuracy"]
    assert accuracy == pytest.approx(right)


def test_a_small_test_split_plays_with_the_speakers_it_has():
    segments = Spectra(apart=1.0, speakers=3).segments
    sampler = first_prediction.first_sampler(segments, seed=0)
    assert sampler.num_way == 3 and sampler.draw(0, 4).support.shape == (4, 3, 5)
    with pytest.raises(ValueError, match=r"needs 2 speakers .* corpus 'mine', split 'test', .* has 1"):
        first_prediction.first_sampler(segments.query("speaker == 's0'"), seed=0, name="mine")


def test_the_pictures_say_what_was_counted(stores, episodes):
    prototypes, queries, distances = first_prediction.attribute(stores["recorded"], episodes)
    speakers = episodes.speakers[0]
    figure = views.plot_spectra(prototypes, queries[4, 0], speakers, distances[4, 0], 4, first_prediction.SPECTRA)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[4].startswith(speakers[4]) and labels[4].endswith("(nearest and the right one)")
    guesses = distances.argmin(axis=-1)
    guesses[0, 0] = 1
    axis = views.plot_who_is_who(guesses, speakers).axes[0]
    assert "24 of 25 clips go to the right speaker" in (axis.get_title(), axis.get_title(loc="left"))
    results = first_prediction.accuracy_by_condition(stores, episodes)
    texts = [text.get_text() for text in views.plot_conditions(results, 5, "fake").axes[0].texts]
    assert "100.0 ± 0.0 %" in texts and " chance, 20 %" in texts


def test_players_hold_the_clip_and_tables_mark_what_fails():
    corpus = SimpleNamespace(waveforms=SimpleNamespace(read=lambda i, start, length: np.arange(length, dtype=np.int16)))
    segments = pd.DataFrame({"utterance": [0], "start": [0], "length": [24000]}, index=[5])
    page = views.players(corpus, segments, {5: "<who>"}).data
    assert "&lt;who&gt;" in page and page.count("<audio") == 1 and len(page) > 48000
    table = views.checks_table({"torch": ("FAIL", "absent", "install it")}).to_html()
    assert "✗" in table and "absent → install it" in table
