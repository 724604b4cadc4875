"""Features of whole utterances, computed once and memory-mapped: segments of any length are cut from them on read.

An utterance's number is its row in corpus.table, in every front end and condition, as trial lists have it.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from speakerlib.data import channels, feature_shards, files, front_ends
from speakerlib.data.features import CHECK_BYTES, CONDITIONS
from speakerlib.data.kye_front_end import KYE, KyeFrontEnd, num_kye_frames
from speakerlib.data.speeds import samples_at_speed
from speakerlib.data.utterance_shards import build_utterance_shards


def prepare_utterance_features(corpus, front_end="kye", condition="recorded", channel_seed=0, channel_family="I",
                               progress=True, speed=1.0, split=None):
    """The corpus' UtteranceFeatures for these settings, computed where missing, torn or of an older corpus.

    front_end: `kye`, or one of front_ends whose values are logarithms. Under condition "changed" each utterance first
    goes through a channel of its own, drawn from channel_seed and its name. speed: of each utterance (see speeds),
    before any channel. split: utterances of others are left out, and have no frames. A build that was cut short goes on
    after its last whole shard. Raises ValueError for a bad setting or an empty corpus, OSError if the disk is full.
    """
    settings = _settings(utterance_front_end(front_end), condition, channel_seed, channel_family, speed, split)
    if not len(corpus.table):
        raise ValueError(f"corpus {corpus.name!r} has no utterance. Import one that has.")
    folder = _folder(corpus.name, settings)
    store = _open_current(folder, corpus)
    if store is None:
        with files.folder_lock(folder, f"features {folder.name} of {corpus.name}"):
            store = _open_current(folder, corpus)  # built while this process waited?
            if store is None:
                utterances = utterance_table(corpus, utterance_front_end(front_end), speed, split)
                build_utterance_shards(folder, settings, corpus, utterances, utterance_front_end(front_end), progress)
                store = UtteranceFeatures(folder)
    return store


def utterance_front_end(name):
    """The record of that name: KYE, or a FrontEnd; ValueError for one that is only defined on segments."""
    if name == KYE.name or isinstance(name, KyeFrontEnd):
        return KYE if name == KYE.name else name
    names = [KYE.name, *(each for each, record in front_ends.FRONT_ENDS.items() if record.scaling == "log")]
    if not isinstance(name, front_ends.FrontEnd) and name not in front_ends.FRONT_ENDS:
        raise ValueError(f"front_end={name!r} is not known; expected one of {names}.")
    record = front_ends.front_end(name)
    if record.scaling != "log":
        raise ValueError(f"front_end={record.name!r} scales each clip by its own range, and so has no frames of whole "
                         f"utterances; expected one of {names}.")
    return record


def num_utterance_frames(front_end, num_samples):
    """Frames of an utterance of so many samples: an integer, or an array of them."""
    if isinstance(front_end, KyeFrontEnd):
        return num_kye_frames(num_samples, front_end)
    return front_ends.num_frames(front_end, np.asarray(num_samples))


def utterance_table(corpus, front_end, speed=1.0, split=None):
    """One row an utterance of corpus.table, in its order; speed and split: see prepare_utterance_features.

    Columns: utterance (the row), speaker, session, split, speaker_code, session_code (integers), frames (its length).
    """
    table = corpus.table
    names = {name: table[name].astype(str).array for name in ("speaker", "session", "split")}
    frames = num_utterance_frames(front_end, samples_at_speed(corpus.waveforms.lengths, speed)).astype(np.int64)
    if split is not None:
        frames[np.asarray(names["split"]) != split] = 0
    return pd.DataFrame({"utterance": np.arange(len(table)), **names,
                         "speaker_code": table.groupby("speaker", sort=True).ngroup().to_numpy(),
                         "session_code": table.groupby(["speaker", "session"], sort=True).ngroup().to_numpy(),
                         "frames": frames})


class UtteranceFeatures:
    """The frames of a corpus' utterances under one front end and condition, memory-mapped.

    folder, corpus (its name), fingerprint (the corpus'), front_end, condition, channel_seed and channel_family (None if
    recorded), num_mels, utterances (see utterance_table), lengths (frames, one an utterance). Opening raises
    FileNotFoundError if the folder is not finished, RuntimeError if it is torn.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / "index.json").exists():
            raise FileNotFoundError(f"{folder} holds no finished features: it has no index.json. Run "
                                    "prepare_utterance_features for this corpus; it goes on from what is there.")
        index = files.read_json(self.folder / "index.json")
        if index.get("format") != feature_shards.FORMAT or "utterances_checksum" not in index:
            raise RuntimeError(f"{folder} holds no features of whole utterances in format {feature_shards.FORMAT}. "
                               "Delete the folder and run prepare_utterance_features again.")
        settings = index["settings"]
        self.corpus, self.fingerprint, self.condition = index["corpus"], index["fingerprint"], settings["condition"]
        self.channel_seed, self.channel_family = settings["channel_seed"], settings["channel_family"]
        record = settings["front_end"]
        self.front_end = (KyeFrontEnd if "pre_emphasis" in record else front_ends.FrontEnd)(**record)
        self.num_mels = self.front_end.num_mels
        feature_shards.require_whole(self.folder / "utterances.parquet", None, index["utterances_checksum"])
        self.utterances = pd.read_parquet(self.folder / "utterances.parquet")
        self.lengths = self.utterances["frames"].to_numpy()
        self._map(index["shards"])

    def __reduce__(self):  # a worker process maps the shards anew
        return UtteranceFeatures, (self.folder,)

    def __len__(self):
        return len(self.lengths)

    def frames(self, utterance):
        """All frames of an utterance as they are stored: float16 (frames, num_mels), a view of the memory map."""
        if not 0 <= utterance < len(self):
            raise IndexError(f"there is no utterance {utterance}; expected 0 to {len(self) - 1}: the rows of "
                             f"`utterances` in {self.folder}.")
        first = self._first[utterance]
        return self._shards[self._shard[utterance]][first:first + self.lengths[utterance]]

    def segments(self, utterances, starts, length):
        """Segments of `length` frames from `starts`, as the network sees them: float32 (n, 1, num_mels, length).

        utterances, starts: (n,) integers. An utterance shorter than `length` is repeated end to end, as in work B's
        code (see is_short). Each mel's mean over the segment is removed if the front end says so. ValueError for a
        segment that does not lie in its utterance.
        """
        utterances, starts = np.atleast_1d(utterances), np.atleast_1d(starts)
        if utterances.shape != starts.shape or utterances.ndim != 1 or length < 1:
            raise ValueError(f"utterances {utterances.shape}, starts {starts.shape} and length={length!r}; expected "
                             "(n,) twice, and at least one frame.")
        stored = np.empty((len(utterances), int(length), self.num_mels), np.float16)
        for row in np.argsort(utterances, kind="stable"):  # in the disk's order
            found, start = self.frames(int(utterances[row])), int(starts[row])
            if not 0 <= start <= max(len(found) - length, len(found) - 1 if len(found) < length else 0):
                raise ValueError(f"{length} frames from frame {start} of utterance {utterances[row]}, which has "
                                 f"{len(found)}. Draw starts with draw_starts, or use shorter segments.")
            stored[row] = found[start:start + length] if len(found) >= length else _around(found, start, length)
        return self._normalised(torch.from_numpy(stored))

    def whole(self, utterance):
        """An utterance in full, as the network sees it: float32 (1, 1, num_mels, frames)."""
        return self.segments([utterance], [0], self.lengths[utterance])

    def joined(self, groups, length):
        """One segment (1, num_mels, length) a group of utterances, joined end to end in their order and cut.

        groups: n sequences of utterances. A group that is shorter even together is repeated (see is_short).
        """
        stored = np.empty((len(groups), int(length), self.num_mels), np.float16)
        for row, group in enumerate(groups):
            found = np.concatenate([self.frames(int(utterance)) for utterance in group])
            stored[row] = found[:length] if len(found) >= length else _around(found, 0, length)
        return self._normalised(torch.from_numpy(stored))

    def is_short(self, utterances, length):
        """Whether an utterance, or a group of them, is shorter than `length` frames, and so would be repeated: (n,)."""
        return np.array([self.lengths[each].sum() < length for each in utterances], dtype=bool)

    def _normalised(self, stored):
        """(n, frames, mels) -> (n, 1, mels, frames)."""
        values = stored.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        if isinstance(self.front_end, KyeFrontEnd) or self.front_end.mean_normalise:
            values -= values.mean(dim=-1, keepdim=True)
        return values.unsqueeze(1)

    def _map(self, shards):
        """Maps the shards; RuntimeError if one is not as it was written."""
        read_through = sum(shard["bytes"] for shard in shards) <= CHECK_BYTES
        self._shards = []
        for shard in shards:
            path = self.folder / shard["name"]
            feature_shards.require_whole(path, shard["bytes"], shard["checksum"] if read_through else None)
            self._shards.append(np.asarray(np.memmap(path, np.float16, "r")).reshape(-1, self.num_mels))
        counts = [shard["utterances"] for shard in shards]
        self._shard = np.repeat(np.arange(len(shards)), counts)
        ends = np.cumsum(self.lengths)
        base = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)[:-1]])]  # frames before each shard
        self._first = ends - self.lengths - np.repeat(base, counts)


