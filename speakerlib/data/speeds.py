"""Speech played faster or slower: for training, a speaker at another speed is another speaker."""

from fractions import Fraction

import numpy as np

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


def _ratio(speed):
    if not (isinstance(speed, (int, float)) and 0.5 <= speed <= 2):
        raise ValueError(f"speed={speed!r}: expected a number from 0.5 to 2; beyond, nobody would take it for a voice.")
    return Fraction(speed).limit_denominator(100)
