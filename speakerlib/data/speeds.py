"""Speech played faster or slower, or its frequencies warped: a speaker at another speed is another speaker."""

from fractions import Fraction

import numpy as np

from speakerlib.data.front_ends import mel_centres

SPEEDS = (0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25)  # pitch, formants and tempo move together


def at_speed(samples, speed):
    """Samples (n,) played at so many times their speed: float32 (samples_at_speed(n, speed),).

    Resampled by a polyphase filter, as Kaldi's speed perturbation (Ko et al. 2015).
    """
    from scipy.signal import resample_poly

    ratio = _ratio(speed)
    if ratio == 1:
        return np.asarray(samples, dtype=np.float32)
    return resample_poly(samples, ratio.denominator, ratio.numerator).astype(np.float32)


def samples_at_speed(num_samples, speed):
    """How many samples are left of so many (an integer, or an array of them). ValueError for no such speed."""
    ratio = _ratio(speed)
    return -(-np.asarray(num_samples) * ratio.denominator // ratio.numerator)


def warp_matrix(front_end, factor):
    """float32 (num_mels, num_mels): this times frames (num_mels, frames) has all frequencies times the factor.

    The tempo stays. Between mels by cubic interpolation (Catmull and Rom 1974); above the highest there is the highest.
    A linear map of the mels, so that their means over time may be removed before or after it.
    """
    centres = mel_centres(front_end)
    place = np.interp(centres / factor, centres, np.arange(len(centres)))
    first = np.minimum(place.astype(int), len(centres) - 2)
    x = place - first
    weights = (x * (-1 + x * (2 - x)) / 2, 1 + x * x * (3 * x - 5) / 2, x * (1 + x * (4 - 3 * x)) / 2,
               x * x * (x - 1) / 2)
    matrix = np.zeros((len(centres), len(centres)), np.float32)
    for neighbour, weight in zip(range(-1, 3), weights):
        np.add.at(matrix, (np.arange(len(centres)), np.clip(first + neighbour, 0, len(centres) - 1)), weight)
    return matrix


def _ratio(speed):
    if not (isinstance(speed, (int, float)) and 0.5 <= speed <= 2):
        raise ValueError(f"speed={speed!r}: expected a number from 0.5 to 2; beyond, nobody would take it for a voice.")
    return Fraction(speed).limit_denominator(100)
