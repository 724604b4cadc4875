"""Scores of embeddings against loops in float64; clips embedded as the network would see them one by one."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from speakerlib.data.clips import cut_clips, join_clips, whole_clips
from speakerlib.data.episodes import Episodes
from speakerlib.data.identification_tasks import draw_identification
from speakerlib.experiments import scoring
from speakerlib.experiments.evaluation import with_intervals
from speakerlib.experiments.scoring import embed_clips, identify, score_trials, speaker_means


class Utterances:
    """Features of whole utterances in memory: 5 speakers, 6 utterances of 20 to 60 frames each."""

    num_mels, front_end = 8, SimpleNamespace(name="kye")

    def __init__(self):
        random = np.random.default_rng(0)
        self.table = pd.DataFrame({"speaker": np.repeat([f"s{number}" for number in range(5)], 6), "session": "1",
                                   "utterance": [str(number) for number in range(30)]})
        self.lengths = random.integers(20, 60, 30)
        voices = random.normal(size=(5, 8, 8))  # how neighbouring frames hang together
        self.all = [(random.normal(size=(length, 8)) @ voices[row // 6]).astype(np.float16)
                    for row, length in enumerate(self.lengths)]

    def frames(self, row):
        return self.all[row]


class Encoder(torch.nn.Module):
    """Any length of segment to 12 values, with BatchNorm so that eval mode matters."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 12, (8, 3), padding=(0, 1)), torch.nn.BatchNorm2d(12)

    def forward(self, frames):
        return self.norm(self.conv(frames)).abs().flatten(2).mean(dim=2)


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    encoder = Encoder().train()
    encoder(torch.randn(20, 1, 8, 30))  # running statistics that are not those of the start
    return Utterances(), encoder


def unit(vector):
    return vector / np.sqrt((vector ** 2).sum())


def reference_score(one, other, how, cohort, top):
    """The definition, one trial at a time, in float64."""
    one, other, cohort = (np.asarray(part, dtype=np.float64) for part in (one, other, cohort))
    if how != "cosine":
        one, other, cohort = (part - cohort.mean(axis=0) for part in (one, other, cohort))
    score = unit(one) @ unit(other)
    if how != "s-norm":
        return score
    parts = []
    for side in (one, other):
        nearest = sorted((unit(side) @ unit(voice) for voice in cohort), reverse=True)[:top]
        parts.append((score - np.mean(nearest)) / np.std(nearest))
    return np.mean(parts)


# Embedding


def test_clips_are_embedded_as_one_by_one_and_leave_the_encoder_as_it_was(setting):
    features, encoder = setting
    whole, joined = whole_clips(range(30), features.lengths), join_clips([[3, 4], [7], [0, 1, 2]], features.lengths, 70)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for clips in (whole, joined, cut_clips([5, 6, 7, 5], features.lengths, 20)):
        embeddings = embed_clips(encoder, features, clips, batch_frames=50)
        assert encoder.training
        encoder.eval()
        for number in range(len(clips)):
            pieces = np.flatnonzero(clips.clip == number)
            frames = np.concatenate([features.all[clips.row[piece]][clips.start[piece]:][:clips.length[piece]]
                                     for piece in pieces]).astype(np.float64)
            frames -= frames.mean(axis=0)  # of the joined clip
            with torch.no_grad():
                expected = encoder(torch.from_numpy(frames.T.astype(np.float32))[None, None])[0]
            np.testing.assert_allclose(embeddings[number], expected, rtol=1e-4, atol=1e-5)
        encoder.train()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(("front_end", "is_removed"), [
    (SimpleNamespace(name="kye"), True),
    (SimpleNamespace(name="compact", mean_normalise=True), True),
    (SimpleNamespace(name="log_mel", mean_normalise=False), False),
])
def test_a_clips_mean_is_removed_where_the_front_end_says_so(setting, front_end, is_removed):
    _, encoder = setting
    features, louder = Utterances(), Utterances()
    features.front_end = louder.front_end = front_end
    louder.all[4] = louder.all[4].astype(np.float32) + 3
    clips = whole_clips([4], features.lengths)
    same = torch.allclose(embed_clips(encoder, features, clips), embed_clips(encoder, louder, clips), atol=1e-3)
    assert same == is_removed


def test_clips_of_another_corpus_and_a_network_that_diverged_are_told(setting):
    features, encoder = setting
    for clips in (whole_clips([0], [features.lengths[0] + 1]), whole_clips([30], [1] * 31)):
        with pytest.raises(ValueError, match=r"1 of 1 pieces of clips are not in their utterances, such as one of utt"):
            embed_clips(encoder, features, clips)
    with pytest.raises(ValueError, match="there is no clip to embed"):
        embed_clips(encoder, features, whole_clips([], features.lengths))
    broken = Encoder()
    torch.nn.init.constant_(broken.conv.bias, float("nan"))
    with pytest.raises(ValueError, match="2 of 2 embeddings are not finite, the first one 0. Did the training diverge"):
        embed_clips(broken, features, whole_clips([0, 1], features.lengths))


# Scores


@pytest.fixture(scope="module")
def embedded():
    random = np.random.default_rng(1)
    enrolment, test, cohort = (torch.from_numpy(random.normal(size=(size, 6)) + 1).float() for size in (9, 11, 15))
    return enrolment, test, cohort, random.integers(9, size=200), random.integers(11, size=200)


