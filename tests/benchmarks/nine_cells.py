"""The nine-cell table: every test clip embedded once, against every evaluation episode embedded anew.

    python tests/benchmarks/nine_cells.py

The yardstick does what work A's code does: task by task its clips go through the network (float32, default memory
format, never in eval mode), then the distances are looped over. It is timed on a few tasks of each cell; the table's
time is that of a task times the table's tasks, the sum over the nine cells.
"""

from types import SimpleNamespace

import numpy as np
import torch
from distances import by_loops
from material import open_frames
from pandas import DataFrame
from side_by_side import alternate, options, write

from speakerlib.data.episodes import EpisodeSampler
from speakerlib.data.features import CONDITIONS
from speakerlib.experiments.evaluation import embed
from speakerlib.experiments.nine_cells import NINE_CELLS, nine_cells
from speakerlib.models.encoders import ConvEncoder

TASKS, NUM_QUERY = 1000, 15
SUBSET = 1  # tasks of each cell that the yardstick embeds anew, a round
TARGET, LIMIT = 100, 1.2


def main(arguments=None):
    chosen = options(__doc__, arguments)
    tasks, num_query = (20, 2) if chosen.quick else (TASKS, NUM_QUERY)
    with open_frames(chosen.quick) as (_, store):
        torch.manual_seed(0)
        encoder, ids = ConvEncoder(store.num_mels, store.num_frames), np.arange(len(store))
        samplers = {cell: EpisodeSampler(store.segments, *cell, num_query, "segment") for cell in NINE_CELLS}
        anew = {cell: anew_by_task(encoder, store, sampler) for cell, sampler in samplers.items()}
        check_equal(encoder, anew, table(store, samplers, encoder, 4))
        names = {cell: f"{cell[0]}-way {cell[1]}-shot, each task anew" for cell in NINE_CELLS}
        times = alternate({"the whole table": lambda: table(store, samplers, encoder, tasks),
                           "embedding each clip once": lambda: [embed(encoder, store, ids) for _ in CONDITIONS],
                           **{names[cell]: lambda cell=cell: _train_mode(encoder, anew[cell]) for cell in NINE_CELLS}},
                          repeats=2 if chosen.quick else 3)
    seconds = {name: float(np.median(times[name])) for name in times}
    rounds = range(len(times["the whole table"]))
    extrapolated = [len(CONDITIONS) * sum(times[name][turn] for name in names.values()) / SUBSET * tasks
                    for turn in rounds]
    ratios = np.divide(extrapolated, times["the whole table"])
    parts = np.divide(times["the whole table"], times["embedding each clip once"])
    clips = {cell: cell[0] * (cell[1] + num_query) for cell in NINE_CELLS}
    theirs = DataFrame({"clips a task": clips.values(), "seconds a task": [seconds[names[cell]] / SUBSET
                                                                           for cell in NINE_CELLS]},
                       index=[f"{num_way}-way {num_support}-shot" for num_way, num_support in NINE_CELLS])
    theirs[f"hours, {tasks:,} tasks"] = theirs["seconds a task"] * tasks / 3600
    ours = DataFrame({"seconds": [seconds[name] for name in ("the whole table", "embedding each clip once")]},
                     index=["nine cells with intervals, in two conditions",
                            f"embedding each of {len(ids):,} clips once, in two conditions"])
    write("The nine-cell table", f"""
`python tests/benchmarks/nine_cells.py`. {store.segments["speaker"].nunique()} speakers, {len(ids):,} clips of
{store.num_mels} x {store.num_frames} frames (synthetic speech), {tasks:,} tasks a cell, {num_query} queries. In eval
mode, both ways give the same accuracy for the same tasks.

Embedded anew, the nine cells need {tasks:,} x {sum(clips.values())} = {tasks * sum(clips.values()):,} passes of a clip
in each of two conditions, {tasks * sum(clips.values()) / len(ids):,.0f} times as many as there are clips. The sum of
the yardstick's last column, twice, is {np.median(extrapolated) / 3600:.2f} hours.

Target: {TARGET} times as fast as that. Found: **{np.median(ratios):,.0f} times** ({ratios.min():,.0f} to
{ratios.max():,.0f}; extrapolated from {SUBSET} task of each cell a round). Limit: {LIMIT} times as long as embedding
each clip once. Found: **{np.median(parts):.2f} times** ({parts.min():.2f} to {parts.max():.2f}).

VoxCeleb1's 40 test speakers have 4,874 utterances, at 8.2 s on average about 11,500 clips of 3 s: embedding them
would take {11_500 / len(ids):.1f} times as long, and the target then asks for
{TARGET * 11_500 / max(1, tasks * sum(clips.values())):.2f} times the yardstick's own speed a clip.""",
          [ours.rename_axis("ours"), theirs.rename_axis("yardstick")], chosen.quick)


def table(store, samplers, encoder, tasks):
    """The rows of chapter 05's table, in its two conditions; here both are the same frames."""
    experiment = SimpleNamespace(
        features=lambda condition: store, rule="segment", sampler=lambda split, *cell: samplers[cell[:2]],
        settings=SimpleNamespace(protocol="corrected", test_tasks=tasks, batch_size=4))
    return nine_cells(experiment, encoder, SimpleNamespace(is_complete=False), progress=False)


def anew_by_task(encoder, store, sampler):
    """A function that gives the accuracies of so many tasks, each of whose clips are embedded for it alone."""
    def accuracies(count):
        episodes, found = sampler.draw(0, count), []
        for support, query in zip(episodes.support, episodes.query, strict=True):
            frames = store.read(np.concatenate([support.ravel(), query.ravel()]))
            with torch.no_grad():
                embeddings = encoder(frames)
            found.append(by_loops(embeddings[:support.size].reshape(1, *support.shape, -1),
                                  embeddings[support.size:].reshape(1, *query.shape, -1))[1])
        return np.array(found)
    return accuracies


def check_equal(encoder, anew, rows):
    """In eval mode both sides attribute each query to the same speaker."""
    encoder.eval()
    for row in rows:
        theirs = anew[row["num_way"], row["num_support"]](4).mean()
        np.testing.assert_allclose(theirs, row["accuracy"], atol=1e-6)
    encoder.train()


def _train_mode(encoder, accuracies):
    encoder.train()
    return accuracies(SUBSET)


if __name__ == "__main__":
    main()
