"""The transformer: what it sees and what not, its size, and an encoder that chapter 05 can take over."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.models.autoencoder import build_autoencoder
from speakerlib.models.encoders import build_encoder, count_parameters
from speakerlib.models.masks import MASKS, draw_masks
from speakerlib.models.targets import TARGETS
from speakerlib.models.transformer import sine_positions, standardise

SIZE = (64, 151)


def a_batch(batch=3, size=SIZE, mask="patches", ratio=0.75, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(batch, 1, *size, generator=generator)
    return frames, draw_masks(mask, batch, *size, ratio, generator)


def an_autoencoder(size=SIZE, **named):
    torch.manual_seed(0)
    return build_autoencoder("transformer", *size, **named).eval()


def whole_patches(mask):
    """(batch, patches): False where anything of a patch was removed; the grid by hand."""
    mels, frames = mask.shape[2] // 16, mask.shape[3] // 16
    rows = [mask[:, 0, 16 * r:(16 * r + 16 if r < mels - 1 else None)] for r in range(mels)]
    return torch.stack([~row[..., 16 * c:(16 * c + 16 if c < frames - 1 else None)].flatten(1).any(dim=1)
                        for row in rows for c in range(frames)], dim=1)


@pytest.mark.parametrize("size", [(64, 151), (256, 301), (64, 64), (70, 99), (16, 16)])
def test_any_clip_of_a_patch_or_more_has_an_embedding_and_about_conv6s_parameters(size):
    encoder = build_encoder("transformer", *size).eval()
    assert encoder(torch.randn(2, 1, *size)).shape == (2, encoder.dim) == (2, 56 * (size[0] // 16))
    assert count_parameters(encoder) == pytest.approx(134_688, rel=0.15)


@settings(max_examples=20, deadline=None)
@given(st.integers(16, 70), st.integers(16, 70), st.integers(0, 99))
def test_every_value_is_in_one_patch_and_comes_back(mels, frames, seed):
    encoder = build_encoder("transformer", mels, frames)
    clip = torch.randn(2, 1, mels, frames, generator=torch.Generator().manual_seed(seed))
    patches = encoder.patches(clip)
    assert patches.shape[:2] == (2, (mels // 16) * (frames // 16))
    assert torch.equal(encoder.clips(patches), clip)
    assert (patches != 0).sum() == clip.numel()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("size", [SIZE, (70, 99)])
def test_what_is_removed_is_not_seen(mask, size):
    model, (frames, removed) = an_autoencoder(size), a_batch(4, size, mask, 0.5)
    other = torch.where(removed, 100 * torch.randn(frames.shape), frames)
    assert torch.equal(model(frames, removed)[1], model(other, removed)[1])
    visible = whole_patches(removed)
    shown = model.encoder.clips(visible[..., None].expand(-1, -1, model.encoder.inside.shape[1]).float()) > 0
    other = torch.where(shown, torch.randn(frames.shape), frames)
    assert not torch.equal(model(frames, removed)[1], model(other, removed)[1])
    assert torch.equal(model(frames, removed)[1], model(torch.where(shown, frames, 0), removed)[1])


@pytest.mark.parametrize("mask", ["patches", "boxes"])
def test_the_encoder_reads_the_visible_patches_alone(mask):
    """Its blocks get as many tokens as patches are whole, and each clip's are what it alone would give."""
    model, (frames, removed) = an_autoencoder(), a_batch(4, mask=mask, ratio=0.4)
    shapes = []
    model.encoder.blocks[0].register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    _, together, _ = model(frames, removed)
    counts = whole_patches(removed).sum(dim=1)
    assert shapes[0][:2] == (4, counts.max()) and counts.max() < 36
    assert mask == "patches" or len(set(counts.tolist())) > 1
    for clip in range(4):
        alone = model(frames[clip:clip + 1], removed[clip:clip + 1])[1]
        assert shapes[-1][1] == counts[clip]
        assert torch.allclose(alone[0], together[clip], atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_a_clip_without_a_whole_patch_is_predicted_from_nothing_and_spoils_no_other(target):
    model, (frames, removed) = an_autoencoder(target=target).train(), a_batch()
    removed[1, :, ::16, ::8] = True  # something of each patch
    loss, reconstruction, _ = model(frames, removed)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(value.grad).all() for value in model.parameters())
    assert torch.allclose(reconstruction[::2], model(frames[::2], removed[::2])[1], atol=1e-4)
    nothing = model(torch.randn(1, 1, *SIZE), removed[1:2])[1]
    assert torch.allclose(nothing, reconstruction[1:2], atol=1e-5) and torch.isfinite(nothing).all()


