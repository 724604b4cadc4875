"""Seconds and memory of what the workbook does with a table as large as VoxCeleb2's: synthetic metadata, no audio.

    python tests/benchmarks/scale.py            1.1 million utterances of 6,112 speakers
    python tests/benchmarks/scale.py --small    a ten-thousandth of it, in a second or two

Each step runs in a process of its own, forked off one that has done nothing but its imports. `seconds` is the step
alone; `peak MB` is the most that its process held at any time, imports and the step's inputs included.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data import corpora, files
from speakerlib.data.episodes import EpisodeSampler
from speakerlib.data.features import segment_table
from speakerlib.data.manifests import read_manifest, restrict_to_manifest
from speakerlib.data.patterns import ID_COLUMNS, make_table
from speakerlib.data.scraping.ledger import open_ledger, read_ledger
from speakerlib.data.scraping.url_lists import list_digest
from speakerlib.data.splits import assign_splits, folder_splits
from speakerlib.data.trials import match_trials, read_trials
from speakerlib.data.waveform_shards import shard_path

SPEAKERS, SESSIONS, UTTERANCES = 6112, 150_480, 1_128_246  # VoxCeleb2, dev and test
SECONDS, SHORTEST = 7.8, 4.0  # an utterance's mean and least
SHARD = 1000  # utterances
NAME = "scale"


def main(arguments=None):
    """Prints a table of the steps, and returns it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a ten-thousandth of the size")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table as Markdown, too")
    parser.add_argument("--only", default="", metavar="TEXT", help="the steps whose names hold this")
    options = parser.parse_args(arguments)
    share = 10_000 if options.small else 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEAKERLIB_DATA"] = folder
        run(make, Path(folder), share)
        rows = {name: run(step, Path(folder), share) for name, step in STEPS.items() if options.only in name}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["seconds", "peak MB"]).round({"seconds": 2})
    table["peak MB"] = table["peak MB"].astype(int)
    table.index.name = f"{UTTERANCES:,} utterances" + (f", all divided by {share:,}" if share > 1 else "")
    print(table.reset_index().to_string(index=False))
    if options.output:
        options.output.write_text(_markdown(table), encoding="utf-8")
    return table


def _markdown(table):
    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}, " \
              f"pandas {pd.__version__}"
    rows = [f"| {name} | {seconds:.2f} | {peak:,} |" for name, seconds, peak in table.itertuples()]
    return "\n".join([f"# {__doc__.splitlines()[0]}", "", f"`python tests/benchmarks/scale.py`, {machine}. "
                      "Each step in a process of its own; the peak is the whole process', imports included.", "",
                      f"| {table.index.name} | seconds | peak MB |", "| --- | ---: | ---: |", *rows, ""])


