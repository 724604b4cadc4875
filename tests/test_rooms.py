"""Rooms: the decay that was asked for, echoes where mirrors put them, and nothing before the direct sound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import rooms
from speakerlib.data.rooms import draw_room, reverberate, room_response


def decay(response):
    """Level of what is still to come, in dB below the whole (Schroeder 1965)."""
    power = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    return 10 * np.log10(power / power[0])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2 ** 32))
def test_a_room_is_within_its_ranges_and_begins_with_the_direct_sound(seed):
    random = np.random.default_rng(seed)
    room = draw_room(random)
    assert (rooms.SMALLEST_METRES <= room["size"]).all() and (room["size"] <= rooms.LARGEST_METRES).all()
    assert rooms.RT60_SECONDS[0] <= room["rt60"] <= rooms.RT60_SECONDS[1]
    response = room_response(room, random)
    assert response.dtype == np.float32 and np.isfinite(response).all()
    assert len(response) == round(16000 * room["rt60"])
    assert response[0] == pytest.approx(1, abs=1e-6)  # no wall that is 0.3 m away answers within a sample


@pytest.mark.parametrize("rt60", [0.2, 0.5, 0.8])
def test_the_decay_takes_rt60(rt60):
    times = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        room = draw_room(random) | {"rt60": rt60, "high_decay": 1.0}
        level = decay(room_response(room, random))
        first, last = round(0.05 * 16000), round(0.6 * rt60 * 16000)
        slope = np.polyfit(np.arange(first, last) / 16000, level[first:last], 1)[0]
        times.append(-60 / slope)
    assert np.median(times) == pytest.approx(rt60, rel=0.03)
    assert np.abs(np.array(times) / rt60 - 1).max() < 0.15


def test_the_late_noise_sets_in_at_the_level_of_the_images():
    steps = []
    for seed in range(100):
        random = np.random.default_rng(seed)
        room = draw_room(random) | {"high_decay": 1.0}
        response = room_response(room, random)
        response *= 10 ** (3 * np.arange(len(response)) / 16000 / room["rt60"])  # without the decay
        edge = round(rooms.EARLY_SECONDS * 16000)
        before, after = response[edge - 240:edge], response[edge:edge + 240]
        steps.append(10 * np.log10(np.square(after).mean() / np.square(before).mean()))
    assert abs(np.mean(steps)) < 2.5  # dB: nobody hears where one ends and the other begins


def test_high_frequencies_decay_faster():
    def late_share(high_decay):
        room = {"size": np.array([6.0, 5.0, 3.0]), "rt60": 0.6, "high_decay": high_decay}
        late = [room_response(room, np.random.default_rng(seed))[3200:] for seed in range(20)]  # after 0.2 s
        power = (np.abs(np.fft.rfft(late)) ** 2).mean(axis=0)
        frequencies = np.linspace(0, 8000, len(power))
        return power[frequencies > 4500].mean() / power[(frequencies > 300) & (frequencies < 1500)].mean()

    assert late_share(1.0) == pytest.approx(1, rel=0.2)
    assert 10 * np.log10(late_share(0.5)) < -15


def test_the_first_echoes_are_where_mirrors_put_them():
    room = {"size": np.array([5.0, 4.0, 3.0]), "rt60": 0.5, "high_decay": 1.0}
    talker, microphone = np.array([1.0, 2.0, 1.5]), np.array([3.0, 2.0, 1.5])
    times, gains = rooms._images(room, talker, microphone)
    order = np.argsort(times)
    metres = 343.0 * times[order][:6]
    # direct; floor and ceiling (twice 1.5 m away); left wall (1 + 3) and right (4 + 2); then the walls at 2 m, twice
    expected = np.sort([2, np.hypot(2, 3), np.hypot(2, 3), 4, np.hypot(2, 4), np.hypot(2, 4)])
    np.testing.assert_allclose(metres, expected, rtol=1e-9)
    volume, surface = 60.0, 94.0
    reflection = np.sqrt(np.exp(-0.161 * volume / (surface * 0.5)))  # Eyring, with Sabine's rounded constant
    np.testing.assert_allclose(gains[order][:6] * expected, [1] + 5 * [reflection], rtol=1e-3)


def test_reverberation_is_the_convolution_above_the_low_cut():
    random = np.random.default_rng(0)
    waveform = random.standard_normal(5000).astype(np.float32)
    response = room_response(draw_room(random), random)
    heard = reverberate(waveform, response)
    expected = np.convolve(waveform, response)[:5000]
    assert heard.shape == (5000,) and heard.dtype == np.float32
    spectra = [np.fft.rfft(np.hanning(5000) * part)[100:] for part in (heard, expected)]  # above 320 Hz
    assert np.linalg.norm(spectra[0] - spectra[1]) < 0.03 * np.linalg.norm(spectra[1])


def test_talkers_sit_inside_at_the_distances_that_the_module_states():
    distances = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        room = draw_room(random)
        microphone = random.uniform(0.3, room["size"] - 0.3)
        place = rooms._place_near(microphone, room, random)
        assert (place >= 0.3).all() and (place <= room["size"] - 0.3).all()
        distances.append(np.linalg.norm(place - microphone))
    low, high = rooms.DISTANCE_METRES
    assert low - 1e-9 <= min(distances) and max(distances) <= high + 1e-9
    assert np.median(distances) == pytest.approx(np.sqrt(low * high), rel=0.15)
