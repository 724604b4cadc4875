"""Codecs: a waveform as it comes out at the other end of a line, by the real encoders and decoders, in memory.

mu-law and AMR are telephone lines at 8 kHz, Opus is a call over the internet, MP3 a saved recording.
"""

from functools import lru_cache

import numpy as np

from speakerlib.data.audio import SAMPLE_RATE

LEVEL_DB = -26.0  # RMS below full scale that a line is fed with (the active speech level of ITU-T tests)
TELEPHONE_HZ = (300.0, 3400.0)  # half power of the band that a telephone passes
OPUS_RATES = (6000, 16000)  # bits/s, drawn from uniformly
AMR_RATES = (4750, 5150, 5900, 6700, 7400, 7950, 10200, 12200)  # the codec's eight modes
MP3_RATES = (8000, 16000, 24000)


def draw_codec(random):
    """A codec and its rate in bits/s: ("mu-law", 64000), ("amr", 4750), ("opus", 9731), ("mp3", 16000) ..."""
    name = CODECS[random.integers(len(CODECS))]
    rates = {"mu-law": 64000, "amr": AMR_RATES[random.integers(len(AMR_RATES))],
             "opus": int(random.integers(*OPUS_RATES, endpoint=True)),
             "mp3": MP3_RATES[random.integers(len(MP3_RATES))]}
    return name, rates[name]


def through_codec(waveform, codec, rate):
    """Encodes and decodes one clip: float32 (samples,) at 16 kHz, in step with the input.

    The line is fed at LEVEL_DB whatever the clip's level, and the level is put back. Silence stays silence.
    Raises RuntimeError if PyAV lacks the encoder.
    """
    level = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))
    if level == 0:
        return np.zeros_like(waveform)
    gain = 10 ** (LEVEL_DB / 20) / level
    heard = _THROUGH[codec]((waveform * gain).clip(-1, 1), rate)
    return (heard[:len(waveform)] / gain).astype(np.float32)


def check_codecs():
    """RuntimeError if PyAV was built without an encoder that the codecs here need: no result differs in silence."""
    import av

    lacking = [name for name in ("libopencore_amrnb", "libopus", "libmp3lame") if name not in av.codecs_available]
    if lacking:
        raise RuntimeError(f"PyAV {av.__version__} was built without {', '.join(lacking)}, which channel family II "
                           "encodes with. Install the wheel of av that constraints.txt pins, or use family I.")


def _mu_law(waveform, rate):
    """G.711: eight bits a sample, finer where it is quiet."""
    narrow = _to_telephone(waveform)
    compressed = np.rint(np.log1p(255 * np.abs(narrow).clip(max=1)) / np.log(256) * 127)
    return _from_telephone(np.sign(narrow) * np.expm1(compressed / 127 * np.log(256)) / 255, len(waveform))


def _amr(waveform, rate):
    narrow = _encode_and_decode(_to_telephone(waveform), 8000, rate, "libopencore_amrnb", "amrnb")
    return _from_telephone(narrow, len(waveform))


def _opus(waveform, rate):
    options = {"application": "voip", "frame_duration": "60", "compression_level": "1"}  # as a phone does, for speed
    heard = _encode_and_decode(waveform, SAMPLE_RATE, rate, "libopus", "libopus", options)
    return heard[::3]  # it decodes at 48 kHz, with nothing above the 8 kHz that it was given


def _mp3(waveform, rate):
    options = {"compression_level": "9"}  # the fastest
    return _encode_and_decode(waveform, SAMPLE_RATE, rate, "libmp3lame", "mp3float", options, "s16p")


CODECS = ("mu-law", "amr", "opus", "mp3")
_THROUGH = {"mu-law": _mu_law, "amr": _amr, "opus": _opus, "mp3": _mp3}
_DELAYS = {"libopencore_amrnb": 40, "libopus": 0, "libmp3lame": 0}  # samples that come out before the first one


def _encode_and_decode(waveform, rate, bit_rate, encoder, decoder, options=None, format="s16"):
    """Packet by packet, without a file: float32 (samples,) at the decoder's rate, as long as the input or longer."""
    import av

    coder = av.CodecContext.create(encoder, "w")
    coder.sample_rate, coder.layout, coder.format, coder.bit_rate = rate, "mono", format, bit_rate
    coder.options, coder.thread_count = options or {}, 1
    coder.open()
    reader = av.CodecContext.create(decoder, "r")
    reader.sample_rate, reader.layout, reader.thread_count = rate, "mono", 1
    if coder.extradata:
        reader.extradata = coder.extradata

    after = 2 * coder.frame_size  # zeros that push the end out of the codec's memory
    samples = np.concatenate([np.rint(waveform * 32767), np.zeros(after)]).astype(np.int16)
    sent = av.AudioFrame.from_ndarray(samples[None], format=format, layout="mono")
    sent.sample_rate = rate
    packets = [*coder.encode(sent), *coder.encode(None), None]
    heard = [frame.to_ndarray()[0] for packet in packets for frame in reader.decode(packet)]
    heard = np.concatenate(heard)[_DELAYS[encoder]:]
    return heard.astype(np.float32) / 32768 if heard.dtype == np.int16 else heard


def _to_telephone(waveform):
    """16 to 8 kHz, in a telephone's band."""
    size = _size(len(waveform))
    return np.fft.irfft(np.fft.rfft(waveform, size)[:size // 4 + 1] * _telephone_band(size), size // 2) / 2


def _from_telephone(narrow, num_samples):
    """8 to 16 kHz, with nothing above 4 kHz."""
    size = _size(num_samples)
    return 2 * np.fft.irfft(np.fft.rfft(narrow[:size // 2], size // 2), size)[:num_samples]


def _size(num_samples):
    return -(-(num_samples + 1024) // 1024) * 1024


@lru_cache(maxsize=4)
def _telephone_band(size):
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)[:size // 4 + 1]
    low, high = TELEPHONE_HZ
    return 1 / np.sqrt((1 + (low / np.maximum(frequencies, 1e-3)) ** 8) * (1 + (frequencies / high) ** 16))
