"""A training's step on a processor without bf16 units: the same sides as training_step.py, both in float32.

    python tests/benchmarks/float32_step.py
"""

import numpy as np
import torch
from material import open_frames
from side_by_side import faster, options, table, write
from training_step import (
    BATCH_SIZE,
    NUM_QUERY,
    NUM_SUPPORT,
    NUM_WAY,
    TARGETS,
    TOLERANCE,
    check_equal,
    in_turn,
    start,
    step_as_published,
    step_joined,
)

from speakerlib.data.episodes import EpisodeSampler
from speakerlib.models.encoders import as_numbers

YARDSTICK, OURS = "task by task, default format", "joined, channels last, memory kept"


def main(arguments=None):
    quick = options(__doc__, arguments).quick
    num_query, batch_size = (2, 2) if quick else (NUM_QUERY, BATCH_SIZE)
    with open_frames(quick) as (_, store):
        task = EpisodeSampler(store.segments, NUM_WAY, NUM_SUPPORT, num_query, "segment").draw(0, batch_size)
        batch = store.read(np.concatenate([task.support.ravel(), task.query.ravel()]), keep_bytes=True)
        numbers, shape = as_numbers(batch), (batch_size, NUM_WAY, NUM_SUPPORT + num_query)
        losses = check_equal(batch, shape, "fp32")
        theirs, ours = start(batch, as_published=True), start(batch)
        ours[0].to(memory_format=torch.channels_last)
        times = in_turn({YARDSTICK: (lambda: step_as_published(*theirs, numbers, shape), False),
                         OURS: (lambda: step_joined(*ours, batch, shape, "fp32"), True)}, 2 if quick else 3)
    ratio, low, high = faster(times, OURS, YARDSTICK)
    missed = "" if ratio >= TARGETS["fp32"] else "; **missed**"
    clips = batch_size * NUM_WAY * (NUM_SUPPORT + num_query)
    write("A training's step without bf16 units", (
        f"`float32_step.py`, {clips} clips of {store.num_mels} x {store.num_frames} as in `training_step.py`, both "
        f"sides in float32. Of the first step, the loss task by task is {losses[0]:.4f} on either side; over the "
        f"joined batch it is {losses[1]:.4f} in the default format and {losses[2]:.4f} in channels last (to "
        f"{TOLERANCE:g}). Ours is **{ratio:.2f} times** as fast ({low:.2f} to {high:.2f}; target: "
        f"{TARGETS['fp32']:g}{missed})."), table(times, YARDSTICK, clips, "clips"), quick)


if __name__ == "__main__":
    main()
