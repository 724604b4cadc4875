"""Open-set trials of a corpus: some people are enrolled, a clip is of one of them or of a stranger."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from speakerlib.data.clips import FRAMES_PER_SECOND, cut_clips, whole_clips
from speakerlib.data.episodes import default_rule
from speakerlib.data.utterance_features import prepare_utterance_features
from speakerlib.experiments.scoring import embed_clips

CONDITIONS = {"recorded": ("recorded", "I"), "changed I": ("changed", "I"), "changed II": ("changed", "II")}
QUERY_SECONDS = (0.5, 1, 2, 3)
ENROLMENTS = (1, 2, 3, 5)  # utterances that a person is enrolled with
SHORTEST_ENROLMENT = 100  # frames


@dataclass(frozen=True)
class OpenSetClips:
    """Embeddings of unit length of all utterances of a split, whole and cut, in each condition.

    speakers (names), codes, groups: (utterances,), groups being what enrolment and query never share (the session where
    each speaker has several, else the utterance); embeddings: {(condition, seconds): (utterances, dim)}, seconds None
    for whole ones; usable: {seconds: bool (utterances,)}, where the utterance is as long; seconds_of: (utterances,).
    """

    speakers: np.ndarray
    codes: np.ndarray
    groups: np.ndarray
    embeddings: dict
    usable: dict
    seconds_of: np.ndarray


@dataclass(frozen=True)
class OpenSetDraw:
    """Tasks as numbers: enrolled (tasks, people, clips) utterances, -1 where there is none, and their conditions;
    query, seconds, query_condition, truth (tasks,): truth is a place among the people, -1 for a stranger.
    """

    enrolled: np.ndarray
    enrolled_condition: np.ndarray
    query: np.ndarray
    query_condition: np.ndarray
    seconds: np.ndarray
    truth: np.ndarray

    @property
    def present(self):
        """Which people a task has: bool (tasks, people)."""
        return self.enrolled[:, :, 0] >= 0


def embed_open_set(encoder, corpus, front_end="compact", split="validation", query_seconds=QUERY_SECONDS,
                   conditions=CONDITIONS, channel_seed=0, seed=0, progress=True, most=None):
    """OpenSetClips of a split; features are computed where missing. ValueError for fewer than three speakers.

    most: utterances of each speaker that are taken, drawn by the seed; None: all.
    """
    long = corpus.table[(corpus.table["split"] == split) & (corpus.table["duration"] > SHORTEST_ENROLMENT / 100)]
    if (count := long["speaker"].nunique()) < 3:
        raise ValueError(f"corpus {corpus.name!r}, split {split!r}, has {count} speakers with clips of a second; "
                         "open-set trials need 3. Import it with other splits.")
    embeddings = {}
    for condition, (kind, family) in conditions.items():
        features = prepare_utterance_features(corpus, front_end, kind, channel_seed, family, progress, split=split)
        table = features.utterances
        rows = np.flatnonzero((table["split"] == split) & (features.lengths >= SHORTEST_ENROLMENT))
        rows = rows[at_most(table["speaker"].to_numpy()[rows], most, seed)]
        for seconds in (None, *query_seconds):
            clips = (whole_clips(rows, features.lengths) if seconds is None else
                     cut_clips(rows, features.lengths, round(seconds * FRAMES_PER_SECOND), seed))
            made = embed_clips(encoder, features, clips, progress=progress)
            embeddings[condition, seconds] = F.normalize(made, dim=1)
    table, frames = table.iloc[rows], features.lengths[rows]
    usable = {seconds: frames >= seconds * FRAMES_PER_SECOND for seconds in query_seconds}
    by_session = default_rule(table) == "session"
    return OpenSetClips(table["speaker"].to_numpy(), np.unique(table["speaker_code"], return_inverse=True)[1],
                        (table["session_code"] if by_session else table["utterance"]).to_numpy(), embeddings,
                        usable, frames / FRAMES_PER_SECOND)


def at_most(speakers, most, seed=0):
    """Places of up to so many entries of each speaker, drawn by the seed, in their order; all where most is None."""
    if most is None:
        return np.arange(len(speakers))
    order = np.random.default_rng([seed, 11]).permutation(len(speakers))
    rank = pd.Series(speakers[order]).groupby(speakers[order]).cumcount().to_numpy()
    return np.sort(order[rank < most])


def draw_open_set(clips, num_tasks, people=None, enrolments=ENROLMENTS, seconds=None, condition=None, seed=0,
                  strangers=0.5):
    """OpenSetDraw: in each task some people with some clips each, and one query, of a stranger with this probability.

    people, enrolments: how many, drawn from these (default people: 1 to 8, leaving a speaker to be the stranger);
    seconds: of the query (default: all of clips.usable); condition: of all clips, or None: each has its own. A function
    of clips and seed.
    """
    random = np.random.default_rng([seed, num_tasks])
    count = int(clips.codes.max()) + 1
    people = np.atleast_1d(np.arange(1, min(8, count - 1) + 1) if people is None else people)
    if people.max() > count - 1:
        raise ValueError(f"people={people.tolist()}: {count} speakers are there, and one is to be the stranger. "
                         f"Enrol at most {count - 1}.")
    enrolments, seconds = np.atleast_1d(enrolments), np.atleast_1d(list(clips.usable) if seconds is None else seconds)
    rows_of = [np.flatnonzero(clips.codes == code) for code in range(count)]
    conditions = list(dict.fromkeys(name for name, _ in clips.embeddings))
    enrolled = np.full((num_tasks, people.max(), enrolments.max()), -1)
    query, length, truth = np.empty(num_tasks, int), np.empty(num_tasks), np.empty(num_tasks, int)
    for task in range(num_tasks):
        number, shots, length[task] = random.choice(people), random.choice(enrolments), random.choice(seconds)
        speakers = random.permutation(count)[:number + 1]  # the last one is not enrolled
        truth[task] = -1 if random.random() < strangers else random.integers(number)
        asked = rows_of[speakers[truth[task]]]
        fit = asked[clips.usable[length[task]][asked]]
        query[task] = random.choice(fit if len(fit) else asked)
        for place, speaker in enumerate(speakers[:number]):
            rows = rows_of[speaker]
            rows = rows[clips.groups[rows] != clips.groups[query[task]]]
            chosen = random.permutation(rows)[:shots]
            enrolled[task, place, :len(chosen)] = chosen
    which = np.full(enrolled.shape, condition and conditions.index(condition), dtype=float)
    if condition is None:
        which = random.integers(len(conditions), size=enrolled.shape)
    heard = random.integers(len(conditions), size=num_tasks) if condition is None else which[:, 0, 0]
    return OpenSetDraw(enrolled, which.astype(int), query, heard.astype(int), length, truth)


def score_open_set(clips, draw):
    """Scores float64 (tasks, people): the cosine of the query with the mean of each person's unit embeddings.

    Where a task has fewer people the scores are meaningless, see OpenSetDraw.present.
    """
    conditions = list(dict.fromkeys(name for name, _ in clips.embeddings))
    whole = torch.stack([clips.embeddings[name, None] for name in conditions])  # (conditions, utterances, dim)
    parts = whole[torch.from_numpy(draw.enrolled_condition), torch.from_numpy(draw.enrolled)]
    means = (parts * torch.from_numpy(draw.enrolled >= 0)[..., None]).sum(dim=2)  # (tasks, people, dim)
    queries = torch.stack([clips.embeddings[conditions[heard], seconds][row] for heard, seconds, row in
                           zip(draw.query_condition, draw.seconds, draw.query)])
    return (F.normalize(means, dim=2).double() @ queries.double()[:, :, None]).squeeze(2).numpy()
