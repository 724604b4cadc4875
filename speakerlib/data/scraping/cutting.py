"""Cuts the utterances out of whatever a download brought, in one pass that never holds the whole of it."""

import hashlib
import io
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerlib.data.audio import SAMPLE_RATE, AudioError

_GAP = 0.1  # seconds that a timestamp may be ahead of the samples before sound is taken to be missing
_SLACK = 0.1  # seconds that an utterance may end after the audio: one picture's 0.04, and what codecs lose
_LOST = 0.5  # seconds that a file may end before it says that it does
_SILENCE = 2  # steps of 16 bits between the lowest and the highest sample
_CLOCKED = ("mov", "matroska")  # containers whose clock is the video's, and which know how long it is
_STREAMED = "mpegts"  # a container whose clock begins at any time


@dataclass(frozen=True)
class Cut:
    """One utterance of a video: its FLAC file and the SHA-256 of its samples, or why there is none."""

    speaker: str
    utterance: str
    path: Path | None
    num_samples: int
    sha256: str
    skipped: str


def cut_utterances(path, spans, folder, min_seconds=0.5):
    """Cuts utterances out of an audio or video file: (cuts, audio_seconds).

    spans: list of (speaker, utterance, start, end), in seconds of the video's own clock, in any order; they may
    overlap. cuts: a Cut for each, in that order; what is written lies in `folder` as 16 kHz mono FLAC of 16 bits,
    named by its place in the list. sha256 is of its samples as little-endian int16. Skipped is what ends more than
    0.1 s after the audio, what is under min_seconds, and what is silent. Decoding stops after the last end;
    audio_seconds is then what the file says of its length.

    Raises ValueError for a span that is none; AudioError for a file without audio, one that cannot be decoded as far
    as the last end, and one that ends before it says; OSError if `folder` cannot be written to.
    """
    path, folder = Path(path), Path(folder)
    for speaker, utterance, start, end in spans:
        if not 0 <= start < end < float("inf"):
            raise ValueError(f"utterance {utterance!r} of {speaker!r} goes from {start} to {end} s; expected "
                             "0 <= start < end.")
    waiting = sorted((_Part(number, round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
                      for number, (_, _, start, end) in enumerate(spans)), key=lambda part: -part.first)
    last = max((part.last for part in waiting), default=0)
    cuts, heard, position = [None] * len(spans), [], 0
    with closing(_blocks(path)) as blocks:
        for first, block in blocks:
            position = first + len(block)
            while waiting and waiting[-1].first < position:
                heard.append(waiting.pop())
            for part in heard:
                part.take(first, block)
                if part.last <= position:
                    cuts[part.number] = _write(part, spans[part.number], folder, position, min_seconds)
            heard = [part for part in heard if part.last > position]
            if position >= last:
                break
    there = position / SAMPLE_RATE
    declared = _declared_seconds(path) or there
    if position >= last:
        return cuts, max(there, declared)
    if there < declared - _LOST:
        raise AudioError(path, f"truncated: {there:.1f} of {declared:.1f} s")
    for part in [*heard, *waiting]:
        cuts[part.number] = _write(part, spans[part.number], folder, position, min_seconds)
    return cuts, there


def samples_digest(path):
    """The SHA-256 of a FLAC's samples, as Cut holds it; "" if there is no whole file."""
    import soundfile

    try:
        samples, _ = soundfile.read(path, dtype="int16")
    except (OSError, soundfile.LibsndfileError):
        return ""
    return _digest(samples)


def _digest(samples):
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()


class _Part:
    """An utterance's first sample, the one after its last, and what was heard of it so far."""

    def __init__(self, number, first, last):
        self.number, self.first, self.last = number, first, last
        self.pieces, self.next = [], first

    def take(self, first, block):
        """Keeps what of a block, whose first sample is `first`, is its own; what no block brought is silence."""
        begin, end = (min(max(self.next, place), self.last) for place in (first, first + len(block)))
        if begin > self.next:
            self.pieces.append(np.zeros(begin - self.next, np.int16))
        if end > begin:
            self.pieces.append(block[begin - first:end - first])
        self.next = end


def _write(part, span, folder, position, min_seconds):
    """The Cut of an utterance that was heard to its end, or to the end of the audio."""
    speaker, utterance, _, end = span
    samples = np.concatenate(part.pieces) if part.pieces else np.zeros(0, np.int16)
    skipped = ""
    if end > position / SAMPLE_RATE + _SLACK:
        skipped = f"past the end: ends at {end:.1f} s, the audio at {position / SAMPLE_RATE:.1f} s"
    elif len(samples) < round(min_seconds * SAMPLE_RATE):
        skipped = f"under {min_seconds:g} s"
    elif np.ptp(samples.astype(np.int32)) <= _SILENCE:
        skipped = "silent"
    if skipped:
        return Cut(speaker, utterance, None, 0, "", skipped)
    path = folder / f"{part.number:05d}.flac"
    _write_flac(path, samples)
    return Cut(speaker, utterance, path, len(samples), _digest(samples), "")


def _write_flac(path, samples):
    """On the disk when it returns, so that a name it is given later never leads to less."""
    import soundfile

    memory = io.BytesIO()  # libsndfile itself does not say why it could not write
    soundfile.write(memory, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
    with open(path, "wb") as file:
        file.write(memory.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def _open(path):
    import av

    # Only local files: a playlist that calls itself audio must not open a connection.
    return av.open(str(path), metadata_errors="ignore", options={"protocol_whitelist": "file"})


def _blocks(path):
    """Yields (first, int16 (samples,)) of the first audio stream, 16 kHz and mono; `first` is where the timestamps
    put the first of the samples. It only rises, and skips what is not there."""
    import av

    num_blocks = 0
    try:
        with _open(path) as container:
            if not container.streams.audio:
                raise AudioError(path, "unreadable: no audio in it")
            for block in _resample(container.decode(audio=0), _origin(container)):
                num_blocks += 1
                yield block
    except (av.error.FFmpegError, OSError, ArithmeticError) as error:
        raise AudioError(path, f"unreadable: {getattr(error, 'strerror', None) or error}") from error
    if not num_blocks:
        raise AudioError(path, "empty")


def _resample(frames, origin):
    """Yields (first, int16 (samples,)) of frames whose clock shows `origin` seconds at the beginning; without one,
    the samples are counted.

    Each run of frames without a gap and of one kind is resampled as a whole.
    """
    import av

    resampler = kind = None
    position, clock = None, 0.0  # the next sample to come out; when the next frame is due
    for frame in frames:
        time = clock if origin is None or frame.pts is None else float(frame.pts * frame.time_base) - origin
        if kind != (frame.format.name, frame.layout.name, frame.sample_rate) or time > clock + _GAP:
            for block in _samples(resampler, None):
                yield position, block
                position += len(block)
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            start = round(time * SAMPLE_RATE)
            position, clock = start if position is None else max(start, position), time
        clock += frame.samples / frame.sample_rate
        frame.pts = None  # the positions are kept here
        for block in _samples(resampler, frame):
            yield position, block
            position += len(block)
    for block in _samples(resampler, None):
        yield position, block
        position += len(block)


def _samples(resampler, frame):
    """What comes out for one frame; for None, what is left."""
    return [out.to_ndarray()[0] for out in resampler.resample(frame)] if resampler else []


def _origin(container):
    """What a container's clock shows when the video begins; None where timestamps are only guessed from sizes."""
    name = container.format.name.split(",")[0]
    return 0.0 if name in _CLOCKED else (container.start_time or 0) / 1e6 if name == _STREAMED else None


def _declared_seconds(path):
    """When the audio is said to end; None for formats that guess it from their size."""
    with _open(path) as container:
        if container.format.name.split(",")[0] not in _CLOCKED:
            return None
        stream = container.streams.audio[0]
        if stream.duration:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        return container.duration / 1e6 if container.duration else None
