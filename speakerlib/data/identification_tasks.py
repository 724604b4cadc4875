"""N-way tasks of unseen-speaker identification: an enrolment of one length, queries of another, drawn by a seed."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pandas as pd

from speakerlib.data.clips import Clips, cut_clips, describe_clips, join_clips, take_clips
from speakerlib.data.episodes import Episodes


@dataclass(frozen=True)
class IdentificationTasks:
    """clips: enrolments first, then queries; episodes: tasks whose ids are numbers of clips."""

    clips: Clips
    episodes: Episodes
    num_enrolments: int

    def digest(self):
        """Short hash of clips and tasks: two methods are compared on tasks of the same digest."""
        return sha256(f"{self.clips.digest()} {self.episodes.digest()}".encode()).hexdigest()[:16]

    def describe(self):
        """Two sentences: how many enrolments and queries there are, and which are joined or repeated."""
        enrolments, queries = np.split(np.arange(len(self.clips)), [self.num_enrolments])
        return (f"{describe_clips(take_clips(self.clips, enrolments), 'enrolments').capitalize()} "
                f"{describe_clips(take_clips(self.clips, queries), 'queries').capitalize()}")


def draw_identification(table, frames, num_way, num_tasks=1000, num_support=1, num_query=5, enroll_length=500,
                        test_length=100, rule="utterance", seed=0, num_enrolments=10, num_cuts=2):
    """Tasks of num_way speakers, num_support enrolments and num_query queries each, as IdentificationTasks.

    table: columns speaker, session, utterance, its index being rows of the corpus (one split of corpus.table); frames:
    (utterances,), the length of each row; enroll_length, test_length: frames of 10 ms (500 and 100 in Kye et al. 2020).
    An enrolment joins utterances until it is as long as asked, and repeats them where too few can be spared; a query
    is a cut of one utterance. A task's queries of a speaker are of different utterances, and share no utterance
    (rule="utterance") or session ("session") with its enrolment. To embed each clip once, tasks choose from
    num_enrolments enrolments a speaker and num_cuts cuts an utterance. Speakers with too few utterances are left out;
    ValueError if fewer than num_way remain.
    """
    sizes = {"num_way": num_way, "num_tasks": num_tasks, "num_support": num_support, "num_query": num_query,
             "num_enrolments": num_enrolments, "num_cuts": num_cuts}
    for name, value in sizes.items():
        least = 2 if name == "num_way" else 1
        if isinstance(value, bool) or int(value) != value or value < least:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}.")
    if rule not in ("utterance", "session"):
        raise ValueError(f"rule={rule!r}: expected utterance or session, what enrolment and queries never share.")
    table = table.sort_values(["speaker", "session", "utterance"])
    rows, frames = table.index.to_numpy(dtype=np.int64), np.asarray(frames)
    sessions = pd.factorize(table["speaker"] + "/" + table["session"])[0]
    random = np.random.default_rng((seed, 0))
    names, joined, queries = [], [], []  # a speaker: its name; a shot: rows; an enrolment: (its shots, its queries)
    for name, places in table.groupby("speaker", sort=True).indices.items():
        found = []
        for _ in range(num_enrolments):
            drawn = _draw_enrolment(random, rows[places], sessions[places], frames, num_support, num_query,
                                    enroll_length, rule)
            if drawn:
                found.append((range(len(joined), len(joined) + num_support), places[drawn[1]]))
                joined += drawn[0]
        if found:
            names.append(name)
            queries.append(found)
    if len(names) < num_way:
        total, needed = table["speaker"].nunique(), num_support + num_query
        advice = [f"num_way<={len(names)}"] if len(names) > 1 else []
        raise ValueError(f"num_way={num_way} needs {num_way} speakers with {needed} utterances, {num_query} of them of "
                         f"another {rule} than the enrolment; there are {len(names)} (of {total} speakers). Use "
                         f"{', or '.join([*advice, 'fewer num_support + num_query', 'a larger split'])}.")
    enrolments = join_clips(joined, frames, enroll_length, (seed, 1))
    cuts = cut_clips(np.repeat(rows, num_cuts), frames, test_length, (seed, 2))
    clips = Clips(np.concatenate([enrolments.clip, cuts.clip + len(enrolments)]),
                  *(np.concatenate([getattr(part, name) for part in (enrolments, cuts)])
                    for name in ("row", "start", "length")))
    episodes = _draw_episodes(names, queries, num_way, num_tasks, num_support, num_query, num_cuts, (seed, 3))
    return IdentificationTasks(clips, Episodes(episodes.speakers, episodes.support, episodes.query + len(enrolments)),
                               len(enrolments))


def _draw_enrolment(random, rows, sessions, frames, num_support, num_query, length, rule):
    """(rows of each shot, positions in rows that may be queries), or None if a speaker's utterances are too few."""
    order = random.permutation(len(rows))
    spent = np.arange(len(rows) + 1)  # how many of order cannot be queries once the first so many are enrolled
    if rule == "session":  # one session after the other, in the order in which they turn up
        rank = pd.factorize(sessions[order])[0]
        order, rank = order[np.argsort(rank, kind="stable")], np.sort(rank)
        spent = np.append(0, np.searchsorted(rank, rank, side="right"))
    most = np.searchsorted(spent, len(rows) - num_query, side="right") - 1  # utterances that can be spared
    if most < num_support:
        return None
    shots, filled, taken = [[] for _ in range(num_support)], np.zeros(num_support), 0
    while taken < most and filled.min() < length:
        shortest = int(filled.argmin())  # the shots grow together
        shots[shortest].append(int(rows[order[taken]]))
        filled[shortest] += frames[rows[order[taken]]]
        taken += 1
    return shots, order[spent[taken]:]


def _draw_episodes(names, enrolments, num_way, num_tasks, num_support, num_query, num_cuts, seed):
    """Episodes whose support counts enrolments, and whose query counts cuts."""
    random, names = np.random.default_rng(seed), np.asarray(names, dtype=object)
    chosen = np.stack([random.permutation(len(names))[:num_way] for _ in range(num_tasks)])
    support = np.empty((num_tasks, num_way, num_support), np.int64)
    query = np.empty((num_tasks, num_way, num_query), np.int64)
    cuts = random.integers(num_cuts, size=query.shape)
    for task, way in np.ndindex(num_tasks, num_way):
        found = enrolments[chosen[task, way]]
        support[task, way], free = found[random.integers(len(found))]
        query[task, way] = num_cuts * random.permutation(free)[:num_query] + cuts[task, way]
    return Episodes(names[chosen], support, query)
