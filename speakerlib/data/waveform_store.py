"""All utterances of a corpus, decoded once, end to end in a few memory-mapped shards of 16 kHz int16 samples."""

import errno
import hashlib
import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data.audio import SAMPLE_RATE, AudioError, read_audio, to_int16
from speakerlib.data.files import atomic_path, checksum, folder_lock, read_json, require_space, write_json

VERSION = 1  # of the layout on disk: raise it when old stores must be rebuilt
CHECKED_BYTES = 2_000_000_000  # stores up to this size have their checksums read when opened
OPEN_SHARDS = 256  # mapped at once: each holds a file descriptor


def build_waveform_store(paths, folder, *, starts=None, durations=None, min_seconds=0.5, shard_utterances=1000,
                         num_workers=None, progress=True):
    """Decodes audio files into a store in `folder`, in their order, and returns the ones it had to skip.

    paths: audio files; starts, durations: seconds, one a path, for utterances that are parts of their files.
    The result has the columns path and reason, and as its index the position in paths; every other path has a
    row in the store. Shards that are already there and right are kept, so a build that was cut short goes on
    where it stopped. Raises OSError if the disk is too small or fills up.
    """
    paths = [str(path) for path in paths]
    jobs = list(zip(paths, [0.0] * len(paths) if starts is None else map(float, starts),
                    [None] * len(paths) if durations is None else map(float, durations), strict=True))
    folder = Path(folder)
    slices = [jobs[first:first + shard_utterances] for first in range(0, len(jobs), shard_utterances)]
    with folder_lock(folder, "The waveform store"):
        keys = [_shard_key(part, min_seconds) for part in slices]
        done = [_right_shard(folder, number, key) for number, key in enumerate(keys)]
        missing = [job for part, record in zip(slices, done, strict=True) if record is None for job in part]
        if missing:
            require_space(folder, _estimate_bytes(missing), "The waveform store")
            (folder / "index.json").unlink(missing_ok=True)  # what it describes is about to change
            _build_missing(folder, slices, keys, done, min_seconds, num_workers or os.cpu_count(), progress)
        _write_index(folder, done)
    skipped = [(number * shard_utterances + row, jobs[number * shard_utterances + row][0], reason)
               for number, record in enumerate(done) for row, reason in record["skipped"]]
    index = pd.Index([row for row, _, _ in skipped], dtype="int64")
    return pd.DataFrame({"path": pd.Series([path for _, path, _ in skipped], index=index, dtype="str"),
                         "reason": pd.Series([reason for _, _, reason in skipped], index=index, dtype="str")})


