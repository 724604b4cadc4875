"""Makes the sound and the files of practice videos: AAC in m4a, Opus in webm, AAC with a picture in mp4."""

import numpy as np

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.files import atomic_path

CONTENT_TYPES = {".m4a": "audio/mp4", ".webm": "audio/webm", ".mp4": "video/mp4"}
_CODECS = {".m4a": ("aac", 44100, {"aac_coder": "fast"}), ".webm": ("libopus", 48000, {"compression_level": "0"}),
           ".mp4": ("aac", 44100, {"aac_coder": "fast"})}
_BLOCK = 1 << 16  # samples made and encoded at a time
_PICTURE = (64, 48, 5)  # width, height, pictures a second
_NOISE = 60.0  # standard deviation of what is heard between the utterances, of 32768


def write_video(path, seconds, pieces, seed=0):
    """Writes a video of `seconds` s in which the pieces are heard, over a low noise; its suffix says as what.

    pieces: list of (first sample, int16 (samples,)) at 16 kHz; what overlaps is added. The file appears whole or
    not at all; memory does not grow with its length. Raises ValueError for a suffix other than .m4a, .webm, .mp4.
    """
    import av

    suffix = path.suffix
    if suffix not in _CODECS:
        raise ValueError(f"cannot make {path}: its suffix is {suffix!r}, not one of {', '.join(_CODECS)}.")
    codec, rate, options = _CODECS[suffix]
    form = "webm" if suffix == ".webm" else "mp4"
    with (atomic_path(path) as temporary,
          # bitexact: no date and no random numbers, so the same bytes again; faststart: the index comes first.
          av.open(str(temporary), "w", format=form, options={"fflags": "+bitexact", "movflags": "+faststart"}
                  if form == "mp4" else {"fflags": "+bitexact"}) as container):
        audio = container.add_stream(codec, rate=rate, layout="mono", options=options)
        picture = _add_picture(container) if suffix == ".mp4" else None
        num_pictures = 0
        for first, block in _blocks(round(seconds * SAMPLE_RATE), pieces, seed):
            frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, first
            container.mux(audio.encode(frame))
            while picture is not None and num_pictures * SAMPLE_RATE < (first + len(block)) * _PICTURE[2]:
                container.mux(picture.encode(_draw_picture(num_pictures)))
                num_pictures += 1
        container.mux(audio.encode(None))
        if picture is not None:
            container.mux(picture.encode(None))


def hum(seconds, pitch, draw):
    """A stand-in for speech: harmonics of `pitch` (Hz) that swell and fade, int16 (samples,) at 16 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = pitch * 2 ** draw.normal(0, 0.02)
    wave = sum(draw.uniform(0.5, 1) / k * np.sin(2 * np.pi * (k * pitch * time + draw.uniform())) for k in (1, 2, 3))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * (draw.uniform(2, 5) * time + draw.uniform()))
    noise = draw.normal(0, 0.05, len(time))
    return np.round(8000 * (wave * swell + noise)).clip(-32767, 32767).astype(np.int16)


def _blocks(num_samples, pieces, seed):
    """Yields (first sample, int16 (samples,)) of the whole sound."""
    draw = np.random.default_rng(seed)
    for first in range(0, num_samples, _BLOCK):
        length = min(_BLOCK, num_samples - first)
        sound = draw.standard_normal(length, dtype=np.float32) * _NOISE
        for start, samples in pieces:
            low, high = max(start, first), min(start + len(samples), first + length)
            if low < high:
                sound[low - first:high - first] += samples[low - start:high - start]
        yield first, np.round(sound).clip(-32768, 32767).astype(np.int16)


def _add_picture(container):
    width, height, rate = _PICTURE
    stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 20_000
    return stream


def _draw_picture(number):
    """A bar that moves across a grey picture."""
    import av

    width, height, _ = _PICTURE
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    picture[:height, number % width] = 235
    frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
    frame.pts = number
    return frame
