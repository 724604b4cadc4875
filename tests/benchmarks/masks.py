"""Masks for a batch, beside the autoencoder's training step that they are drawn for.

    python tests/benchmarks/masks.py

The yardstick draws as the published way does: clip by clip, unit by unit, in Python.
"""

import numpy as np
import pandas as pd
import torch
from side_by_side import alternate, faster, options, table, write

from speakerlib.experiments.training import machine_precision
from speakerlib.models.autoencoder import build_autoencoder
from speakerlib.models.masks import MASKS, UNITS, draw_masks, num_removed, unit_size

BATCH, RATIO = 64, 0.75
SIZES = {"compact, 64 x 151": (64, 151), "boccio, 256 x 301": (256, 301)}


def main(arguments=None):
    """Writes the section, and returns the times of each size."""
    quick = options(__doc__, arguments).quick
    batch, tables, largest, all_times = (4 if quick else BATCH), [], 0.0, {}
    for name, size in list(SIZES.items())[:1 if quick else None]:
        check(batch, *size)
        generator, random, step = torch.Generator().manual_seed(0), np.random.default_rng(0), training_step(batch, size)
        times = alternate({
            f"{name}: training step": step,
            **{f"{name}: {mask}": lambda mask=mask: draw_masks(mask, batch, *size, RATIO, generator) for mask in MASKS},
            **{f"{name}: {mask}, clip by clip": lambda mask=mask: clip_by_clip(mask, batch, *size, RATIO, random)
               for mask in UNITS}}, *((1, 0) if quick else (9, 2)))
        yardstick = f"{name}: training step"
        largest = max([largest, *(1 / faster(times, f"{name}: {mask}", yardstick)[0] for mask in MASKS)])
        tables.append(table(times, yardstick, batch, "masks"))
        all_times[name] = times
    write("Masks for a batch", (
        f"`masks.py`, {batch} clips, ratio {RATIO}; step: masked autoencoder conv6, forward, backward and Adam, "
        f"{machine_precision()}. Drawing the masks of a step takes at most **{largest:.2%} of the step** (target: at "
        f"most 2 %{'' if largest <= 0.02 else '; **missed**'}). Both ways remove the same number of values of each "
        "clip, in units of the same grid."),
        pd.concat(tables).rename_axis("yardstick: the step of that size"), quick)
    return all_times


def clip_by_clip(mask, batch, num_mels, num_frames, ratio, random):
    """bool (batch, 1, num_mels, num_frames), True is removed."""
    mels, frames = unit_size(mask, num_mels, num_frames)
    rows, columns = num_mels // mels, num_frames // frames
    masks = np.zeros((batch, 1, num_mels, num_frames), bool)
    for clip in range(batch):
        for unit in random.choice(rows * columns, num_removed(mask, rows * columns, ratio), replace=False):
            row, column = divmod(int(unit), columns)
            bottom = num_mels if row == rows - 1 else (row + 1) * mels
            right = num_frames if column == columns - 1 else (column + 1) * frames
            masks[clip, 0, row * mels:bottom, column * frames:right] = True
    return masks


def check(batch, num_mels, num_frames):
    """AssertionError unless both ways remove, with the same unit of each row and column left whole, as much."""
    for mask in UNITS:
        ours = draw_masks(mask, batch, num_mels, num_frames, RATIO, torch.Generator().manual_seed(0)).numpy()
        theirs = clip_by_clip(mask, batch, num_mels, num_frames, RATIO, np.random.default_rng(0))
        mels, frames = unit_size(mask, num_mels, num_frames)
        corners = [masks[:, 0, :num_mels // mels * mels:mels, :num_frames // frames * frames:frames].sum(axis=(1, 2))
                   for masks in (ours, theirs)]
        assert (corners[0] == corners[1]).all(), (mask, corners)


def training_step(batch, size):
    """A function of no arguments: one step on frames in memory."""
    torch.manual_seed(0)
    model = build_autoencoder("conv6", *size).to(memory_format=torch.channels_last).train()
    optimizer, frames = torch.optim.Adam(model.parameters(), lr=1e-3), torch.randn(batch, 1, *size)
    masks = draw_masks("boxes", batch, *size, RATIO, torch.Generator().manual_seed(0))
    bf16 = machine_precision() == "bf16"

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _, _ = model(frames, masks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
