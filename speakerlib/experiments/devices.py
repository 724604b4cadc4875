"""Training in several processes, one a device: each computes its share of a step, and all take the same step."""

import os
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import torch
from torch import distributed
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from speakerlib.models.norms import follow, statistics

PATIENCE = timedelta(hours=2)  # for the others, while the leader validates


def num_processes():
    """How many processes train together, as their launcher (accelerate, torchrun) says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_leader():
    """Whether this process is the one that validates, shows progress and writes files."""
    return int(os.environ.get("RANK") or 0) == 0


def share(total, count=None, rank=None):
    """The part of a step's `total` tasks (or clips) that this process computes: a slice; all of them in one process."""
    count = count or num_processes()
    rank = int(os.environ.get("RANK") or 0) if rank is None else rank
    check_share("total", total, count)
    return slice(rank * (total // count), (rank + 1) * (total // count))


def check_share(name, total, count):
    """ValueError unless the processes can share a step equally; name: the parameter that says how much it is."""
    if total % count:
        nearest = [str(number) for number in (total // count * count, (total // count + 1) * count) if number]
        raise ValueError(f"{name}={total} in num_processes={count}: the processes share a step equally. Use "
                         f"{name}={' or '.join(nearest)}, or num_processes={_divisor(total, count)}.")


def keep_forkable(count):
    """Call before anything asks for GPUs: torch then does so without using them, which would spoil them for forks."""
    if count > 1:
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def open_accelerator(precision):
    """An Accelerator for this process, of the group of processes that its launcher started, if it did.

    precision: "bf16" or "fp32". RuntimeError if the launcher speaks of several processes and they cannot be found.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    AcceleratorState._reset_state()  # it is global: a second training of another precision would be refused
    several, neighbours = num_processes() > 1, int(os.environ.get("LOCAL_WORLD_SIZE") or 0)
    if several and neighbours == num_processes() and os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # processes of one computer need no other network
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no",
                              cpu=not torch.cuda.is_available(),
                              kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)] if several else None)
    if accelerator.num_processes != num_processes():
        raise RuntimeError(f"{accelerator.num_processes} processes train together, and WORLD_SIZE={num_processes()}. "
                           "Start them with `accelerate launch` or `torchrun`, which number them.")
    return accelerator


@contextmanager
def joined_statistics(model):
    """In training, each BatchNorm of the model normalises by the clips of all processes, as one process does.

    (torch's SyncBatchNorm does so too, but not on a CPU.) Does nothing in one process, nor to a norm in eval mode.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)] if num_processes() > 1 else []
    for norm in norms:
        norm.forward = partial(_joined_norm, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def average_gradients(parameters, stop=False):
    """Gives each gradient its mean over all processes, in place. Returns whether any of them was told to stop.

    One message carries all: so they agree on the step after which they stop.
    """
    if num_processes() == 1:
        return stop
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flag = gradients[0].new_full((1,), float(stop))
    *means, flag = _mean_over_processes([*gradients, flag])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean)
    return bool(flag.item() > 0)


def average_scalars(values, device):
    """A list of numbers, each its mean over all processes: what is written down of a step."""
    if num_processes() == 1 or not values:
        return values
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    _add_up(total)
    return (total / num_processes()).tolist()


def wait_for_all():
    """Returns when all processes are here: whoever ends first would have its launcher end the others."""
    if num_processes() > 1:
        distributed.barrier()


def _mean_over_processes(tensors):
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    _add_up(flat)
    parts = (flat / num_processes()).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _add_up(tensor):
    """Sums a tensor over all processes, in place. ConnectionError where another one has gone."""
    try:
        distributed.all_reduce(tensor)
    except RuntimeError as error:
        raise ConnectionError(f"Another process of this training has ended ({str(error).splitlines()[0]}).") from error


def _joined_norm(norm, frames):
    """The forward pass of a BatchNorm by the mean and variance over all processes; frames: (batch, channels, ...)."""
    if not norm.training:
        return type(norm).forward(norm, frames)
    normal, mean, variance, count = _JoinedNorm.apply(frames, norm.weight, norm.bias, norm.eps)
    follow(norm, mean, variance, count)
    return normal


class _JoinedNorm(torch.autograd.Function):
    """Batch normalisation (Ioffe & Szegedy 2015) over the clips of all processes, each with its own part of them.

    What is large is done by torch's own kernels, by statistics taken as given; between processes go a few numbers a
    channel: in forward the sums of values and of squared deviations, in backward those of the gradient, and of the
    gradient times the normalised value.
    """

    @staticmethod
    def forward(ctx, frames, weight, bias, eps):
        mean, variance = statistics(frames)
        here = frames.numel() // frames.shape[1]
        total = torch.cat([mean * here, mean.new_full((1,), here)])
        _add_up(total)
        count = total[-1]
        joint = total[:-1] / count
        variance = here * (variance + (mean - joint).square())
        _add_up(variance)
        variance = variance / count
        ctx.save_for_backward(frames, weight, joint, variance, count)
        ctx.eps = eps
        normal = functional.batch_norm(frames, joint, variance, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(joint, variance, count)
        return normal, joint, variance, count

    @staticmethod
    def backward(ctx, gradient, *_):
        frames, weight, mean, variance, count = ctx.saved_tensors
        held, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradient.to(frames.dtype), frames, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        total = torch.cat([for_weight, for_bias]) / count
        _add_up(total)
        along, level = total.chunk(2)  # what the statistics themselves owe to each value
        scale = (variance + ctx.eps).rsqrt()
        slope = along * scale * scale
        offset = level * scale - slope * mean
        if weight is not None:
            slope, offset = slope * weight, offset * weight
        shape = [1, -1, *[1] * (frames.ndim - 2)]
        slope, offset = slope.view(shape).to(frames.dtype), offset.view(shape).to(frames.dtype)
        held.sub_(offset).addcmul_(frames, slope, value=-1)
        return (held, None, None, None) if weight is None else (held, for_weight, for_bias, None)


def _divisor(total, count):
    """The highest number of processes below `count` that can share `total`."""
    return max(number for number in range(1, count) if total % number == 0)
