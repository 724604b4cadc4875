"""From 100 to 10,000 speakers and from 10 thousand to 1.1 million utterances: what stays as it is, and what grows.

    python tests/benchmarks/scale_figure.py     writes figures/scale.png, and its section of figures/scale.md

Corpora of made-up tables and sparse files. Each measurement is made in a process of its own, forked off one that has
done nothing but its imports.
"""

import os
import tempfile

import numpy as np
import pandas as pd
import pyarrow.parquet  # noqa: F401  (here, so that no step is the first to load it)
import torch
from side_by_side import machine, markdown, options, write
from sparse_corpora import SESSIONS, UTTERANCES, make_table, put_section, run, write_corpus, write_frames
from tqdm.auto import tqdm

from speakerlib.data import features, files, waveform_store
from speakerlib.data.corpora import open_corpus
from speakerlib.data.episodes import EpisodeSampler
from speakerlib.data.features import FeatureStore
from speakerlib.data.waveform_store import WaveformStore

SPEAKER_RANGE, UTTERANCE_RANGE = (100, 10_000), (10_000, UTTERANCES)
FRONT_END, SECONDS = "boccio", 3.0
EPISODES = {"num_way": 5, "num_support": 5, "num_query": 15, "rule": "session"}
TASKS, CLIPS = 4, 4 * 5 * 20  # a step
DRAWS, READS = 200, 20  # steps
ROUNDS = 5
NAME = "scale"
LEAST = 1.0  # megabytes that are told apart from none
FLAT, LINEAR = 0.15, 1.15  # the steepest slopes, over the last factor of ten, that are called so


def main(arguments=None):
    """Writes the figure and its section; returns the measurements, a row for each size and step."""
    quick = options(__doc__, arguments).quick
    torch.set_num_threads(1)  # before processes are forked off: a thread pool does not survive it
    features.CHECK_BYTES = waveform_store.CHECKED_BYTES = 0  # what reading a small store through takes is told apart
    ends = [(20, 40), (1500, 3000)] if quick else [SPEAKER_RANGE, UTTERANCE_RANGE]
    sizes = list(zip(*(np.geomspace(*both, 2 if quick else 5).round().astype(int) for both in ends), strict=True))
    found = pd.concat([measure(*size, 1 if quick else ROUNDS) for size in sizes], ignore_index=True)
    few = measure(*((20, 6000) if quick else (SPEAKER_RANGE[0], UTTERANCE_RANGE[1])), 1 if quick else ROUNDS,
                  ["draw a step's episodes"])
    text, tables = report(found, float(few["seconds"].iloc[0]))
    write(HEADING, text, tables, quick=True)  # printed: it belongs to figures/scale.md
    if not quick:
        figures = files.project_folder() / "figures"
        put_section(figures / "scale.md", "\n\n".join([f"## {HEADING}", text.strip(), *map(markdown, tables),
                                                       f"*{machine()}*"]))
        draw(found, figures / "scale.png")
    return found


