"""The masked autoencoder: its loss by hand, its unpooling, and an encoder that chapter 05 can take over."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from speakerlib.models.autoencoder import ConvAutoencoder, build_autoencoder
from speakerlib.models.encoders import ENCODERS, ConvEncoder, build_encoder, count_parameters
from speakerlib.models.masks import draw_masks
from speakerlib.models.objectives import reconstruction_loss


def a_batch(batch=2, num_mels=64, num_frames=151, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(batch, 1, num_mels, num_frames, generator=generator)
    return frames, draw_masks("boxes", batch, num_mels, num_frames, 0.5, generator)


def test_the_loss_of_a_tiny_clip_by_hand():
    frames = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    reconstruction = torch.tensor([[[[0.0, 2.5], [9.0, 2.0]]]])
    mask = torch.tensor([[[[True, True], [False, False]]]])  # errors 1 and 0.25; those of 36 and 4 do not count
    assert reconstruction_loss(reconstruction, frames, mask).item() == 0.625
    assert reconstruction_loss(reconstruction, frames, mask, "as_published").item() == 0.3125


def test_the_published_loss_is_the_corrected_one_times_the_removed_share():
    frames, mask = a_batch()
    reconstruction = torch.zeros_like(frames)
    corrected, published = (reconstruction_loss(reconstruction, frames, mask, name).item()
                            for name in ("corrected", "as_published"))
    removed = frames.numpy()[mask.numpy()].astype(np.float64)
    assert corrected == pytest.approx((removed ** 2).mean(), rel=1e-6)
    assert published == pytest.approx(corrected * mask.float().mean().item(), rel=1e-6)


@pytest.mark.parametrize(("num_mels", "num_frames"), [(64, 151), (256, 301), (64, 64), (70, 99)])
def test_the_reconstruction_has_the_clips_size_whatever_it_is(num_mels, num_frames):
    model = ConvAutoencoder(num_mels, num_frames).eval()
    frames, mask = a_batch(2, num_mels, num_frames)
    loss, reconstruction, same = model(frames, mask)
    assert reconstruction.shape == frames.shape and same is mask and loss.shape == ()
    assert loss.item() == pytest.approx(reconstruction_loss(reconstruction, frames, mask).item())


def test_what_is_removed_is_not_seen():
    model = ConvAutoencoder(64, 151).eval()
    frames, mask = a_batch()
    other = torch.where(mask, torch.randn(frames.shape), frames)
    assert torch.equal(model(frames, mask)[1], model(other, mask)[1])
    other = torch.where(mask, frames, torch.randn(frames.shape))
    assert not torch.equal(model(frames, mask)[1], model(other, mask)[1])


def test_unpooling_puts_values_where_the_maxima_were():
    """One block by hand: each maximum returns to its own place, and the others are 0."""
    model = ConvAutoencoder(64, 64).eval()
    frames, mask = a_batch(1, 64, 64)
    block, seen = model.encoder.blocks[0], []
    model.decoder[-1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(frames, mask)
    before = F.relu(block.norm(block.conv(frames.masked_fill(mask, 0))))
    for channel in range(16):
        windows = before[0, channel].reshape(32, 2, 32, 2).transpose(1, 2).reshape(32, 32, 4)
        placed = seen[0][0, channel].reshape(32, 2, 32, 2).transpose(1, 2).reshape(32, 32, 4)
        filled = placed != 0
        assert (filled.sum(-1) <= 1).all() and filled.any()
        assert torch.equal(windows[filled], windows.max(-1, keepdim=True).values.expand(32, 32, 4)[filled])


def test_the_encoder_is_that_of_chapter_05_bit_for_bit():
    torch.manual_seed(0)
    model, encoder = ConvAutoencoder(64, 151), ConvEncoder(64, 151)
    encoder.load_state_dict(model.encoder.state_dict())
    frames, _ = a_batch()
    assert torch.equal(encoder.eval()(frames), model.encoder.eval()(frames))
    assert count_parameters(model.encoder) == 134_688


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_has_an_autoencoder_whose_encoder_is_its_own(name):
    """Chapter 05 builds from the name and the clip's size alone, and gets weights that fit bit for bit."""
    torch.manual_seed(0)
    model, encoder = build_autoencoder(name, 64, 151), build_encoder(name, 64, 151)
    encoder.load_state_dict(model.encoder.state_dict())
    frames, _ = a_batch()
    assert torch.equal(encoder.eval()(frames), model.encoder.eval()(frames))
    assert type(model.encoder) is type(encoder) and len(encoder.blocks) > 1


def test_a_few_steps_lower_the_error_and_every_weight_learns():
    torch.manual_seed(0)
    model = ConvAutoencoder(64, 64)
    frames = torch.sin(torch.arange(64) / 4)[None, None, :, None].expand(8, 1, 64, 64) + 0.1 * torch.randn(8, 1, 64, 64)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=0.005), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(40):
        loss, _, _ = model(frames, draw_masks("strips", 8, 64, 64, 0.5, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for name, parameter in
               model.named_parameters() if not name.endswith("conv.bias"))  # BatchNorm takes those away


def test_wrong_shapes_and_names_are_refused():
    frames, mask = a_batch()
    with pytest.raises(ValueError, match="one shape"):
        reconstruction_loss(frames, frames, mask[:1])
    with pytest.raises(ValueError, match="'mean': expected 'corrected' or 'as_published'"):
        reconstruction_loss(frames, frames, mask, "mean")
    with pytest.raises(ValueError, match="at least 64 mels and 64 frames"):
        ConvAutoencoder(40, 151)