@pytest.mark.parametrize("how", scoring.SCORINGS)
def test_scores_are_the_definition(embedded, how, monkeypatch):
    enrolment, test, cohort, one, other = embedded
    expected = [reference_score(enrolment[a], test[b], how, cohort, 7) for a, b in zip(one, other)]
    assert np.std(expected) > 0.1
    for at_once in (1 << 16, 17):
        monkeypatch.setattr(scoring, "TRIALS_AT_ONCE", at_once)
        np.testing.assert_allclose(score_trials(enrolment, test, one, other, how, cohort, 7), expected, atol=1e-9)


def test_s_norm_takes_away_what_makes_an_utterance_like_everyone(embedded):
    enrolment, test, cohort, one, other = embedded
    plain = score_trials(enrolment, test, one, other, "s-norm", cohort, 15)
    np.testing.assert_allclose(score_trials(3 * enrolment, 0.1 * test, one, other, "cosine"),
                               score_trials(enrolment, test, one, other), atol=1e-6)  # lengths do not count
    assert np.abs(score_trials(enrolment, test, one, other, "s-norm", cohort, 5) - plain).max() > 0.1  # adaptive


def test_a_cohort_is_the_mean_of_each_speaker():
    embeddings, speakers = torch.arange(12.0).reshape(6, 2), ["b", "a", "b", "c", "a", "b"]
    expected = [[(2 + 8) / 2, (3 + 9) / 2], [(0 + 4 + 10) / 3, (1 + 5 + 11) / 3], [6, 7]]
    np.testing.assert_allclose(speaker_means(embeddings, speakers), expected, rtol=1e-6)


@pytest.mark.parametrize(("change", "message"), [
    ({"scoring": "plda"}, "scoring='plda': expected one of cosine, centred, s-norm"),
    ({"scoring": "centred", "cohort": None}, "scoring='centred' needs a cohort: mean embeddings of two or more"),
    ({"scoring": "s-norm", "top": 16}, "top=16: expected 2 to 15"),
    ({"scoring": "s-norm", "top": 1}, "top=1: expected 2 to 15"),
    ({"scoring": "s-norm", "cohort": torch.tensor([[1.0] * 6, [-1.0] * 6]).repeat(8, 1), "top": 8},
     "the 8 nearest speakers of the cohort score alike"),
    ({"enrolment": torch.zeros(9, 6)}, "9 of 9 embeddings are zero, the first one 0: they have no direction"),
    ({"test": torch.full((11, 6), torch.inf)}, "11 of 11 embeddings are not finite"),
])
def test_scores_that_mean_nothing_are_refused(embedded, change, message):
    names = dict(zip(("enrolment", "test", "cohort", "enrolment_of", "test_of"), embedded))
    with pytest.raises(ValueError, match=message):
        score_trials(**{**names, **change})


# Identification


@pytest.mark.parametrize("how", scoring.SCORINGS)
@pytest.mark.parametrize("shots", [1, 3])
def test_identification_is_the_nearest_prototype(how, shots):
    random = np.random.default_rng(2)
    embeddings = torch.from_numpy(random.normal(size=(60, 6)) + np.repeat(random.normal(size=(6, 6)), 10, axis=0) + 1)
    embeddings, cohort = embeddings.float(), torch.from_numpy(random.normal(size=(12, 6)) + 1).float()
    chosen = np.stack([random.permutation(6)[:4] for _ in range(25)])
    ids = 10 * chosen[..., None] + np.stack([[random.permutation(10) for _ in range(4)] for _ in range(25)])
    episodes = Episodes(chosen.astype(str), ids[..., :shots], ids[..., shots:shots + 4])
    accuracy = identify(embeddings, episodes, how, cohort, 7)
    values = embeddings.double().numpy()
    expected = np.zeros((25, 4))
    for task, way, place in np.ndindex(25, 4, 4):
        query = values[episodes.query[task, way, place]]
        scores = [reference_score(values[support].mean(axis=0), query, how, cohort, 7)
                  for support in episodes.support[task]]
        expected[task, way] += (np.argmax(scores) == way) / 4
    np.testing.assert_allclose(accuracy, expected, atol=1e-12)
    assert 0.3 < expected.mean() < 1


def test_cosine_decides_as_the_query_times_the_normalised_prototype():
    random = np.random.default_rng(3)
    embeddings = torch.from_numpy(random.normal(size=(50, 5))).float()
    episodes = Episodes(np.tile(list("abcde"), (40, 1)), *np.split(
        np.stack([random.permutation(50).reshape(5, 10) for _ in range(40)]), [1], axis=2))
    support, query = embeddings[episodes.support].mean(dim=2), embeddings[episodes.query].flatten(1, 2)
    found = (query @ torch.nn.functional.normalize(support, dim=-1).transpose(1, 2)).argmax(dim=-1).view(40, 5, 9)
    expected = (found == torch.arange(5)[:, None]).double().mean(dim=-1)
    np.testing.assert_allclose(identify(embeddings, episodes), expected, atol=1e-12)


def test_speech_that_can_be_told_apart_is_identified_from_end_to_end(setting):
    features, encoder = setting
    drawn = draw_identification(features.table, features.lengths, 5, 40, num_query=3, enroll_length=120, test_length=40)
    embeddings = embed_clips(encoder, features, drawn.clips, progress=False)
    result = with_intervals(identify(embeddings, drawn.episodes), drawn.episodes.speakers)
    assert result["accuracy"] > 0.5 and result["low"] < result["accuracy"] < result["high"]