def test_the_embedding_is_each_rows_mean_of_what_the_autoencoders_encoder_makes_of_the_whole_clip():
    model, (frames, _) = an_autoencoder(), a_batch()
    encoder = build_encoder("transformer", *SIZE).eval()
    encoder.load_state_dict(model.encoder.state_dict())
    assert torch.equal(encoder(frames), model.encoder(frames))
    tokens = []
    model.encoder.norm.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    model(frames, torch.zeros_like(frames, dtype=torch.bool))
    by_row = [tokens[0][:, 9 * row:9 * (row + 1)].mean(dim=1) for row in range(4)]
    assert torch.allclose(torch.cat(by_row, dim=1), encoder(frames), atol=1e-5)


def test_positions_matter_and_are_not_learnt():
    """Two patches that change places are another clip; the positions are in no file of weights."""
    encoder, (frames, _) = build_encoder("transformer", 64, 160).eval(), a_batch(size=(64, 160))
    swapped = frames.roll(32, dims=3)  # whole patches: without positions the mean would be the same
    assert not torch.allclose(encoder(swapped), encoder(frames), atol=1e-3)
    encoder.positions.zero_()
    assert torch.allclose(encoder(swapped), encoder(frames), atol=1e-5)
    assert not [name for name in encoder.state_dict() if "positions" in name or "inside" in name]


def test_positions_tell_every_patch_from_every_other():
    positions = sine_positions(16, 18, 56)
    assert positions.shape == (288, 56)
    assert torch.cdist(positions, positions).fill_diagonal_(9).min() > 0.5
    assert positions[5 * 18 + 7, 0].item() == pytest.approx(np.sin(5))
    assert positions[5 * 18 + 7, 28 + 14].item() == pytest.approx(np.cos(7), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 100), st.floats(-200, 200))
def test_the_scale_of_the_front_end_does_not_matter(scale, shift):
    """Bytes of 0 to 255 are embedded as logarithms are, and a reconstruction is in the clip's own scale."""
    model, (frames, removed) = an_autoencoder(), a_batch(1)
    encoder = model.encoder
    assert torch.allclose(encoder(scale * frames + shift), encoder(frames), atol=2e-3)
    expected = scale * model(frames, removed)[1] + shift
    assert torch.allclose(model(scale * frames + shift, removed)[1], expected, atol=5e-3 * scale + 5e-4 * abs(shift))


def test_only_what_is_visible_is_standardised():
    frames, removed = a_batch()
    values, mean, deviation = standardise(torch.where(removed, 1e6, frames), ~removed)
    kept = frames[1][~removed[1]].double().numpy()
    assert mean[1].item() == pytest.approx(kept.mean(), abs=1e-5)
    assert deviation[1].item() == pytest.approx(kept.std(), rel=1e-4)
    assert values[1][~removed[1]].std().item() == pytest.approx(1, abs=0.01)


def test_silence_is_finite():
    model = an_autoencoder()
    _, removed = a_batch()
    loss, reconstruction, _ = model(torch.zeros(3, 1, *SIZE), removed)
    assert torch.isfinite(loss) and torch.isfinite(reconstruction).all()
    assert torch.isfinite(model.encoder(torch.zeros(3, 1, *SIZE))).all()


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_falls_on_a_fixed_batch_and_every_weight_learns(target):
    model = an_autoencoder(target=target).train()
    wave = torch.sin(torch.arange(151) / 4) * torch.linspace(0.5, 1.5, 64)[:, None]
    frames, mask = wave.expand(8, 1, 64, 151), a_batch(8)[1]
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.002), []
    for _ in range(60):
        loss, _, _ = model(frames, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_bfloat16_and_channels_last_change_the_numbers_little():
    model, (frames, removed) = an_autoencoder(), a_batch(4)
    loss, reconstruction, _ = model(frames, removed)
    embeddings = model.encoder(frames)
    model.to(memory_format=torch.channels_last)
    frames = frames.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        other_loss, other, _ = model(frames, removed)
        assert torch.allclose(model.encoder(frames).float(), embeddings, atol=0.1)
    assert other_loss.dtype == torch.float32
    assert other_loss.item() == pytest.approx(loss.item(), rel=0.02)
    assert torch.allclose(other.float(), reconstruction, atol=0.1)


def test_a_seed_makes_the_same_network_and_the_whole_clip_is_read_without_randomness():
    frames, removed = a_batch()
    first, second = an_autoencoder().train(), an_autoencoder().train()
    assert torch.equal(first(frames, removed)[1], second(frames, removed)[1])


def test_wrong_sizes_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="16 mels x 16 frames.*gives 64 mels and 15 frames"):
        build_encoder("transformer", 64, 15)
    with pytest.raises(ValueError, match=r"\(batch, 1, 64, 151\) and got \(2, 1, 256, 301\)"):
        build_encoder("transformer", *SIZE)(torch.randn(2, 1, 256, 301))
    with pytest.raises(ValueError, match=r"\(batch, 1, 64, 151\) and got \(2, 1, 64, 99\)"):
        an_autoencoder()(*a_batch(2, (64, 99)))
