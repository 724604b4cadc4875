"""Drawing and assembling a batch of episodes: a loader of picture files against memory-mapped frames.

    python tests/benchmarks/episodes.py

The yardstick does what work A's loader does: a task is drawn speaker by speaker, each clip is a PNG of its own that PIL
reads and a transform makes floats, a DataLoader's processes prepare the tasks, and a batch is a list of them. Both
sides give the network the same kind of batch: 4 tasks of 5 speakers, 5 + 15 clips each, as float32.
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

NUM_WAY, NUM_SUPPORT, NUM_QUERY, BATCH_SIZE = 5, 5, 15, 4
STEPS = 4  # a round
TARGET, LIMIT = 50, 3


def main(arguments=None):
    chosen = options(__doc__, arguments)
    num_query = 2 if chosen.quick else NUM_QUERY
    with open_frames(chosen.quick) as (_, store), tempfile.TemporaryDirectory() as folder:
        tasks = PictureTasks(pictures(store, Path(folder)), NUM_SUPPORT, num_query)
        loader = DataLoader(tasks, BATCH_SIZE, sampler=TaskSampler(len(tasks.files), NUM_WAY, STEPS * BATCH_SIZE),
                            num_workers=CORES, collate_fn=_as_it_is, drop_last=True, persistent_workers=True)
        sampler = EpisodeSampler(store.segments, NUM_WAY, NUM_SUPPORT, num_query, "segment")

        def assemble(step):
            episodes = sampler.draw(step, BATCH_SIZE)
            return store.read(np.concatenate([episodes.support.ravel(), episodes.query.ravel()]))

        check_equal(store, tasks.files)
        batch = assemble(0)
        stored = torch.empty(batch.shape, dtype=torch.uint8)
        times = alternate({
            "pictures, read by PIL in a DataLoader": lambda: [None for _ in loader],
            "frames, memory-mapped": lambda: [assemble(step) for step in range(STEPS)],
            "drawing alone": lambda: [sampler.draw(step, BATCH_SIZE) for step in range(STEPS)],
            "memory copy of the batch": lambda: [batch.clone() for _ in range(STEPS)],
            "memory copy of its bytes as stored": lambda: [stored.clone() for _ in range(STEPS)],
        }, repeats=2 if chosen.quick else 7)
    ratio = faster(times, "frames, memory-mapped", "pictures, read by PIL in a DataLoader")[0]
    copies = 1 / faster(times, "frames, memory-mapped", "memory copy of the batch")[0]
    write("Drawing and assembling a batch of episodes", f"""
`python tests/benchmarks/episodes.py`. {STEPS} batches a round, {BATCH_SIZE} tasks each, {NUM_WAY}-way
{NUM_SUPPORT}-shot {num_query}-query: {len(batch)} clips of {batch.shape[2]} x {batch.shape[3]} frames (synthetic
speech), {batch.nbytes / 1e6:.0f} MB of float32. The yardstick's loader has {CORES} processes, which stay; all files are
in the system's memory. The same clips are the same numbers on both sides.

Target: {TARGET} times as fast as the yardstick. Found: **{ratio:.0f} times**. Limit: {LIMIT} times as long as a memory
copy of the batch. Found: **{copies:.1f} times**.""", table(times, "pictures, read by PIL in a DataLoader",
                                                             STEPS * BATCH_SIZE, "tasks"), chosen.quick)


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