def measure(num_speakers, num_utterances, rounds, names=None):
    """One row a step (of those names): speakers, utterances, clips, step; seconds and megabytes, the least of each."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEAKERLIB_DATA"] = folder
        run(make, num_speakers, num_utterances)
        splits = pd.read_parquet(frames_folder() / "segments.parquet", columns=["split"])["split"]
        rows = []
        small = sum(path.stat().st_size for path in frames_folder().glob("shard-*")) <= 2e9
        for name in tqdm(names or [*STEPS, *([READ_THROUGH] if small else [])], f"{num_utterances:,}", leave=False):
            step, times = STEPS.get(name, (read_through, 1))
            seconds, own, peak = np.min([run(step) for _ in range(rounds)], axis=0)
            rows.append({"speakers": num_speakers, "utterances": num_utterances, "clips": len(splits),
                         "training_clips": int((splits == "train").sum()), "step": name, "seconds": seconds / times,
                         "megabytes": max(LEAST, peak if step is all_of_it else own)})
    return pd.DataFrame(rows)


def frames_folder():
    return files.data_folder() / "features" / NAME / FRONT_END


def make(num_speakers, num_utterances, clock):
    num_sessions = max(2 * num_speakers, num_utterances * SESSIONS // UTTERANCES)
    write_corpus(NAME, *make_table(num_speakers, num_sessions, num_utterances, np.random.default_rng(0)))
    write_frames(NAME, FRONT_END, SECONDS)


# The steps


def open_the_corpus(clock):
    with clock:
        open_corpus(NAME)


def open_waveforms(clock):
    with clock:
        WaveformStore.open(files.data_folder() / "corpora" / NAME / "waveforms")


def open_frames(clock):
    with clock:
        FeatureStore.open(frames_folder())


def read_through(clock):
    with clock:
        for path in frames_folder().glob("shard-*"):
            files.checksum(path)


def _sampler(segments):
    return EpisodeSampler(segments[segments["split"] == "train"], **EPISODES)


def index_episodes(clock):
    store = FeatureStore.open(frames_folder())
    with clock:
        _sampler(store.segments)


def draw_episodes(clock):
    sampler = _sampler(FeatureStore.open(frames_folder()).segments)
    sampler.draw(0, TASKS)
    with clock:
        for step in range(DRAWS):
            sampler.draw(step, TASKS)


def _ids(sampler, step):
    episodes = sampler.draw(step, TASKS)
    return np.concatenate([episodes.support.ravel(), episodes.query.ravel()])


def read_frames(clock):
    store = FeatureStore.open(frames_folder())
    sampler = _sampler(store.segments)
    with clock:
        for step in range(READS):
            store.read(_ids(sampler, step), keep_bytes=True)


def read_waveforms(clock):
    corpus, segments = open_corpus(NAME), FeatureStore.open(frames_folder()).segments
    sampler = _sampler(segments)
    with clock:
        for step in range(READS):
            rows = segments.iloc[_ids(sampler, step)]
            places = zip(*(rows[name].tolist() for name in ("utterance", "start", "length")), strict=True)
            np.stack([corpus.waveforms.read(*place) for place in places])


def all_of_it(clock):
    with clock:
        open_corpus(NAME)
        read_frames(_Untimed())


class _Untimed:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


ALL, EPOCH = "open all and read, imports included", "an epoch: draw and read every step"
READ_THROUGH = "besides, a feature store of up to 2 GB: read through"
STEPS = {"open the corpus": (open_the_corpus, 1), "open its waveform store": (open_waveforms, 1),
         "open its feature store": (open_frames, 1), "index the episodes": (index_episodes, 1),
         "draw a step's episodes": (draw_episodes, DRAWS), "draw and read a step's frames": (read_frames, READS),
         "draw and read a step's waveforms": (read_waveforms, READS), ALL: (all_of_it, 1)}
HEADING = f"From {SPEAKER_RANGE[0]} to {SPEAKER_RANGE[1]:,} speakers"


# What is told of them


def with_epochs(found):
    """The measurements and a row a size for an epoch: as many steps as the training speakers' clips fill."""
    steps = found[found["step"] == "draw and read a step's frames"]
    seconds = steps["seconds"] * np.ceil(steps["training_clips"] / CLIPS)
    return pd.concat([found, steps.assign(step=EPOCH, seconds=seconds)], ignore_index=True)


def slope(sizes, values):
    """How steep a log-log line is over the last factor of ten: 0 is flat, 1 is linear."""
    sizes, values = np.asarray(sizes, float), np.asarray(values, float)
    last = sizes >= sizes[-1] / 12
    return np.polyfit(np.log(sizes[last]), np.log(values[last]), 1)[0]


def called(steepness):
    return "flat" if steepness <= FLAT else "linear or less" if steepness <= LINEAR else "MORE THAN LINEAR"


def summed(found, what):
    """A line a step: `what` at each size, the slope and what it is called."""
    wide = found.pivot(index="step", columns="utterances", values=what)
    wide = wide.loc[[name for name in found["step"].unique() if name != READ_THROUGH]]
    slopes = {name: slope(wide.columns, row) for name, row in zip(wide.index, wide.to_numpy(), strict=True)}
    wide.columns = [f"{count:,}" for count in wide.columns]
    told = wide.assign(slope=[f"{steepness:.2f}" for steepness in slopes.values()],
                       growth=[called(steepness) for steepness in slopes.values()])
    return told.rename_axis(f"{what}, by utterances")


