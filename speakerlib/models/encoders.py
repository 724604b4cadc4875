"""Encoders: networks that turn a segment's frames into one embedding."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from speakerlib.models.norms import BatchNorm2d
from speakerlib.models.transformer import TransformerEncoder

CHANNELS = (16, 32, 64, 64, 64, 64)


class ConvEncoder(nn.Module):
    """Six blocks of convolution, normalisation, ReLU and halving (Boccio's few-shot encoder, layer table).

    (Halving comes before ReLU, which is the same function, see conv_block.)

    forward: (batch, 1, num_mels, num_frames), numbers or bytes, -> (batch, dim) with dim = 64 * (num_mels // 64) *
    (num_frames // 64): 1024 for 256 x 301. 134,688 parameters, whatever the input size. `blocks[i]` has the
    parts conv, norm, relu and pool, for networks that need a step in between.
    Raises ValueError if six halvings of num_mels or num_frames leave nothing.
    """

    def __init__(self, num_mels, num_frames):
        super().__init__()
        smallest = 2 ** len(CHANNELS)
        if num_mels < smallest or num_frames < smallest:
            raise ValueError(
                f"The encoder halves its input {len(CHANNELS)} times and needs at least {smallest} mels and "
                f"{smallest} frames; this front end gives {num_mels} mels and {num_frames} frames a segment. "
                "Use a front end with more mels, or longer segments.")
        self.num_mels, self.num_frames = int(num_mels), int(num_frames)
        self.blocks = nn.Sequential(*(conv_block(*pair) for pair in zip((1, *CHANNELS[:-1]), CHANNELS)))
        self.dim = CHANNELS[-1] * (self.num_mels // smallest) * (self.num_frames // smallest)

    def forward(self, frames):
        if frames.shape[1:] != (1, self.num_mels, self.num_frames):
            raise ValueError(
                f"The encoder was built for (batch, 1, {self.num_mels}, {self.num_frames}) and got "
                f"{tuple(frames.shape)}. Build it with the front end and segment length of these features.")
        return self.blocks(as_numbers(frames, self.blocks[0].conv.weight.dtype)).flatten(1)  # (batch, dim)


def as_numbers(frames, dtype=torch.float32):
    """Frames as layers compute with them: bytes (uint8) become numbers, in one pass, on their device; others stay.

    In dtype, or in what autocast would make of that: bytes are exact in bfloat16 too. Contiguous, however they lay.
    """
    if frames.dtype != torch.uint8:
        return frames
    kind = frames.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
    return frames.to(dtype, memory_format=torch.contiguous_format)


ENCODERS = {"conv6": ConvEncoder, "transformer": TransformerEncoder}


def build_encoder(name, num_mels, num_frames):
    """A new encoder by name, for features of (1, num_mels, num_frames). ValueError for an unknown name."""
    if name not in ENCODERS:
        raise ValueError(f"encoder={name!r}: expected one of {', '.join(ENCODERS)}.")
    return ENCODERS[name](num_mels, num_frames)


def folded(encoder):
    """The function that a ConvEncoder computes in eval mode, up to rounding, at a third of the time on a CPU.

    Each BatchNorm becomes part of its convolution, and channels are last in memory. It takes numbers, not bytes. The
    encoder stays as it is; later changes of it do not reach what is returned. Encoders of other kinds, and one that
    something wrapped, are returned themselves.
    """
    if type(encoder) is not ConvEncoder or "forward" in vars(encoder):
        return encoder
    with torch.no_grad():
        blocks = [nn.Sequential(fuse_conv_bn_eval(block.conv, block.norm), block.pool, block.relu)
                  for block in encoder.blocks]
    return nn.Sequential(*blocks, nn.Flatten()).to(memory_format=torch.channels_last)


def count_parameters(module):
    """How many trainable numbers the module has."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def conv_block(in_channels, out_channels):
    """Convolution 3 x 3 with bias, batch normalisation, max-pool, ReLU: halves both sides, rounding down.

    ReLU keeps the order of numbers: after pooling it gives the values and gradients that it gives before, for a quarter
    of the work.
    """
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel_size=3, padding="same"),
        norm=BatchNorm2d(out_channels),
        pool=nn.MaxPool2d(kernel_size=2),
        relu=nn.ReLU(),
    ))
