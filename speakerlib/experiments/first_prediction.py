"""Chapter 00: says who is speaking from the average spectrum of a clip, without any training."""

from dataclasses import replace

import numpy as np
import torch

from speakerlib.data.episodes import EpisodeSampler, default_rule
from speakerlib.data.features import prepare_features
from speakerlib.data.front_ends import front_end
from speakerlib.experiments.evaluation import episode_accuracy, with_intervals
from speakerlib.models.objectives import euclidean_logits

# `compact` with its levels kept: the mean over time, which `compact` removes, is what this chapter looks at.
SPECTRA = replace(front_end("compact"), name="compact-levels", mean_normalise=False)
SEGMENT_SECONDS = 1.5
NUM_WAY, NUM_SUPPORT, NUM_QUERY = 5, 5, 5
NUM_TASKS = 200


def levels(corpus, condition="recorded"):
    """The FeatureStore of log-mel spectra with their levels, made if it is not there."""
    return prepare_features(corpus, SPECTRA, SEGMENT_SECONDS, condition)


def average_spectra(features, segment_ids, batch_size=256):
    """Mean and standard deviation over time of each mel: (len(segment_ids), 2 * mels), the means first."""
    parts = []
    for first in range(0, len(segment_ids), batch_size):
        spectra = features.read(segment_ids[first : first + batch_size])[:, 0]  # (n, mels, frames)
        parts.append(torch.cat([spectra.mean(dim=2), spectra.std(dim=2)], dim=1))
    return torch.cat(parts)


def first_sampler(segments, seed, name="the corpus"):
    """Tasks of five test speakers, or of as many as the test split has; five clips enrol each, five ask.

    segments: a whole segment table. Support and query share as little as the corpus allows (`default_rule`).
    ValueError, with the numbers, if fewer than two test speakers have enough clips.
    """
    test, rule = segments[segments["split"] == "test"], default_rule(segments)
    name = f"corpus {name!r}, split 'test', in segments of {SEGMENT_SECONDS} s,"
    able = EpisodeSampler(test, 2, NUM_SUPPORT, NUM_QUERY, rule, seed, name).speakers
    return EpisodeSampler(test, min(NUM_WAY, len(able)), NUM_SUPPORT, NUM_QUERY, rule, seed, name)


def attribute(features, episodes, task=0):
    """The queries of one task and the speakers' prototypes (mean support), as average spectra, and their distances.

    Returns numpy arrays: prototypes (way, dim), queries (way, query, dim), Euclidean distances (way, query, way); the
    last axis is the speaker that a query is compared with, and the nearest one is the answer.
    """
    support, query = episodes.support[task], episodes.query[task]
    prototypes = average_spectra(features, support.ravel()).reshape(*support.shape, -1).mean(dim=1)
    queries = average_spectra(features, query.ravel())
    distances = -euclidean_logits(queries, prototypes).reshape(*query.shape, -1)
    return prototypes.numpy(), queries.reshape(*query.shape, -1).numpy(), distances.numpy()


def accuracy_by_condition(stores, episodes):
    """How often the nearest prototype is the right one, over all tasks.

    stores: {condition: FeatureStore}. Returns {condition: what with_intervals returns}.
    """
    ids = np.unique(np.concatenate([episodes.support.ravel(), episodes.query.ravel()]))
    results = {}
    for condition, features in stores.items():
        accuracy = episode_accuracy(average_spectra(features, ids), ids, episodes)
        results[condition] = with_intervals(accuracy, episodes.speakers)
    return results
