"""Codecs: in step with what went in, at its level, with the losses of the real thing."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import codecs
from speakerlib.data.codecs import CODECS, check_codecs, draw_codec, through_codec

EVERY = [("mu-law", 64000), ("amr", 4750), ("amr", 12200), ("opus", 6000), ("opus", 16000),
         ("mp3", 8000), ("mp3", 16000), ("mp3", 24000)]


def voice(num_samples=24000, seed=0):
    """Buzzes of a gliding pitch through two resonances, in syllables: enough like a voice for a speech coder."""
    time = np.arange(num_samples) / 16000
    phase = np.cumsum(120 + 20 * np.sin(2 * np.pi * 1.3 * time)) / 16000
    buzz = sum(np.cos(2 * np.pi * k * phase) / (1 + ((120 * k - 700) / 300) ** 2 + k / 20) for k in range(1, 60))
    hiss = 0.02 * np.random.default_rng(seed).standard_normal(num_samples)
    return (0.1 * (buzz + hiss) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


@pytest.mark.parametrize("codec, rate", EVERY)
def test_what_comes_out_is_in_step_with_what_went_in_and_not_the_same(codec, rate):
    clip = voice()
    heard = through_codec(clip, codec, rate)
    assert heard.shape == clip.shape and heard.dtype == np.float32 and np.isfinite(heard).all()
    size = 2 ** 16
    agreement = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(clip, size)), size)
    delay = (np.argmax(agreement) + size // 2) % size - size // 2
    assert abs(delay) <= 4  # a quarter of a millisecond
    likeness = agreement.max() / np.linalg.norm(heard) / np.linalg.norm(clip)
    assert 0.6 < likeness < 0.9999
    end = slice(-3000, None)  # the end is there, not cut off or replaced by what a codec holds back
    assert np.linalg.norm(heard[end]) > 0.4 * np.linalg.norm(clip[end])


@pytest.mark.parametrize("codec", CODECS)
def test_the_level_makes_no_difference(codec):
    quiet = through_codec(voice() * np.float32(0.002), codec, 12000 if codec != "amr" else 12200)
    loud = through_codec(voice(), codec, 12000 if codec != "amr" else 12200)
    np.testing.assert_allclose(quiet * 500, loud, atol=0.05 * loud.std())


@pytest.mark.parametrize("codec", CODECS)
def test_silence_stays_silence(codec):
    assert not through_codec(np.zeros(8000, np.float32), codec, 12200).any()


@settings(max_examples=25, deadline=None)
@given(num_samples=st.integers(1600, 40000), choice=st.sampled_from(EVERY))
def test_any_length_goes_through(num_samples, choice):
    heard = through_codec(voice(num_samples), *choice)
    assert heard.shape == (num_samples,)
    assert np.isfinite(heard).all() and heard.std() > 0.2 * voice(num_samples).std()


@pytest.mark.parametrize("codec, rate", [("mu-law", 64000), ("amr", 12200)])
def test_a_telephone_passes_its_band_alone(codec, rate):
    noise = np.random.default_rng(0).standard_normal(48000).astype(np.float32) * 0.05
    power = np.abs(np.fft.rfft(through_codec(noise, codec, rate))) ** 2
    frequencies = np.linspace(0, 8000, len(power))
    inside = power[(frequencies > 500) & (frequencies < 3000)].mean()
    assert power[frequencies > 4200].mean() < 1e-3 * inside
    assert power[frequencies < 120].mean() < 0.05 * inside


def test_mu_law_is_that_of_the_telephone_network():
    narrow = codecs._from_telephone(codecs._to_telephone(voice()), 24000)
    error = through_codec(voice(), "mu-law", 64000) - narrow
    ratio = 20 * np.log10(narrow.std() / error.std())
    assert 33 < ratio < 42  # dB; G.711 keeps about 38 over a wide range of levels


def test_a_lower_rate_loses_more():
    def error(codec, rate):
        heard = through_codec(voice(), codec, rate)
        return np.linalg.norm(heard - voice()) / np.linalg.norm(voice())

    for codec, low, high in (("amr", 4750, 12200), ("opus", 6000, 16000), ("mp3", 8000, 24000)):
        assert error(codec, low) > error(codec, high)


def test_every_codec_and_rate_is_drawn():
    random = np.random.default_rng(0)
    drawn = [draw_codec(random) for _ in range(2000)]
    names, counts = np.unique([name for name, _ in drawn], return_counts=True)
    assert set(names) == set(CODECS) and counts.min() > 400
    assert {rate for name, rate in drawn if name == "amr"} == set(codecs.AMR_RATES)
    assert {rate for name, rate in drawn if name == "mp3"} == set(codecs.MP3_RATES)
    opus = [rate for name, rate in drawn if name == "opus"]
    assert 6000 <= min(opus) < 6200 and 15800 < max(opus) <= 16000


def test_a_pyav_without_an_encoder_is_named(monkeypatch):
    check_codecs()
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libopencore_amrnb"})
    with pytest.raises(RuntimeError, match="without libopencore_amrnb, .* family II .* constraints.txt"):
        check_codecs()
