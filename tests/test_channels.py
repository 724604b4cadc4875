"""Channels: a function of the clip's seed alone, with the ranges that the module states; both families."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import channels
from speakerlib.data.channels import apply_channels, clip_seeds


def noise(num_clips, num_samples, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(0.05 * random.standard_normal((num_clips, num_samples)).astype(np.float32))


def parts(waveforms, seeds):
    """The speech and the noise of the result: turn the sign of the input, and only the speech turns."""
    plus, minus = apply_channels(waveforms, seeds), apply_channels(-waveforms, seeds)
    return (plus - minus) / 2, (plus + minus) / 2


def voices(num_clips, num_samples):
    """What stands for babble: each clip's own noise, at any level."""
    return noise(num_clips, num_samples, seed=9).numpy() * 3


def through(waveforms, seeds, family):
    babble = voices(*waveforms.shape) if family == "II" else None
    return apply_channels(waveforms, seeds, family, babble)


both_families = pytest.mark.parametrize("family", ["I", "II"])


def power_spectrum(waveforms, points):
    """Mean power (clips, points) in a third of an octave about each frequency in Hz."""
    power = torch.fft.rfft(waveforms).abs().square()
    frequencies = torch.fft.rfftfreq(waveforms.shape[1], 1 / 16000)
    bands = [(frequencies > point * 2 ** (-1 / 6)) & (frequencies < point * 2 ** (1 / 6)) for point in points]
    return torch.stack([power[:, band].mean(dim=1) for band in bands], dim=1)


def rms(waveforms):
    return waveforms.square().mean(dim=1).sqrt()


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), size=st.integers(1, 6), base=st.integers(0, 2 ** 64 - 7),
       family=st.sampled_from(["I", "II"]))
def test_a_clip_depends_on_its_seed_and_not_on_its_batch(order, size, base, family):
    waveforms, seeds, babble = noise(6, 8000), [base + clip for clip in range(6)], voices(6, 8000)
    whole = apply_channels(waveforms, seeds, family, babble)
    chosen = order[:size]
    part = apply_channels(waveforms[chosen], [seeds[clip] for clip in chosen], family, babble[chosen])
    assert (part - whole[chosen]).abs().max() < 1e-6


@both_families
def test_the_same_seed_is_the_same_channel_and_another_is_another(family):
    waveforms, babble = noise(1, 16000).repeat(3, 1), voices(1, 16000).repeat(3, 0)
    first, again, other = apply_channels(waveforms, [(5, 1), (5, 1), (5, 2)], family, babble)
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.005
    assert torch.equal(waveforms, noise(1, 16000).repeat(3, 1))  # the input stays as it was


@both_families
def test_the_level_stays(family):
    waveforms = noise(40, 16000) * torch.linspace(0.01, 1, 40)[:, None]
    changed = through(waveforms, range(40), family)
    clipped = (changed.abs() == 1).any(dim=1)
    assert clipped.sum() < 12
    np.testing.assert_allclose(rms(changed)[~clipped], rms(waveforms)[~clipped], rtol=1e-4)


@both_families
def test_loud_clips_are_clipped_to_full_scale(family):
    square = torch.sign(noise(8, 8000))
    assert through(square, range(8), family).abs().max() == 1


@both_families
def test_silence_stays_silence(family):
    waveforms = noise(2, 8000)
    waveforms[0] = 0
    changed = through(waveforms, [3, 4], family)
    assert torch.equal(changed[0], torch.zeros(8000))
    assert torch.isfinite(changed).all() and changed[1].any()
    assert torch.isfinite(through(torch.full((1, 8000), 1e-25), [3], family)).all()


def test_family_ii_mixes_the_babble_in_at_its_ratio(monkeypatch):
    monkeypatch.setattr(channels, "through_codec", lambda waveform, codec, rate: waveform)
    speech, babble = noise(150, 16000), voices(150, 16000)
    plus = apply_channels(speech, range(150), "II", babble)
    minus = apply_channels(speech, range(150), "II", -babble)
    ratio = 20 * torch.log10(rms(plus + minus) / rms(plus - minus))
    low, high = channels.BABBLE_SNR_DB
    assert low - 0.5 < ratio.min() < low + 1
    assert high - 1 < ratio.max() < high + 0.5
    louder = apply_channels(speech, range(150), "II", 40 * babble)
    assert (louder - plus).abs().max() < 1e-5  # at whatever level the babble comes


def test_family_ii_gives_every_clip_a_room_other_voices_and_a_codec(monkeypatch):
    used = []
    monkeypatch.setattr(channels, "through_codec", lambda waveform, *codec: used.append(codec) or waveform)
    click = torch.zeros(60, 16000)
    click[:, 2000] = 0.5
    silent = np.zeros((60, 16000), np.float32)
    heard = apply_channels(click, range(60), "II", silent)
    after = heard[:, 2100:].square().sum(dim=1) / heard.square().sum(dim=1)
    assert (after > 0.001).all() and after.median() > 0.2  # echoes
    assert after.max() > 2 * after.median()  # of rooms that differ
    assert len(used) == 60 and {name for name, _ in used} == {"mu-law", "amr", "opus", "mp3"}
    amid = apply_channels(click, range(60), "II", voices(60, 16000))
    assert (rms(amid[:, :1900]) > 0.03 * rms(amid)).all()


