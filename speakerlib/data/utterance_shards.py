"""Builds the shards of utterance features: whole utterances end to end, (frames, mels) in float16, the index last."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from speakerlib.data import channels, feature_shards, files, front_ends
from speakerlib.data.babble import BabblePool
from speakerlib.data.kye_front_end import KyeFrontEnd, compute_kye
from speakerlib.data.patterns import utterance_keys
from speakerlib.data.speeds import at_speed

SECONDS_AT_ONCE = 3600  # of speech whose features are in memory before they are written


def build_utterance_shards(folder, settings, corpus, utterances, front_end, progress):
    """Computes the shards that are not whole, then writes the index. Call with the folder's lock held.

    utterances: see utterance_table. A shard ends with the utterance that fills SHARD_BYTES.
    """
    frame_bytes = front_end.num_mels * np.dtype(np.float16).itemsize
    frames = utterances["frames"].to_numpy()
    shard_bytes = max(feature_shards.SHARD_BYTES, frames.sum() * frame_bytes / feature_shards.MAX_SHARDS)
    place = ((np.cumsum(frames) - frames) * frame_bytes // shard_bytes).astype(np.int64)  # of its first byte
    place = np.minimum(place, place[frames > 0].max(initial=0))  # what is left out at the end opens no shard
    _, counts = np.unique(place, return_counts=True)
    ends = np.cumsum(counts)
    plan = feature_shards.settings_hash(settings, corpus.fingerprint, int(shard_bytes))

    feature_shards.say_if_outdated(folder, corpus)
    (folder / "index.json").unlink(missing_ok=True)
    shards = []
    for number, (end, count) in enumerate(zip(ends.tolist(), counts.tolist())):
        size = int(frames[end - count:end].sum()) * frame_bytes
        shard = {"name": f"shard-{number:05d}.float16", "utterances": count, "bytes": size}
        shards.append(shard | {"checksum": feature_shards.checksum_if_whole(folder / shard["name"], size, plan)})
    feature_shards.remove_others(folder, shards)
    missing = sum(shard["bytes"] for shard in shards if shard["checksum"] is None)
    files.require_space(folder, missing + 100 * len(utterances) + 1e6, f"Computing features {folder.name}")
    with feature_shards.full_disk_explained(folder):
        with files.atomic_path(folder / "utterances.parquet") as temporary:
            utterances.to_parquet(temporary)
        _compute_missing(folder, shards, corpus, utterances, front_end, settings, plan, frame_bytes, progress)
        files.write_json(folder / "index.json", {
            "format": feature_shards.FORMAT, "corpus": corpus.name, "fingerprint": corpus.fingerprint,
            "settings": settings, "shards": shards,
            "utterances_checksum": files.checksum(folder / "utterances.parquet")})


def compute_utterance(front_end, samples):
    """Frames of one utterance: float16 (frames, num_mels). samples: int16 scale, (samples,)."""
    if isinstance(front_end, KyeFrontEnd):
        return compute_kye(samples, front_end).to(torch.float16).numpy()
    waveform = torch.from_numpy(np.array(samples, np.float32))[None] / 32768
    return front_ends.compute(front_end, waveform)[0].T.contiguous().numpy()


def _compute_missing(folder, shards, corpus, utterances, front_end, settings, plan, frame_bytes, progress):
    """Writes every shard without a checksum, and puts its checksum into the list."""
    from tqdm.auto import tqdm

    done = sum(shard["bytes"] for shard in shards if shard["checksum"]) // frame_bytes
    title = f"features of {corpus.name}, {front_end.name}, {settings['condition']}"
    read, first = _reader(corpus, settings), 0
    empty, frames = np.empty((0, front_end.num_mels), np.float16), utterances["frames"].to_numpy()
    with (tqdm(total=int(frames.sum()), initial=done, desc=title, unit="frame", unit_scale=True, delay=1,
               dynamic_ncols=True, disable=not progress) as bar,
          _threads() as threads):
        for shard in shards:
            rows = np.arange(first, first + shard["utterances"])
            if shard["checksum"] is None:
                computed = _computed(rows, corpus.waveforms.lengths, threads,
                                     lambda row: compute_utterance(front_end, read(row)) if frames[row] else empty)
                shard["checksum"] = feature_shards.write_shard(folder / shard["name"], computed, plan, bar)
            first += shard["utterances"]


@contextmanager
def _threads():
    """As many threads as torch has, each with its own utterances and torch on it alone: a transform of a few seconds
    is too small to be shared, and threads that wait for each other's parts cost more than they bring.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count) as threads:
            yield threads
    finally:
        torch.set_num_threads(count)


def _computed(rows, lengths, threads, compute):
    """Yields compute(row) of each utterance in turn, worked out side by side, those of one length after each other:
    channels keep the filters of the last lengths that they met.
    """
    seconds = np.cumsum(lengths[rows]) / channels.SAMPLE_RATE
    for part in np.split(rows, np.flatnonzero(np.diff(seconds // SECONDS_AT_ONCE)) + 1):
        by_length = part[np.argsort(lengths[part], kind="stable")].tolist()
        found = dict(zip(by_length, threads.map(compute, by_length), strict=True))
        yield from (found[row] for row in part.tolist())


def _reader(corpus, settings):
    """A function of a row: its waveform (samples,) on the scale of int16, through its channel in condition changed."""
    pool = BabblePool(corpus) if settings["channel_family"] == "II" else None
    keys = utterance_keys(corpus.table).tolist() if settings["condition"] == "changed" else None

    def read(row):
        samples = at_speed(corpus.waveforms.read(row).astype(np.float32), settings.get("speed", 1.0))
        if keys is None:
            return samples
        seeds = channels.clip_seeds(settings["channel_seed"], [(keys[row], 0)])
        babble = pool.mix([row], seeds, len(samples)) if pool else None
        waveform = torch.from_numpy(samples / 32768)[None]
        return channels.apply_channels(waveform, seeds, settings["channel_family"], babble)[0].numpy() * 32768

    return read
