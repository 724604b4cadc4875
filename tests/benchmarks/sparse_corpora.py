"""Corpora without a sample of audio, for what depends on their tables alone; and steps, each in a fresh process.

Shards are sparse files: as long as real ones, read as zeros, and of no size on the disk.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import re
import resource
import sys
import time
import zlib
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow as pa

from speakerlib.data import corpora, feature_shards, files, front_ends
from speakerlib.data.features import segment_table
from speakerlib.data.patterns import ID_COLUMNS
from speakerlib.data.splits import assign_splits
from speakerlib.data.waveform_shards import shard_path

SPEAKERS, SESSIONS, UTTERANCES = 6112, 150_480, 1_128_246  # VoxCeleb2, dev and test
SECONDS, SHORTEST = 7.8, 4.0  # an utterance's mean and least
SHARD = 1000  # utterances


def run(step, *arguments):
    """(seconds, megabytes that they took, peak megabytes) of step(*arguments, clock) in a forked process.

    Raises RuntimeError if it fails.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(step, arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"the step {step.__name__} failed; see above") from None
    finally:
        process.join()


def _run(step, arguments, pipe):
    clock = Clock()
    step(*arguments, clock)
    pipe.send((clock.seconds, clock.megabytes, max(clock.peak, _peak())))


class Clock:
    """Adds up the seconds of its `with` blocks, and keeps the most memory that one of them took.

    That is the process' own, above what it had when the block began; pages of memory-mapped files, which the system
    takes back when it needs them, are not counted. NaN where there is no /proc.
    """

    seconds, megabytes, peak = 0.0, float("nan"), 0.0

    def __enter__(self):
        _give_back()
        self.peak = max(self.peak, _peak())  # what follows starts it anew
        self.before = _own_memory(reset=True)
        self.start = time.perf_counter()

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self.start
        self.megabytes = np.fmax(self.megabytes, _own_memory() - self.before)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)


def _give_back():
    """What was freed goes back to the system now: later, it would hide what a step takes."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)


def _own_memory(reset=False):
    """The most resident memory so far, without mapped files, in megabytes; reset: from now on."""
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            kilobytes = {name: int(value.split()[0]) for name, value in re.findall(r"^(\w+):\s+(.* kB)$", file.read(),
                                                                                   re.M)}
        return (kilobytes["VmHWM"] - kilobytes["RssFile"]) / 1024
    except OSError:
        return float("nan")


def make_table(num_speakers, num_sessions, num_utterances, random):
    """(table, lengths in samples): a corpus' table of realistic counts and lengths, as in VoxCeleb2."""
    # at least one session a speaker and one utterance a session; the rest unevenly, as in the original
    weight = random.gamma(2.0, size=num_speakers)
    speaker = np.sort(np.r_[np.arange(num_speakers), random.choice(
        num_speakers, num_sessions - num_speakers, p=weight / weight.sum())])  # of each session
    weight = random.gamma(1.5, size=num_sessions)
    session = np.sort(np.r_[np.arange(num_sessions), random.choice(
        num_sessions, num_utterances - num_sessions, p=weight / weight.sum())])  # of each utterance
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"))
    videos = np.array(["".join(row) for row in random.choice(letters, (num_sessions, 11))], dtype=object)
    number = np.arange(len(session)) - np.searchsorted(session, session)
    speakers = np.array([f"id{code:05d}" for code in range(num_speakers)], dtype=object)
    table = pd.DataFrame({"speaker": speakers[speaker[session]], "session": videos[session],
                          "utterance": [f"{count:05d}" for count in number]}, dtype="str")
    table["path"] = "/speech/vox2/" + np.where(speaker[session] % 52 == 0, "test", "dev").astype(object) + "/aac/" + \
        table["speaker"] + "/" + table["session"] + "/" + table["utterance"] + ".m4a"
    lengths = np.round(16000 * (SHORTEST + random.exponential(SECONDS - SHORTEST, len(table)))).astype(int)
    table["start"], table["duration"] = 0.0, lengths / 16000
    table = table.sort_values(ID_COLUMNS, ignore_index=True)
    table["split"] = assign_splits(table)
    return table, lengths


def write_corpus(name, table, lengths):
    """Puts a corpus of that table into the data folder, with sparse files for its waveforms."""
    home = files.data_folder() / "corpora" / name
    (home / "waveforms").mkdir(parents=True)
    table.to_parquet(home / "corpus.parquet", index=False)
    shards = [lengths[first:first + SHARD].tolist() for first in range(0, len(lengths), SHARD)]
    for place, shard in enumerate(shards):
        _make_sparse(shard_path(home / "waveforms", place), 2 * sum(shard))
    read = 2 * lengths.sum() <= 2e9  # checksums of larger stores are not read
    files.write_json(home / "waveforms" / "index.json", {
        "version": 1, "sample_rate": 16000, "fingerprint": name,
        "shards": [{"lengths": shard, "checksum": f"{zlib.crc32(bytes(2 * sum(shard))) if read else 0:08x}"}
                   for shard in shards]})
    files.write_json(home / "corpus.json", {"version": corpora.VERSION, "synthetic": True, "waveforms": name})
    (home / "skipped.csv").write_text("path,reason\n")


def write_frames(name, front_end, segment_seconds):
    """Puts the feature folder of a corpus beside it, with sparse files for its frames; returns it."""
    corpus, front_end = corpora.open_corpus(name), front_ends.front_end(front_end)
    segments = segment_table(corpus, segment_seconds)
    folder = files.data_folder() / "features" / name / front_end.name
    folder.mkdir(parents=True)
    mels, frames = front_ends.clip_size(front_end, segment_seconds)
    dtype = np.dtype(str(front_ends.storage_dtype(front_end)).removeprefix("torch."))
    size = mels * frames * dtype.itemsize
    most = max(1, int(feature_shards.SHARD_BYTES // size), -(-len(segments) // feature_shards.MAX_SHARDS))
    shards = []
    for first in range(0, len(segments), most):
        count = min(most, len(segments) - first)
        path = folder / f"shard-{len(shards):05d}.{dtype}"
        _make_sparse(path, count * size)
        shards.append({"name": path.name, "segments": count, "bytes": count * size, "checksum": None})
    if len(segments) * size <= 2e9:  # checksums of larger stores are not read
        shards = [shard | {"checksum": files.checksum(folder / shard["name"])} for shard in shards]
    segments.to_parquet(folder / "segments.parquet")
    files.write_json(folder / "index.json", {
        "format": feature_shards.FORMAT, "corpus": name, "fingerprint": corpus.fingerprint,
        "settings": {"front_end": asdict(front_end), "segment_seconds": segment_seconds, "condition": "recorded",
                     "channel_seed": None, "channel_family": None},
        "num_segments": len(segments), "num_frames": frames, "dtype": str(dtype), "shard_segments": most,
        "shards": shards, "segments_checksum": files.checksum(folder / "segments.parquet")})
    return folder


def put_section(path, text):
    """Puts a section of Markdown, which begins with its heading, into a file, in place of the one of that heading."""
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = [part for part in re.split(r"^(?=#{1,2} )", there, flags=re.M) if part.strip()]
    heading = text.partition("\n")[0]
    places = [place for place, part in enumerate(parts) if part.partition("\n")[0] == heading] or [len(parts)]
    parts[places[0]:places[0] + 1] = [text]
    with files.atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def _make_sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
