"""The manifest of a scraping job: the utterances that survived, with hashes, as a paper can publish it."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data.files import atomic_path
from speakerlib.data.manifests import MANIFEST_COLUMNS
from speakerlib.data.patterns import ID_COLUMNS
from speakerlib.data.voxceleb.ledger import read_ledger

STATES = ("in hand", "missing", "skipped", "lost", "possible")


def write_manifest(output):
    """Writes <output>/manifest.csv, the utterances that are there, and skipped.csv, the others with a reason.

    The manifest (MANIFEST_COLUMNS; seconds of the video, SHA-256 of the int16 little-endian samples) is sorted and
    holds no date or path: two jobs that end with the same audio write the same bytes. Returns its path. Raises
    what read_ledger raises.
    """
    output = Path(output)
    videos, utterances, _ = read_ledger(output)
    table = utterance_states(output, videos, utterances)
    in_hand = table["state"] == "in hand"
    survivors = table.loc[in_hand, MANIFEST_COLUMNS]
    _write_csv(output / "skipped.csv", table.loc[~in_hand, [*ID_COLUMNS, "reason"]])
    _write_csv(output / "manifest.csv", survivors)
    return output / "manifest.csv"


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


def utterance_states(output, videos, utterances):
    """A ledger's utterances, sorted, with their session, state and the reason of what is not in hand.

    videos, utterances: as read_ledger returns them. state, one of STATES: in hand; missing (written once, its file
    is away); skipped (could not be cut); lost (its video is gone); possible (pending, blocked or failed).
    """
    table = utterances.rename(columns={"video": "session"}).sort_values(ID_COLUMNS, ignore_index=True)
    told = videos.set_index("video")
    outcome = table["session"].map(told["outcome"])
    why = table["session"].map(told["reason"])
    skipped, written = table["skipped"], table["sha256"] != ""
    there = written & _files_there(output, table)
    table["state"] = np.select([there, skipped != "", written, outcome == "gone", outcome == "done"],
                               ["in hand", "skipped", "missing", "lost", "missing"], "possible")
    table["reason"] = np.select([there, skipped != "", table["state"] == "missing", why == ""],
                                ["", skipped, "its file is missing", outcome], outcome + ": " + why)
    return table


def _files_there(output, table):
    """Whether each row's file is there: one look into each folder, which is much less than one at each file."""
    from tqdm.auto import tqdm

    folder, names, there = None, (), np.zeros(len(table), bool)
    rows = tqdm(table[ID_COLUMNS].itertuples(index=False, name=None), "looking for the files", len(table), leave=False,
                unit=" utterances", delay=3)  # seconds
    for row, (speaker, session, utterance) in enumerate(rows):
        if (speaker, session) != folder:
            folder = speaker, session
            try:
                names = set(os.listdir(Path(output) / speaker / session))
            except (FileNotFoundError, NotADirectoryError):
                names = ()
        there[row] = f"{utterance}.flac" in names
    return there


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


def _write_csv(path, table):
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def _require(good, path, table, column, expected):
    if not good.all():
        row = good.idxmin()
        raise ValueError(f"{path}, line {row + 2}: {column} is {table.loc[row, column][:80]!r}, expected {expected}. "
                         f"{(~good).sum()} of {len(table)} lines are like it. Mend them, or get the manifest again.")
