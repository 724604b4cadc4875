"""Channels: seeded perturbations of a waveform that stand for another microphone, line or background.

Both families keep the words and the voice. Family I changes what a recording device leaves: colour, band, noise
floor. Family II changes the place and the line: a room, other voices, a codec. A model that has learned the device
rather than the speaker fails on them; one that was trained on either family is to be shown the other.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.codecs import check_codecs, draw_codec, through_codec
from speakerlib.data.front_ends import each_on_one_thread
from speakerlib.data.rooms import draw_room, reverberate, room_response

# Family I. Each range is drawn from uniformly; the cut-offs on a log scale.
EQUALISER_HZ = np.geomspace(60, 8000, 9)  # centres of the equaliser's bands: how a microphone colours
EQUALISER_DB = (-12.0, 12.0)  # gain of each band; raised cosines between the centres keep the curve smooth
LOW_CUT_HZ = (50.0, 500.0)  # half power at the bottom: from a good microphone to a small capsule
HIGH_CUT_HZ = (2500.0, 7500.0)  # half power at the top: from below a telephone's to nearly the full band
SKIRT_ORDER = 4  # Butterworth skirts, 24 dB an octave
NOISE_EXPONENT = (0.0, 2.0)  # noise power falls as 1 / f ** exponent: 0 is white (hiss), 2 is brown (rumble)
NOISE_FLAT_BELOW_HZ = 50.0  # where the slope ends, or brown noise would be all infrasound
SNR_DB = (5.0, 25.0)  # speech over noise, both after the band limit: from a busy street to a quiet office

# Family II; what is drawn of rooms, codecs and voices stands in their own modules.
BABBLE_SNR_DB = (5.0, 20.0)  # speech over other voices, both as heard in the room

CHUNK = 16  # clips of family I in work at once on a thread: more leave the cache
PADDING = 1024  # zeros after the clip: the filters' ringing at its end does not wrap round to its start


def apply_channels(waveforms, seeds, family="I", babble=None):
    """Each clip through a channel of its own, a function of its seed alone, whatever else is in the batch.

    waveforms: float32 tensor (batch, samples) at 16 kHz, in [-1, 1]; seeds: one a clip, non-negative integers
    or tuples of them; babble: array (batch, samples) of other voices at any level, which family II needs and family I
    leaves alone (BabblePool.mix makes it). Returns (batch, samples): each clip keeps its RMS, what exceeds [-1, 1] is
    clipped, and silence stays silence. Raises ValueError for an unknown family, another number of seeds, or where
    family II has no babble of that shape; RuntimeError if PyAV lacks a codec of family II.
    """
    if family not in FAMILIES:
        raise ValueError(f"channel family {family!r} is not known; expected one of {sorted(FAMILIES)}.")
    if waveforms.ndim != 2 or len(seeds) != len(waveforms):
        raise ValueError(f"waveforms of shape {tuple(waveforms.shape)} and {len(seeds)} seeds; "
                         "expected shape (batch, samples) and one seed a clip.")
    changed = FAMILIES[family](waveforms, seeds, babble)
    gain = _rms(waveforms) / _rms(changed).clamp_min(1e-12)
    return (changed * gain).clamp_(-1, 1)


def clip_seeds(channel_seed, keys):
    """One 64-bit seed a clip, the same on every machine and in every order.

    keys: pairs (utterance, start): the utterance's name in its corpus, and the clip's first sample in it.
    Returns uint64 (clips,): a BLAKE2 hash of channel_seed, utterance and start.
    """
    return np.array([_hash64(f"{int(channel_seed)}\n{utterance}\n{int(start)}") for utterance, start in keys],
                    dtype=np.uint64)


def _equalised_and_noisy(waveforms, seeds, babble):
    """Family I: random equaliser, coloured noise, band limit; clips side by side on torch's number of threads."""
    changed = torch.empty_like(waveforms)

    @torch.no_grad()
    def fill(first):
        part = slice(first, first + CHUNK)
        changed[part] = _recorded_otherwise(waveforms[part], seeds[part])

    each_on_one_thread(fill, range(0, len(waveforms), CHUNK))
    return changed


