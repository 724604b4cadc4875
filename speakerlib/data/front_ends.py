"""Front ends: small frozen records that say how a clip of samples becomes a picture of mels by frames.

A front end's `identifier` names the features computed with it, so that a change is never read as the old one.
"""

import difflib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import torch

CHUNK_BYTES = 12e6  # of windowed frames and their spectrum in work at once: more leaves the cache, at half the speed
BAND_MELS = 16  # filtered together: fewer take more products, more take more of the filters' zeros
SMALLEST_POWER = 1e-10  # librosa's `amin`: keeps the logarithm of digital silence finite


@dataclass(frozen=True)
class FrontEnd:
    """How to compute features. Frequencies in Hz, lengths in samples.

    scaling "byte_minmax": decibels below the clip's maximum, cut off at `floor` dB, the clip's range spread
    over 0..255 and truncated to uint8; "log": natural log(mel power + `floor`) as float16, on a scale where a
    full-scale sine has power (win_length / 4) ** 2 in its bin.
    """

    name: str
    num_mels: int
    n_fft: int
    win_length: int
    hop_length: int
    window: str  # "hann" or "hamming", periodic
    mel_scale: str  # "slaney" or "htk"
    mel_norm: str | None  # "slaney": triangles of equal area; None: of equal height
    f_min: float
    f_max: float
    pad_mode: str  # what the centred frames find beyond the clip: "constant" (zeros) or "reflect"
    scaling: str
    floor: float
    flip: bool  # True: row 0 is the highest mel
    mean_normalise: bool  # True: on read, each mel's mean over the segment is removed
    sample_rate: int = 16000


FRONT_ENDS = {
    # Boccio et al.: librosa's melspectrogram and power_to_db(ref=max), one picture of bytes a clip.
    "boccio": FrontEnd("boccio", num_mels=256, n_fft=2048, win_length=2048, hop_length=160, window="hann",
                       mel_scale="slaney", mel_norm="slaney", f_min=0.0, f_max=8000.0, pad_mode="constant",
                       scaling="byte_minmax", floor=80.0, flip=True, mean_normalise=False),
    # Small and quick. Slaney's scale, because HTK's lowest triangles would be narrower than a bin of 31 Hz;
    # the floor is 100 dB below a full-scale sine, just above the rounding noise of 16-bit samples.
    "compact": FrontEnd("compact", num_mels=64, n_fft=512, win_length=400, hop_length=160, window="hann",
                        mel_scale="slaney", mel_norm=None, f_min=20.0, f_max=7600.0, pad_mode="constant",
                        scaling="log", floor=1e-6, flip=False, mean_normalise=True),
}
# What the mean takes away: the same picture with the colour of microphone and room left in.
FRONT_ENDS["log_mel"] = replace(FRONT_ENDS["compact"], name="log_mel", mean_normalise=False)


def front_end(name):
    """The FrontEnd of that name (a FrontEnd passes through); ValueError with the nearest name otherwise."""
    if isinstance(name, FrontEnd):
        return name
    if name not in FRONT_ENDS:
        near = difflib.get_close_matches(str(name), FRONT_ENDS, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]!r}?" if near else "Use one of them."
        raise ValueError(f"front_end={name!r} is not known; expected one of {sorted(FRONT_ENDS)}. {hint}")
    return FRONT_ENDS[name]


def clip_size(front_end, segment_seconds):
    """(mels, frames) of a segment of so many seconds."""
    return front_end.num_mels, num_frames(front_end, round(segment_seconds * front_end.sample_rate))


def num_frames(front_end, num_samples):
    """Frames of a clip of num_samples: they are centred, so the outer ones reach over its ends."""
    return 1 + num_samples // front_end.hop_length


def storage_dtype(front_end):
    """The torch dtype in which `compute` returns features: uint8 or float16."""
    return torch.uint8 if front_end.scaling == "byte_minmax" else torch.float16


