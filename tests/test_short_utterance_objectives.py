"""Objectives for short utterances against their equations, computed in float64 one query after the other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.models import short_utterance_objectives as objectives
from speakerlib.models.short_utterance_objectives import LOGITS, LOSS_TYPES, ShortUtteranceObjective


def length(vector):
    return math.sqrt(sum(value * value for value in vector))


def dot(one, other):
    return sum(a * b for a, b in zip(one, other))


def distance(one, other):
    return length([a - b for a, b in zip(one, other)])


LOGIT = {  # of one query and one prototype
    "normalised_prototype": lambda query, prototype: dot(query, prototype) / length(prototype),
    "cosine": lambda query, prototype: dot(query, prototype) / (length(query) * length(prototype)),
    "squared_euclidean": lambda query, prototype: -distance(query, prototype) ** 2,
    "euclidean": lambda query, prototype: -distance(query, prototype),
}


def surprise(logits, truth):
    """-log of the softmax."""
    highest = max(logits)
    return highest + math.log(sum(math.exp(value - highest) for value in logits)) - logits[truth]


def episodic_by_definition(support, query, logits, scale=1.0):
    prototypes = [shots.mean(axis=0) for shots in support]
    losses, right = [], []
    for speaker, queries in enumerate(query):
        for one in queries:
            found = [scale * LOGIT[logits](one, prototype) for prototype in prototypes]
            losses.append(surprise(found, speaker))
            right.append(np.argmax(found) == speaker)
    return np.mean(losses), np.mean(right)


def global_by_definition(embeddings, labels, weight, margin=None, scale=1.0):
    """With a margin, the cosine of the true speaker is lowered by it."""
    kind = "normalised_prototype" if margin is None else "cosine"
    losses, right = [], []
    for one, label in zip(embeddings, labels):
        found = [LOGIT[kind](one, row) for row in weight]
        right.append(np.argmax(found) == label)
        found[label] -= margin or 0.0
        losses.append(surprise([scale * value for value in found], label))
    return np.mean(losses), np.mean(right)


def draw(way, shots, queries, dim, speakers, seed):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(way, 1, dim))
    support = centres + 0.5 * random.normal(size=(way, shots, dim))
    query = centres + 0.5 * random.normal(size=(way, queries, dim))
    return support, query, random.permutation(speakers)[:way], random.normal(size=(speakers, dim))


sizes = {"way": st.integers(2, 6), "shots": st.integers(1, 3), "queries": st.integers(1, 3), "dim": st.integers(2, 9),
         "speakers": st.integers(6, 9), "seed": st.integers(0, 999)}


@settings(max_examples=40, deadline=None)
@given(**sizes, logits=st.sampled_from(sorted(LOGITS)), scale=st.sampled_from([1.0, 7.0]))
def test_the_episodic_loss_is_its_definition(logits, scale, **size):
    support, query, _, _ = draw(**size)
    loss, accuracy = objectives.episodic_loss(torch.from_numpy(support), torch.from_numpy(query), logits, scale)
    expected = episodic_by_definition(support, query, logits, scale)
    assert loss.item() == pytest.approx(expected[0], rel=1e-9, abs=1e-11)
    assert accuracy.item() == pytest.approx(expected[1], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(**sizes, use_global_classification=st.booleans(), loss_type=st.sampled_from(LOSS_TYPES),
       logits=st.sampled_from(sorted(LOGITS)), with_query=st.booleans())
def test_every_objective_is_its_parts_and_their_sum(loss_type, use_global_classification, logits, with_query, **size):
    support, query, speakers, weight = draw(**size)
    objective = ShortUtteranceObjective(loss_type, size["speakers"], size["dim"], use_global_classification, logits)
    objective.double()
    if objective.classifies:
        objective.weight.data = torch.from_numpy(weight)
    with_query = with_query or objective.episodic
    given_query = torch.from_numpy(query) if with_query else None
    found = objective(torch.from_numpy(support), given_query, torch.from_numpy(speakers))

    expected = 0.0
    if objective.episodic:
        kind, scale = (logits, 1.0) if loss_type == "prototypical" else ("cosine", 10.0)
        loss, accuracy = episodic_by_definition(support, query, kind, scale)
        assert found.episodic_loss.item() == pytest.approx(loss, rel=1e-9)
        assert found.episodic_accuracy.item() == pytest.approx(accuracy, abs=1e-6)
        expected += loss
    else:
        assert found.episodic_loss is None and found.episodic_accuracy is None
    if use_global_classification or not objective.episodic:
        parts = [support, query] if with_query else [support]
        embeddings = np.concatenate([part.reshape(-1, size["dim"]) for part in parts])
        labels = np.concatenate([np.repeat(speakers, part.shape[1]) for part in parts])
        margin = {"margin": 0.2, "scale": 30.0} if loss_type == "am_softmax" else {}
        loss, accuracy = global_by_definition(embeddings, labels, weight, **margin)
        assert found.global_loss.item() == pytest.approx(loss, rel=1e-9)
        assert found.global_accuracy.item() == pytest.approx(accuracy, abs=1e-6)
        expected += loss
    else:
        assert found.global_loss is None and not list(objective.parameters()) or loss_type == "angular_prototypical"
    assert found.loss.item() == pytest.approx(expected, rel=1e-9)


def test_a_query_is_not_normalised_and_a_prototype_is():
    """Work B's logits: twice the query is twice as sure, twice the support changes nothing."""
    support, query, _, _ = (torch.from_numpy(part) for part in draw(4, 1, 2, 5, 6, 0))
    logits = objectives.normalised_prototype_logits(query.flatten(0, 1), support[:, 0])
    assert torch.allclose(objectives.normalised_prototype_logits(2 * query.flatten(0, 1), support[:, 0]), 2 * logits)
    assert torch.allclose(objectives.normalised_prototype_logits(query.flatten(0, 1), 2 * support[:, 0]), logits)


