"""Seconds and memory of what the workbook does with a table as large as VoxCeleb2's: synthetic metadata, no audio.

    python tests/benchmarks/scale.py            1.1 million utterances of 6,112 speakers
    python tests/benchmarks/scale.py --small    a ten-thousandth of it, in a second or two

Each step runs in a process of its own, forked off one that has done nothing but its imports. `seconds` is the step
alone; `peak MB` is the most that its process held at any time, imports and the step's inputs included.
"""

import argparse
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sparse_corpora import SESSIONS, SPEAKERS, UTTERANCES, put_section, run, write_corpus
from sparse_corpora import make_table as made_table

from speakerlib.data import corpora
from speakerlib.data.episodes import EpisodeSampler
from speakerlib.data.features import segment_table
from speakerlib.data.manifests import read_manifest, restrict_to_manifest
from speakerlib.data.patterns import ID_COLUMNS, make_table
from speakerlib.data.scraping.ledger import open_ledger, read_ledger
from speakerlib.data.scraping.url_lists import list_digest
from speakerlib.data.splits import assign_splits, folder_splits
from speakerlib.data.trials import match_trials, read_trials

NAME = "scale"


def main(arguments=None):
    """Prints a table of the steps, and returns it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a ten-thousandth of the size")
    parser.add_argument("--output", type=Path, metavar="FILE", help="put the table into this file of Markdown, too")
    parser.add_argument("--only", default="", metavar="TEXT", help="the steps whose names hold this")
    options = parser.parse_args(arguments)
    share = 10_000 if options.small else 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEAKERLIB_DATA"] = folder
        run(make, Path(folder), share)
        rows = {name: run(step, Path(folder), share)[::2] for name, step in STEPS.items() if options.only in name}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["seconds", "peak MB"]).round({"seconds": 2})
    table["peak MB"] = table["peak MB"].astype(int)
    table.index.name = f"{UTTERANCES:,} utterances" + (f", all divided by {share:,}" if share > 1 else "")
    print(table.reset_index().to_string(index=False))
    if options.output:
        put_section(options.output, _markdown(table))
    return table


def _markdown(table):
    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}, " \
              f"pandas {pd.__version__}"
    rows = [f"| {name} | {seconds:.2f} | {peak:,} |" for name, seconds, peak in table.itertuples()]
    return "\n".join([f"# {__doc__.splitlines()[0]}", "", f"`python tests/benchmarks/scale.py`, {machine}. "
                      "Each step in a process of its own; the peak is the whole process', imports included.", "",
                      f"| {table.index.name} | seconds | peak MB |", "| --- | ---: | ---: |", *rows, ""])


def make(folder, share, clock):
    """Writes a corpus of realistic counts and lengths to the data folder, a manifest and a list of trials."""
    random = np.random.default_rng(0)
    table, lengths = made_table(*(max(least, count // share) for least, count in (
        (20, SPEAKERS), (40, SESSIONS), (300, UTTERANCES))), random)
    write_corpus(NAME, table, lengths)
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
