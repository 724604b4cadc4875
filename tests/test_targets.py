"""What an autoencoder is asked to predict: by hand, the way there and back, and what a channel cannot change."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.models.autoencoder import AUTOENCODERS, build_autoencoder
from speakerlib.models.objectives import reconstruction_loss
from speakerlib.models.targets import TARGETS, from_target, to_target

SIZES = st.tuples(st.integers(16, 70), st.integers(16, 70))


def noise(batch=2, num_mels=64, num_frames=151, seed=0):
    return torch.randn(batch, 1, num_mels, num_frames, generator=torch.Generator().manual_seed(seed))


def test_each_target_of_a_tiny_clip_by_hand():
    frames = torch.arange(512.0).reshape(1, 1, 16, 32)  # two patches, each of 16 rows of 16 following numbers
    assert torch.equal(to_target(frames, "clip"), frames)
    by_mel = to_target(frames, "mean_normalised")[0, 0]
    assert torch.equal(by_mel[3], torch.arange(32) - 15.5)
    patch = frames[0, 0, :, 16:].double().numpy()
    expected = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
    assert to_target(frames, "patch_normalised")[0, 0, :, 16:].numpy() == pytest.approx(expected, abs=1e-5)


def test_the_last_patch_takes_the_remainder():
    frames = noise(1, 40, 55)
    found = to_target(frames, "patch_normalised")[0, 0].double().numpy()
    for mels in (slice(0, 16), slice(16, 40)):
        for part in (slice(0, 16), slice(16, 32), slice(32, 55)):
            patch = frames[0, 0, mels, part].double().numpy()
            expected = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
            assert found[mels, part] == pytest.approx(expected, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.sampled_from(TARGETS), st.integers(0, 99))
def test_the_way_there_and_back_is_the_clip(size, target, seed):
    frames = 50 + 20 * noise(2, *size, seed)
    there = to_target(frames, target)
    assert there.shape == frames.shape
    assert torch.allclose(from_target(there, frames, target), frames, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 99))
def test_a_gain_of_each_mel_is_no_part_of_a_mean_normalised_clip_and_a_scale_none_of_a_patch(size, seed):
    frames = noise(2, *size, seed)
    gains = 3 * torch.randn(1, 1, size[0], 1, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(to_target(frames + gains, "mean_normalised"), to_target(frames, "mean_normalised"), atol=1e-4)
    assert not torch.allclose(to_target(frames + gains, "clip"), frames, atol=0.1)
    assert torch.allclose(to_target(7 * frames + 5, "patch_normalised"), to_target(frames, "patch_normalised"),
                          atol=1e-3)


def test_silence_has_finite_targets():
    for target in TARGETS:
        assert to_target(torch.zeros(1, 1, 64, 151), target).abs().max() == 0


def test_targets_are_the_same_under_autocast_and_from_half_the_digits():
    frames = 100 + noise()
    for target in TARGETS[1:]:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(to_target(frames, target), to_target(frames.clone(), target))
            under = to_target(frames, target)
        assert torch.equal(under, to_target(frames, target)) and under.dtype == torch.float32
        assert to_target(frames.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("encoder", AUTOENCODERS)
def test_the_loss_compares_the_reconstruction_with_the_target_of_the_clean_clip(encoder, target):
    torch.manual_seed(0)
    model = build_autoencoder(encoder, 64, 151, target=target).eval()
    frames, clean = 3 * noise(), 3 * noise(seed=1) + 1
    mask = torch.zeros_like(frames, dtype=torch.bool)
    mask[:, :, 16:32, 32:64] = True
    for given_clean, wanted in ((None, frames), (clean, clean)):
        loss, reconstruction, _ = model(frames, mask, given_clean)
        by_hand = (reconstruction - to_target(wanted, target))[mask].detach().double().square().mean().item()
        assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert torch.equal(model(frames, mask)[1], model(frames, mask, clean)[1])  # it is predicted from frames alone


def test_the_published_normalisation_goes_with_every_target():
    frames, mask = noise(), torch.zeros(2, 1, 64, 151, dtype=torch.bool)
    mask[..., :16, :32] = True
    for target in TARGETS:
        model = build_autoencoder("transformer", 64, 151, "as_published", target).eval()
        loss, reconstruction, _ = model(frames, mask)
        corrected = reconstruction_loss(reconstruction, to_target(frames, target), mask)
        assert loss.item() == pytest.approx(corrected.item() * mask.float().mean().item(), rel=1e-5)


def test_wrong_names_and_sizes_are_refused():
    with pytest.raises(ValueError, match="'mean': expected one of clip, mean_normalised, patch_normalised"):
        to_target(noise(), "mean")
    with pytest.raises(ValueError, match="'mean': expected one of clip"):
        from_target(noise(), noise(), "mean")
    with pytest.raises(ValueError, match="'Clip': expected one of clip"):
        build_autoencoder("conv6", 64, 151, target="Clip")
    with pytest.raises(ValueError, match="'resnet': expected one of conv6, transformer"):
        build_autoencoder("resnet", 64, 151)
    with pytest.raises(ValueError, match="16 mels x 16 frames do not fit into 64 mels x 10 frames"):
        to_target(noise(1, 64, 10), "patch_normalised")
