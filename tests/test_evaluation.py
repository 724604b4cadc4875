"""Few-shot accuracy and its intervals, against values computed independently in float64."""

import numpy as np
import pandas as pd
import pytest
import torch

from speakerlib.data.episodes import EpisodeSampler
from speakerlib.experiments.evaluation import (
    embed,
    episode_accuracy,
    inner_products,
    interval_as_published,
    interval_over_speakers,
    interval_over_tasks,
    transductive_accuracy,
)
from speakerlib.models.encoders import build_encoder


class Features:
    """A feature store in memory: 6 speakers, 12 segments each, a little apart from each other."""

    def __init__(self, speakers=6, segments=12):
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(speakers, 1, 64, 64, generator=generator)
        noise = torch.randn(speakers, segments, 1, 64, 64, generator=generator)
        self.frames = (means[:, None] + 3 * noise).reshape(-1, 1, 64, 64)
        names = np.repeat([f"s{i}" for i in range(speakers)], segments)
        self.segments = pd.DataFrame({"speaker": names, "session": "1", "utterance": np.arange(len(names))})

    def read(self, ids, keep_bytes=False):
        return self.frames[torch.as_tensor(ids)]


@pytest.fixture(scope="module")
def setting():
    features = Features()
    torch.manual_seed(0)
    encoder = build_encoder("conv6", 64, 64)
    episodes = EpisodeSampler(features.segments, 4, 2, 3, "utterance").draw(0, 30)
    return features, encoder, episodes


def reference_accuracy(embeddings, episodes):
    """The definition, one query at a time."""
    tasks, way, num_query = episodes.query.shape
    accuracy = np.zeros((tasks, way))
    for task in range(tasks):
        prototypes = np.stack([embeddings[ids].mean(axis=0) for ids in episodes.support[task]])
        for k in range(way):
            for query in episodes.query[task, k]:
                nearest = np.argmin(np.linalg.norm(prototypes - embeddings[query], axis=1))
                accuracy[task, k] += (nearest == k) / num_query
    return accuracy


def test_accuracy_from_cached_embeddings_is_the_definition(setting):
    features, encoder, episodes = setting
    ids = np.arange(len(features.segments))
    embeddings = embed(encoder, features, ids, batch_size=7)
    measured = episode_accuracy(embeddings, ids, episodes, tasks_at_once=7)
    expected = reference_accuracy(embeddings.double().numpy(), episodes)
    assert 0.25 < expected.mean() < 1  # neither chance nor trivial, else the test shows nothing
    np.testing.assert_allclose(measured, expected, atol=1e-6)
    subset = np.unique(np.r_[episodes.support[:5].ravel(), episodes.query[:5].ravel()])
    first = type(episodes)(episodes.speakers[:5], episodes.support[:5], episodes.query[:5])
    np.testing.assert_allclose(episode_accuracy(embeddings[subset], subset, first), expected[:5], atol=1e-6)


def test_embedding_leaves_the_encoder_as_it_was(setting):
    features, encoder, _ = setting
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    embed(encoder, features, np.arange(10))
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_embeddings_are_those_of_the_encoder_in_eval_mode(setting):
    features, encoder, _ = setting
    ids = np.arange(len(features.segments))
    found = embed(encoder, features, ids, batch_size=7)
    encoder.eval()
    with torch.no_grad():
        torch.testing.assert_close(found, encoder(features.read(ids)), rtol=1e-4, atol=1e-5)


def test_products_attribute_each_query_as_distances_do(setting):
    features, encoder, episodes = setting
    ids = np.arange(len(features.segments))
    embeddings = embed(encoder, features, ids) + 100  # far from 0, and so close to each other
    exact = embeddings.double()
    found = episode_accuracy(embeddings, ids, episodes, tasks_at_once=7, products=inner_products(embeddings))
    assert np.array_equal(found, episode_accuracy(exact, ids, episodes))
    assert len(np.unique(found)) > 2  # some queries are hard


def test_products_of_very_many_embeddings_are_not_asked_for():
    assert inner_products(torch.zeros(5000, 2)) is None


def test_transductive_accuracy_uses_the_statistics_of_the_task_and_forgets_them(setting):
    features, encoder, episodes = setting
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    measured = transductive_accuracy(encoder, features, episodes)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    expected = []
    for task in range(len(episodes.support)):
        ids = np.concatenate([episodes.support[task].ravel(), episodes.query[task].ravel()])
        fresh = build_encoder("conv6", 64, 64).train()
        fresh.load_state_dict(before)
        with torch.no_grad():
            table = np.zeros((len(features.segments), fresh.dim))
            table[ids] = fresh(features.read(ids)).double().numpy()
        one = type(episodes)(*(part[task : task + 1] for part in (episodes.speakers, episodes.support, episodes.query)))
        expected.append(reference_accuracy(table, one)[0])
    np.testing.assert_allclose(measured, expected, atol=1e-6)
    ids = np.arange(len(features.segments))
    assert not np.allclose(measured, episode_accuracy(embed(encoder, features, ids), ids, episodes))


def test_interval_over_tasks_covers_the_truth():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        accuracy = generator.binomial(10, 0.8, size=(100, 5)) / 10
        hits += abs(accuracy.mean() - 0.8) <= interval_over_tasks(accuracy)
    assert 0.92 <= hits / 400 <= 0.98
    half = interval_over_tasks(np.array([[0.2, 0.4], [0.6, 0.8], [1.0, 1.0]]))
    assert half == pytest.approx(1.96 * np.sqrt(((0.3 - 2 / 3) ** 2 + (0.7 - 2 / 3) ** 2 + (1 - 2 / 3) ** 2) / 2 / 3))


def test_the_published_interval_is_too_narrow_by_the_root_of_the_batch():
    accuracy = np.random.default_rng(1).binomial(15, 0.7, size=(8000, 5)) / 15
    assert interval_over_tasks(accuracy) / interval_as_published(accuracy, 4) == pytest.approx(2, rel=0.05)
    assert interval_as_published(accuracy[:7], 4) is None


def test_interval_over_speakers_sees_that_speakers_differ():
    generator = np.random.default_rng(2)
    speakers = np.array([generator.permutation(20)[:5] for _ in range(2000)])
    skill = np.linspace(0.5, 1, 20)
    accuracy = generator.binomial(10, skill[speakers]) / 10
    low, high = interval_over_speakers(accuracy, speakers)
    assert low < accuracy.mean() < high
    expected = 1.96 * skill.std() / np.sqrt(20)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    assert (high - low) / 2 > 5 * interval_over_tasks(accuracy)
    assert interval_over_speakers(accuracy, speakers) == (low, high)
