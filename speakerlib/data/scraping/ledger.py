"""The ledger of a scraping job: what came of each video and each utterance, in one SQLite file beside the audio."""

import os
import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from speakerlib.data.files import atomic_path, remove_leftovers
from speakerlib.data.scraping.outcomes import DOUBTFUL
from speakerlib.data.scraping.url_lists import check_utterances, list_digest

LEDGER = "ledger.sqlite"
VERSION = 1  # of the tables below: raise it when older ledgers cannot be read any more
WAIT = 30.0  # seconds that a reader and the job wait for each other
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE videos (
    video TEXT PRIMARY KEY, outcome TEXT CHECK (outcome IN ('done', 'gone', 'blocked', 'failed')),
    reason TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0, num_bytes INTEGER NOT NULL DEFAULT 0, audio_seconds REAL NOT NULL DEFAULT 0,
    updated REAL NOT NULL DEFAULT 0);
CREATE TABLE utterances (
    speaker TEXT, video TEXT, utterance TEXT, start REAL NOT NULL, "end" REAL NOT NULL,
    num_samples INTEGER NOT NULL DEFAULT 0, sha256 TEXT NOT NULL DEFAULT '', skipped TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (video, speaker, utterance)) WITHOUT ROWID;
"""


class State(NamedTuple):
    """What the ledger holds of one video; outcome None: it was not asked yet."""

    outcome: str | None
    num_utterances: int  # written
    num_samples: int  # of these, at 16 kHz
    num_bytes: int  # downloaded

    @classmethod
    def after(cls, fetched):
        """The state that a result leaves."""
        written = [num_samples for _, _, num_samples, _, skipped in fetched.utterances if not skipped]
        return cls(fetched.outcome, len(written), sum(written), fetched.num_bytes)


def open_ledger(output, utterances=None):
    """Opens the ledger in the folder `output`; with a table of utterances, makes it if the folder is empty.

    utterances: speaker, video, utterance, start, end (seconds), as read_url_lists returns them. Call it with the
    folder locked against other jobs. Raises FileNotFoundError if there is no ledger and no table; ValueError if the
    folder belongs to another list or to something else, or the ledger is damaged; OSError if it cannot be written.
    """
    output = Path(output)
    path = output / LEDGER
    if utterances is not None and not path.exists():
        _check_empty(output)
        with _explained(path):
            output.mkdir(parents=True, exist_ok=True)
            remove_leftovers(output)
            _make(path, utterances)
    ledger = Ledger(path)
    if utterances is not None and ledger.meta["list"] != list_digest(utterances):
        meta, videos = ledger.meta, utterances["video"].nunique()
        ledger.close()
        raise ValueError(f"{output} belongs to another list: its ledger holds {meta['num_utterances']} utterances of "
                         f"{meta['num_videos']} videos, this list has {len(utterances)} of {videos} and is not the "
                         "same. Give each list an output folder of its own, or go on with the list it was begun with.")
    return ledger


def read_ledger(output):
    """(videos, utterances, meta) of the job in `output`: two DataFrames and a dict, also while the job runs.

    videos: video, outcome ("pending" if not asked yet), reason, message, tries, seconds, num_bytes, audio_seconds,
    updated (seconds since 1970; 0: never). utterances: speaker, video, utterance, start, end, num_samples, sha256,
    skipped; num_samples is 0 and sha256 empty for what is not written, or may just be being written anew.
    Raises what open_ledger raises.
    """
    with closing(Ledger(Path(output) / LEDGER)) as ledger, ledger.transaction("BEGIN") as connection:
        videos = pd.read_sql_query("SELECT * FROM videos ORDER BY rowid", connection)
        utterances = pd.read_sql_query(
            'SELECT speaker, video, utterance, start, "end", iif(outcome = \'done\', num_samples, 0) AS num_samples, '
            "iif(outcome = 'done', sha256, '') AS sha256, iif(outcome = 'done', skipped, '') AS skipped "
            "FROM utterances JOIN videos USING (video) ORDER BY speaker, video, utterance", connection)
    videos["outcome"] = videos["outcome"].fillna("pending").astype(str)
    return videos, utterances, ledger.meta


class Ledger:
    """An open ledger. Only the process that drives the job writes to it."""

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no ledger {self.path}: expected the output folder of a scraping job.")
        with _explained(self.path):
            self._connection = _connect(self.path)
            try:
                self.meta = dict(self._connection.execute("SELECT key, value FROM meta"))
            except sqlite3.DatabaseError:
                self.close()
                raise
        if self.meta.get("version") != str(VERSION):
            self.close()
            raise ValueError(f"{self.path} is a ledger of version {self.meta.get('version')}, expected {VERSION}. "
                             "Scrape into a new folder, or use the version of speakerlib that wrote it.")

    def close(self):
        self._connection.close()

    def waiting(self, everything=False):
        """The videos to ask: those never asked in the list's order, then the failed, then the blocked, oldest first.

        So a job goes on where it was, and videos that are refused each time cannot hold up the others. What was said
        to be gone for a DOUBTFUL reason is asked a second time, with the failed.
        """
        doubtful = ", ".join(f"'{reason}'" for reason in sorted(DOUBTFUL))
        which = "" if everything else (f"WHERE outcome IS NULL OR outcome IN ('failed', 'blocked') "
                                       f"OR outcome = 'gone' AND reason IN ({doubtful}) AND tries < 2")
        order = "outcome IS NOT NULL, outcome = 'blocked', updated, rowid"
        with self.transaction("BEGIN") as connection:
            return [video for video, in connection.execute(
                f"SELECT video FROM videos {which} ORDER BY {'rowid' if everything else order}")]

    def states(self):
        """{video: State} of all videos: read once, at the start of a job."""
        with self.transaction("BEGIN") as connection:
            return {video: State(*values) for video, *values in connection.execute(
                "SELECT video, outcome, sum(sha256 != '' AND outcome IS 'done'), "
                "sum(iif(outcome = 'done', num_samples, 0)), num_bytes "
                "FROM videos JOIN utterances USING (video) GROUP BY video")}

    def spans(self, video):
        """The video's utterances: a list of (speaker, utterance, start, end), seconds."""
        with self.transaction("BEGIN") as connection:
            return list(connection.execute('SELECT speaker, utterance, start, "end" FROM utterances WHERE video = ?',
                                           (video,)))

    def record(self, fetched):
        """Writes what came of a video, and of its utterances, in one transaction."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE videos SET outcome = ?, reason = ?, message = ?, tries = tries + 1, seconds = ?, "
                "num_bytes = ?, audio_seconds = ?, updated = ? WHERE video = ?",
                (fetched.outcome, fetched.reason, fetched.message, fetched.seconds, fetched.num_bytes,
                 fetched.audio_seconds, time.time(), fetched.video))
            connection.executemany(
                "UPDATE utterances SET num_samples = ?, sha256 = ?, skipped = ? "
                "WHERE video = ? AND speaker = ? AND utterance = ?",
                [(num_samples, "" if skipped else sha256, skipped, fetched.video, speaker, utterance)
                 for speaker, utterance, num_samples, sha256, skipped in fetched.utterances])

    def set_done(self, video, done):
        """Whether the video's utterances are in hand, as the ledger has them, or may be being replaced."""
        with self.transaction() as connection:
            connection.execute("UPDATE videos SET outcome = ? WHERE video = ?", ("done" if done else None, video))

    def forget_missing(self):
        """Makes videos pending again that are done but lack a file in the ledger's folder; returns how many."""
        with self.transaction() as connection:
            written = connection.execute("SELECT video, speaker, utterance FROM utterances JOIN videos USING (video) "
                                         "WHERE outcome = 'done' AND sha256 != ''")
            missing = {video for video, speaker, utterance in written
                       if not _has_bytes(f"{self.path.parent}/{speaker}/{video}/{utterance}.flac")}
            connection.executemany("UPDATE videos SET outcome = NULL WHERE video = ?", [(video,) for video in missing])
        return len(missing)

    def trust_unchanged(self, digest):
        """Makes videos done again whose files were about to be replaced, if digest(path) finds all as recorded.

        digest returns the SHA-256 of a file's samples, or "".
        """
        with self.transaction("BEGIN") as connection:
            written = connection.execute("SELECT video, speaker, utterance, sha256 FROM utterances JOIN videos "
                                         "USING (video) WHERE outcome IS NULL AND sha256 != ''").fetchall()
        changed = set()
        for video, speaker, utterance, sha256 in written:
            if video not in changed and digest(self.path.parent / speaker / video / f"{utterance}.flac") != sha256:
                changed.add(video)
        for video in {video for video, *_ in written} - changed:
            self.set_done(video, True)

    @contextmanager
    def transaction(self, begin="BEGIN IMMEDIATE"):
        """All of the block's statements or none; a full or read-only disk is an OSError."""
        with _explained(self.path):
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _make(path, utterances):
    """Writes a new ledger, whole or not at all."""
    check_utterances(utterances)
    if not len(utterances):
        raise ValueError("the table holds no utterances: there is nothing to scrape.")
    videos = utterances["video"].drop_duplicates()
    meta = {"version": VERSION, "list": list_digest(utterances), "num_videos": len(videos),
            "num_utterances": len(utterances)}
    columns = utterances[["video", "speaker", "utterance", "start", "end"]].sort_values(
        ["video", "speaker", "utterance"])
    with atomic_path(path) as temporary:
        connection = sqlite3.connect(temporary, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA synchronous = OFF")  # nobody sees it before it is whole
            connection.executescript(_TABLES)
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", [(key, str(meta[key])) for key in meta])
            connection.executemany("INSERT INTO videos (video) VALUES (?)", [(video,) for video in videos])
            connection.executemany('INSERT INTO utterances (video, speaker, utterance, start, "end") '
                                   "VALUES (?, ?, ?, ?, ?)", zip(*(columns[name].tolist() for name in columns)))
            connection.execute("COMMIT")


def _connect(path):
    """A connection that can roll back what a killed job left; where the folder is read-only, one that only reads."""
    mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT, isolation_level=None)


def _check_empty(output):
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; expected a folder for the utterances.")
    names = sorted(name for name in os.listdir(output) if not name.startswith(".")) if output.exists() else []
    if names:
        raise ValueError(f"{output} holds files but no ledger, such as {names[0]!r}: it is not the output of a "
                         "scraping job. Give a new or an empty folder.")


def _has_bytes(path):
    try:
        return os.stat(path).st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def _explained(path):
    """Turns SQLite's errors into OSError (the disk, the permissions) and ValueError (damage), with what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "no such column" in str(error):
            raise ValueError(_damaged(path, error)) from error
        raise OSError(f"the ledger {path} cannot be used: {error}. What is recorded there stays. Check that the disk "
                      "is not full, that you may write to the folder and that no other program holds the file; then "
                      "run the same command again.") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path, error):
    return (f"{path} is no ledger of a scraping job, or is damaged ({error}). Put back a copy of it, or scrape into a "
            "new folder.")