def _recorded_otherwise(waveforms, seeds):
    num_samples = waveforms.shape[1]
    size = -(-(num_samples + PADDING) // 1024) * 1024  # a multiple of 1024 is quick to transform
    draws = [_draw(seed, size // 2 + 1) for seed in seeds]
    equaliser_db, low_cut, high_cut, exponent = (
        np.array([draw[name] for draw in draws]).reshape(len(draws), -1)
        for name in ("equaliser_db", "low_cut_hz", "high_cut_hz", "noise_exponent"))

    band = _band_limit(size, low_cut, high_cut)
    # torch's product, which keeps to this thread: numpy's has threads of its own
    equaliser = (torch.from_numpy(equaliser_db) @ torch.from_numpy(_interpolation(size)).T).numpy()
    speech_gain = band * np.exp(equaliser * (np.log(10) / 20))
    noise_gain = band * np.exp(-exponent / 2 * _log_slope(size))

    spectrum = torch.fft.rfft(waveforms, n=size) * torch.from_numpy(speech_gain.astype(np.float32))
    speech = torch.fft.irfft(spectrum, n=size)[:, :num_samples]
    noise = torch.from_numpy(np.stack([draw["noise"] for draw in draws]))
    noise = torch.fft.irfft(noise * torch.from_numpy(noise_gain.astype(np.float32)), n=size)[:, :num_samples]
    snr = torch.tensor([draw["snr_db"] for draw in draws])[:, None]
    return speech + noise * (_rms(speech) / _rms(noise) * 10 ** (-snr / 20))


def _in_a_room_over_a_line(waveforms, seeds, babble):
    """Family II: a simulated room, other voices in it, a codec; clips side by side on torch's number of threads."""
    if babble is None or tuple(babble.shape) != tuple(waveforms.shape):
        seen = "None" if babble is None else f"of shape {tuple(babble.shape)}"
        raise ValueError(f"babble is {seen}; channel family II needs other voices of shape {tuple(waveforms.shape)}. "
                         "BabblePool(corpus).mix makes them.")
    check_codecs()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        clips = list(threads.map(_heard, waveforms.numpy(), np.asarray(babble, dtype=np.float32), seeds))
    return torch.from_numpy(np.stack(clips)) if clips else waveforms.clone()


def _heard(waveform, babble, seed):
    """One clip (samples,) of family II: clip by clip, so that it is the same to the bit in any batch."""
    random = _generator(seed)
    room, snr, codec = draw_room(random), random.uniform(*BABBLE_SNR_DB), draw_codec(random)
    speech = reverberate(waveform, room_response(room, random))
    voices = reverberate(babble, room_response(room, random))
    level, loudness = (np.sqrt(np.mean(np.square(part, dtype=np.float64))) for part in (speech, voices))
    if loudness > 0:
        speech = speech + voices * (level / loudness * 10 ** (-snr / 20))
    return through_codec(speech, *codec)


def _generator(seed):
    return np.random.default_rng(seed if isinstance(seed, tuple) else int(seed))


def _draw(seed, num_bins):
    """The channel of one clip. The noise comes last: the rest does not depend on the clip's length."""
    random = _generator(seed)
    return {
        "equaliser_db": random.uniform(*EQUALISER_DB, size=len(EQUALISER_HZ)),
        "low_cut_hz": np.exp(random.uniform(*np.log(LOW_CUT_HZ))),
        "high_cut_hz": np.exp(random.uniform(*np.log(HIGH_CUT_HZ))),
        "noise_exponent": random.uniform(*NOISE_EXPONENT),
        "snr_db": random.uniform(*SNR_DB),
        "noise": random.standard_normal(2 * num_bins, dtype=np.float32).view(np.complex64),  # white
    }


def _band_limit(size, low_cut, high_cut):
    """(clips, bins) of cut-offs (clips, 1): powers are taken of each cut-off and each bin, not of all their ratios."""
    falling, rising = _skirts(size)
    low, high = low_cut ** (2 * SKIRT_ORDER) * falling, high_cut ** (-2 * SKIRT_ORDER) * rising
    return 1 / np.sqrt((1 + low) * (1 + high))


@lru_cache(maxsize=4)
def _skirts(size):
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1e-3)
    return frequencies ** (-2 * SKIRT_ORDER), frequencies ** (2 * SKIRT_ORDER)


@lru_cache(maxsize=4)
def _log_slope(size):
    """(bins,): the logarithm of frequency over 1 kHz, flat at the bottom."""
    return np.log(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), NOISE_FLAT_BELOW_HZ) / 1000)


@lru_cache(maxsize=4)
def _interpolation(size):
    """(bins, bands): the share of each band's gain in each bin's: raised cosines over log frequency."""
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    octaves = np.log2(np.clip(frequencies, EQUALISER_HZ[0], EQUALISER_HZ[-1]))
    centres = np.log2(EQUALISER_HZ)
    distance = np.abs(octaves[:, None] - centres) / (centres[1] - centres[0])
    return np.where(distance < 1, 0.5 + 0.5 * np.cos(np.pi * distance), 0.0)


def _rms(waveforms):
    """(batch, samples) -> (batch, 1)."""
    return waveforms.square().mean(dim=1, keepdim=True).sqrt()


def _hash64(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


VERSIONS = {"I": 1, "II": 2}  # raise a family's when a seed comes to mean another channel: old features are not read
FAMILIES = {"I": _equalised_and_noisy, "II": _in_a_room_over_a_line}
