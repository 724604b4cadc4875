"""Draws the demo corpus' synthetic speakers, and the simulated recordings in which they speak.

A speaker: one of espeak-ng's voices, with an accent, pitch, rate, vocal tract and breath of their own. A
session: a room, a microphone, a band, a noise and a level, in which the speaker is a little higher or faster
than in the next. Everything is a function of (seed, number of the speaker).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.espeak import SAMPLE_RATE as ESPEAK_RATE
from speakerlib.data.espeak import synthesise_all

SECONDS = (3.1, 6.0)  # an utterance's length is drawn between these; every one holds a segment of 3 s
# English in seven accents, and as nine other languages would read it.
ACCENTS = ["gmw/en", "gmw/en-US", "gmw/en-029", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan",
           "gmw/en-GB-x-gbcwmd", "gmw/en-GB-x-rp",
           "gmw/de", "gmw/nl", "gmq/sv", "roa/fr", "roa/es", "roa/it", "roa/pt", "zlw/pl", "urj/fi"]
VARIANTS = ["Alex", "Annie", "Gene", "Michael", "adam", "aunty", "belinda", "benjamin", "edward", "f1", "f2",
            "f3", "f4", "f5", "linda", "m1", "m3", "m4", "m5", "m7", "max", "paul", "shelby", "steph"]
WORDS = """
about after again air all along and another answer apple arrive ask autumn away baker bank basket beach before
begin behind bell below between bird blue boat book bottle bread bridge bring brother build busy buy call
candle carry chair cheese child church city clean climb clock cloud coat coffee cold come copper corner cotton
cousin cover dance dark daughter deep dinner doctor door dream dress drive dry dust early east eat edge empty
engine evening every eye fall farmer fast father field find fire fish five floor flower follow foot forest
four friend garden gate give glass go gold good grass green ground guest hammer hand happy harbour have hear
heavy help hill history hold honey horse hour house hundred island journey jump keep kettle kitchen ladder
lake lamp language large late laugh leaf learn leave letter light listen little long look lunch machine make
many market meadow measure meet middle milk minute mirror money morning mother mountain mouth move music
narrow near never new night nine nobody north nothing notice number ocean often old one open orange other
outside over paint paper people picture place plant play pocket point power quarter question quick quiet rain
reach read ready red remember rest river road roof room round run sail sand school season seven shadow sharp
sheep shoe shore short show silver simple sing sister six sleep slow small snow some song sound south speak
spring square stand star station stone storm story street strong sugar summer sun swim table talk teacher
thank their thing think thousand three through time together tomorrow tower town travel tree under until
valley village visit voice wait walk wall warm water weather week west wheel where white wide wind window
winter without woman wood word work write yellow yesterday young
"""
_FFT = 1 << 17  # 8.2 s: the longest utterance and the tail of its room
_FREQUENCIES = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
_OCTAVES = np.log2(np.maximum(_FREQUENCIES, 60) / 1000)  # above 1 kHz


@dataclass(frozen=True)
class SyntheticSpeaker:
    """What stays the same whenever the speaker speaks."""

    accent: str  # espeak-ng's names
    variant: str
    rate: float  # words a minute
    pitch: float  # times the variant's own
    pitch_range: float  # 0 to 99
    tract: float  # times the variant's formant frequencies: above 1 is a shorter vocal tract
    breath: float  # noise that follows the voice, relative to it
    tilt: float  # of the spectrum, dB an octave


def draw_speaker(seed, number):
    """The speaker of that number (from 0); does not depend on how many others there are."""
    draw = np.random.default_rng([seed, number])
    return SyntheticSpeaker(
        accent=ACCENTS[draw.integers(len(ACCENTS))], variant=VARIANTS[draw.integers(len(VARIANTS))],
        rate=draw.uniform(145, 195), pitch=2 ** np.clip(draw.normal(0, 0.17), -0.5, 0.5),
        pitch_range=draw.uniform(25, 80), tract=np.exp(np.clip(draw.normal(0, 0.075), -0.2, 0.2)),
        breath=10 ** (draw.uniform(-40, -14) / 20), tilt=draw.uniform(-2, 2))


def speak_sessions(seed, number, num_sessions, num_utterances):
    """What that speaker says: a list (sessions) of lists (utterances) of int16 arrays (samples,) at 16 kHz.

    Raises RuntimeError if espeak-ng is missing or fails.
    """
    speaker = draw_speaker(seed, number)
    draws = [np.random.default_rng([seed, number, 1 + session]) for session in range(num_sessions)]
    requests, seconds = [], []
    for draw in draws:
        pitch, rate = speaker.pitch * 2 ** draw.normal(0, 0.08), speaker.rate * np.exp(draw.normal(0, 0.08))
        for _ in range(num_utterances):
            seconds.append(draw.uniform(*SECONDS))
            requests.append(_request(speaker, pitch, rate, seconds[-1], draw))
    spoken = iter(zip(synthesise_all(requests), seconds, strict=True))
    sessions = []
    for draw in draws:
        recording = _draw_recording(draw)
        sessions.append([_record(*next(spoken), speaker, recording, draw) for _ in range(num_utterances)])
    return sessions


def _request(speaker, pitch, rate, seconds, draw):
    """What espeak-ng is asked to say, and how. Scaling the tract will scale pitch and rate: undone here."""
    pitch = pitch * 2 ** draw.normal(0, 0.03) / speaker.tract
    rate = rate * np.exp(draw.normal(0, 0.03)) / speaker.tract
    num_words = int(np.ceil(seconds * speaker.rate / 60 * 1.8)) + 4  # more than will be kept
    words = draw.choice(WORDS.split(), size=num_words)
    marks = draw.choice(["", ",", "."], size=num_words, p=[0.8, 0.1, 0.1])
    return {"text": " ".join(word + mark for word, mark in zip(words, marks, strict=True)) + ".",
            "voice": speaker.accent, "variant": speaker.variant, "rate": int(np.clip(rate, 80, 450)),
            "pitch": int(np.interp(np.log2(pitch), (-0.58, 0, 0.77), (0, 50, 99))),  # as measured, in octaves
            "pitch_range": int(np.clip(speaker.pitch_range + draw.normal(0, 5), 0, 99))}


def _draw_recording(draw):
    """A session's spectra of room, line and noise (_FFT // 2 + 1,), signal-to-noise ratio and level in dB."""
    decay = np.exp(draw.uniform(np.log(0.15), np.log(0.7)))  # seconds to -60 dB
    direct_to_room = draw.uniform(-3, 10)  # dB
    time = np.arange(int(0.8 * SAMPLE_RATE)) / SAMPLE_RATE
    room = draw.standard_normal(len(time)) * 10 ** (-3 * time / decay) * (time > 0.02)
    early = draw.integers(int(0.002 * SAMPLE_RATE), int(0.03 * SAMPLE_RATE), size=6)
    room[early] += draw.choice([-1, 1], 6) * draw.uniform(0.3, 1, 6) * np.sqrt(np.sum(room ** 2) / 6)
    room *= 10 ** (-direct_to_room / 20) / np.sqrt(np.sum(room ** 2))
    room[0] = 1  # the direct sound
    ripple = sum(draw.normal(0, 2) * np.cos(np.pi * k * _OCTAVES / 3 + draw.uniform(0, 2 * np.pi))
                 for k in (1, 2, 3))  # dB
    low, high = np.exp(draw.uniform(np.log(50), np.log(300))), draw.uniform(3400, 7600)  # Hz
    line = 10 ** (ripple / 20) / np.sqrt((1 + (low / np.maximum(_FREQUENCIES, 1)) ** 8)
                                         * (1 + (_FREQUENCIES / high) ** 24))
    noise = 10 ** (draw.uniform(-6, 0) * _OCTAVES / 20)  # brown to white
    return np.fft.rfft(room, _FFT), line, noise, draw.uniform(5, 25), draw.uniform(-34, -18)


