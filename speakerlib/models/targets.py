"""Targets: what an autoencoder is asked to predict of a clip, and the way back from a prediction to the clip."""

import torch

from speakerlib.models.masks import unit_size

TARGETS = ("clip", "mean_normalised", "patch_normalised")


def to_target(frames, target):
    """What is to be predicted of frames (batch, 1, mels, frames), of the same shape.

    clip: the frames as they are. mean_normalised: without each mel's mean over the clip, and so without the channel's
    and most of the long-term spectrum. patch_normalised: each patch of 16 x 16 (the grid of masks.py, the last of a
    row or column taking the remainder) with mean 0 and deviation 1, 1e-6 under the root (He et al. 2022, section 4.1).
    Raises ValueError for an unknown target, and for clips smaller than one patch.
    """
    check_target(target)
    if target == "clip":
        return frames
    mean, deviation = _taken_out(frames, target)
    return (frames - mean) / deviation


def from_target(prediction, frames, target):
    """A prediction in the units of the clip: what to_target took out of the true clip is put back into it.

    prediction, frames: (batch, 1, mels, frames). It is for pictures and errors in the clip's units: the mean and the
    deviation are the true ones, which a network that predicts this target was never asked for.
    """
    check_target(target)
    if target == "clip":
        return prediction
    mean, deviation = _taken_out(frames, target)
    return prediction * deviation + mean


def check_target(target):
    """ValueError for an unknown target."""
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: expected one of {', '.join(TARGETS)}.")


def _taken_out(frames, target):
    """(mean, deviation) of the target, each of a shape that spreads over frames; at least float32."""
    values = frames.float() if frames.dtype in (torch.bfloat16, torch.float16) else frames
    if target == "mean_normalised":
        return values.mean(dim=3, keepdim=True), 1.0
    sizes = [_unit_sizes(side, unit) for side, unit in zip(values.shape[2:], unit_size("patches", *values.shape[2:]))]
    mean = _mean_of_units(values, sizes)
    return mean, (_mean_of_units((values - mean).square(), sizes) + 1e-6).sqrt()


def _mean_of_units(values, sizes):
    """Each value replaced by the mean of its unit."""
    # sums of slices: exact under autocast, and in one order on every device, where a matrix product is neither
    for dim, lengths in zip((2, 3), sizes):
        parts = [part.mean(dim, keepdim=True) for part in values.split(lengths, dim)]
        values = torch.cat([part.expand_as(whole) for part, whole in zip(parts, values.split(lengths, dim))], dim)
    return values


def _unit_sizes(side, unit):
    """The lengths of the units along a side, the last one taking the remainder."""
    return [unit] * (side // unit - 1) + [unit + side % unit]
