"""BatchNorm of many values a channel: statistics, outputs and gradients beside float64, in each format and type."""

import copy

import pytest
import torch
from torch import nn

from speakerlib.models.encoders import ConvEncoder
from speakerlib.models.norms import BatchNorm2d, statistics

SHAPE = 512, 2, 64, 128  # 4 million values a channel: torch's own variance is 0.3 % off
FORMATS = pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])


def clips(shape=SHAPE, dtype=torch.float32, format=torch.channels_last):
    draw = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=draw) * 0.7 + 0.9).to(dtype).contiguous(memory_format=format)


def both(norm, frames, gradient):
    """Output, gradients, running statistics of the norm and of nn.BatchNorm2d of the same state, in float64."""
    reference = nn.BatchNorm2d(norm.num_features, momentum=norm.momentum, affine=norm.affine).double()
    reference.load_state_dict(norm.state_dict())
    found = []
    for one, values in ((norm, frames), (reference, frames.double().contiguous())):
        values = values.detach().requires_grad_()
        output = one(values)
        output.backward(gradient.to(values.dtype))
        found.append([output.detach(), values.grad, one.running_mean, one.running_var, one.num_batches_tracked,
                      *(parameter.grad for parameter in one.parameters())])
    return found


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_right_over_millions_of_values(format, dtype):
    frames = clips(dtype=dtype, format=format)
    mean, variance = statistics(frames)
    assert mean.dtype == variance.dtype == torch.float32
    exact = frames.double()
    torch.testing.assert_close(mean.double(), exact.mean(dim=(0, 2, 3)), rtol=3e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(dim=(0, 2, 3), correction=0), rtol=2e-5, atol=0)


@FORMATS
@pytest.mark.parametrize(("affine", "momentum"), [(True, 0.1), (False, None)])
def test_the_norm_computes_what_torch_does_in_float64(format, affine, momentum):
    norm = BatchNorm2d(2, affine=affine, momentum=momentum)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    frames = clips((64, *SHAPE[1:]), format=format)
    gradient = 0.1 + torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = both(norm, frames, gradient)
    assert len(ours) == len(theirs) == (7 if affine else 5)
    for one, other in zip(ours, theirs, strict=True):
        scale = other.double().abs().max().item()  # torch's own sums of gradients are right to 3e-4, on one thread
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=5e-4 * scale)


def test_in_evaluation_and_with_few_values_it_is_torchs_own_to_the_bit():
    frames = clips((4, *SHAPE[1:]))
    ours, theirs = BatchNorm2d(2), nn.BatchNorm2d(2)
    for training in (True, False):
        assert torch.equal(ours.train(training)(frames), theirs.train(training)(frames))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_embeddings_of_a_large_batch_do_not_depend_on_the_memory_format():
    torch.manual_seed(0)
    encoder = ConvEncoder(64, 128)
    exact, last = copy.deepcopy(encoder).double(), copy.deepcopy(encoder).to(memory_format=torch.channels_last)
    frames = clips((128, 1, 64, 128)) * 40
    with torch.no_grad():
        expected, contiguous, found = exact(frames.double()), encoder(frames), last(frames)
    for embeddings in (contiguous, found):
        torch.testing.assert_close(embeddings.double(), expected, rtol=0, atol=2e-5 * expected.abs().max().item())
    torch.testing.assert_close(last.blocks[0].norm.running_var.double(), exact.blocks[0].norm.running_var,
                               rtol=1e-5, atol=0)


def test_a_layer_may_be_met_by_few_values_and_by_many_before_the_gradients_are_asked_for():
    """As support and query are, one after the other: torch's kernel does the first, ours the second."""
    norm, frames = BatchNorm2d(2), clips()
    loss = norm(frames[:1, :, :8, :8]).square().mean() + norm(frames).square().mean()
    before = norm.running_mean.clone()
    loss = loss + norm(frames[:1, :, :8, :8]).mean()
    loss.backward()
    assert norm.weight.grad.isfinite().all() and norm.num_batches_tracked == 3 and (norm.running_mean != before).all()
