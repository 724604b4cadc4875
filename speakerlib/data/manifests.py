"""Manifests: a csv of utterances and their samples' hashes, so that a corpus can be published and had again exactly."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data.files import write_table
from speakerlib.data.patterns import ID_COLUMNS, utterance_keys

MANIFEST_COLUMNS = [*ID_COLUMNS, "start", "end", "num_samples", "sha256"]


def read_manifest(path):
    """A manifest as a DataFrame of MANIFEST_COLUMNS, in the order of its lines.

    Raises FileNotFoundError, or ValueError, with the line, if a column, a name, a number or a hash is missing or
    is not what it should be, or an utterance is there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no manifest {path}: expected the manifest.csv of a scraping job.")
    table = _read_csv(path)
    if absent := [name for name in MANIFEST_COLUMNS if name not in table.columns]:
        raise ValueError(f"{path} lacks {', '.join(absent)}: its first line is {','.join(table.columns)[:200]!r}, "
                         f"expected {','.join(MANIFEST_COLUMNS)}.")
    table = table.loc[(table != "").any(axis=1), MANIFEST_COLUMNS]  # no blank lines; the index still counts them
    start, end = (pd.to_numeric(table[name], errors="coerce") for name in ("start", "end"))
    for name in ID_COLUMNS:  # names are only compared, and yet none may lead out of a folder
        good = table[name].str.fullmatch(r"(?!\.+$)[^/\\\x00-\x1f\x7f]{1,200}")
        _require(good, path, table, name, "a name without slashes")
    _require((start >= 0) & np.isfinite(start), path, table, "start", "seconds, 0 or more")
    _require((end > start) & np.isfinite(end), path, table, "end", "seconds, more than the start")
    whole = table["num_samples"].str.fullmatch("[1-9][0-9]{0,11}")
    _require(whole, path, table, "num_samples", "a whole number above 0")
    _require(table["sha256"].str.fullmatch("[0-9a-f]{64}"), path, table, "sha256", "64 digits of 0-9 and a-f")
    _require(~table.duplicated(ID_COLUMNS), path, table, "utterance", "each utterance once, not twice")
    table = table.assign(start=start, end=end, num_samples=table["num_samples"].astype("int64"))
    return table.reset_index(drop=True)


def write_corpus_manifest(corpus, path):
    """Writes the manifest of a corpus: MANIFEST_COLUMNS, sorted by their names; returns how many utterances.

    start and end are seconds of the file that the utterance was read from; sha256 is that of its 16 kHz mono int16
    little-endian samples. import_corpus(..., manifest=path) makes the same corpus of the same audio.
    """
    table = corpus.table
    listed = table[ID_COLUMNS].assign(start=table["start"], end=(table["start"] + table["duration"]).round(6),
                                      num_samples=corpus.waveforms.lengths,
                                      sha256=_hashes(corpus.waveforms, range(len(table)), progress=True))
    write_table(path, listed.sort_values(ID_COLUMNS)[MANIFEST_COLUMNS])
    return len(listed)


def restrict_to_manifest(found, wanted, name, partial=False):
    """The rows of a scan's table that a manifest (see read_manifest) names; the others are counted.

    Raises ValueError if utterances of the manifest are absent, unless partial, and if all are.
    """
    if not len(wanted):
        raise ValueError(f"corpus {name!r}: its manifest lists no utterance.")
    rows = pd.Index(utterance_keys(found)).get_indexer(utterance_keys(wanted))
    listed = np.isin(np.arange(len(found)), rows)
    if len(others := found[~listed]):
        print(f"corpus {name!r}: {len(others):,} of {len(found):,} files are not in the manifest and are left out, "
              f"such as {others['path'].iloc[0]}.")
    absent = wanted[rows < 0]
    if len(absent) == len(wanted) or (len(absent) and not partial):
        raise ValueError(_refusal(name, wanted, absent[ID_COLUMNS].assign(reason="absent")))
    return found[listed].reset_index(drop=True)


def compare_with_manifest(table, waveforms, unusable, wanted, name, partial=False, progress=True):
    """What a manifest lists and a corpus does not have: ID_COLUMNS and reason (absent, unusable, other samples).

    table: the corpus' rows, row i being utterance i of waveforms; unusable: ID_COLUMNS and reason of the files that
    were skipped. Utterances of other samples stay in the corpus. Raises ValueError if there is any, unless partial
    (then the counts are printed), and if nothing of the manifest remains.
    """
    rows = pd.Index(utterance_keys(table)).get_indexer(utterance_keys(wanted))
    reason = pd.Series("", index=wanted.index, dtype="str")
    why = pd.Series("unusable: " + unusable["reason"].to_numpy(), index=utterance_keys(unusable), dtype="str")
    reason[rows < 0] = utterance_keys(wanted)[rows < 0].map(why).fillna("absent").to_numpy()
    hashes = _hashes(waveforms, rows[rows >= 0], progress)
    reason[rows >= 0] = ["" if ours == theirs else "other samples"
                         for ours, theirs in zip(hashes, wanted["sha256"][rows >= 0], strict=True)]
    lacking = wanted[ID_COLUMNS].assign(reason=reason)[reason != ""].reset_index(drop=True)
    if len(lacking) and (not partial or not (rows >= 0).any()):
        raise ValueError(_refusal(name, wanted, lacking))
    if len(lacking):
        print(f"corpus {name!r} is a part of its manifest: of {len(wanted):,} utterances, {_counts(lacking)}.")
    return lacking


def manifest_digest(wanted):
    """Hexadecimal digits that change when an utterance or a hash of the manifest does, not with its line order."""
    lines = sorted(utterance_keys(wanted) + "\t" + wanted["sha256"])
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def _hashes(waveforms, rows, progress):
    """SHA-256 of the samples of each row, in hexadecimal digits."""
    from tqdm.auto import tqdm

    return [hashlib.sha256(waveforms.read(row)).hexdigest()
            for row in tqdm(rows, "Hashing", unit="utterance", disable=not progress)]


def _refusal(name, wanted, lacking):
    examples = ", ".join(f"{key} ({reason})" for key, reason in
                         zip(utterance_keys(lacking)[:3], lacking["reason"][:3], strict=True))
    return (f"corpus {name!r} is not what its manifest lists: of {len(wanted):,} utterances, {_counts(lacking)}, such "
            f"as {examples}. Nothing that was imported before has been replaced. Get the audio that the manifest was "
            "made of, or give partial=True (--partial) to go on with what is there, and say so with the results.")


def _counts(lacking):
    kinds = lacking["reason"].str.split(":").str[0].value_counts()
    words = {"absent": "are absent", "unusable": "cannot be used", "other samples": "have other samples"}
    return " and ".join(f"{count:,} {words[kind]}" for kind, count in kinds.items())


def _read_csv(path):
    """Every field as text; ValueError for what is no CSV file, or has lines longer than the first."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", index_col=False,
                               skip_blank_lines=False).fillna("")
    except (ValueError, pd.errors.ParserWarning) as error:  # UnicodeDecodeError and pandas' own are ValueErrors
        raise ValueError(f"{path} cannot be read as a manifest: {error}. Expected a CSV file in UTF-8 with the "
                         f"columns {','.join(MANIFEST_COLUMNS)}.") from error


def _require(good, path, table, column, expected):
    if not good.all():
        row = good.idxmin()
        raise ValueError(f"{path}, line {row + 2}: {column} is {table.loc[row, column][:80]!r}, expected {expected}. "
                         f"{(~good).sum()} of {len(table)} lines are like it. Mend them, or get the manifest again.")
