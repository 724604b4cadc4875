"""N-way K-shot episodes as index arrays: a pure function of a seed and a step."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pandas as pd

RULES = ("segment", "utterance", "session")


@dataclass(frozen=True)
class Episodes:
    """Tasks as segment ids. speakers: (tasks, way) names; support: (tasks, way, shot); query: (tasks, way, query)."""

    speakers: np.ndarray
    support: np.ndarray
    query: np.ndarray

    def digest(self):
        """Short hash of the list: two methods are compared on episodes of the same digest."""
        parts = np.concatenate([self.support, self.query], axis=2)
        return sha256(np.ascontiguousarray(parts, "<i8").tobytes()).hexdigest()[:16]


class EpisodeSampler:
    """Draws tasks of num_way speakers with num_support + num_query segments each.

    segments: a table with the columns speaker, session, utterance, its index being the segment ids (one split
    of a segment table). rule says what support and query of a speaker never share: a `segment` (as published),
    an `utterance`, or a `session`. Segments of one side are spread over as many utterances or sessions as there are.
    Speakers that cannot fill every such task are left out; ValueError if fewer than num_way remain.
    """

    def __init__(self, segments, num_way, num_support, num_query, rule="utterance", seed=0, name="the table"):
        for key, value in (("num_way", num_way), ("num_support", num_support), ("num_query", num_query)):
            least = 2 if key == "num_way" else 1
            if int(value) != value or value < least:
                raise ValueError(f"{key}={value!r}: expected a whole number of at least {least}.")
        if rule not in RULES:
            raise ValueError(f"episode_rule={rule!r}: expected one of {', '.join(RULES)}.")
        self.num_way, self.num_support, self.num_query = int(num_way), int(num_support), int(num_query)
        self.rule = rule
        self.key = _mix(np.uint64(seed), np.uint64(3))  # hashed, so that close seeds share no task
        self._index(segments)
        self._check_enough_speakers(segments, name)

    def draw(self, step, num_tasks):
        """Tasks step * num_tasks ... of the endless list that the seed defines, as Episodes."""
        tasks = np.uint64(step) * np.uint64(num_tasks) + np.arange(num_tasks, dtype=np.uint64)
        places = self._choose_speakers(tasks)  # (T, N), positions in self.speakers
        way = places.shape[1]
        pair_task = np.repeat(tasks, way)  # one pair: a task and one of its speakers
        pair_key = _mix(pair_task, self.key, places.ravel())
        groups, group_pair = _ranges(self.first_group[places.ravel()], self.num_groups[places.ravel()])
        rank = _rank_within(group_pair, _mix(pair_key[group_pair], groups))
        num_before = self.support_groups[places.ravel()][group_pair]
        side = rank >= num_before  # False: support, True: query
        # No side takes from more groups than it has segments: the others need not be looked into.
        taken = rank < np.where(side, num_before + self.num_query, self.num_support)
        groups, group_pair, rank, side = groups[taken], group_pair[taken], rank[taken], side[taken]
        ids, segment_group = _ranges(self.first_segment[groups], self.group_size[groups])
        depth = _rank_within(segment_group, _mix(pair_key[group_pair[segment_group]], ids, np.uint64(1)))
        # one segment from each group of the side first, then a second one, and so on
        block = 2 * group_pair[segment_group] + side[segment_group]
        order = np.lexsort((rank[segment_group], depth, block))
        first = np.searchsorted(block[order], np.arange(2 * len(tasks) * way))
        ids = self.segment_ids[ids[order]]
        shape = len(tasks), way
        support = ids[first[0::2, None] + np.arange(self.num_support)].reshape(*shape, -1)
        query = ids[first[1::2, None] + np.arange(self.num_query)].reshape(*shape, -1)
        return Episodes(self.speakers[places], support, query)

    def _index(self, segments):
        """Sorts segments by speaker and group, and finds how many groups of a speaker may serve as support."""
        group = {"segment": segments.index, "utterance": segments["utterance"], "session": segments["session"]}
        speaker_code, names = _codes(segments["speaker"])
        group_code, _ = _codes(group[self.rule])
        order = np.lexsort((np.asarray(segments.index), group_code, speaker_code))
        self.segment_ids = np.asarray(segments.index, dtype=np.int64)[order]
        speaker, group = speaker_code[order], group_code[order]
        new = np.flatnonzero(np.r_[True, (np.diff(speaker) != 0) | (np.diff(group) != 0)]) if len(order) else order
        self.first_segment, self.group_size = new, np.diff(np.r_[new, len(order)])
        owner = speaker[new]
        first_group = np.searchsorted(owner, np.arange(len(names)))
        num_groups = np.diff(np.r_[first_group, len(owner)])
        support_groups = np.array(
            [
                _support_groups(self.group_size[first : first + count], self.num_support, self.num_query)
                for first, count in zip(first_group, num_groups)
            ],
            dtype=np.int64,
        )
        fits = np.flatnonzero(support_groups)
        self.first_group, self.num_groups = first_group[fits], num_groups[fits]
        self.support_groups, self.speakers = support_groups[fits], names[fits]

    def _check_enough_speakers(self, segments, name):
        if len(self.speakers) < self.num_way:
            needed = self.num_support + self.num_query
            total = segments["speaker"].nunique()
            advice = [f"num_way<={len(self.speakers)}"] if len(self.speakers) > 1 else []
            advice += ["more speakers"] if total < self.num_way else []
            if len(self.speakers) < total:  # some speakers have too little
                advice += ["fewer num_support + num_query", "shorter segments", "another episode_rule"]
            raise ValueError(
                f"num_way={self.num_way} needs {self.num_way} speakers with {self.num_support} support and "
                f"{self.num_query} query segments ({needed} in all) that share no {self.rule}; {name} has "
                f"{len(self.speakers)} (of {total} speakers). Use {', or '.join(advice)}."
            )

    def _choose_speakers(self, tasks):
        """num_way distinct speakers a task, uniformly (Floyd's sampling, all tasks at once)."""
        lasts = np.arange(len(self.speakers) - self.num_way, len(self.speakers))
        draws = _mix(tasks[:, None], self.key, lasts, np.uint64(2)) % (lasts + 1).astype(np.uint64)  # (T, N)
        draws, chosen = draws.astype(np.int64), np.empty((len(tasks), self.num_way), dtype=np.int64)
        for place, last in enumerate(lasts):
            taken = (chosen[:, :place] == draws[:, place, None]).any(axis=1)
            chosen[:, place] = np.where(taken, last, draws[:, place])
        return chosen


def default_rule(segments):
    """`session` where every speaker has several sessions, `utterance` elsewhere."""
    return "session" if segments.groupby("speaker", observed=True)["session"].nunique().min() > 1 else "utterance"


def _support_groups(sizes, num_support, num_query):
    """How many of a speaker's groups serve as support so that any choice of them suffices; 0 if none does."""
    smallest = np.cumsum(np.sort(sizes))  # what the g smallest groups hold
    least = np.searchsorted(smallest, num_support) + 1
    most = len(sizes) - (np.searchsorted(smallest, num_query) + 1)
    if least > most:
        return 0
    wanted = round(len(sizes) * num_support / (num_support + num_query))
    return int(np.clip(wanted, least, most))


def _codes(values):
    """Numbers in the order of the values, and the values: text of Arrow's is sorted as it is, unlike categories."""
    plain = np.asarray(values) if isinstance(values.dtype, pd.CategoricalDtype) else values
    codes, names = pd.factorize(plain, sort=True)
    return codes, np.asarray(names)


def _ranges(first, count):
    """Concatenated ranges first[i] ... first[i] + count[i] - 1, and which range each element is of."""
    owner = np.repeat(np.arange(len(first)), count)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return first[owner] + offset, owner


def _rank_within(owner, key):
    """Rank of each element's key among those of the same owner (owner is sorted)."""
    order = np.lexsort((key, owner))
    rank = np.empty(len(owner), dtype=np.int64)
    rank[order] = np.arange(len(owner)) - np.searchsorted(owner, owner)
    return rank


def _mix(value, *others):
    """64-bit random numbers that depend on all the arguments and nothing else (splitmix64's finaliser)."""
    value = np.asarray(value).astype(np.uint64)
    with np.errstate(over="ignore"):
        for other in (*others, np.uint64(0)):
            value = (value ^ np.asarray(other).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value = value ^ (value >> np.uint64(31))
    return value
