"""Reads any audio file as one channel at one rate, or says in a few words why it cannot."""

import os
import struct
from pathlib import Path

import numpy as np

from speakerlib.data.files import atomic_path

SAMPLE_RATE = 16000
AUDIO_SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".m4a", ".mp3", ".webm", ".mp4", ".aac")
BLOCK = 4096  # samples written at a time, or read of what is kept as floats
INTEGER_BLOCK = 1 << 16  # read at a time of what is kept as int16
LARGEST_SAMPLE = 4.0  # decoders overshoot 1 a little; far above it, the file is on another scale
SMALLEST_RANGE = 1 / 32768  # one step of 16 bits: below it, nothing is left after rounding


class AudioError(ValueError):
    """An audio file that cannot be used; `.path` says which, `.reason` says why in a few words."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), reason

    def __reduce__(self):  # comes back whole from another process
        return AudioError, (self.path, self.reason)


def read_audio(path, sample_rate=SAMPLE_RATE, start=0.0, duration=None):
    """Reads a file as float32 (samples,) in [-1, 1]: mean of its channels, resampled to sample_rate (Hz).

    start and duration, in seconds, read a part of it. Reads wav, flac, ogg and opus with soundfile, the rest
    with PyAV. Raises FileNotFoundError if there is no such file, and AudioError if it is empty, unreadable,
    truncated, silent, or holds NaN or infinite samples.
    """
    import soxr

    path = Path(path)
    _check_file(path)
    samples, rate = _read_frames(path, start, duration)  # (frames, channels)
    if not 1000 <= rate <= 768000:
        raise AudioError(path, f"unreadable: a sample rate of {rate} Hz")
    if len(samples) == 0:
        raise AudioError(path, _nothing_after(start))
    if not np.isfinite(samples).all():
        raise AudioError(path, "NaN or infinite samples")
    if np.abs(samples).max() > LARGEST_SAMPLE:
        raise AudioError(path, f"samples up to {np.abs(samples).max():.0f}, expected -1 to 1")
    one = samples.shape[1] == 1  # its own mean, which takes numpy longer than all checks
    waveform = np.ascontiguousarray(samples[:, 0] if one else samples.mean(axis=1, dtype=np.float32))
    if np.ptp(waveform) < SMALLEST_RANGE:
        raise AudioError(path, "silent")
    if rate != sample_rate:
        waveform = soxr.resample(waveform, rate, sample_rate)
    return np.clip(waveform, -1, 1)


def read_int16(path, start=0.0, duration=None):
    """to_int16(read_audio(path, ...)) at 16 kHz, sooner where that is what the file holds (wav and flac of 16 bits).

    Raises what read_audio raises.
    """
    path = Path(path)
    _check_file(path)
    samples = _read_as_stored(path, start, duration)
    if samples is None:
        return to_int16(read_audio(path, SAMPLE_RATE, start, duration))
    if len(samples) == 0:
        raise AudioError(path, _nothing_after(start))
    if samples.min() == samples.max():
        raise AudioError(path, "silent")
    return samples


def write_audio(path, waveform, sample_rate=SAMPLE_RATE):
    """Writes float (samples,) in [-1, 1], or int16 samples, as wav, flac, ogg or opus by the name's suffix.

    The file appears whole or not at all. Raises ValueError for another suffix, shape or a non-finite sample.
    """
    import soundfile

    kinds = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"),
             ".opus": ("OGG", "OPUS")}
    suffix = Path(path).suffix.lower()
    if suffix not in kinds:
        raise ValueError(f"cannot write {path}: its suffix is {suffix!r}, not one of {', '.join(kinds)}.")
    samples = to_int16(waveform)
    container, subtype = kinds[suffix]
    with (atomic_path(path) as temporary,
          soundfile.SoundFile(temporary, "w", sample_rate, 1, subtype, format=container) as file):
        for first in range(0, len(samples), BLOCK):  # the Vorbis encoder overflows on long arrays
            file.write(samples[first:first + BLOCK])


def to_int16(waveform):
    """Rounds float (samples,) in [-1, 1] to int16, clipped; int16 comes back as it is."""
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"a waveform has one axis (samples,), this one has the shape {waveform.shape}.")
    if waveform.dtype == np.int16:
        return waveform
    if not np.isfinite(waveform).all():
        raise ValueError("the waveform holds NaN or infinite samples.")
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)


def _check_file(path):
    """Raises for what decoders pass over or word badly: no file, no permission, no bytes, a lost end."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(12)
            if head[:4] == b"RIFF" and head[8:] == b"WAVE":
                missing = _missing_from_wav(file, size)
            else:
                missing = head[:4] == b"OggS" and _missing_from_ogg(file, size)
    except OSError as error:
        raise AudioError(path, f"unreadable: {error.strerror}") from error
    if size == 0:
        raise AudioError(path, "empty")
    if missing:
        raise AudioError(path, f"truncated: {missing}")


