"""The `kye` front end: 40 log filterbank values a frame of a whole utterance, as python_speech_features computes them.

Unlike the front ends of segments it is computed once over an utterance and then sliced: frames are not centred, and
the mean that is removed first is the utterance's.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

CHUNK_FRAMES = 4096  # in work at once: the memory does not grow with the utterance


@dataclass(frozen=True)
class KyeFrontEnd:
    """How Kye et al. (2020) compute features. Lengths in samples; samples are on the scale of int16."""

    name: str = "kye"
    num_mels: int = 40  # HTK triangles from 0 Hz to half the sample rate, corners rounded down to bins
    n_fft: int = 512
    win_length: int = 400  # Hamming, symmetric
    hop_length: int = 160
    pre_emphasis: float = 0.97
    floor: float = 1e-5  # of the filterbank power, before 20 log10
    sample_rate: int = 16000


KYE = KyeFrontEnd()


def num_kye_frames(num_samples, front_end=KYE):
    """Frames of an utterance: the last one is filled up with zeros; one for what is shorter than a window."""
    beyond = np.maximum(np.asarray(num_samples) - front_end.win_length, 0)
    return 1 + -(-beyond // front_end.hop_length)


def compute_kye(samples, front_end=KYE):
    """Features of one utterance, each mel's mean over it removed: float32 (frames, num_mels).

    samples: (samples,) int16, or floats on the same scale. 20 log10 of a power is twice a decibel, as the authors have
    it. Raises ValueError for another shape, or no samples.
    """
    samples = torch.from_numpy(np.array(samples, np.float64))  # as the package does: it costs little and no digit
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"samples have shape {tuple(samples.shape)}; expected (samples,) of one utterance, not empty.")
    emphasised = torch.cat([samples[:1], samples[1:] - front_end.pre_emphasis * samples[:-1]])
    frames = int(num_kye_frames(len(samples), front_end))
    padded = torch.zeros((frames - 1) * front_end.hop_length + front_end.win_length, dtype=torch.float64)
    padded[:len(samples)] = emphasised[:len(padded)]
    framed = padded.unfold(0, front_end.win_length, front_end.hop_length)  # (frames, win_length), a view
    window, filters = _window(front_end.win_length), _filters(front_end)
    features = torch.empty(frames, front_end.num_mels, dtype=torch.float64)
    for first in range(0, frames, CHUNK_FRAMES):
        spectrum = torch.fft.rfft(framed[first:first + CHUNK_FRAMES] * window, n=front_end.n_fft)
        power = (spectrum.real.square() + spectrum.imag.square()) / front_end.n_fft
        mels = power @ filters
        features[first:first + CHUNK_FRAMES] = 20 * mels.clamp_(min=front_end.floor).log10_()
    return (features - features.mean(dim=0)).float()


@lru_cache(maxsize=4)
def _window(length):
    return torch.hamming_window(length, periodic=False, dtype=torch.float64)


@lru_cache(maxsize=4)
def _filters(front_end):
    """(n_fft // 2 + 1, num_mels): triangles of height 1 whose corners are bins, rounded down from HTK's mel scale."""
    highest = 2595 * np.log10(1 + front_end.sample_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, front_end.num_mels + 2) / 2595) - 1)
    corners = np.floor((front_end.n_fft + 1) * hertz / front_end.sample_rate)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(front_end.n_fft // 2 + 1)[:, None]
    # The side that belongs to a bin is told by comparison: two corners may fall on one bin.
    rising = (bins - low) / np.maximum(centre - low, 1)
    falling = (high - bins) / np.maximum(high - centre, 1)
    filters = np.where((bins >= low) & (bins < centre), rising,
                       np.where((bins >= centre) & (bins < high), falling, 0.0))
    return torch.from_numpy(filters)