def run(step, folder, share):
    """(seconds, peak megabytes) of step(folder, share, clock) in a forked process; RuntimeError if it fails."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(step, folder, share, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"the step {step.__name__} failed; see above") from None
    finally:
        process.join()


def _run(step, folder, share, pipe):
    clock = Clock()
    step(folder, share, clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send((clock.seconds, peak / (1e6 if sys.platform == "darwin" else 1024)))


class Clock:
    """Adds up the seconds of its `with` blocks."""

    seconds = 0.0

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self.start


# The material: a corpus' table, sparse files in place of its shards, a manifest, a list of trials


def make(folder, share, clock):
    """Writes a corpus of realistic counts and lengths to the data folder, without a sample of audio."""
    random = np.random.default_rng(0)
    num_speakers, num_sessions, num_utterances = (
        max(least, count // share) for least, count in ((20, SPEAKERS), (40, SESSIONS), (300, UTTERANCES)))
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
    home = folder / "corpora" / NAME
    (home / "waveforms").mkdir(parents=True)
    table.to_parquet(home / "corpus.parquet", index=False)
    shards = [lengths[first:first + SHARD].tolist() for first in range(0, len(lengths), SHARD)]
    for place, shard in enumerate(shards):
        with open(shard_path(home / "waveforms", place), "wb") as file:
            file.truncate(2 * sum(shard))
    files.write_json(home / "waveforms" / "index.json", {
        "version": 1, "sample_rate": 16000, "fingerprint": NAME,
        "shards": [{"lengths": shard, "checksum": f"{zlib.crc32(bytes(2 * sum(shard))) if share > 1 else 0:08x}"}
                   for shard in shards]})  # of a corpus of full size, they are not read
    files.write_json(home / "corpus.json", {"version": corpora.VERSION, "synthetic": True, "waveforms": NAME})
    (home / "skipped.csv").write_text("path,reason\n")
    manifest = table[ID_COLUMNS].assign(start=0.0, end=table["duration"], num_samples=lengths, sha256="0" * 64)
    manifest[random.random(len(table)) < 0.9].to_csv(folder / "manifest.csv", index=False)
    some = random.permutation(len(table))[:max(10, 145_000 // share)]  # as many as VoxCeleb1-E has
    pairs = random.choice(some, size=(2, max(10, 580_000 // share)))
    pairs[1, ::2] = pairs[0, ::2]  # half of them targets
    names = (table["speaker"] + "/" + table["session"] + "/" + table["utterance"] + ".wav").to_numpy()
    same = np.equal(*table["speaker"].to_numpy()[pairs]).astype(int)
    pd.DataFrame({"label": same, "enrolment": names[pairs[0]], "test": names[pairs[1]]}).to_csv(
        folder / "trials.txt", sep=" ", header=False, index=False)


# The steps


def nothing(folder, share, clock):
    with clock:
        pass


def write_table(folder, share, clock):
    table = corpora.open_corpus(NAME).table
    with clock:
        table.to_parquet(folder / "written.parquet", index=False)


def open_it(folder, share, clock):
    with clock:
        corpora.open_corpus(NAME)


def check_names(folder, share, clock):
    table = corpora.open_corpus(NAME).table
    rows = list(zip(*(table[name] for name in [*ID_COLUMNS, "path"]), strict=True))
    with clock:
        make_table(rows, Path("/speech/vox2"), "{speaker}/{session}/{utterance}.m4a")


def draw_splits(folder, share, clock):
    table = corpora.open_corpus(NAME).table
    with clock:
        assign_splits(table)


def read_splits(folder, share, clock):
    table = corpora.open_corpus(NAME).table
    listed = table[["speaker", "split"]].drop_duplicates()
    listed.to_csv(folder / "split.csv", index=False)
    with clock:
        assign_splits(table, split_file=folder / "split.csv")


def split_by_folders(folder, share, clock):
    table = corpora.open_corpus(NAME).table
    with clock:
        folder_splits(table, Path("/speech/vox2"))


def take_fingerprint(folder, share, clock):
    corpus = corpora.open_corpus(NAME)
    with clock:
        corpus.fingerprint


def count(folder, share, clock):
    corpus = corpora.open_corpus(NAME)
    with clock:
        corpora.summary(corpus)


def make_segments(folder, share, clock):
    corpus = corpora.open_corpus(NAME)
    with clock:
        segment_table(corpus, 3.0)


def _segments():
    segments = segment_table(corpora.open_corpus(NAME), 3.0)
    return segments[segments["split"] == "train"]


def make_sampler(folder, share, clock):
    segments = _segments()
    with clock:
        EpisodeSampler(segments, 2, 1, 1, "session")


def _draw(num_way, num_support, num_query, batch_size):
    def draw(folder, share, clock):
        way = num_way if share == 1 else 2
        sampler = EpisodeSampler(_segments(), way, num_support, num_query, "utterance")
        with clock:
            for step in range(max(1, 10_000 // share // batch_size)):
                sampler.draw(step, batch_size)
    return draw


def read_and_match(folder, share, clock):
    corpus = corpora.open_corpus(NAME)
    with clock:
        match_trials(read_trials(folder / "trials.txt"), corpus)


def restrict(folder, share, clock):
    table = corpora.open_corpus(NAME).table
    with clock:
        restrict_to_manifest(table, read_manifest(folder / "manifest.csv"), NAME)


def _url_list():
    table = corpora.open_corpus(NAME).table.rename(columns={"session": "video", "duration": "end"})
    return table[["speaker", "video", "utterance", "start", "end"]]


def digest_list(folder, share, clock):
    utterances = _url_list()
    with clock:
        list_digest(utterances)


def make_ledger(folder, share, clock):
    utterances = _url_list()
    with clock:
        open_ledger(folder / "scraped", utterances).close()


def open_old_ledger(folder, share, clock):
    utterances = _url_list()
    with clock:
        open_ledger(folder / "scraped", utterances).close()


def report_ledger(folder, share, clock):
    with clock:
        read_ledger(folder / "scraped")


STEPS = {
    "imports alone": nothing,
    "write the table": write_table,
    "open the corpus": open_it,
    "sort and check a scan's names": check_names,
    "splits drawn by seed": draw_splits,
    "splits from a file": read_splits,
    "splits from dev/ and test/": split_by_folders,
    "fingerprint": take_fingerprint,
    "summary": count,
    "segments of 3 s": make_segments,
    "episode sampler, indexed": make_sampler,
    "10,000 episodes, 5-way 5-shot 15-query, 4 a step": _draw(5, 5, 15, 4),
    "10,000 episodes, 5-way 5-shot 15-query, 100 at once": _draw(5, 5, 15, 100),
    "10,000 episodes, 100-way 1-shot 2-query, 1 a step": _draw(100, 1, 2, 1),
    "580,000 trials read and matched": read_and_match,
    "manifest read, corpus restricted": restrict,
    "digest of the URL list": digest_list,
    "ledger made": make_ledger,
    "ledger opened": open_old_ledger,
    "ledger read": report_ledger,
}

if __name__ == "__main__":
    main()