def _missing_from_wav(file, size):
    """What a wav file lacks of the length that its header declares: decoders read on in silence."""
    bytes_per_second = 0
    while len(chunk := file.read(8)) == 8:
        name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        body = file.tell()
        if name == b"fmt ":
            fields = file.read(16)
            bytes_per_second = struct.unpack("<I", fields[8:12])[0] if len(fields) == 16 else 0
        if name == b"data":
            streamed = length == 0 or length >= 0x7FFFF000  # written to a pipe: its length was not known
            if streamed or body + length <= size or not bytes_per_second:
                return None
            return f"{(size - body) / bytes_per_second:.1f} of {length / bytes_per_second:.1f} s"
        file.seek(body + length + length % 2)
    return None


def _missing_from_ogg(file, size):
    """What an Ogg file lacks of its last page (a header of 27 bytes, a table of lengths, the packets)."""
    first = max(0, size - (1 << 17))  # a page is at most 65,307 bytes
    file.seek(first)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return None
    if len(tail) > page + 26:
        table = tail[page + 27:page + 27 + tail[page + 26]]
        if len(table) == tail[page + 26] and first + page + 27 + len(table) + sum(table) <= size:
            return None
    return "its last page is cut off"


def _nothing_after(start):
    return "empty" if not start else f"empty: nothing after {start:.1f} s"


def _read_frames(path, start, duration):
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return _read_with_av(path, start, duration)
    with file:
        return _read_blocks(file, path, start, duration, "float32", BLOCK), file.samplerate


def _read_as_stored(path, start, duration):
    """int16 (samples,) of a whole file of one channel of 16 bits at 16 kHz; None for any other."""
    import soundfile

    samples = _read_plain_wav(path, start, duration)
    if samples is not None:
        return samples
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return None
    with file:
        if (file.channels, file.samplerate, file.subtype) != (1, SAMPLE_RATE, "PCM_16"):
            return None
        try:
            return _read_blocks(file, path, start, duration, "int16", INTEGER_BLOCK)[:, 0]
        except AudioError:
            return None  # read again, in shorter blocks, to say where it ends


def _read_plain_wav(path, start, duration):
    """The same of a wav file whose samples lie in it as they are, at once; None for any other, or if it is odd."""
    with open(path, "rb") as file:
        head, plain = file.read(12), False
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            body = file.tell()
            if name == b"data":
                frames = length // 2
                if not plain or not frames or body + length > os.fstat(file.fileno()).st_size:
                    return None
                first, wanted = _part(frames, SAMPLE_RATE, start, duration)
                file.seek(body + 2 * first)
                samples = np.fromfile(file, "<i2", wanted)
                return samples if len(samples) == wanted else None
            if name == b"fmt " and length >= 16:
                plain = struct.unpack("<HHIIHH", file.read(16)) == (1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
            file.seek(body + length + length % 2)
    return None


def _part(frames, rate, start, duration):
    """(first frame, number of frames) of a part in seconds of a file of so many frames."""
    first = min(round(start * rate), frames)
    return first, frames - first if duration is None else min(frames - first, round(duration * rate))


def _read_blocks(file, path, start, duration, dtype, block):
    """(frames, channels) of an open file; AudioError if it ends before its header says."""
    import soundfile

    first, wanted = _part(file.frames, file.samplerate, start, duration)
    blocks, missing = [], wanted
    try:
        file.seek(first)
        while missing and len(part := file.read(min(block, missing), dtype=dtype, always_2d=True)):
            blocks.append(part)
            missing -= len(part)
    except soundfile.LibsndfileError:
        pass  # what the decoder lost is counted below
    if missing:
        there = (first + wanted - missing) / file.samplerate
        raise AudioError(path, f"truncated: {there:.1f} of {file.frames / file.samplerate:.1f} s")
    return np.concatenate(blocks) if blocks else np.zeros((0, file.channels), dtype)


def _read_with_av(path, start, duration):
    import av

    blocks, rate, declared = [], 0, None
    try:
        # Only local files: a playlist that calls itself audio must not open a connection.
        with av.open(str(path), metadata_errors="ignore",
                     options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise AudioError(path, "unreadable: no audio in it")
            stream = container.streams.audio[0]
            if container.duration and container.format.name.split(",")[0] in ("mov", "matroska"):
                declared = container.duration / 1e6  # others estimate it from the bit rate
            resampler = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                blocks += [part.to_ndarray().T for part in resampler.resample(frame)]
                rate = frame.sample_rate
    except (av.error.FFmpegError, OSError) as error:
        if not blocks or declared is None:
            raise AudioError(path, f"unreadable: {error.strerror or error}") from error
    if not blocks:
        raise AudioError(path, "empty")
    samples = np.concatenate(blocks)
    there = len(samples) / rate
    if declared and there < declared - 0.25 - 0.02 * declared:
        raise AudioError(path, f"truncated: {there:.1f} of {declared:.1f} s")
    first = round(start * rate)
    return samples[first:None if duration is None else first + round(duration * rate)], rate
