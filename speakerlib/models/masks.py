"""Masks: which parts of a spectrogram an autoencoder does not get to see."""

import torch

UNITS = {  # name: (mels, frames) of what is removed at a time; None: the whole side
    "strips": (None, 10),
    "boxes": (16, 30),
    "patches": (16, 16),
}
MASKS = (*UNITS, "mixed")


def draw_masks(mask, batch, num_mels, num_frames, mask_ratio, generator, unit=None):
    """True where a value is removed: bool (batch, 1, num_mels, num_frames), on the generator's device.

    The clip is cut into a grid of units: strips of 10 frames over all mels, boxes of 16 mels x 30 frames (both
    Boccio's), or patches of 16 x 16; the last of a row or column takes what is left over. Each clip loses its own
    round(mask_ratio * units) of them, drawn uniformly; halves are rounded to even, as there. `mixed` draws one of the
    three kinds for each clip. unit: another (mels, frames) than UNITS has. Raises ValueError for an unknown mask,
    and for a ratio that removes nothing or everything.
    """
    if mask == "mixed":
        kinds = torch.randint(len(UNITS), (batch,), generator=generator, device=generator.device)
        drawn = [draw_masks(kind, batch, num_mels, num_frames, mask_ratio, generator, unit) for kind in UNITS]
        return torch.stack(drawn)[kinds, torch.arange(batch, device=generator.device)]
    mels, frames = unit_size(mask, num_mels, num_frames, unit)
    rows, columns = num_mels // mels, num_frames // frames
    count = num_removed(mask, rows * columns, mask_ratio)
    order = torch.rand(batch, rows * columns, generator=generator, device=generator.device).argsort(dim=1)
    removed = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)
    removed = removed.reshape(batch, 1, rows, columns)
    return removed[:, :, _unit_of(num_mels, mels, order.device)][..., _unit_of(num_frames, frames, order.device)]


def unit_size(mask, num_mels, num_frames, unit=None):
    """(mels, frames) of what a kind of mask removes at a time from a clip of this size."""
    if mask not in UNITS:
        raise ValueError(f"mask={mask!r}: expected one of {', '.join(MASKS)}.")
    mels, frames = unit or UNITS[mask]
    mels = num_mels if mask == "strips" or mels is None else mels
    frames = num_frames if frames is None else frames
    if not (1 <= mels <= num_mels and 1 <= frames <= num_frames):
        raise ValueError(f"{mask} of {mels} mels x {frames} frames do not fit into {num_mels} mels x {num_frames} "
                         "frames. Use smaller ones, or longer segments.")
    return mels, frames


def num_removed(mask, units, mask_ratio):
    """round(mask_ratio * units); ValueError if that is none or all of them."""
    count = round(mask_ratio * units) if 0 < mask_ratio < 1 else 0
    if not 0 < count < units:
        raise ValueError(f"mask_ratio={mask_ratio!r}: a clip has {units} {mask}, and from 1 to {units - 1} of them can "
                         f"be removed. Use a ratio between 0 and 1 that rounds to so many.")
    return count


def _unit_of(size, unit, device):
    """Which unit each mel or frame belongs to: (size,), the last unit taking the remainder."""
    return (torch.arange(size, device=device) // unit).clamp(max=size // unit - 1)
