"""Episodes of long support and short queries: which frames of which utterances, by a seed and a step alone."""

from typing import NamedTuple

import numpy as np

from speakerlib.data.episodes import EpisodeSampler

SUPPORT_LENGTH, SHORTEST_QUERY = 200, 100  # frames (Kye et al. 2020)


class Crops(NamedTuple):
    """Segments before they are read: utterances and starts (frames), both (way, each); length: frames of every one."""

    utterances: np.ndarray
    starts: np.ndarray
    length: int

    def read(self, store):
        """The segments from an UtteranceFeatures, one speaker after the other: (way * each, 1, num_mels, length)."""
        return store.segments(self.utterances.ravel(), self.starts.ravel(), self.length)


class LengthEpisode(NamedTuple):
    """speakers: (way,) places among the split's sorted speakers; support and query: Crops, query None for a batch."""

    speakers: np.ndarray
    support: Crops
    query: Crops | None


class LongShortEpisodes:
    """Draws num_way speakers, num_support long segments and num_query short ones of each, all of other utterances.

    utterances: rows of UtteranceFeatures.utterances, of one split. The queries of an episode are all cut to one length,
    drawn from shortest_query up to, not including, support_length; all have support_length without use_variable_length
    (Kye et al. 2020). rule, and what else is raised: see EpisodeSampler. ValueError for lengths out of order.
    """

    def __init__(self, utterances, num_way, num_support=1, num_query=2, rule="utterance", seed=0, name="the table",
                 use_variable_length=True, support_length=SUPPORT_LENGTH, shortest_query=SHORTEST_QUERY):
        if not 1 <= shortest_query <= support_length:
            raise ValueError(f"queries from {shortest_query} frames, support of {support_length}; expected the "
                             "shortest query to have at least 1 frame, and no more than the support.")
        self.sampler = EpisodeSampler(utterances, num_way, num_support, num_query, rule, seed, name)
        self.speakers, self.lengths = np.unique(utterances["speaker"].to_numpy(str)), _Lengths(utterances)
        self.seed, self.support_length = int(seed), int(support_length)
        self.shortest_query = int(shortest_query if use_variable_length else support_length)

    def draw(self, step):
        """The LengthEpisode of a step."""
        task, random = self.sampler.draw(step, 1), np.random.default_rng([self.seed, int(step), 0])
        short = int(random.integers(self.shortest_query, max(self.support_length, self.shortest_query + 1)))
        crops = [Crops(rows, draw_starts(self.lengths[rows], length, random), length)
                 for rows, length in ((task.support[0], self.support_length), (task.query[0], short))]
        return LengthEpisode(np.searchsorted(self.speakers, task.speakers[0].astype(str)), *crops)


class SpeakerBatches:
    """Draws batches for a loss without episodes: one segment each of batch_size speakers, as work B's baseline.

    The speakers are different ones. Where there are fewer speakers they are gone through again. utterances: rows of
    UtteranceFeatures.utterances, of one split. Raises ValueError for an empty table or batch.
    """

    def __init__(self, utterances, batch_size, length=SUPPORT_LENGTH, seed=0):
        if not len(utterances) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} from {len(utterances)} utterances; expected at least one of "
                             "each. Use a split that has utterances.")
        self.batch_size, self.length, self.seed = int(batch_size), int(length), int(seed)
        self.speakers, owner = np.unique(utterances["speaker"].to_numpy(str), return_inverse=True)
        order = np.argsort(owner, kind="stable")
        self.rows, self.lengths = utterances.index.to_numpy()[order], utterances["frames"].to_numpy()[order]
        self.counts = np.bincount(owner)  # of each speaker's rows, one speaker after the other
        self.first = np.cumsum(self.counts) - self.counts

    def draw(self, step):
        """The LengthEpisode of a step: no query, and (batch_size, 1) support."""
        random = np.random.default_rng([self.seed, int(step), 1])
        rounds = -(-self.batch_size // len(self.speakers))
        speakers = np.concatenate([random.permutation(len(self.speakers)) for _ in range(rounds)])[:self.batch_size]
        places = (self.first[speakers] + random.integers(self.counts[speakers]))[:, None]
        starts = draw_starts(self.lengths[places], self.length, random)
        return LengthEpisode(speakers, Crops(self.rows[places], starts, self.length), None)


def draw_starts(lengths, length, random):
    """Where segments of `length` frames start in utterances of `lengths` frames, uniform over all that fit.

    In an utterance that is shorter, and so is repeated, any frame may be the first. Returns integers, as lengths.
    """
    lengths = np.asarray(lengths)
    return random.integers(np.where(lengths >= length, lengths - length + 1, lengths))


class _Lengths:
    """Frames of utterances by their number, for one split of a table."""

    def __init__(self, utterances):
        order = np.argsort(utterances.index.to_numpy())
        self.rows, self.frames = utterances.index.to_numpy()[order], utterances["frames"].to_numpy()[order]

    def __getitem__(self, rows):
        return self.frames[np.searchsorted(self.rows, rows)]
