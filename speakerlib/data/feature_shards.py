"""Builds the files of a feature folder: shards that survive a kill at any moment, and the index written last.

A shard is (segments, frames, mels) in the front end's storage dtype. A note beside it holds its checksum and
a hash of all that it was computed from; without a matching note it does not count.
"""

import errno
import hashlib
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from speakerlib.data import channels, files, front_ends
from speakerlib.data.babble import BabblePool

FORMAT = 1  # of the folder; raise it when the bytes in it come to mean something else
SHARD_BYTES = 128e6  # what a killed build loses at most, of a corpus that fits in MAX_SHARDS of this size
MAX_SHARDS = 256  # each holds a file descriptor while a store is open
BATCH_SECONDS = 96  # of speech in work at once


def build_shards(folder, settings, corpus, segments, progress):
    """Computes the shards that are not whole, then writes the index. Call with the folder's lock held."""
    front_end = front_ends.FrontEnd(**settings["front_end"])
    frames = front_ends.num_frames(front_end, int(segments["length"].iloc[0]))
    dtype = str(front_ends.storage_dtype(front_end)).removeprefix("torch.")
    segment_bytes = frames * front_end.num_mels * np.dtype(dtype).itemsize
    shard_segments = max(1, int(SHARD_BYTES // segment_bytes), -(-len(segments) // MAX_SHARDS))
    plan = settings_hash(settings, corpus.fingerprint, shard_segments)

    say_if_outdated(folder, corpus)
    (folder / "index.json").unlink(missing_ok=True)
    shards = []
    for number, first in enumerate(range(0, len(segments), shard_segments)):
        count = min(shard_segments, len(segments) - first)
        shard = {"name": f"shard-{number:05d}.{dtype}", "segments": count, "bytes": count * segment_bytes}
        shards.append(shard | {"checksum": checksum_if_whole(folder / shard["name"], shard["bytes"], plan)})
    remove_others(folder, shards)
    missing = sum(shard["bytes"] for shard in shards if shard["checksum"] is None)
    files.require_space(folder, missing + 100 * len(segments) + 1e6, f"Computing features {folder.name}")
    with full_disk_explained(folder):
        with files.atomic_path(folder / "segments.parquet") as temporary:
            segments.to_parquet(temporary)
        _compute_missing(folder, shards, corpus, segments, front_end, settings, plan, progress)
        files.write_json(folder / "index.json", {
            "format": FORMAT, "corpus": corpus.name, "fingerprint": corpus.fingerprint, "settings": settings,
            "num_segments": len(segments), "num_frames": frames, "dtype": dtype,
            "shard_segments": shard_segments, "shards": shards,
            "segments_checksum": files.checksum(folder / "segments.parquet")})


def settings_hash(*record):
    """Sixteen hexadecimal digits that change with any part of what features are computed from."""
    return hashlib.blake2b(json.dumps([FORMAT, *record], sort_keys=True).encode(), digest_size=8).hexdigest()


def require_whole(path, num_bytes, crc):
    """RuntimeError if the file is missing, or not of this size and checksum; None leaves either unchecked."""
    size = path.stat().st_size if path.exists() else None
    if size is None or num_bytes not in (None, size) or (crc is not None and crc != files.checksum(path)):
        seen = "missing" if size is None else f"torn: {size} bytes, not those that were written"
        raise RuntimeError(f"{path} is {seen}. Run prepare_features again: it makes anew what is not whole.")


def _compute_missing(folder, shards, corpus, segments, front_end, settings, plan, progress):
    """Writes every shard without a checksum, and puts its checksum into the list."""
    from tqdm.auto import tqdm

    done = sum(shard["segments"] for shard in shards if shard["checksum"])
    title = f"features of {corpus.name}, {front_end.name}, {settings['condition']}"
    pool = BabblePool(corpus) if settings["channel_family"] == "II" else None
    first = 0
    with tqdm(total=len(segments), initial=done, desc=title, unit="segment", delay=1, dynamic_ncols=True,
              disable=not progress) as bar:
        for shard in shards:
            if shard["checksum"] is None:
                rows = segments.iloc[first:first + shard["segments"]]
                batches = _one_ahead(_batches(corpus, rows, front_end, settings, pool))
                shard["checksum"] = write_shard(folder / shard["name"], batches, plan, bar)
            first += shard["segments"]


@contextmanager
def full_disk_explained(folder):
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kept = len(list(folder.glob("shard-*.json")))
        message = (f"the disk is full; {folder} keeps its {kept} finished shards. Free some space, or move "
                   "the data folder and set SPEAKERLIB_DATA, and run this again: it goes on")
        raise OSError(error.errno, message) from error


def say_if_outdated(folder, corpus):
    if (folder / "index.json").exists():
        old = files.read_json(folder / "index.json")["fingerprint"]
        if old != corpus.fingerprint:
            print(f"{folder.name}: the corpus {corpus.name} has changed since these features were computed "
                  f"(fingerprint {old}, now {corpus.fingerprint}); computing them again.")


def checksum_if_whole(path, num_bytes, plan):
    """The shard's checksum if it is there as it was written, for this very plan; None otherwise."""
    note = path.with_suffix(".json")
    if not note.exists():
        return None
    try:
        record = files.read_json(note)
        if record["plan"] != plan:
            return None
        require_whole(path, num_bytes, record["checksum"])
        return record["checksum"]
    except (ValueError, RuntimeError):
        print(f"{path.parent.name}: {path.name} is torn or missing; computing it again.")
        return None


def remove_others(folder, shards):
    """Deletes shards that this build has no place for: of an older corpus, or of another shard size."""
    names = {Path(shard["name"]).stem for shard in shards}
    for path in folder.glob("shard-*"):
        if path.stem not in names:
            path.unlink()


def _batches(corpus, rows, front_end, settings, pool):
    """Yields the features (n, frames, mels) of consecutive segments, straight from the waveform store."""
    batch = max(1, int(BATCH_SECONDS / settings["segment_seconds"]))
    for first in range(0, len(rows), batch):
        part = rows.iloc[first:first + batch]
        places = zip(part["utterance"].tolist(), part["start"].tolist(), part["length"].tolist())
        samples = [corpus.waveforms.read(utterance, start, length) for utterance, start, length in places]
        waveforms = torch.from_numpy(np.stack(samples)).to(torch.float32).div_(32768)
        if settings["condition"] == "changed":
            table = corpus.table.iloc[part["utterance"].to_numpy()]
            names = (table["speaker"].astype(str) + "/" + table["session"].astype(str) + "/"
                     + table["utterance"].astype(str))
            seeds = channels.clip_seeds(settings["channel_seed"], zip(names, part["start"]))
            babble = pool.mix(part["utterance"], seeds, waveforms.shape[1]) if pool else None
            waveforms = channels.apply_channels(waveforms, seeds, settings["channel_family"], babble)
        yield front_ends.compute(front_end, waveforms).transpose(1, 2).contiguous().numpy()


def _one_ahead(batches):
    """The same batches of an iterator, each worked out while the one before it is written."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def write_shard(path, batches, plan, bar):
    """Writes a shard, then the note that makes it count; returns its checksum."""
    crc = 0
    with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
        for batch in batches:
            crc = zlib.crc32(batch, crc)
            file.write(batch)
            bar.update(len(batch))
    files.write_json(path.with_suffix(".json"), {"plan": plan, "checksum": f"{crc:08x}"})
    return f"{crc:08x}"
