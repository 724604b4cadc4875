"""Who speaks when, in its parts: windows are those of the whole file's features, silence is told, turns are merged."""

import numpy as np
import pytest
import torch
from made_up_voices import Swelling, voice

from speakerlib.data.front_ends import compute, front_end, normalise
from speakerlib.experiments import voice_embedding
from speakerlib.experiments.timeline import cells, merge, smooth_scores, sounding
from speakerlib.experiments.voice_embedding import embed_windows, long_features

COMPACT = front_end("compact")


@pytest.mark.parametrize("samples", [16000, 160 * 50, 160 * 50 * 3 + 77, 160 * 58, 160 * 50 * 70 + 5])
def test_features_of_a_long_file_are_those_of_the_whole(samples, monkeypatch):
    monkeypatch.setattr(voice_embedding, "BLOCK_FRAMES", 50)
    waveform = np.random.default_rng(0).normal(size=samples).astype(np.float32) * 0.1
    whole = compute(COMPACT, torch.from_numpy(waveform)[None])[0].T
    assert torch.equal(long_features(COMPACT, waveform), whole)


def test_windows_reach_the_end_and_are_embedded_as_if_alone():
    waveform = np.concatenate([voice(0, 2.0), voice(1, 2.3)])
    encoder = Swelling().eval()
    starts, embeddings = embed_windows(encoder, COMPACT, waveform, 101, 50)
    frames = long_features(COMPACT, waveform)
    assert starts[0] == 0 and starts[-1] + 101 == len(frames) and (np.diff(starts) <= 50).all()
    for start, embedding in zip(starts, embeddings):
        alone = encoder(normalise(COMPACT, frames[start:start + 101].T)[None, None])[0].numpy()
        assert embedding == pytest.approx(alone / np.linalg.norm(alone), abs=1e-5)


@pytest.mark.parametrize("gain", [1.0, 0.003])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_silence_is_relative_to_the_file(gain, noise):
    random = np.random.default_rng(0)
    speech = random.normal(size=32000) * 0.2 * (1.2 + np.sin(np.arange(32000) / 300))
    waveform = gain * (np.concatenate([speech, np.zeros(32000)]) + noise * random.normal(size=64000))
    loud = sounding(waveform.astype(np.float32), 160)
    assert len(loud) == 400 and loud[:200].mean() > 0.7 and loud[200:].mean() < 0.05


def test_one_even_sound_is_not_silence():
    assert sounding(np.sin(np.arange(16000)).astype(np.float32), 160).all()


def test_moments_cover_the_file():
    assert cells(100, 50).tolist() == [0, 50, 100]
    assert cells(120, 50).tolist() == [0, 50, 120]  # 20 frames are no moment of their own
    assert cells(130, 50).tolist() == [0, 50, 100, 130]
    assert cells(10, 50).tolist() == [0, 10]


def test_a_moment_is_the_mean_of_the_windows_that_hold_it_by_how_much_they_sound():
    starts, scores = np.array([0, 50, 100]), np.array([[0.0], [3.0], [6.0]])
    loud = np.repeat([True, True, False, False], 50)
    smoothed, heard = smooth_scores(scores, starts, 100, loud, np.array([0, 50, 100, 150, 200]))
    assert smoothed[0, 0] == pytest.approx(0) and smoothed[1, 0] == pytest.approx((100 * 0 + 50 * 3) / 150, abs=1e-4)
    assert smoothed[2, 0] == pytest.approx(3.0, abs=1e-3)  # the window at 100 is silent: it hardly counts
    assert np.isfinite(smoothed).all() and heard.tolist() == [True, True, False, False]


def test_a_lone_moment_is_smoothed_away_and_silence_stays():
    names = np.array(["a", "unknown", "silence"], dtype=object)
    choice = np.array([0, 1, 0, 0, 2, 0, 1, 1])
    probabilities = np.array([[0.8, 0.2]] * 8)
    table = merge(np.arange(9) * 0.5, choice, probabilities, names, 3.9)
    assert table["name"].tolist() == ["a", "silence", "a", "unknown"]
    assert table[["start", "end"]].to_numpy().tolist() == [[0, 2], [2, 2.5], [2.5, 3], [3, 3.9]]
    assert table["probability"].iloc[[0, 3]].tolist() == pytest.approx([0.8, 0.2])
    assert np.isnan(table["probability"][1])