def compute(front_end, waveforms):
    """Features of equally long clips, each computed on its own.

    waveforms: float32 (batch, samples) in [-1, 1]. Returns (batch, num_mels, frames), uint8 or float16 (see
    FrontEnd), as a view of frames-major memory. Raises ValueError for another shape or dtype.
    """
    if waveforms.ndim != 2 or waveforms.dtype != torch.float32:
        raise ValueError(f"waveforms are {waveforms.dtype} of shape {tuple(waveforms.shape)}; expected "
                         "torch.float32 of shape (batch, samples). Divide int16 samples by 32768.")
    frames = num_frames(front_end, waveforms.shape[1])
    features = torch.empty(len(waveforms), frames, front_end.num_mels, dtype=storage_dtype(front_end))
    clip_bytes = frames * (4 * front_end.n_fft + 8 * (front_end.n_fft // 2 + 1))
    chunk = max(1, int(CHUNK_BYTES // clip_bytes))

    @torch.no_grad()
    def fill(first):
        mels = _mel_power(front_end, waveforms[first:first + chunk])
        features[first:first + chunk] = _SCALINGS[front_end.scaling](front_end, mels)

    each_on_one_thread(fill, range(0, len(waveforms), chunk))
    return features.transpose(1, 2)


def normalise(front_end, features):
    """What the network sees of stored features (..., mels, frames): float32, contiguous.

    The mean over the segment's frames is removed from each mel if the front end says so; bytes stay 0..255.
    """
    features = features.to(torch.float32, memory_format=torch.contiguous_format)
    if front_end.mean_normalise:
        features = features - features.mean(dim=-1, keepdim=True)
    return features


def mel_centres(front_end):
    """Where each mel lies, in Hz, lowest first: (num_mels,), for the axis of a picture."""
    filters = _filters(front_end).double()
    bins = torch.linspace(0, front_end.sample_rate / 2, len(filters), dtype=torch.float64)
    weight = filters.sum(dim=0)
    seen = (weight > 0).nonzero().flatten().numpy()  # a triangle may be narrower than a bin
    centres = ((bins @ filters) / weight).numpy()[seen]
    return np.interp(np.arange(front_end.num_mels), seen, centres)


def identifier(front_end):
    """Eight hexadecimal digits that change with any field of the record."""
    record = json.dumps(asdict(front_end), sort_keys=True)
    return hashlib.blake2b(record.encode(), digest_size=4).hexdigest()


def each_on_one_thread(function, items):
    """function(item) for each, side by side on torch's number of threads.

    Chunks take many short operations: shared by all threads, each would end with waiting for the slowest.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        for item in items:
            function(item)
        return
    left = iter(items)

    def work():
        for item in left:
            function(item)

    pool = _threads(threads, os.getpid())
    under_way = [pool.submit(work) for _ in range(threads)]
    wait(under_way)
    torch.set_num_threads(threads)  # the number is each thread's own, but also what new threads begin with
    for done in under_way:
        done.result()


@lru_cache(maxsize=1)
def _threads(threads, process):
    """Threads of one thread of torch's each, which stay: new ones would ask for all their memory anew, batch by batch.

    process: its number, since a forked one has no threads.
    """
    return ThreadPoolExecutor(threads, "features", torch.set_num_threads, (1,))


def _mel_power(front_end, waveforms):
    """(batch, samples) -> (batch, frames, mels).

    The same as the filters' product with torch.stft's power. It takes 40 % of the time: only the frames are windowed
    and transformed, squares of real and imaginary parts are added by the product itself, and each band of mels meets
    those bins alone that it has.
    """
    half = front_end.n_fft // 2  # frames are centred
    padded = torch.nn.functional.pad(waveforms, (half, half), front_end.pad_mode)
    frames = padded.unfold(1, front_end.n_fft, front_end.hop_length)  # (batch, frames, n_fft), a view
    spectrum = torch.fft.rfft(frames * _window(front_end.window, front_end.win_length, front_end.n_fft))
    squares = torch.view_as_real(spectrum).square_().flatten(2).flatten(0, 1)  # (batch * frames, 2 * bins)
    mels = torch.empty(len(squares), front_end.num_mels)
    for place, bins, filters in _bands(front_end):
        torch.mm(squares[:, bins], filters, out=mels[:, place])
    return mels.reshape(*spectrum.shape[:2], -1)


def _byte_minmax(front_end, mels):
    decibels = mels.clamp_(min=SMALLEST_POWER).log10_().mul_(10)
    decibels -= decibels.amax(dim=(1, 2), keepdim=True)
    decibels.clamp_(min=-front_end.floor)
    lowest = decibels.amin(dim=(1, 2), keepdim=True)
    span = torch.where(lowest < 0, -lowest, 1.0)  # a constant clip is all zeros, not 0 / 0
    levels = decibels.sub_(lowest).div_(span).mul_(255).to(torch.uint8)  # truncated, as astype(uint8) does
    return levels.flip(2) if front_end.flip else levels


def _log(front_end, mels):
    mels = mels.add_(front_end.floor).log_()
    return mels.flip(2) if front_end.flip else mels


_SCALINGS = {"byte_minmax": _byte_minmax, "log": _log}


@lru_cache(maxsize=16)
def _window(name, length, n_fft):
    """(n_fft,), with zeros on both sides of a shorter window."""
    window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[name](length, periodic=True)
    before = (n_fft - length) // 2
    return torch.nn.functional.pad(window, (before, n_fft - length - before))


@lru_cache(maxsize=16)
def _bands(front_end):
    """[(mels, columns, filters)]: a slice of mels, the columns of squared parts that they have, and their weights.

    A bin has two columns, its real and its imaginary part.
    """
    bands = []
    for first in range(0, front_end.num_mels, BAND_MELS):
        filters = _filters(front_end)[:, first:first + BAND_MELS]
        bins = filters.any(dim=1).nonzero().flatten().tolist() or [0]
        low, high = bins[0], bins[-1] + 1
        bands.append((slice(first, first + filters.shape[1]), slice(2 * low, 2 * high),
                      filters[low:high].repeat_interleave(2, dim=0)))
    return bands


@lru_cache(maxsize=16)
def _filters(front_end):
    """(n_fft // 2 + 1, num_mels). Triangles without a bin stay, as librosa's do; torchaudio warns of them."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(front_end.n_fft // 2 + 1, front_end.f_min, front_end.f_max, front_end.num_mels,
                           front_end.sample_rate, norm=front_end.mel_norm, mel_scale=front_end.mel_scale)
