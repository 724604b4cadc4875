"""Rooms: the response of a shoebox room from a talker to a microphone, drawn at random and cheap to make.

The direct path and the early reflections are image sources (Allen and Berkley 1979); what comes later is noise that
decays as the room's diffuse field does, and sets in at the level that the images have by then.
"""

from functools import lru_cache

import numpy as np

from speakerlib.data.audio import SAMPLE_RATE

# Each range is drawn from uniformly; the distance on a log scale.
RT60_SECONDS = (0.15, 0.8)  # until the sound has fallen by 60 dB: from a furnished office to a bare meeting room
SMALLEST_METRES, LARGEST_METRES = (3.0, 2.5, 2.4), (10.0, 8.0, 4.0)  # length, width, height
DISTANCE_METRES = (0.3, 3.0)  # from talker to microphone: a phone in the hand to one in the middle of the table
HIGH_DECAY = (0.4, 1.0)  # decay time of high frequencies, as a share of RT60: walls and air swallow them first
HIGH_HZ = 3000.0  # where the two decays meet
LOW_CUT_HZ = 60.0  # in phase at the bottom, the images would add up to a boom that no small room has

SPEED_OF_SOUND = 343.0  # m/s
EARLY_SECONDS = 0.04  # until here image by image; in most of these rooms some tens of echoes
WALL_METRES = 0.3  # nobody sits nearer to a wall


def draw_room(random):
    """A room: {"size": (3,) metres, "rt60": seconds, "high_decay": share}."""
    return {"size": random.uniform(SMALLEST_METRES, LARGEST_METRES), "rt60": random.uniform(*RT60_SECONDS),
            "high_decay": random.uniform(*HIGH_DECAY)}


def room_response(room, random):
    """Impulse response (samples,) at 16 kHz, float32, between two places that `random` draws, from the direct sound on.

    The direct sound has gain 1 and is sample 0; the response ends where it has fallen by 60 dB.
    """
    microphone = random.uniform(WALL_METRES, room["size"] - WALL_METRES)
    talker = _place_near(microphone, room, random)
    distance = np.linalg.norm(talker - microphone)

    times, gains = _images(room, talker, microphone)
    samples = np.rint((times - distance / SPEED_OF_SOUND) * SAMPLE_RATE).astype(np.int64)
    num_samples = round(room["rt60"] * SAMPLE_RATE)
    early = np.bincount(samples, gains, minlength=num_samples)[:num_samples]
    response = distance * (early + _late(room, distance, num_samples, random))
    return _damp_high(response.astype(np.float32), room)


def reverberate(waveform, response):
    """(samples,) as heard through the response: float32 (samples,), what sounds on after the end cut off."""
    size = -(-(len(waveform) + len(response)) // 1024) * 1024  # a multiple of 1024 is quick to transform
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response, size) * _low_cut(size)
    return np.fft.irfft(spectrum, size)[:len(waveform)]


def _place_near(microphone, room, random):
    """A place at a drawn distance, or less where walls are in the way."""
    direction = random.standard_normal(3)
    step = direction / np.linalg.norm(direction) * np.exp(random.uniform(*np.log(DISTANCE_METRES)))
    outside = np.abs(microphone + step - room["size"] / 2) > room["size"] / 2 - WALL_METRES
    place = microphone + np.where(outside, -step, step)
    return np.clip(place, WALL_METRES, room["size"] - WALL_METRES)


def _images(room, talker, microphone):
    """Arrival time (s) and gain (1 / metres) of the direct sound and of each early reflection."""
    reach = SPEED_OF_SOUND * EARLY_SECONDS + np.linalg.norm(talker - microphone)
    offsets, bounces = [], []
    for length, source, receiver in zip(room["size"], talker, microphone, strict=True):
        order = int(np.ceil(reach / (2 * length)))
        cells = np.arange(-order, order + 1)
        offsets.append(np.concatenate([2 * cells * length + source, 2 * cells * length - source]) - receiver)
        bounces.append(np.concatenate([np.abs(2 * cells), np.abs(2 * cells - 1)]))
    square = sum(np.meshgrid(*(offset ** 2 for offset in offsets), indexing="ij", sparse=True)).ravel()
    bounces = sum(np.meshgrid(*bounces, indexing="ij", sparse=True)).ravel()
    near = square < reach ** 2
    distances = np.sqrt(square[near])
    return distances / SPEED_OF_SOUND, _reflection(room) ** bounces[near] / distances


def _reflection(room):
    """What a wall leaves of a pressure wave, so that the decay takes rt60 (Eyring 1930)."""
    x, y, z = room["size"]
    volume, surface = x * y * z, 2 * (x * y + y * z + z * x)
    return np.exp(-0.5 * 24 * np.log(10) / SPEED_OF_SOUND * volume / (surface * room["rt60"]))


def _late(room, distance, num_samples, random):
    """Noise (samples,) with the power that the images would have: 4 pi c / volume a second, decaying."""
    times = np.arange(num_samples, dtype=np.float32) / np.float32(SAMPLE_RATE) + distance / SPEED_OF_SOUND
    power = 4 * np.pi * SPEED_OF_SOUND / np.prod(room["size"]) / SAMPLE_RATE
    level = np.exp(times * np.float32(-3 * np.log(10) / room["rt60"]) + np.float32(0.5 * np.log(power)))
    noise = random.standard_normal(num_samples, dtype=np.float32) * level
    noise[:round(EARLY_SECONDS * SAMPLE_RATE)] = 0
    return noise


def _damp_high(response, room):
    """The response with its high frequencies decaying faster."""
    size = -(-len(response) // 1024) * 1024 + 1024
    high = np.fft.irfft(np.fft.rfft(response, size) * _high_share(size), size)[:len(response)]
    rate = 3 / room["rt60"] * (1 / room["high_decay"] - 1) * np.log(10) / SAMPLE_RATE
    return response + high * np.expm1(np.arange(len(response), dtype=np.float32) * np.float32(-rate))


@lru_cache(maxsize=32)
def _high_share(size):
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    return (1 / (1 + (HIGH_HZ / np.maximum(frequencies, 1)) ** 4)).astype(np.float32)


@lru_cache(maxsize=32)
def _low_cut(size):
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    return (1 / np.sqrt(1 + (LOW_CUT_HZ / np.maximum(frequencies, 1e-3)) ** 4)).astype(np.float32)
