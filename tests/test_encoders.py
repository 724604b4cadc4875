import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speakerlib.data.files import project_folder
from speakerlib.models.encoders import as_numbers, build_encoder, count_parameters, folded


@pytest.mark.parametrize(("num_mels", "num_frames", "dim"), [(256, 301, 1024), (64, 151, 128), (64, 64, 64)])
def test_embedding_sizes_and_the_134_688_parameters(num_mels, num_frames, dim):
    encoder = build_encoder("conv6", num_mels, num_frames).eval()
    assert count_parameters(encoder) == 134_688
    assert encoder.dim == dim
    with torch.no_grad():
        assert encoder(torch.randn(2, 1, num_mels, num_frames)).shape == (2, dim)


@pytest.mark.parametrize(("num_mels", "num_frames"), [(40, 151), (64, 63)])
def test_a_front_end_too_small_is_refused_with_both_numbers(num_mels, num_frames):
    numbers = f"at least 64 mels and 64 frames.*{num_mels} mels and {num_frames} frames"
    with pytest.raises(ValueError, match=numbers):
        build_encoder("conv6", num_mels, num_frames)


def test_features_of_another_front_end_are_refused():
    encoder = build_encoder("conv6", 64, 151)
    with pytest.raises(ValueError, match=r"\(batch, 1, 64, 151\) and got \(2, 1, 256, 301\)"):
        encoder(torch.randn(2, 1, 256, 301))


@pytest.mark.parametrize("name", ["conv6", "transformer"])
@pytest.mark.parametrize("bf16", [False, True])
def test_bytes_give_embeddings_and_gradients_of_the_same_numbers(name, bf16):
    """To the last bit, however the bytes lie in memory: stores have them frames first."""
    torch.manual_seed(0)
    encoder = build_encoder(name, 64, 96).train()
    stored = torch.randint(256, (6, 96, 64), dtype=torch.uint8).transpose(1, 2).unsqueeze(1)
    found = []
    for frames in (stored, stored.contiguous().float()):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embeddings = encoder(frames)
        embeddings.float().square().sum().backward()
        found.append([embeddings.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_byte_is_a_number_of_sixteen_bits(dtype):
    levels = torch.arange(256, dtype=torch.uint8)
    with torch.autocast("cpu", dtype):
        numbers = as_numbers(levels)
    assert numbers.dtype == dtype and torch.equal(numbers.double(), levels.double())
    assert as_numbers(levels).dtype == torch.float32
    assert as_numbers(levels.double()).dtype == torch.float64  # only bytes are changed


def test_an_unknown_encoder_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="'conv5'.*conv6"):
        build_encoder("conv5", 64, 151)


def test_blocks_can_be_run_by_hand_with_kept_pool_indices():
    """What a decoder that mirrors the encoder needs: the same embedding, and where each maximum was."""
    torch.manual_seed(0)
    encoder = build_encoder("conv6", 64, 151).eval()
    frames = values = torch.randn(2, 1, 64, 151)
    with torch.no_grad():
        for block in encoder.blocks:
            before = block.relu(block.norm(block.conv(values)))
            values, indices = F.max_pool2d(before, block.pool.kernel_size, return_indices=True)
            restored = F.max_unpool2d(values, indices, 2, output_size=before.shape)
            assert torch.equal(F.max_pool2d(restored, 2), values)
        assert torch.equal(values.flatten(1), encoder(frames))


@pytest.mark.parametrize("bf16", [False, True])
def test_relu_after_pooling_is_relu_before_it(bf16):
    """In training, to the last bit, gradients too; bytes in bfloat16 have many equal values in a window."""
    torch.manual_seed(0)
    encoder, frames = build_encoder("conv6", 64, 151), torch.randint(256, (8, 1, 64, 151), dtype=torch.uint8)
    for block in encoder.blocks:
        nn.init.normal_(block.norm.weight)  # also where a scale is negative
        nn.init.normal_(block.norm.bias)
    frames[0] = 7  # a clip that is one value everywhere

    def listed(values):
        for block in encoder.blocks:
            values = block.pool(block.relu(block.norm(block.conv(values))))
        return values.flatten(1)

    found = []
    for function in (encoder, lambda frames: listed(as_numbers(frames))):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embeddings = function(frames)
        (embeddings.float() * torch.linspace(-1, 1, encoder.dim)).square().sum().backward()
        found.append([embeddings.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    assert (found[0][0] == 0).any() and (found[0][0] > 0).any()


def test_eval_mode_embeds_a_clip_alike_in_any_batch():
    torch.manual_seed(0)
    encoder, frames = build_encoder("conv6", 64, 64).eval(), torch.randn(5, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(encoder(frames)[:2], encoder(frames[:2]), atol=1e-5)


@pytest.mark.parametrize(("num_mels", "num_frames"), [(64, 151), (256, 301)])
def test_folding_keeps_the_function_and_the_encoder(num_mels, num_frames):
    torch.manual_seed(0)
    encoder = build_encoder("conv6", num_mels, num_frames)
    for block in encoder.blocks:  # also where a scale is negative: pooling then must not come before it
        nn.init.normal_(block.norm.weight)
        nn.init.normal_(block.norm.bias)
        nn.init.normal_(block.norm.running_mean)
        nn.init.uniform_(block.norm.running_var, 0.2, 2)
    encoder.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    frames = torch.randn(3, 1, num_mels, num_frames)
    with torch.no_grad():
        expected, found = encoder(frames), folded(encoder)(frames)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_what_cannot_be_folded_stays_itself():
    other = build_encoder("transformer", 64, 151)
    assert folded(other) is other
    wrapped = build_encoder("conv6", 64, 151).eval()
    wrapped.forward = lambda frames: frames  # as accelerate does it, for another precision
    assert folded(wrapped) is wrapped


def test_models_import_with_torch_alone():
    code = ("import sys, speakerlib.models.encoders, speakerlib.models.objectives\n"
            "print([m for m in ('pandas', 'librosa', 'soundfile', 'accelerate', 'speakerlib.data.files') "
            "if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=project_folder(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
