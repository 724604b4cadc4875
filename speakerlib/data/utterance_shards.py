"""Builds the shards of utterance features: whole utterances end to end, (frames, mels) in float16, the index last."""

import numpy as np
import torch

from speakerlib.data import channels, feature_shards, files, front_ends
from speakerlib.data.babble import BabblePool
from speakerlib.data.kye_front_end import KyeFrontEnd, compute_kye


def build_utterance_shards(folder, settings, corpus, utterances, front_end, progress):
    """Computes the shards that are not whole, then writes the index. Call with the folder's lock held.

    utterances: see utterance_table. A shard ends with the utterance that fills SHARD_BYTES.
    """
    frame_bytes = front_end.num_mels * np.dtype(np.float16).itemsize
    frames = utterances["frames"].to_numpy()
    shard_bytes = max(feature_shards.SHARD_BYTES, frames.sum() * frame_bytes / feature_shards.MAX_SHARDS)
    place = ((np.cumsum(frames) - frames) * frame_bytes // shard_bytes).astype(np.int64)  # of its first byte
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
        _compute_missing(folder, shards, corpus, front_end, settings, plan, int(frames.sum()), frame_bytes, progress)
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


def _compute_missing(folder, shards, corpus, front_end, settings, plan, total, frame_bytes, progress):
    """Writes every shard without a checksum, and puts its checksum into the list."""
    from tqdm.auto import tqdm

    done = sum(shard["bytes"] for shard in shards if shard["checksum"]) // frame_bytes
    title = f"features of {corpus.name}, {front_end.name}, {settings['condition']}"
    pool = BabblePool(corpus) if settings["channel_family"] == "II" else None
    first = 0
    with tqdm(total=total, initial=done, desc=title, unit="frame", unit_scale=True, delay=1,
              disable=not progress) as bar:
        for shard in shards:
            if shard["checksum"] is None:
                rows = range(first, first + shard["utterances"])
                computed = (compute_utterance(front_end, _samples(corpus, row, settings, pool)) for row in rows)
                shard["checksum"] = feature_shards.write_shard(folder / shard["name"], computed, plan, bar)
            first += shard["utterances"]


def _samples(corpus, row, settings, pool):
    """The waveform of an utterance on the scale of int16, through its channel if the condition says so: (samples,)."""
    samples = corpus.waveforms.read(row).astype(np.float32)
    if settings["condition"] == "recorded":
        return samples
    named = corpus.table.iloc[row]
    key = f"{named['speaker']}/{named['session']}/{named['utterance']}"
    seeds = channels.clip_seeds(settings["channel_seed"], [(key, 0)])
    babble = pool.mix([row], seeds, len(samples)) if pool else None
    waveform = torch.from_numpy(samples / 32768)[None]
    return channels.apply_channels(waveform, seeds, settings["channel_family"], babble)[0].numpy() * 32768
