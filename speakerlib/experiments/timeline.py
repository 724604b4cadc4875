"""From the scores of a sliding window to who speaks when: what is silent, one score a moment, one row a turn."""

import numpy as np
import pandas as pd

SILENCE = "silence"
LOUDEST = 95  # percentile of the frames' levels that stands for speech
QUIETEST = 5  # and for the background
FAR_BELOW_DB = 40.0  # speech: silent, whatever the background
ABOVE_BACKGROUND = 0.25  # of the way from background to speech, in decibels: silent below
NO_SILENCE_DB = 6.0  # a file whose levels differ less is one sound
LEAST_SOUND = 0.2  # share of a moment's frames that sound, or it is silence


def sounding(waveform, hop_length):
    """Whether each frame of hop_length samples sounds, relative to the file's own levels: bool (frames,)."""
    count = max(1, len(waveform) // hop_length)
    power = np.square(waveform[:count * hop_length].reshape(count, -1), dtype=np.float64).mean(axis=1)
    level = 10 * np.log10(power + 1e-10)
    speech, background = np.percentile(level, [LOUDEST, QUIETEST])
    if speech - background < NO_SILENCE_DB:
        return np.ones(count, bool)
    return level > max(speech - FAR_BELOW_DB, background + ABOVE_BACKGROUND * (speech - background))


def cells(num_frames, hop):
    """The moments of a file as edges in frames, (moments + 1,): `hop` long; a last one of less than half joins the one
    before it."""
    edges = np.arange(0, num_frames, hop)
    if len(edges) > 1 and num_frames - edges[-1] < hop / 2:
        edges = edges[:-1]
    return np.append(edges, num_frames)


def smooth_scores(scores, starts, window, loud, edges):
    """(scores of each moment (moments, people), whether it sounds (moments,)).

    scores: (windows, people) of windows of `window` frames from starts; loud: (frames,); edges: (moments + 1,). A
    moment's score is the mean over the windows that hold its middle, weighed by how many of their frames sound; a
    moment's row where nothing sounds is still finite.
    """
    total = np.concatenate([[0], np.cumsum(loud)])
    ends = np.minimum(starts + window, len(loud))
    weights = total[ends] - total[np.minimum(starts, len(loud))] + 1e-6
    sums = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(weights[:, None] * scores, axis=0)])
    weight_sums = np.concatenate([[0], np.cumsum(weights)])
    middle = (edges[:-1] + edges[1:]) / 2
    last = np.searchsorted(starts, middle, side="right")
    first = np.minimum(np.searchsorted(starts + window, middle, side="right"), last - 1)
    smoothed = (sums[last] - sums[first]) / (weight_sums[last] - weight_sums[first])[:, None]
    share = (total[edges[1:]] - total[edges[:-1]]) / np.diff(edges)
    return smoothed, share >= LEAST_SOUND


def merge(edges, choice, probabilities, names, duration, merged=True):
    """A table of start, end (seconds), name and probability: a row a moment, or one for as long as a name lasts.

    edges: (moments + 1,) seconds; choice: (moments,) places in names, the last of which is silence; probabilities:
    (moments, names but silence). A single moment between two of one name takes that name.
    """
    choice = choice.copy()
    lone = (choice[1:-1] != choice[:-2]) & (choice[:-2] == choice[2:]) & (choice[1:-1] < len(names) - 1)
    lone &= choice[:-2] < len(names) - 1
    choice[1:-1][lone] = choice[:-2][lone]
    padded = np.column_stack([probabilities, np.full(len(choice), np.nan)])
    table = pd.DataFrame({"start": edges[:-1], "end": np.append(edges[1:-1], duration), "name": names[choice],
                          "probability": padded[np.arange(len(choice)), choice]})
    if not merged:
        return table
    turn = (table["name"] != table["name"].shift()).cumsum()
    return table.groupby(turn.to_numpy()).agg({"start": "first", "end": "last", "name": "first",
                                               "probability": "mean"}).reset_index(drop=True)
