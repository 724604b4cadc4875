"""All utterances of a corpus, decoded once, end to end in a few memory-mapped shards of 16 kHz int16."""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.files import folder_lock, read_json, require_space, write_json
from speakerlib.data.waveform_shards import (
    CHECKED_BYTES,
    VERSION,
    build_shard,
    decode,
    fault,
    find_shard,
    shard_key,
    shard_path,
)

OPEN_SHARDS = 256  # mapped at once: each holds a file descriptor
MOST_COMPRESSED = 100  # times as large as its file is speech at most: Opus at 6 kbit/s is 43 times


def build_waveform_store(paths, folder, *, starts=None, durations=None, min_seconds=0.5,
                         shard_utterances=1000, num_workers=None, progress=True):
    """Decodes audio files into a store in `folder`, in their order; returns the ones that it had to skip.

    paths: audio files; starts, durations: seconds, one a path, for utterances that are parts of their files.
    The result has the columns path and reason, and as its index the position in paths; every other path has
    a row in the store. Shards that are already there and right are kept, so a build that was cut short goes
    on where it stopped. Raises OSError if the disk is too small or fills up.
    """
    paths = [str(path) for path in paths]
    starts = [0.0] * len(paths) if starts is None else map(float, starts)
    durations = [None] * len(paths) if durations is None else map(float, durations)
    jobs = list(zip(paths, starts, durations, strict=True))
    slices = [jobs[first:first + shard_utterances] for first in range(0, len(jobs), shard_utterances)]
    folder = Path(folder)
    with folder_lock(folder, "The waveform store"):
        keys = [shard_key(part, min_seconds) for part in slices]
        records = [find_shard(folder, number, key) for number, key in enumerate(keys)]
        missing = [job for part, record in zip(slices, records, strict=True) if not record for job in part]
        if missing:
            require_space(folder, _estimate_bytes(missing), "The waveform store")
            (folder / "index.json").unlink(missing_ok=True)  # what it describes is about to change
            with (ThreadPoolExecutor(num_workers := num_workers or _cores()) as executor,
                  _progress_bar(len(jobs), len(jobs) - len(missing), progress) as bar):
                for number, part in enumerate(slices):
                    if records[number] is None:
                        with _explain_full_disk(folder, number, records):
                            records[number] = build_shard(folder, number, part, keys[number], min_seconds,
                                                          executor, 4 * num_workers, bar)
        _write_index(folder, records)
    skipped = {number * shard_utterances + position: reason
               for number, record in enumerate(records) for position, reason in record["skipped"]}
    return pd.DataFrame({"path": [paths[row] for row in skipped], "reason": list(skipped.values())},
                        index=pd.Index(list(skipped), dtype="int64"), dtype="str")


