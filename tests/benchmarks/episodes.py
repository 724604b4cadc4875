"""Drawing and assembling a batch of episodes: a loader of picture files against memory-mapped frames.

    python tests/benchmarks/episodes.py

The yardstick does what work A's loader does: a task is drawn speaker by speaker, each clip is a PNG of its own that PIL
reads and a transform makes floats, a DataLoader's processes prepare the tasks, and a batch is a list of them: 4 tasks
of 5 speakers, 5 + 15 clips each, as float32. Ours has the same clips in one byte a value, as the network takes them;
the conversion that the network then does is also counted in, so that both can be compared up to the same numbers.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from material import open_frames
from PIL import Image
from side_by_side import CORES, alternate, faster, options, table, write
from torch.utils.data import DataLoader, Dataset

from speakerlib.data.episodes import EpisodeSampler
from speakerlib.experiments.training import machine_precision
from speakerlib.models.encoders import as_numbers

NUM_WAY, NUM_SUPPORT, NUM_QUERY, BATCH_SIZE = 5, 5, 15, 4
STEPS = 4  # a round
TARGET, LIMIT = 50, 3
PICTURES, OURS = "pictures, read by PIL in a DataLoader", "frames, memory-mapped, as bytes"
COPY = "memory copy of the batch's bytes"


def main(arguments=None):
    chosen = options(__doc__, arguments)
    num_query = 2 if chosen.quick else NUM_QUERY
    with open_frames(chosen.quick) as (_, store), tempfile.TemporaryDirectory() as folder:
        tasks = PictureTasks(pictures(store, Path(folder)), NUM_SUPPORT, num_query)
        loader = DataLoader(tasks, BATCH_SIZE, sampler=TaskSampler(len(tasks.files), NUM_WAY, STEPS * BATCH_SIZE),
                            num_workers=CORES, collate_fn=_as_it_is, drop_last=True, persistent_workers=True)
        sampler = EpisodeSampler(store.segments, NUM_WAY, NUM_SUPPORT, num_query, "segment")

        def assemble(step, keep_bytes=True):
            episodes = sampler.draw(step, BATCH_SIZE)
            return store.read(np.concatenate([episodes.support.ravel(), episodes.query.ravel()]), keep_bytes=keep_bytes)

        def numbers(step, precision):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                return as_numbers(assemble(step))

        check_equal(store, tasks.files)
        batch, precision = assemble(0), machine_precision()
        times = alternate({
            PICTURES: lambda: [None for _ in loader],
            OURS: lambda: _each(assemble),
            f"the same, and its numbers in {precision}": lambda: _each(lambda step: numbers(step, precision)),
            "the same, and its numbers in float32": lambda: _each(lambda step: numbers(step, "fp32")),
            "drawing alone": lambda: _each(lambda step: sampler.draw(step, BATCH_SIZE)),
            COPY: lambda: _each(lambda step: batch.clone()),
            "the same clips read as float32": lambda: _each(lambda step: assemble(step, False)),
            "memory copy of its numbers in float32": lambda floats=batch.float(): _each(lambda step: floats.clone()),
        }, repeats=2 if chosen.quick else 9)
    ratio, low, high = faster(times, OURS, PICTURES)
    copies = 1 / faster(times, OURS, COPY)[0]
    converted = [faster(times, f"the same, and its numbers in {kind}", PICTURES)[0] for kind in (precision, "float32")]
    conversion = np.median(times[f"the same, and its numbers in {precision}"]) - np.median(times[OURS])
    write("Drawing and assembling a batch of episodes", f"""
`python tests/benchmarks/episodes.py`. {STEPS} batches a round, {BATCH_SIZE} tasks each, {NUM_WAY}-way
{NUM_SUPPORT}-shot {num_query}-query: {len(batch)} clips of {batch.shape[2]} x {batch.shape[3]} frames (synthetic
speech), {batch.nbytes / 1e6:.0f} MB as stored. The yardstick's loader has {CORES} processes, which stay; all files are
in the system's memory. The same clips are the same numbers on both sides.

What is compared: the yardstick's batch is float32, four bytes a value; ours is the bytes, drawn, gathered from the
memory-mapped shards and given to the network, which makes numbers of them in its own type. That conversion takes
{1000 * conversion / STEPS:.0f} ms of a training's step ({precision}); the lines "and its numbers" count it in.

Target: {TARGET} times as fast as the yardstick. Found: **{ratio:.0f} times** ({low:.0f} to {high:.0f}) for the bytes,
{converted[0]:.0f} times with their numbers in {precision}, {converted[1]:.0f} times in float32. Limit: {LIMIT} times as
long as a memory copy of the batch. Found: **{copies:.1f} times**.""",
          table(times, PICTURES, STEPS * BATCH_SIZE, "tasks"), chosen.quick)


def _each(function):
    """function(step) of all steps; a batch is let go before the next one is made, as in a training."""
    for step in range(STEPS):
        function(step)


def pictures(store, folder):
    """Writes each clip as a PNG in a folder of its speaker; {speaker: paths}, in the order of the store's segments."""
    files = {}
    for number, speaker in enumerate(store.segments["speaker"]):
        path = folder / speaker / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(_bytes(store, number)).save(path)
        files.setdefault(speaker, []).append(path)
    return list(files.values())


def check_equal(store, files):
    """Both sides read the same numbers for the same clips."""
    paths = [paths[number] for paths in files for number in (0, -1)]
    theirs = torch.stack([read_picture(path) for path in paths])
    ours = torch.stack([torch.from_numpy(_bytes(store, int(path.stem))) for path in paths]).unsqueeze(1).float()
    if not torch.equal(theirs, ours):
        raise SystemExit("the pictures are not the frames: nothing is measured")


def read_picture(path):
    """(1, mels, frames), float32, of 0 to 255."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture)).unsqueeze(0).float()


class PictureTasks(Dataset):
    """Tasks by the numbers of their speakers: (support, labels, query, labels), tensors stacked clip by clip."""

    def __init__(self, files, num_support, num_query):
        self.files, self.num_support, self.num_query = files, num_support, num_query
        self.random = np.random.default_rng(0)

    def __getitem__(self, speakers):
        support, query, labels_support, labels_query = [], [], [], []
        for label, speaker in enumerate(speakers):
            files = self.files[speaker]
            drawn = self.random.choice(len(files), self.num_support + self.num_query, replace=False)
            clips = [read_picture(files[number]) for number in drawn]
            support += clips[:self.num_support]
            query += clips[self.num_support:]
            labels_support += [label] * self.num_support
            labels_query += [label] * self.num_query
        return torch.stack(support), torch.tensor(labels_support), torch.stack(query), torch.tensor(labels_query)


class TaskSampler:
    """num_tasks times num_way different speakers."""

    def __init__(self, num_speakers, num_way, num_tasks):
        self.num_speakers, self.num_way, self.num_tasks = num_speakers, num_way, num_tasks
        self.random = np.random.default_rng(0)

    def __iter__(self):
        return (self.random.choice(self.num_speakers, self.num_way, replace=False) for _ in range(self.num_tasks))

    def __len__(self):
        return self.num_tasks


def _bytes(store, number):
    frames = store.read([number])[0, 0].numpy()
    if store.front_end.mean_normalise:  # the tiny likeness: it only has to be some picture
        frames = 128 + 8 * frames
    return frames.clip(0, 255).astype(np.uint8)


def _as_it_is(tasks):
    return tasks


if __name__ == "__main__":
    main()
