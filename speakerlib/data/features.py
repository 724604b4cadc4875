"""Feature shards: a front end's picture of every segment of a corpus, computed once and memory-mapped.

A segment's number is its row in `segment_table`, which depends on the corpus and the segment length alone:
the same number is the same speech in every front end and condition, so that comparisons can be paired.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from speakerlib.data import channels, files, front_ends
from speakerlib.data.feature_shards import FORMAT, build_shards, require_whole, settings_hash

CHECK_BYTES = 2e9  # a store up to this size is read through when it is opened, to find flipped bytes
COPY_THREADS, COPY_BYTES = 4, 4e6  # at most so many threads copy what is read, and each has so much or more of it
COPY_SEGMENTS = 16  # in one go: two threads that ask for the interpreter segment by segment wait for each other
CONDITIONS = ("recorded", "changed")


def segment_table(corpus, segment_seconds):
    """The segments on a non-overlapping grid over each utterance, one row each; what remains is left out.

    Columns: utterance (row in corpus.table), speaker, session, split, start and length (samples),
    speaker_code and session_code (integers; no session code is shared by speakers). Raises ValueError if
    segment_seconds is not a length.
    """
    length = _segment_samples(segment_seconds)
    table = corpus.table
    counts = np.asarray(corpus.waveforms.lengths) // length
    utterance = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(utterance)) - np.repeat(np.cumsum(counts) - counts, counts)
    speaker_code = table.groupby("speaker", sort=True).ngroup().to_numpy()
    session_code = table.groupby(["speaker", "session"], sort=True).ngroup().to_numpy()
    names = {name: table[name].astype(str).array[utterance] for name in ("speaker", "session", "split")}
    return pd.DataFrame({"utterance": utterance, **names, "start": place * length,
                         "length": np.full(len(utterance), length),
                         "speaker_code": speaker_code[utterance], "session_code": session_code[utterance]})


def prepare_features(corpus, front_end="compact", segment_seconds=1.5, condition="recorded", channel_seed=0,
                     channel_family="I", progress=True):
    """The corpus' FeatureStore for these settings, computed where it is missing, torn or of an older corpus.

    Under condition "changed" each segment first goes through a channel of its own, drawn from channel_seed
    and the segment's place. A build that was cut short goes on after its last whole shard; of two processes
    one builds and the other waits. Raises ValueError for a bad setting or if no utterance is as long as a
    segment, OSError if the disk is full.
    """
    front_end = front_ends.front_end(front_end)
    settings = _settings(front_end, segment_seconds, condition, channel_seed, channel_family)
    folder = _folder(corpus.name, settings)
    store = _open_current(folder, settings, corpus)
    if store is None:
        segments = segment_table(corpus, segment_seconds)
        _report_short_utterances(segments, corpus, segment_seconds)
        with files.folder_lock(folder, f"features {folder.name} of {corpus.name}"):
            store = _open_current(folder, settings, corpus)  # built while this process waited?
            if store is None:
                build_shards(folder, settings, corpus, segments, progress)
                store = FeatureStore.open(folder)
    return store


class FeatureStore:
    """The features of a corpus' segments under one front end, segment length and condition, memory-mapped.

    folder, corpus (its name), fingerprint (the corpus'), front_end (FrontEnd), segment_seconds, condition,
    channel_seed and channel_family (None if recorded), num_mels, num_frames, segments (see segment_table).
    """

    @classmethod
    def open(cls, folder, expect=None):
        """Opens a finished folder.

        expect: a dict with any of corpus, front_end (name or FrontEnd), segment_seconds, condition,
        channel_seed, channel_family. Raises ValueError naming both if the folder is of another,
        FileNotFoundError if it is not finished, RuntimeError if it is torn.
        """
        folder = Path(folder)
        if not (folder / "index.json").exists():
            raise FileNotFoundError(f"{folder} holds no finished features: it has no index.json. Run "
                                    "prepare_features for this corpus; it goes on from what is there.")
        store = cls(folder, files.read_json(folder / "index.json"))
        for key, wanted in (expect or {}).items():
            wanted = front_ends.front_end(wanted) if key == "front_end" else wanted
            if getattr(store, key) != wanted:
                raise ValueError(f"{folder} holds features of {key} {_show(getattr(store, key))}; expected "
                                 f"{key} {_show(wanted)}. Run prepare_features with the settings you want.")
        store._map()
        return store

    def __init__(self, folder, index):
        if index.get("format") != FORMAT:
            raise ValueError(f"{folder} has format {index.get('format')}; this version reads {FORMAT}. "
                             "Delete the folder and run prepare_features again.")
        self.folder, self.corpus, self.fingerprint = folder, index["corpus"], index["fingerprint"]
        settings = index["settings"]
        self.front_end = front_ends.FrontEnd(**settings["front_end"])
        self.segment_seconds, self.condition = settings["segment_seconds"], settings["condition"]
        self.channel_seed, self.channel_family = settings["channel_seed"], settings["channel_family"]
        self.num_mels, self.num_frames = self.front_end.num_mels, index["num_frames"]
        self._index = index

    def __reduce__(self):  # a worker process maps the shards anew
        return FeatureStore.open, (self.folder,)

    def __len__(self):
        return self._index["num_segments"]

    def read(self, segment_ids, keep_bytes=False):
        """Normalised features, float32 (n, 1, mels, frames), of integer segment ids (n,), in their order.

        keep_bytes: a store of bytes gives them as they are, uint8, a quarter of the memory and no work; encoders take
        them (see encoders.as_numbers). Other stores give what they always do.
        Raises IndexError for an id that is not a row of `segments`.
        """
        ids = np.asarray(segment_ids)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise ValueError(f"segment_ids are {ids.dtype} of shape {ids.shape}; expected integers (n,).")
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"segment ids from {ids.min()} to {ids.max()}; expected 0 to {len(self) - 1}: "
                             f"the rows of `segments` in {self.folder}.")
        features = torch.from_numpy(self._gather(ids)).transpose(1, 2)
        if not (keep_bytes and features.dtype == torch.uint8 and not self.front_end.mean_normalise):
            features = front_ends.normalise(self.front_end, features)
        return features.unsqueeze(1)

    def _gather(self, ids):
        """What is stored of segments, (n, frames, mels), copied once, straight from the maps."""
        stored = np.empty((len(ids), self.num_frames, self.num_mels), self._index["dtype"])
        shards, places = np.divmod(ids.astype(np.int64), self._index["shard_segments"])
        firsts = np.union1d(np.flatnonzero(np.diff(shards)) + 1, np.arange(0, len(ids), COPY_SEGMENTS))
        runs = sorted(zip(ids[firsts], firsts, [*firsts[1:], len(ids)]))  # of one shard each, in the disk's order

        def copy(part):
            for _, first, last in part:
                np.take(self._shards[shards[first]], places[first:last], axis=0, out=stored[first:last], mode="clip")

        threads = max(1, min(COPY_THREADS, torch.get_num_threads(), int(stored.nbytes // COPY_BYTES)))
        share = max(1, -(-len(runs) // threads))
        with ThreadPoolExecutor(threads) as pool:  # starts a thread for what is submitted only
            others = [pool.submit(copy, runs[first:first + share]) for first in range(share, len(runs), share)]
            copy(runs[:share])
        for other in others:
            other.result()
        return stored

    def _map(self):
        """Reads the segments and maps the shards; RuntimeError if one is not as it was written."""
        require_whole(self.folder / "segments.parquet", None, self._index["segments_checksum"])
        self.segments = pd.read_parquet(self.folder / "segments.parquet")
        self._shards = []
        read_through = sum(shard["bytes"] for shard in self._index["shards"]) <= CHECK_BYTES
        for shard in self._index["shards"]:
            path = self.folder / shard["name"]
            require_whole(path, shard["bytes"], shard["checksum"] if read_through else None)
            flat = np.asarray(np.memmap(path, self._index["dtype"], "r"))
            self._shards.append(flat.reshape(-1, self.num_frames, self.num_mels))


def _settings(front_end, segment_seconds, condition, channel_seed, channel_family):
    """All that a feature folder depends on beside the corpus; a recorded one has no channel."""
    if condition not in CONDITIONS:
        raise ValueError(f"condition={condition!r} is not known; expected one of {list(CONDITIONS)}.")
    if channel_family not in channels.FAMILIES:
        raise ValueError(f"channel_family={channel_family!r} is not known; expected one of "
                         f"{list(channels.FAMILIES)}.")
    _segment_samples(segment_seconds)
    changed = condition == "changed"
    return {"front_end": asdict(front_end), "segment_seconds": float(segment_seconds), "condition": condition,
            "channel_seed": int(channel_seed) if changed else None,
            "channel_family": channel_family if changed else None}


def _segment_samples(segment_seconds):
    number = isinstance(segment_seconds, (int, float, np.number)) and not isinstance(segment_seconds, bool)
    if not number or not 0.1 <= segment_seconds <= 600:
        raise ValueError(f"segment_seconds={segment_seconds!r}; expected seconds, from 0.1 to 600.")
    return round(segment_seconds * channels.SAMPLE_RATE)


def _folder(corpus_name, settings):
    front_end = files.check_name(settings["front_end"]["name"], "front end")
    folder = files.data_folder() / "features" / files.check_name(corpus_name, "corpus")
    version = channels.VERSIONS.get(settings["channel_family"], 1)
    digest = settings_hash(settings, *([version] if version > 1 else []))
    return folder / f"{front_end}-{settings['condition']}-{digest[:8]}"


def _open_current(folder, settings, corpus):
    """The store if it is finished, whole and of this corpus as it is now; None otherwise."""
    if not (folder / "index.json").exists():
        return None
    try:
        store = FeatureStore.open(folder, expect={"corpus": corpus.name, **settings, "front_end":
                                                  front_ends.FrontEnd(**settings["front_end"])})
    except (RuntimeError, FileNotFoundError):  # torn, or being built anew: build_shards says which
        return None
    return store if store.fingerprint == corpus.fingerprint else None


def _show(value):
    if isinstance(value, front_ends.FrontEnd):
        return f"{value.name!r} ({front_ends.identifier(value)})"
    return repr(value)


def _report_short_utterances(segments, corpus, segment_seconds):
    """Says how many utterances give no segment; ValueError if none gives one."""
    seconds = np.asarray(corpus.waveforms.lengths) / channels.SAMPLE_RATE
    if len(segments) == 0:
        longest = f"{seconds.max():.2f} s" if len(seconds) else "none"
        raise ValueError(f"corpus {corpus.name!r} has no utterance of segment_seconds={segment_seconds}; its "
                         f"longest is {longest}. Use shorter segments, or a corpus of longer utterances.")
    short = len(seconds) - segments["utterance"].nunique()
    if short:
        print(f"{corpus.name}: {short} of {len(seconds)} utterances are shorter than {segment_seconds} s and "
              "give no segment.")