def _record(spoken, seconds, speaker, recording, draw):
    """One utterance as its session records it: trimmed, tract scaled, cut, in room and noise, levelled."""
    room, line, noise, snr, level = recording
    voice = spoken.astype(np.float32) / 32768
    loud = np.flatnonzero(np.abs(voice) > 0.03 * np.abs(voice).max())
    voice = voice[loud[0]:loud[-1] + 1]  # without the silence at both ends
    voice = soxr.resample(voice, ESPEAK_RATE * speaker.tract, SAMPLE_RATE)[:int(seconds * SAMPLE_RATE)]
    voice = voice * (1 + speaker.breath * draw.standard_normal(len(voice)))
    length = len(voice)
    voice = np.fft.rfft(voice, _FFT) * _tilted(speaker.tilt) * room * line
    voice = np.fft.irfft(voice, _FFT)[:length]
    hiss = draw.standard_normal(2 * len(line)).view(np.complex128) * noise * line
    hiss = np.fft.irfft(hiss, _FFT)[:length]
    hiss *= _rms(voice) / _rms(hiss) * 10 ** (-(snr + draw.normal(0, 2)) / 20)
    heard = voice + hiss
    heard *= 10 ** ((level + draw.normal(0, 1.5)) / 20) / _rms(heard)
    heard *= min(1, 0.98 / np.abs(heard).max())
    return np.round(heard * 32767).astype(np.int16)


@lru_cache(maxsize=64)  # one speaker after the other, by several threads
def _tilted(tilt):
    return 10 ** (tilt * _OCTAVES / 20)


def _rms(waveform):
    return np.sqrt(np.mean(waveform ** 2))
