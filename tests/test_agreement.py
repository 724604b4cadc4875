"""The nameless objective: partners are other clips of an utterance, and the loss tells utterances apart."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speakerlib.experiments.agreement import agreement_loss, partners


def table(counts):
    """A segment table of utterances with so many segments each."""
    return pd.DataFrame({"utterance": np.repeat(np.arange(len(counts)), counts)})


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=8), key=st.tuples(st.integers(0, 9), st.integers(0, 99)))
def test_a_partner_is_another_segment_of_the_utterance_where_there_is_one(counts, key):
    segments = table(counts)
    utterance, ids = segments["utterance"].to_numpy(), np.arange(len(segments))[::-1]
    found = partners(segments, ids, key)
    assert (utterance[found] == utterance[ids]).all()
    assert ((found == ids) == (np.array(counts)[utterance[ids]] == 1)).all()
    assert (found == partners(segments, ids, key)).all()


def test_every_other_segment_is_a_partner_as_often():
    segments, ids = table([4]), np.zeros(3000, int)
    counts = np.bincount(partners(segments, ids, (0, 0)), minlength=4)
    assert counts[0] == 0 and (abs(counts[1:] - 1000) < 120).all()  # four deviations of 26


class Looked(torch.nn.Module):
    """An encoder that hands on what it is given: a point in the plane for each clip."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, frames):
        return frames.flatten(1) * self.scale


def test_the_loss_is_the_cross_entropy_of_the_distances_between_two_clips_of_each_utterance():
    segments = table([2, 2, 2])
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0], [0.0, 9.0], [0.0, 8.0]])
    loss, accuracy = agreement_loss(Looked(), segments, lambda ids, key: points[ids], np.array([0, 2, 4, 1]), (0, 0))
    enrol, asks = points[[0, 2, 4]].double().numpy(), points[[1, 3, 5]].double().numpy()  # utterance 0 counts once
    logits = -np.linalg.norm(asks[:, None] - enrol[None], axis=-1)
    expected = (np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5) and accuracy == 1
    loss.backward()


def test_the_clips_go_through_channels_of_their_own():
    keys = []

    def read(ids, key):
        keys.append((tuple(ids), key))
        return torch.randn(len(ids), 2)

    for step in range(2):
        agreement_loss(Looked(), table([2] * 5), read, np.arange(0, 10, 2), (7, step))
    assert len({key for _, key in keys}) == 2 and all(len(ids) == 10 for ids, _ in keys)
