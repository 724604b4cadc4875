"""Training on changed speech: each clip of a step comes through a channel of its own, from copies made beforehand."""

import numpy as np
import torch

from speakerlib.data.channels import FAMILIES
from speakerlib.data.features import prepare_features

NONE = "none"  # clips as recorded
AUGMENTS = (NONE, *FAMILIES)
COPIES = 8  # of the whole corpus, of channel seeds 1 to COPIES; the evaluation's changed speech is of channel seed 0


class TrainingFeatures:
    """The features of a corpus as a training reads them.

    recorded: the FeatureStore of clips as recorded; augment: "none", or the family of the channels. The copies are
    made when the first clip is read.
    """

    def __init__(self, recorded, corpus, augment=NONE):
        self._recorded, self._corpus, self._family, self._copies = recorded, corpus, augment, None

    def read(self, segment_ids, key, places=slice(None)):
        """Features of integer segment ids (n,), (n, 1, mels, frames), in their order: float32, or uint8 from bytes.

        Each clip is drawn anew from the one as recorded and its copies, by key: whole numbers such as (seed, step).
        places: which of the n are read (an index array); they are what they are among all.
        """
        ids = np.asarray(segment_ids)
        if self._family == NONE:
            return self._recorded.read(ids[places], keep_bytes=True)
        if self._copies is None:
            store = self._recorded
            self._copies = [store, *(prepare_features(self._corpus, store.front_end, store.segment_seconds, "changed",
                                                      seed, self._family) for seed in range(1, COPIES + 1))]
        drawn = np.random.default_rng(key).integers(len(self._copies), size=len(ids))[places]
        ids, frames = ids[places], None
        for number in np.unique(drawn):
            places = np.flatnonzero(drawn == number)
            part = self._copies[number].read(ids[places], keep_bytes=True)
            if frames is None:  # bytes lie frames first
                frames = torch.empty_strided((len(ids), *part.shape[1:]), part.stride(), dtype=part.dtype)
            frames[torch.from_numpy(places)] = part
        return frames