class WaveformStore:
    """The waveforms of a corpus: `lengths` in samples, and `read` for any part of any utterance."""

    def __init__(self, folder, index):
        self.folder, self.index = Path(folder), index
        lengths = [np.asarray(shard["lengths"], dtype=np.int64) for shard in index["shards"]]
        empty = np.zeros(0, np.int64)
        self.lengths = np.concatenate([empty, *lengths])  # (utterances,)
        self._starts = np.concatenate([empty, *(np.cumsum(part) - part for part in lengths)])
        self._shards = np.repeat(np.arange(len(lengths)), [len(part) for part in lengths])
        self._maps = {}

    @classmethod
    def open(cls, folder):
        """Opens the store in `folder` after checking its shards' sizes and, up to 2 GB, their checksums.

        Raises FileNotFoundError if there is no finished store, RuntimeError if a shard is torn.
        """
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise FileNotFoundError(f"there is no finished waveform store in {folder}. Import the corpus "
                                    "(again): it goes on where it stopped.")
        index = read_json(folder / "index.json")
        if index.get("version") != VERSION:
            raise RuntimeError(f"{folder} holds a waveform store of version {index.get('version')}, expected "
                               f"{VERSION}. Import the corpus again.")
        with_checksums = 2 * sum(sum(shard["lengths"]) for shard in index["shards"]) <= CHECKED_BYTES
        for number, shard in enumerate(index["shards"]):
            path = shard_path(folder, number)
            if found := fault(path, shard, with_checksums):
                raise RuntimeError(f"waveform shard {path} is torn: {found}. Import the corpus again: that "
                                   "rebuilds this shard alone.")
        return cls(folder, index)

    def read(self, i, start=0, length=None):
        """int16 (length,) samples of utterance i from sample `start`: a read-only view of the memory map.

        Without length, up to the end. Raises IndexError or ValueError for what is not there.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"there is no utterance {i} in a waveform store of {len(self)}.")
        if length is None:
            length = self.lengths[i] - start
        if start < 0 or length < 0 or start + length > self.lengths[i]:
            raise ValueError(f"{length} samples from sample {start} of utterance {i}, which has "
                             f"{self.lengths[i]} samples.")
        first = int(self._starts[i] + start)
        return self._map(int(self._shards[i]))[first:first + int(length)]

    def __len__(self):
        return len(self.lengths)

    @property
    def fingerprint(self):
        """Hexadecimal digits that change when any sample or length does."""
        return self.index["fingerprint"]

    def __reduce__(self):  # a worker process maps the shards anew
        return WaveformStore, (self.folder, self.index)

    def _map(self, number):
        samples = self._maps.get(number)
        if samples is None:
            samples = np.asarray(np.memmap(shard_path(self.folder, number), "<i2", "r"))
            if len(self._maps) >= OPEN_SHARDS:
                self._maps.pop(next(iter(self._maps)), None)
            self._maps[number] = samples
        return samples


def _cores():
    """Those that this process may use: decoders that wait for one another take longer than one of them alone."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextmanager
def _explain_full_disk(folder, number, records):
    """Turns "no space left on device" into what was kept and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kept = sum(record is not None for record in records)
        raise OSError(error.errno, f"the disk filled up while waveform shard {number + 1} of {len(records)} "
                      f"was written. Finished and kept: {kept}. Free some space and run this again: it "
                      "goes on from there", str(folder)) from error


def _progress_bar(total, ready, progress):
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=ready, desc="Decoding", unit="file", disable=not progress)


def _write_index(folder, records):
    for path in folder.glob("shard-*"):
        if int(path.stem.split("-")[1]) >= len(records):  # left of a longer list
            path.unlink()
    shards = [{"lengths": record["lengths"], "checksum": record["checksum"]} for record in records]
    fingerprint = hashlib.blake2b(repr([(shard["lengths"], shard["checksum"]) for shard in shards]).encode(),
                                  digest_size=8).hexdigest()
    write_json(folder / "index.json", {"version": VERSION, "sample_rate": SAMPLE_RATE,
                                       "fingerprint": fingerprint, "shards": shards})


def _estimate_bytes(jobs, num_sampled=16):
    """What the decoded files will take, from their durations or from the headers of a few of them."""
    if all(duration is not None for _, _, duration in jobs):
        return 2 * SAMPLE_RATE * sum(duration for _, _, duration in jobs)
    sizes = {path: os.path.getsize(path) for path, _, _ in jobs if os.path.exists(path)}
    encoded = decoded = 0
    for path in list(sizes)[::max(1, len(sizes) // num_sampled)]:
        if taken := _decoded_bytes(path, sizes[path]):
            encoded, decoded = encoded + sizes[path], decoded + taken
    return sum(sizes.values()) * decoded / encoded if encoded else 0


def _decoded_bytes(path, size):
    """What one file will take: by its header, or decoded if that is missing or cannot be true; 0 if unusable."""
    import soundfile

    try:
        taken = round(2 * SAMPLE_RATE * soundfile.info(path).duration)
        if 0 < taken <= MOST_COMPRESSED * size:
            return taken
    except soundfile.SoundFileError:
        pass
    samples = decode(path, 0.0, None, 0.0)
    return 0 if isinstance(samples, str) else samples.nbytes
