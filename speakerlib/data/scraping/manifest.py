"""What became of each utterance of a scraping job, and the manifest of those that survived."""

import os
from pathlib import Path

import numpy as np

from speakerlib.data.files import write_table
from speakerlib.data.manifests import MANIFEST_COLUMNS
from speakerlib.data.patterns import ID_COLUMNS
from speakerlib.data.scraping.ledger import read_ledger

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
    write_table(output / "skipped.csv", table.loc[~in_hand, [*ID_COLUMNS, "reason"]])
    write_table(output / "manifest.csv", survivors)
    return output / "manifest.csv"


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