def describe_short(store, utterances, length, what="utterances"):
    """A sentence on how many utterances (or groups) are repeated to reach `length` frames; "" if none is."""
    short = int(store.is_short(utterances, length).sum())
    if not short:
        return ""
    return (f"{short} of {len(utterances)} {what} are shorter than {length / 100:.2f} s and are repeated end to end "
            "to reach it.")


def _around(frames, start, length):
    return frames[(start + np.arange(length)) % len(frames)]


def _settings(front_end, condition, channel_seed, channel_family, speed, split):
    """All that a folder depends on beside the corpus; a recorded one has no channel."""
    if condition not in CONDITIONS:
        raise ValueError(f"condition={condition!r} is not known; expected one of {list(CONDITIONS)}.")
    if channel_family not in channels.FAMILIES:
        raise ValueError(f"channel_family={channel_family!r} is not known; expected one of {list(channels.FAMILIES)}.")
    changed = condition == "changed"
    return {"front_end": asdict(front_end), "unit": "utterance", "condition": condition,
            "channel_seed": int(channel_seed) if changed else None,
            "channel_family": channel_family if changed else None,
            **({} if speed == 1 else {"speed": float(speed)}), **({} if split is None else {"split": split})}


def _folder(corpus_name, settings):
    front_end = files.check_name(settings["front_end"]["name"], "front end")
    folder = files.data_folder() / "features" / files.check_name(corpus_name, "corpus")
    version = channels.VERSIONS.get(settings["channel_family"], 1)
    digest = feature_shards.settings_hash(settings, *([version] if version > 1 else []))
    return folder / f"{front_end}-{settings['condition']}-utterances-{digest[:8]}"


def _open_current(folder, corpus):
    """The store if it is finished, whole and of this corpus as it is now; None otherwise."""
    if not (folder / "index.json").exists():
        return None
    try:
        store = UtteranceFeatures(folder)
    except (RuntimeError, FileNotFoundError):  # torn, or being built anew: the build says which
        return None
    return store if store.fingerprint == corpus.fingerprint else None