def test_several_shots_are_one_mean_prototype():
    support, query, _, _ = (torch.from_numpy(part) for part in draw(3, 4, 2, 5, 6, 1))
    several = objectives.episodic_loss(support, query)
    single = objectives.episodic_loss(support.mean(dim=1, keepdim=True), query)
    assert several[0].item() == pytest.approx(single[0].item(), rel=1e-12)


def test_the_margin_makes_the_loss_larger_and_zero_margin_is_a_softmax_of_cosines():
    embeddings, _, speakers, weight = (torch.from_numpy(part) for part in draw(5, 1, 1, 6, 8, 2))
    losses = [objectives.additive_margin_loss(embeddings[:, 0], speakers, weight, margin)[0].item()
              for margin in (0.0, 0.1, 0.2)]
    assert losses == sorted(losses) and losses[2] > losses[0]
    assert losses[0] == pytest.approx(global_by_definition(embeddings[:, 0].numpy(), speakers, weight.numpy(),
                                                           0.0, 30.0)[0])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("use_global_classification", [True, False])
def test_gradients_are_those_of_the_loss(loss_type, use_global_classification):
    torch.manual_seed(0)
    support, query = (torch.randn(3, each, 4, dtype=torch.float64, requires_grad=True) for each in (2, 2))
    objective = ShortUtteranceObjective(loss_type, 5, 4, use_global_classification).double()
    speakers = torch.tensor([4, 0, 2])
    parameters = list(objective.parameters())
    assert torch.autograd.gradcheck(lambda *_: objective(support, query, speakers).loss, (support, query, *parameters))


def test_half_precision_embeddings_are_compared_in_float32_also_under_autocast():
    support, query, speakers, _ = (torch.from_numpy(part) for part in draw(6, 1, 2, 16, 8, 3))
    objective = ShortUtteranceObjective("prototypical", 8, 16)
    half = [part.bfloat16() for part in (support, query)]
    expected = objective(*(part.float() for part in half), speakers)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(*half, speakers)
    assert found.loss.dtype == torch.float32
    assert torch.equal(found.loss, expected.loss)


@pytest.mark.parametrize("wrong, message", [
    ({"loss_type": "proto"}, "loss_type='proto': expected one of softmax, prototypical"),
    ({"loss_type": "prototypical", "logits": "dot"}, "logits='dot': expected one of normalised_prototype")])
def test_unknown_names_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ShortUtteranceObjective(**wrong, num_speakers=3, dim=4)


def test_shapes_that_do_not_belong_together_are_named():
    with pytest.raises(ValueError, match=r"\(3, 1, 4\) and \(2, 1, 4\)"):
        objectives.episodic_loss(torch.zeros(3, 1, 4), torch.zeros(2, 1, 4))