@pytest.mark.parametrize(("family", "count"), [("I", 40), ("II", 12)])
def test_clips_are_the_same_on_any_number_of_threads(family, count):
    waveforms, before = noise(count, 8000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = through(waveforms, range(count), family)
        torch.set_num_threads(4)
        assert torch.equal(through(waveforms, range(count), family), alone)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_family_ii_asks_for_other_voices():
    with pytest.raises(ValueError, match=r"babble is None; .*\(2, 8000\). BabblePool\(corpus\).mix makes them"):
        apply_channels(noise(2, 8000), [0, 1], "II")
    with pytest.raises(ValueError, match=r"babble is of shape \(1, 8000\)"):
        apply_channels(noise(2, 8000), [0, 1], "II", voices(1, 8000))


def test_the_signal_to_noise_ratio_fills_its_range():
    speech, hum = parts(noise(200, 16000), range(200))
    ratio = 20 * torch.log10(rms(speech) / rms(hum))
    low, high = channels.SNR_DB
    assert low - 0.3 < ratio.min() < low + 1
    assert high - 1 < ratio.max() < high + 0.3


def test_the_cut_offs_are_half_power_points(monkeypatch):
    monkeypatch.setattr(channels, "LOW_CUT_HZ", (200.0, 200.0))
    monkeypatch.setattr(channels, "HIGH_CUT_HZ", (4000.0, 4000.0))
    monkeypatch.setattr(channels, "EQUALISER_DB", (0.0, 0.0))
    waveforms = noise(20, 48000)
    speech, _ = parts(waveforms, range(20))
    gain = (power_spectrum(speech, points := [100, 200, 1000, 4000, 8000])
            / power_spectrum(waveforms, points)).mean(dim=0)
    decibels = 10 * torch.log10(gain / gain[2])
    np.testing.assert_allclose(decibels[[1, 3]], -3.0, atol=0.6)
    assert decibels[0] < -20  # an octave further, with 24 dB an octave
    assert decibels[4] < -20


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_the_noise_is_white_to_brown(monkeypatch, exponent):
    monkeypatch.setattr(channels, "LOW_CUT_HZ", (50.0, 50.0))
    monkeypatch.setattr(channels, "HIGH_CUT_HZ", (7500.0, 7500.0))
    monkeypatch.setattr(channels, "NOISE_EXPONENT", (exponent, exponent))
    _, hum = parts(noise(20, 48000), range(20))
    power = power_spectrum(hum, [200, 400, 800, 1600, 3200]).mean(dim=0)
    steps = 10 * torch.log10(power[1:] / power[:-1])  # dB an octave
    np.testing.assert_allclose(steps, -10 * np.log10(2) * exponent, atol=0.7)


def test_the_equaliser_is_within_its_range_and_smooth(monkeypatch):
    monkeypatch.setattr(channels, "LOW_CUT_HZ", (1.0, 1.0))
    monkeypatch.setattr(channels, "HIGH_CUT_HZ", (1e6, 1e6))
    waveforms = noise(100, 48000)
    speech, _ = parts(waveforms, range(100))
    points = np.geomspace(150, 6000, 60)
    decibels = 10 * torch.log10(power_spectrum(speech, points) / power_spectrum(waveforms, points))
    low, high = channels.EQUALISER_DB
    spread = decibels.amax(dim=1) - decibels.amin(dim=1)
    assert spread.max() < high - low + 1
    assert spread.median() > 10  # strong: what a fixed microphone leaves is a few dB
    assert (decibels[:, 1:] - decibels[:, :-1]).abs().max() < 4  # a tenth of an octave


def test_another_length_of_clip_goes_through_the_same_equaliser_and_band():
    waveforms = noise(10, 48000)
    points = np.geomspace(300, 6000, 8)
    gains = []
    for clips in (waveforms, waveforms[:, :32000]):
        speech, _ = parts(clips, range(10))
        decibels = 10 * torch.log10(power_spectrum(speech, points) / power_spectrum(clips, points))
        gains.append(decibels - decibels.mean(dim=1, keepdim=True))
    assert (gains[0] - gains[1]).abs().max() < 1


def test_the_end_of_a_clip_does_not_ring_at_its_start():
    click = torch.zeros(8, 16000)
    click[:, -40:] = 0.5
    speech, _ = parts(click, range(8))
    assert (rms(speech[:, :4000]) < 0.01 * rms(speech)).all()


PINNED = [12993351674515173776, 6125132758295798323, 11164886133610455657]


def test_clip_seeds_are_the_same_on_every_machine():
    keys = [("speaker/session/0001", 0), ("speaker/session/0001", 24000), ("speaker/session/0002", 0)]
    seeds = clip_seeds(0, keys)
    assert seeds.dtype == np.uint64
    assert seeds.tolist() == PINNED
    assert clip_seeds(0, reversed(keys)).tolist() == PINNED[::-1]
    assert clip_seeds(np.int64(0), [(keys[1][0], np.int64(24000))]).tolist() == PINNED[1:2]
    assert not set(clip_seeds(1, keys).tolist()) & set(PINNED)


def test_an_unknown_family_and_too_few_seeds_are_refused():
    with pytest.raises(ValueError, match=r"'III' is not known; expected one of \['I', 'II'\]"):
        apply_channels(noise(1, 8000), [0], family="III")
    with pytest.raises(ValueError, match=r"\(2, 8000\) and 1 seeds"):
        apply_channels(noise(2, 8000), [0])
