"""Babble: the voices of other speakers of a corpus, mixed for each clip that is to be heard among them."""

import numpy as np

TALKERS = (3, 6)  # how many speak at once
TALKER_DB = (-3.0, 3.0)  # level of each beside the others


class BabblePool:
    """Who may be heard behind whom: speakers of the same split, never the clip's own.

    corpus: its table (speaker, split) and waveforms.
    """

    def __init__(self, corpus):
        self._waveforms = corpus.waveforms
        self._speakers = corpus.table["speaker"].astype(str).to_numpy()
        self._splits = corpus.table["split"].astype(str).to_numpy()
        self._rows, self._names, self._places = {}, {}, {}
        by_speaker = corpus.table.groupby([self._splits, self._speakers], sort=True).indices
        for (split, speaker), rows in sorted(by_speaker.items()):
            names = self._names.setdefault(split, [])
            self._places[split, speaker] = len(names)
            names.append(speaker)
            self._rows[split, speaker] = np.sort(rows)

    def mix(self, utterances, seeds, num_samples):
        """The babble behind clips of these utterances (rows of corpus.table), a function of each clip's seed.

        Three to six voices, of different speakers where the split has as many others. Returns float32
        (clips, num_samples), of RMS about 0.1. Raises ValueError if a clip's speaker is alone in a split.
        """
        return np.stack([self._mix(utterance, seed, num_samples)
                         for utterance, seed in zip(utterances, seeds, strict=True)])

    def talkers(self, utterance, seed):
        """The rows of corpus.table that are heard behind a clip, and the generator that draws the rest."""
        random = np.random.default_rng([int(seed), 1])
        split, own = self._splits[utterance], self._speakers[utterance]
        names = self._names[split]
        if len(names) < 2:
            raise ValueError(f"speaker {own!r} is the only one in split {split!r}: nobody is left for the babble of "
                             "channel family II. Use family I, or a split of at least two speakers.")
        own, count = self._places[split, own], random.integers(*TALKERS, endpoint=True)
        chosen = []
        while len(chosen) < count:  # a split of few others is gone through again
            chosen += random.choice(len(names) - 1, min(count, len(names) - 1), replace=False).tolist()
        voices = [self._rows[split, names[other + (other >= own)]] for other in chosen[:count]]
        return [int(rows[random.integers(len(rows))]) for rows in voices], random

    def _mix(self, utterance, seed, num_samples):
        rows, random = self.talkers(utterance, seed)
        mixture = np.zeros(num_samples, np.float32)
        for row in rows:
            length = int(self._waveforms.lengths[row])
            start = random.integers(max(1, length - num_samples + 1))
            voice = self._waveforms.read(row, start, min(length, num_samples)).astype(np.float32)
            level = np.sqrt(np.mean(np.square(voice))) * np.sqrt(len(rows)) / 0.1
            gain = 10 ** (random.uniform(*TALKER_DB) / 20) / level if level else 0.0
            mixture += np.resize(voice, num_samples) * np.float32(gain)  # a short one goes round
        return mixture