class WaveformStore:
    """The waveforms of a corpus: `lengths` in samples, `read` for any part of any utterance, nothing in memory."""

    def __init__(self, folder, index):
        self.folder, self.index = Path(folder), index
        self._maps = {}
        shard_lengths = [np.asarray(shard["lengths"], dtype=np.int64) for shard in index["shards"]]
        self.lengths = np.concatenate([np.zeros(0, np.int64), *shard_lengths])  # (utterances,)
        self._shards = np.repeat(np.arange(len(shard_lengths)), [len(part) for part in shard_lengths])
        starts = [np.cumsum(part) - part for part in shard_lengths]
        self._starts = np.concatenate([np.zeros(0, np.int64), *starts])

    @classmethod
    def open(cls, folder):
        """Opens the store in `folder` after checking its shards' sizes and, up to 2 GB in all, their checksums.

        Raises FileNotFoundError if there is no finished store, RuntimeError if a shard is torn.
        """
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise FileNotFoundError(f"there is no finished waveform store in {folder}. "
                                    "Import the corpus (again): it goes on where it stopped.")
        index = read_json(folder / "index.json")
        if index.get("version") != VERSION:
            raise RuntimeError(f"{folder} holds a waveform store of version {index.get('version')}, "
                               f"expected {VERSION}. Import the corpus again.")
        with_checksums = 2 * sum(sum(shard["lengths"]) for shard in index["shards"]) <= CHECKED_BYTES
        for number, shard in enumerate(index["shards"]):
            fault = _fault(_shard_path(folder, number), shard, with_checksums)
            if fault:
                raise RuntimeError(f"waveform shard {_shard_path(folder, number)} is torn: {fault}. Import the "
                                   "corpus again: it rebuilds this shard alone (or delete the folder first).")
        return cls(folder, index)

    def read(self, i, start=0, length=None):
        """int16 (length,) samples of utterance i from sample `start`, a read-only view of the memory map.

        Without length, up to the end. Raises IndexError or ValueError for what is not there.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"utterance {i} of a waveform store that has {len(self)} (0 to {len(self) - 1}).")
        if length is None:
            length = self.lengths[i] - start
        if start < 0 or length < 0 or start + length > self.lengths[i]:
            raise ValueError(f"samples {start} to {start + length} of utterance {i}, which has {self.lengths[i]}.")
        first = int(self._starts[i] + start)
        return self._map(int(self._shards[i]))[first:first + int(length)]

    def __len__(self):
        return len(self.lengths)

    @property
    def seconds(self):
        """Length of everything, in seconds."""
        return float(self.lengths.sum() / SAMPLE_RATE)

    @property
    def fingerprint(self):
        """Hexadecimal digits that change when any sample or length does."""
        return self.index["fingerprint"]

    def __reduce__(self):  # a worker process maps the shards anew
        return WaveformStore, (self.folder, self.index)

    def _map(self, number):
        samples = self._maps.get(number)
        if samples is None:
            path = _shard_path(self.folder, number)
            if path.stat().st_size == 0:  # nothing in it was readable; an empty file cannot be mapped
                return np.zeros(0, "<i2")
            samples = np.asarray(np.memmap(path, "<i2", "r"))
            if len(self._maps) >= OPEN_SHARDS:
                self._maps.pop(next(iter(self._maps)), None)
            self._maps[number] = samples
        return samples


def _build_missing(folder, slices, keys, done, min_seconds, num_workers, progress):
    """Builds every shard whose record in `done` is None, and puts its record there."""
    from tqdm.auto import tqdm

    total = sum(len(part) for part in slices)
    ready = sum(len(part) for part, record in zip(slices, done, strict=True) if record is not None)
    with (ThreadPoolExecutor(num_workers) as executor,
          tqdm(total=total, initial=ready, desc="Decoding", unit="file", disable=not progress) as bar):
        for number, part in enumerate(slices):
            if done[number] is None:
                try:
                    jobs = [(*job, min_seconds) for job in part]
                    decoded = _in_order(executor, 4 * num_workers, _decode, jobs)
                    done[number] = _build_shard(folder, number, keys[number], decoded, bar)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    kept = sum(record is not None for record in done)
                    raise OSError(error.errno, f"the disk filled up while waveform shard {number + 1} of "
                                  f"{len(slices)} was written. The {kept} finished ones are kept: free some space "
                                  "and run the same again, it goes on from there", str(folder)) from error


def _build_shard(folder, number, key, decoded, bar):
    """Writes a shard from an iterator of int16 samples or reasons, then its record."""
    lengths, skipped, crc = [], [], 0
    path = _shard_path(folder, number)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for row, result in enumerate(decoded):
            if isinstance(result, str):
                skipped.append([row, result])
            else:
                lengths.append(len(result))
                crc = zlib.crc32(result, crc)
                file.write(result)
            bar.update()
        file.flush()
    record = {"key": key, "lengths": lengths, "skipped": skipped, "checksum": f"{crc:08x}"}
    write_json(path.with_suffix(".json"), record)
    return record


def _decode(path, start, duration, min_seconds):
    """int16 samples, or the reason why there are none."""
    try:
        waveform = read_audio(path, SAMPLE_RATE, start, duration)
    except AudioError as error:
        return error.reason
    except FileNotFoundError:
        return "missing"
    if len(waveform) < min_seconds * SAMPLE_RATE:
        return f"too short: {len(waveform) / SAMPLE_RATE:.2f} s, at least {min_seconds:g} s"
    return to_int16(waveform).astype("<i2", copy=False)


def _in_order(executor, ahead_at_most, function, jobs):
    """function(*job) for every job, computed by threads, yielded in order; only a few results are in memory."""
    ahead = deque()
    try:
        for job in jobs:
            ahead.append(executor.submit(function, *job))
            if len(ahead) >= ahead_at_most:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def _right_shard(folder, number, key):
    """The record of a shard that is there, whole, and made of the same files; else None."""
    path = _shard_path(folder, number)
    try:
        record = read_json(path.with_suffix(".json"))
    except (OSError, ValueError):
        return None
    if record.get("key") != key:
        return None
    return None if _fault(path, record, 2 * sum(record["lengths"]) <= CHECKED_BYTES) else record


def _fault(path, record, with_checksum):
    """What is wrong with a shard, or None."""
    expected = 2 * sum(record["lengths"])
    if not path.is_file():
        return "it is missing"
    if path.stat().st_size != expected:
        return f"it has {path.stat().st_size} bytes, expected {expected}"
    if with_checksum and (found := checksum(path)) != record["checksum"]:
        return f"its checksum is {found}, expected {record['checksum']}"
    return None


def _shard_key(part, min_seconds):
    """Changes when a shard's list of files, or a file's size or date, does."""
    digest = hashlib.blake2b(f"{VERSION} {SAMPLE_RATE} {min_seconds}".encode(), digest_size=16)
    for path, start, duration in part:
        try:
            status = os.stat(path)
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = "missing"
        digest.update(repr((path, start, duration, state)).encode())
    return digest.hexdigest()


def _write_index(folder, records):
    digest = hashlib.blake2b(digest_size=8)
    shards = [{"lengths": record["lengths"], "checksum": record["checksum"]} for record in records]
    for shard in shards:
        digest.update(repr((shard["lengths"], shard["checksum"])).encode())
    for path in folder.glob("shard-*"):
        if int(path.stem.split("-")[1]) >= len(records):  # of a longer list, before
            path.unlink()
    index = {"version": VERSION, "sample_rate": SAMPLE_RATE, "fingerprint": digest.hexdigest(), "shards": shards}
    write_json(folder / "index.json", index)


def _estimate_bytes(jobs, num_sampled=16):
    """What the decoded files will take, from their durations or from a few of them decoded."""
    if jobs and all(duration is not None for _, _, duration in jobs):
        return 2 * SAMPLE_RATE * sum(duration for _, _, duration in jobs)
    sizes = {path: os.path.getsize(path) for path, _, _ in jobs if os.path.exists(path)}
    encoded = decoded = 0
    for path in list(sizes)[::max(1, len(sizes) // num_sampled)]:
        result = _decode(path, 0.0, None, 0.0)
        if not isinstance(result, str):
            encoded, decoded = encoded + sizes[path], decoded + result.nbytes
    return sum(sizes.values()) * decoded / encoded if encoded else 0


def _shard_path(folder, number):
    return Path(folder) / f"shard-{number:05d}.int16"
