"""Clips: what is enrolled and tested, as pieces of utterances in frames of 10 ms: whole, cut, joined or repeated."""

from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle

import numpy as np

FRAMES_PER_SECOND = 100


@dataclass(frozen=True)
class Clips:
    """Clip i is the pieces where clip == i, one after the other; no clip is without one.

    clip (rising), row (utterance: a row of corpus.table), start and length (frames): int64 (pieces,).
    """

    clip: np.ndarray
    row: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def __len__(self):
        return int(self.clip[-1]) + 1 if len(self.clip) else 0

    @property
    def frames(self):
        """Length of each clip, (clips,)."""
        return np.bincount(self.clip, self.length, minlength=len(self)).astype(np.int64)

    @property
    def first_row(self):
        """The utterance that each clip begins with, (clips,)."""
        return self.row[np.searchsorted(self.clip, np.arange(len(self)))]

    @property
    def num_utterances(self):
        """How many utterances each clip has a piece of, (clips,)."""
        return np.bincount(np.unique(np.stack([self.clip, self.row]), axis=1)[0], minlength=len(self))

    @property
    def repeated(self):
        """Whether a clip repeats its utterances, since they are shorter together than was asked: bool (clips,)."""
        return np.bincount(self.clip, minlength=len(self)) > self.num_utterances

    def digest(self):
        """Short hash: two methods are compared on clips of the same digest."""
        pieces = np.stack([self.clip, self.row, self.start, self.length])
        return sha256(np.ascontiguousarray(pieces, "<i8").tobytes()).hexdigest()[:16]


def whole_clips(rows, frames):
    """One clip an utterance, all of it. rows: (clips,); frames: (utterances,), the length of each row."""
    rows = np.asarray(rows, dtype=np.int64)
    return Clips(np.arange(len(rows)), rows, np.zeros(len(rows), np.int64), np.asarray(frames, np.int64)[rows])


def cut_clips(rows, frames, length, seed=0):
    """One clip of `length` frames from a random place of each of rows (clips,); repeated where it is shorter."""
    return join_clips([[row] for row in rows], frames, length, seed)


def join_clips(utterances, frames, length, seed=0):
    """One clip of `length` frames from each list of rows: utterances of one speaker, joined in their order.

    The last piece is cut from a random place of its utterance, so that a single one that is long enough is cut at
    random. Where all of them are too short, they are taken again from the first one on, as Kye et al. 2020 pad: see
    describe_clips. frames: (utterances of the corpus,). Raises ValueError if length is not a number of frames.
    """
    if isinstance(length, bool) or length != int(length) or length < 1:
        raise ValueError(f"a clip of length={length!r}: expected frames of 10 ms, at least 1; 100 are a second.")
    random, pieces = np.random.default_rng(seed), []
    for clip, rows in enumerate(utterances):
        needed, once = int(length), len(rows)
        if once == 0 or min(frames[row] for row in rows) < 1:
            raise ValueError(f"clip {clip} has the utterances {list(rows)}: expected one or more, none without frames.")
        for place, row in enumerate(cycle(rows)):
            taken = min(needed, int(frames[row]))
            start = int(random.integers(frames[row] - taken + 1)) if place < once else 0
            pieces.append((clip, row, start, taken))
            needed -= taken
            if not needed:
                break
    return Clips(*np.array(pieces, dtype=np.int64).reshape(-1, 4).T.copy())


def take_clips(clips, wanted):
    """The clips numbered `wanted` (n,), in that order."""
    wanted = np.asarray(wanted, dtype=np.int64)
    first = np.searchsorted(clips.clip, np.arange(len(clips) + 1))
    counts = np.diff(first)[wanted]
    owner = np.repeat(np.arange(len(wanted)), counts)
    pieces = first[wanted][owner] + np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Clips(owner, clips.row[pieces], clips.start[pieces], clips.length[pieces])


def describe_clips(clips, what="clips"):
    """A sentence on what they are made of, such as: 200 enrolments of 5.00 s: 180 join several utterances of their
    speaker, 3 repeat what there is.
    """
    if not len(clips):
        return f"no {what}."
    shortest, longest = (clips.frames[[clips.frames.argmin(), clips.frames.argmax()]] / FRAMES_PER_SECOND)
    seconds = f"{shortest:.2f} s" if shortest == longest else f"{shortest:.2f} to {longest:.2f} s"
    joined, repeated = int((clips.num_utterances > 1).sum()), int(clips.repeated.sum())
    parts = [f"{joined:,} join several utterances of their speaker"] if joined else []
    parts += [f"{repeated:,} repeat what there is, which is too short"] if repeated else []
    return f"{len(clips):,} {what} of {seconds}: {', '.join(parts) or 'each from one utterance'}."
