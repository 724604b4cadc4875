"""Batches of chapter 10: pairs of clips of one voice, each through a channel of its own, by a seed and a step alone."""

from typing import NamedTuple

import numpy as np
import torch

from speakerlib.data.utterance_episodes import draw_starts

SHORTEST, LONGEST = 100, 250  # frames; a step's clips have one length, or in pairs the second ones another
SHORTEST_SECOND = 80  # the second clips of pairs are of this length up to that of the first
MASKED_MELS, MASKED_FRAMES = 10, 20  # of each clip at most (SpecAugment, Park et al. 2019)


class VoiceBatch(NamedTuple):
    """Clip i: voice (a training speaker at one speed), speed and copy (places), utterance, start; all (clips,).

    lengths: of all clips, or of the first and of the second half of them; frames.
    """

    voices: np.ndarray
    speeds: np.ndarray
    copies: np.ndarray
    utterances: np.ndarray
    starts: np.ndarray
    lengths: tuple


class VoiceBatches:
    """Draws batches from copies of the training utterances.

    stores: a list a speed of lists of UtteranceFeatures, the same copies at each speed, all of one split's utterances.
    A voice is a speaker at a speed: num_voices of them, speaker by speaker within a speed. pairs: a batch is clips of
    half as many voices, the second half of them of the same voices as the first, each of another utterance. shares: how
    often a clip is of each copy, in sum 1; None: all alike. ValueError for a batch of fewer than two clips, or pairs of
    an odd number.
    """

    def __init__(self, stores, split, batch_size, seed, pairs=True, masks=True, shares=None):
        if batch_size < 2 or (pairs and batch_size % 2):
            raise ValueError(f"batch_size={batch_size}: expected at least 2 clips" + (", in pairs." if pairs else "."))
        self.stores, self.batch_size, self.seed = stores, int(batch_size), int(seed)
        self.pairs, self.masks, self.shares = bool(pairs), bool(masks), shares
        table = stores[0][0].utterances
        table = table[table["split"] == split]
        self.speakers, owner = np.unique(table["speaker"].to_numpy(str), return_inverse=True)
        self.rows = [table["utterance"].to_numpy()[owner == place] for place in range(len(self.speakers))]
        if self.pairs and min(map(len, self.rows)) < 2:
            raise ValueError("pairs need two utterances of each training speaker; "
                             f"{str(self.speakers[np.argmin(list(map(len, self.rows)))])!r} has one.")
        self.num_voices = len(self.speakers) * len(stores)

    def draw(self, step):
        """The VoiceBatch of a step."""
        random = np.random.default_rng([self.seed, int(step), 2])
        count = self.batch_size // 2 if self.pairs else self.batch_size
        voices = _some(random, self.num_voices, count)
        speeds, speakers = np.divmod(voices, len(self.speakers))
        each = 2 if self.pairs else 1
        utterances = np.stack([random.choice(self.rows[speaker], each, replace=False) for speaker in speakers], axis=1)
        voices, speeds = np.tile(voices, each), np.tile(speeds, each)
        copies = random.choice(len(self.stores[0]), size=len(voices), p=self.shares)
        lengths = [int(random.integers(SHORTEST // 10, LONGEST // 10 + 1)) * 10]
        if self.pairs:
            lengths.append(int(random.integers(SHORTEST_SECOND // 10, lengths[0] // 10 + 1)) * 10)
        whole = np.array([self.stores[speed][0].lengths[row] for speed, row in zip(speeds, utterances.ravel())])
        starts = np.concatenate([draw_starts(part, length, random) for part, length in
                                 zip(np.split(whole, each), lengths)])
        return VoiceBatch(voices, speeds, copies, utterances.ravel(), starts, tuple(lengths))

    def read(self, step):
        """([frames (clips, 1, mels, length) as the network takes them, a length each], voices (clips,)) of a step."""
        batch, random = self.draw(step), np.random.default_rng([self.seed, int(step), 3])
        halves = np.split(np.arange(len(batch.voices)), len(batch.lengths))
        parts = [self._cut(batch, places, length) for places, length in zip(halves, batch.lengths)]
        if self.masks:
            parts = [masked(frames, random) for frames in parts]
        return parts, torch.from_numpy(batch.voices)

    def _cut(self, batch, places, length):
        """The frames of some clips of a batch: (clips, 1, mels, length)."""
        frames = torch.empty(len(places), 1, self.stores[0][0].num_mels, length)
        store = batch.speeds[places] * len(self.stores[0]) + batch.copies[places]
        for number in np.unique(store):
            speed, copy = divmod(int(number), len(self.stores[0]))
            same = places[store == number]
            frames[torch.from_numpy(same - places[0])] = self.stores[speed][copy].segments(
                batch.utterances[same], batch.starts[same], length)
        return frames


def masked(frames, random):
    """One band of mels and one stretch of frames of each clip in place of their mean: (clips, 1, mels, frames)."""
    clips, _, mels, length = frames.shape
    mel, frame = torch.arange(mels), torch.arange(length)
    for size, most, place in ((mels, MASKED_MELS, mel[None, :, None]), (length, MASKED_FRAMES, frame[None, None, :])):
        width = torch.from_numpy(random.integers(most + 1, size=clips))[:, None, None]
        start = (torch.from_numpy(random.random(clips))[:, None, None] * (size - width)).long()
        inside = ((place >= start) & (place < start + width))[:, None]
        frames = torch.where(inside, frames.mean(dim=(2, 3), keepdim=True), frames)
    return frames


def _some(random, number, count):
    """count of so many, different ones where there are enough; else gone through again."""
    rounds = -(-count // number)
    return np.concatenate([random.permutation(number) for _ in range(rounds)])[:count]