def report(found, seconds_of_few):
    """(text, tables) of the section."""
    read = found[found["step"] == READ_THROUGH]
    alone = found[found["step"] == "draw a step's episodes"].iloc[-1]
    times = summed(with_epochs(found[~found["step"].isin([READ_THROUGH])]), "seconds").drop(index=ALL)
    memory = summed(found, "megabytes")
    bad = [name for part in (times, memory) for name in part.index[part["growth"].str.isupper()]]
    megabytes = CLIPS * np.prod([256, 301]) / 1e6
    few, many = found["speakers"].min(), found["speakers"].max()
    text = f"""
`python tests/benchmarks/scale_figure.py`. {found["utterances"].nunique()} corpora: {_counts(found, "speakers")}
speakers, {_counts(found, "utterances")} utterances and {_counts(found, "clips")}
clips of {SECONDS:g} s, 256 x 301 bytes each. Tables are made up with the counts and lengths of VoxCeleb2; files are
sparse: they have their length, and are read as zeros. Each number is the least of {ROUNDS} processes, forked off one
that has its imports: what growth there is, is not of the computer's other work. One thread.

![Seconds and memory by the size of the corpus](scale.png)

A step is {TASKS} tasks of 5-way 5-shot 15-query under rule `session`, {CLIPS} clips, {megabytes:.0f} MB of frames or
{CLIPS * SECONDS * 0.032:.0f} MB of samples. An epoch is as many steps as the training speakers have clips for: the
seconds of {READS} steps, times their number, not run to its end. Growth is the slope in the log-log picture over the
last factor of ten, where fixed costs hide it least: up to {FLAT} is called flat, up to {LINEAR} linear or less.
{f"**Steeper than linear: {', '.join(bad)}.**" if bad else "Nothing grows faster than the corpus."}

Memory is what the step itself takes at most, above what its process has before; pages of memory-mapped files, which
the system takes back when it needs them, are not counted, and less than 1 MB is written as 1. The last line is a whole
process, which imports, opens all and reads {READS} steps, at its peak, with those pages. Waveforms lie in shards of
1,000 utterances, of which 256 are mapped at once: from a larger corpus nearly every clip of a step maps its shard anew,
a part of a millisecond each and never more than once a clip; pages of shards that were let go are counted here.

What this does not show: reading from a disk. Sparse files come from memory; a store that does not fit there
({found["clips"].max() * 77056 / 1e9:.0f} GB for the largest, in one byte) is read as fast as its disk allows,
{megabytes:.0f} MB a step. Stores of up to 2 GB are read through when they are opened, to find flipped bytes:
{_read(read)}. Drawing costs the same for any number of speakers; it grows with the utterances of each, among which it
chooses: a step's episodes take {1000 * alone["seconds"]:.1f} ms from the largest corpus, of {many:,} speakers, and
{1000 * seconds_of_few:.1f} ms where {few} speakers have as many utterances together.
"""
    return text, [times, memory]


def _counts(found, column):
    return ", ".join(f"{count:,}" for count in sorted(found[column].unique()))


def _read(read):
    if not len(read):
        return "none here is as small"
    row = read.iloc[0]
    return f"{row['clips'] * 77056 / 1e9:.1f} GB in {row['seconds']:.1f} s"


def draw(found, path):
    """The figure: seconds and memory by the number of utterances, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = [name for name in [*STEPS, EPOCH]]
    colours = dict(zip(lines, plt.get_cmap("tab10").colors))
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.4), sharex=True)
    titles = {"seconds": "Seconds (solid: flat; dashed: grows with the corpus)",
              "megabytes": "Megabytes that each takes, and those of a whole process"}
    for axis, (what, title) in zip(axes, titles.items()):
        shown = with_epochs(found) if what == "seconds" else found
        for name in lines:
            part = shown[shown["step"] == name]
            if part.empty or (what == "seconds" and name == ALL):
                continue
            steep = slope(part["utterances"], part[what])
            axis.plot(part["utterances"], part[what], marker="o",
                      color=colours[name], linestyle="-" if called(steep) == "flat" else "--",
                      label=f"{name}: {called(steep)} ({steep:.2f})")
        ends = np.array([shown["utterances"].min(), shown["utterances"].max()])
        axis.plot(ends, shown[what].min() * 2 * ends / ends[0], color="grey", linewidth=0.8, linestyle=":",
                  label="slope 1, for the eye")
        axis.set(xscale="log", yscale="log", title=title, ylabel=what,
                 xlabel="utterances, of 100 to 10,000 speakers")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
