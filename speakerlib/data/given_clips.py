"""Clips that a person hands over, files or arrays of any rate: checked, and brought to 16 kHz and one channel."""

import warnings
from numbers import Real
from pathlib import Path

import numpy as np

from speakerlib.data.audio import LARGEST_SAMPLE, SAMPLE_RATE, SMALLEST_RANGE, read_audio

SHORTEST = 0.5  # seconds
MOST_CHANNELS = 8
CLIPPED = 0.999  # of full scale
MOST_CLIPPED = 0.002  # share of samples: loud speech that fits has hardly one


def read_clip(clip, sample_rate=SAMPLE_RATE, name="the clip"):
    """float32 (samples,) at 16 kHz of a path, or of an array (samples,) or (samples, channels) at sample_rate (Hz).

    Floats are expected in [-1, 1], integers over their whole range; channels are averaged. A file's own rate counts.
    Warns if the sound is clipped. Raises ValueError (for a file AudioError, which is one, or FileNotFoundError), in
    words that begin with the name, for what is no sound, silent, shorter than 0.5 s, or holds NaN or infinite samples.
    """
    if isinstance(clip, str | Path):
        name, waveform = str(clip), read_audio(Path(clip).expanduser())
    else:
        waveform = _from_array(clip, sample_rate, name)
    seconds = len(waveform) / SAMPLE_RATE
    if seconds < SHORTEST:
        raise ValueError(f"{name}: {seconds:.2f} s of sound; expected at least {SHORTEST} s, and better 3 s or more.")
    if (clipped := float(np.mean(np.abs(waveform) >= CLIPPED))) > MOST_CLIPPED:
        warnings.warn(f"{name}: {clipped:.1%} of the samples are at full scale: it is clipped, and its voice is told "
                      "from others less well. Record it at a lower level.", stacklevel=3)
    return waveform


def name_of_clip(clip, number, count):
    """What a clip is called in a message: its path, or its place among the clips."""
    return str(clip) if isinstance(clip, str | Path) else f"clip {number + 1} of {count}"


def list_of_clips(clips):
    """The clips as a list; ValueError if there is none, or if it is one clip that was not put into a list."""
    if isinstance(clips, str | Path):
        return [clips]
    if getattr(clips, "ndim", None) == 1 or (isinstance(clips, list | tuple) and clips and np.isscalar(clips[0])
                                             and not isinstance(clips[0], str)):
        raise ValueError(f"{len(clips)} numbers: expected a list of clips. Put the one clip into a list: [wave].")
    clips = list(clips)
    if not clips:
        raise ValueError("there is no clip: expected a list of one or more paths or arrays.")
    return clips


def _from_array(clip, sample_rate, name):
    import soxr

    if isinstance(sample_rate, bool) or not isinstance(sample_rate, Real) or not 1000 <= sample_rate <= 768000:
        raise ValueError(f"sample_rate={sample_rate!r}: expected samples a second, from 1000 to 768000, such as 16000.")
    samples = np.asarray(clip)
    if samples.dtype.kind not in "if":
        raise ValueError(f"{name}: an array of {samples.dtype}; expected samples as floats in [-1, 1] or as "
                         "integers, or the path of a file.")
    if samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if samples.ndim == 2 and samples.shape[1] <= MOST_CHANNELS:
        samples = samples.astype(np.float32).mean(axis=1)
    if samples.ndim != 1:
        raise ValueError(f"{name}: an array of shape {samples.shape}; expected (samples,), or (samples, channels) "
                         f"with up to {MOST_CHANNELS} channels." + " Transpose it." * (samples.ndim == 2))
    if not np.isfinite(samples).all():
        raise ValueError(f"{name}: NaN or infinite samples.")
    if len(samples) and np.abs(samples).max() > LARGEST_SAMPLE:
        raise ValueError(f"{name}: samples up to {np.abs(samples).max():.0f}, expected -1 to 1. Divide them by their "
                         "full scale, such as 32768.")
    if len(samples) and np.ptp(samples) < SMALLEST_RANGE:
        raise ValueError(f"{name}: silent.")
    samples = samples.astype(np.float32)
    if sample_rate != SAMPLE_RATE and len(samples):
        samples = soxr.resample(samples, sample_rate, SAMPLE_RATE)
    return np.ascontiguousarray(np.clip(samples, -1, 1))
