"""The front end of Kye et al. against python_speech_features, the package that their code calls."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from python_speech_features import fbank

from speakerlib.data.kye_front_end import KYE, compute_kye, num_kye_frames


def by_the_package(samples):
    """(frames, 40) in float64, as the authors' feature_extraction.py asks for them."""
    power, _ = fbank(samples.astype(np.float64), samplerate=16000, nfilt=40, winlen=0.025, winfunc=np.hamming)
    logarithm = 20 * np.log10(np.maximum(power, 1e-5))
    return logarithm - logarithm.mean(axis=0)


def speech_like(num_samples, seed=0, level=3000.0):
    random = np.random.default_rng(seed)
    swell = 1 + np.sin(np.arange(num_samples) / 900)
    return (level * swell * random.standard_normal(num_samples)).clip(-32768, 32767).astype(np.int16)


@settings(max_examples=40, deadline=None)
@given(num_samples=st.integers(1, 9000), seed=st.integers(0, 99), level=st.sampled_from([0.0, 1.0, 300.0, 20000.0]))
@example(num_samples=400, seed=0, level=300.0)
@example(num_samples=401, seed=0, level=300.0)
@example(num_samples=560, seed=0, level=300.0)
@example(num_samples=561, seed=0, level=300.0)
def test_it_is_the_package_at_every_length_and_level(num_samples, seed, level):
    samples = speech_like(num_samples, seed, level)
    expected = by_the_package(samples)
    found = compute_kye(samples)
    assert found.shape == expected.shape == (num_kye_frames(num_samples), KYE.num_mels)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5)  # of up to 200, rounded to float32


def test_it_is_the_package_on_real_speech(so762):
    import soundfile

    paths = sorted(so762.glob("speech/*/*"))[::250]
    assert len(paths) >= 5
    for path in paths:
        samples, _ = soundfile.read(path, dtype="int16")
        np.testing.assert_allclose(compute_kye(samples).numpy(), by_the_package(samples), rtol=0, atol=2e-5)


def test_an_utterance_of_many_chunks_is_computed_like_a_short_one(monkeypatch):
    samples = speech_like(16000 * 3)
    together = compute_kye(samples)
    monkeypatch.setattr("speakerlib.data.kye_front_end.CHUNK_FRAMES", 7)
    assert (compute_kye(samples) - together).abs().max() < 2e-5


def test_frames_of_many_utterances_are_counted_at_once():
    lengths = np.array([1, 399, 400, 401, 560, 561, 32000])
    assert num_kye_frames(lengths).tolist() == [1, 1, 1, 2, 2, 3, 199]


def test_the_level_is_taken_out_by_the_mean():
    loud, quiet = (compute_kye(scale * speech_like(8000).astype(np.float64)) for scale in (1.0, 0.1))
    assert (loud - quiet).abs().max() < 2e-5


@pytest.mark.parametrize("samples, shape", [(np.zeros((2, 800), np.int16), r"\(2, 800\)"), (np.zeros(0), r"\(0,\)")])
def test_what_is_no_utterance_is_refused(samples, shape):
    with pytest.raises(ValueError, match=f"samples have shape {shape}; expected"):
        compute_kye(samples)
