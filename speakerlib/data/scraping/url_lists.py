"""Reads VoxCeleb's URL and timestamp files, txt/<speaker>/<video>/<utterance>.txt, into one table, once."""

import hashlib
import os
import re
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data.files import data_folder, write_table
from speakerlib.data.scraping.url_list_files import read_span

ID_COLUMNS = ["speaker", "video", "utterance"]
COLUMNS = [*ID_COLUMNS, "start", "end", "fv_conf", "asd_conf"]
FRAME_RATE = 25  # frames a second, in which the lists count
RECIPE = 1  # raise it with every change to what is read: older caches are then not used
_IDS = {  # checked before an id becomes a part of a path or of a URL
    "speaker": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"), "up to 64 letters, digits, '.', '_' or '-'"),
    "video": (re.compile(r"[A-Za-z0-9_-]{11}"), "11 letters, digits, '_' or '-'"),
    "utterance": (re.compile(r"[A-Za-z0-9_-]{1,32}"), "up to 32 letters, digits, '_' or '-'"),
}
_CLOSED = "cannot be opened"
_THREADS = 2  # they wait for a slow disk together; on a fast one, more would be in each other's way


def read_url_lists(url_directory, progress=True, min_seconds=0.5):
    """The utterances that a folder lists, and what it lists in vain: (utterances, skipped), two tables.

    url_directory: holds txt/, or is called txt itself. utterances: speaker, video, utterance, start and end in
    seconds (every listed frame is shown in full, 25 a second), fv_conf and asd_conf (NaN where a list lacks
    them), sorted by the first three. skipped: path below txt/, reason; for lists that are malformed or unreadable,
    under min_seconds, of another video than their folder's, of a span listed before, or named so that they could
    not name a file. Hidden files and those not named *.txt are passed over.

    The table is kept in data/lists/; as long as no list changes its name, size or date, none is opened again.
    Raises OSError if the folder or its txt/ is not there or not readable, ValueError if it lists no utterance.
    """
    folder = _txt_folder(url_directory)
    files, digest = _list_files(folder, progress)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", (folder.parent if folder.name == "txt" else folder).name)
    cache = data_folder() / "lists" / f"{name}-{digest}"
    tables = _read_cache(cache)
    if tables is None:
        tables = _parse(folder, files, progress)
        if not tables[1]["reason"].str.startswith(_CLOSED).any():  # to allow reading changes neither size nor date
            _write_cache(cache, *tables)
    utterances, skipped = tables
    short = utterances["end"] - utterances["start"] < min_seconds - 1e-9
    if short.any():
        rows = [(f"{row.speaker}/{row.video}/{row.utterance}.txt",
                 f"{row.end - row.start:.2f} s, shorter than {min_seconds:g} s")
                for row in utterances[short].itertuples()]
        skipped = pd.concat([skipped, _skipped_table(rows)]).sort_values("path", ignore_index=True)
        utterances = utterances[~short].reset_index(drop=True)
    if not len(utterances):
        reasons = Counter(skipped["reason"])
        seen = f"{len(skipped)} are skipped, such as {skipped['path'][0]}: {skipped['reason'][0]}" if reasons else (
            f"it holds {_seen(folder)}")
        raise ValueError(f"{folder} lists no utterance that can be used; {seen}. Expected "
                         "<speaker>/<video>/<utterance>.txt in it.")
    return utterances, skipped


def check_utterances(table):
    """ValueError, naming the value, unless a table could have come from read_url_lists.

    Ids become parts of paths and URLs: a table from elsewhere goes through this first.
    """
    missing = [column for column in [*ID_COLUMNS, "start", "end"] if column not in table]
    if missing:
        raise ValueError(f"the table of utterances lacks {', '.join(missing)}; it has {', '.join(map(str, table))}.")
    for column in ID_COLUMNS:
        for value in table[column].unique().tolist():
            reason = _wrong_id(column, value)
            if reason:
                raise ValueError(f"{reason}.")
    starts, ends = (pd.to_numeric(table[column], errors="coerce").to_numpy(float) for column in ("start", "end"))
    wrong = ~(np.isfinite(starts) & np.isfinite(ends) & (starts >= 0) & (ends > starts))
    if wrong.any():
        row = table.iloc[int(np.argmax(wrong))]
        raise ValueError(f"utterance {'/'.join(row[ID_COLUMNS])} goes from {row['start']} to {row['end']} s; expected "
                         "0 <= start < end.")
    twice = table.duplicated(ID_COLUMNS)
    if twice.any():
        raise ValueError(f"utterance {'/'.join(table[twice].iloc[0][ID_COLUMNS])} is in the table more than once.")


def list_digest(utterances):
    """16 hexadecimal digits that tell one list from another: of the ids, starts and ends, in any order of rows."""
    spans = zip(*(utterances[column] for column in [*ID_COLUMNS, "start", "end"]), strict=True)
    rows = sorted(f"{speaker}/{video}/{utterance} {start:.3f} {end:.3f}"
                  for speaker, video, utterance, start, end in spans)
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()


def _wrong_id(column, value):
    """Why a value is no id, or ""."""
    pattern, expected = _IDS[column]
    if isinstance(value, str) and pattern.fullmatch(value):
        return ""
    return f"{column} {value!r} is no id: expected {expected}"


def _txt_folder(url_directory):
    folder = Path(url_directory).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}; expected one that holds txt/. Check the path.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder that holds txt/<speaker>/<video>/.")
    if os.path.lexists(folder / "txt") or folder.resolve().name != "txt":
        if not os.path.lexists(folder / "txt"):
            raise FileNotFoundError(f"{folder} holds no txt/; it holds {_seen(folder)}. Give the folder in which "
                                    "txt/<speaker>/<video>/<utterance>.txt are.")
        folder = folder / "txt"
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder, or a link that leads nowhere; expected "
                                     "<speaker>/<video>/<utterance>.txt in it.")
    return folder.resolve()


def _seen(folder):
    """What is in a folder, in a few words; OSError if it cannot be read."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise OSError(error.errno, f"{folder} cannot be read ({error.strerror}). Check its permissions") from error
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def _list_files(folder, progress):
    """({speaker: [(relative path, size or reason)]}, digest of names, sizes and dates). Opens no file."""
    from tqdm.auto import tqdm

    try:
        speakers = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise OSError(error.errno, f"{folder} cannot be read ({error.strerror}). Check its permissions") from error
    digest = hashlib.blake2b(f"{RECIPE}".encode(), digest_size=8)
    files = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda speaker: _find(folder, speaker), speakers)
        for speaker, lists in zip(speakers, tqdm(found, "looking for lists", total=len(speakers), delay=1,
                                                 unit=" speakers", disable=not progress), strict=True):
            files[speaker] = lists
            digest.update("\n".join(f"{path}\t{size}\t{date}" for path, size, date in lists).encode(
                errors="surrogateescape"))
            digest.update(b"\0")
    return files, digest.hexdigest()


def _find(folder, path, depth=1):
    """[(relative path, size or reason why not, date)] of the lists below a relative path, sorted."""
    full = os.path.join(folder, path)
    try:
        with os.scandir(full) as entries:
            entries = sorted((entry for entry in entries if not entry.name.startswith(".")),
                             key=lambda entry: entry.name)
    except NotADirectoryError:
        return [(path, "not in a folder <speaker>/<video>/", 0)] if path.endswith(".txt") else []
    except OSError as error:
        return [(path, f"unreadable: {error.strerror}", 0)]
    found = []
    for entry in entries:
        inside = f"{path}/{entry.name}"
        if depth == 1:
            found += _find(folder, inside, depth + 1)
        elif entry.name.endswith(".txt"):
            found.append((inside, *_size_and_date(entry)))
        elif entry.is_dir():
            found.append((inside, "a folder, expected <utterance>.txt", 0))
    return found


def _size_and_date(entry):
    try:
        status = entry.stat()
    except OSError as error:
        return f"unreadable: {error.strerror}", 0
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
        return f"unreadable: {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a file'}", 0
    return status.st_size, status.st_mtime_ns


def _parse(folder, files, progress):
    """The two tables, whatever the utterances' lengths."""
    from tqdm.auto import tqdm

    rows, skipped = [], []
    with (ThreadPoolExecutor(_THREADS) as pool,
          tqdm(total=sum(map(len, files.values())), desc="reading lists", delay=1, unit=" lists",
               disable=not progress) as bar):
        for good, bad in pool.map(lambda lists: _read_speaker(folder, lists), files.values()):
            rows += good
            skipped += bad
            bar.update(len(good) + len(bad))
    table = pd.DataFrame(rows, columns=[*ID_COLUMNS, "first", "last", "fv_conf", "asd_conf"])
    table.insert(3, "start", table["first"].astype(float) / FRAME_RATE)
    table.insert(4, "end", (table["last"].astype(float) + 1) / FRAME_RATE)
    table = table[COLUMNS].astype(dict.fromkeys(ID_COLUMNS, "str") | dict.fromkeys(COLUMNS[3:], "float64"))
    table = table.sort_values(ID_COLUMNS, ignore_index=True)
    span = ["speaker", "video", "start", "end"]
    twice = table.duplicated(span)
    if twice.any():
        earlier = table.groupby(span)["utterance"].transform("first")[twice]
        skipped += [(f"{row.speaker}/{row.video}/{row.utterance}.txt", f"duplicate: the same span as {other}.txt")
                    for row, other in zip(table[twice].itertuples(), earlier, strict=True)]
    return table[~twice].reset_index(drop=True), _skipped_table(skipped).sort_values("path", ignore_index=True)


def _read_speaker(folder, lists):
    """(rows, skipped) of one speaker's lists."""
    rows, skipped = [], []
    for path, size, _ in lists:
        reason, ids = size, path[:-4].split("/")
        if not isinstance(size, str):
            reason = next(filter(None, map(_wrong_id, ID_COLUMNS, ids)), "")
        if not reason:
            try:
                rows.append((*ids, *read_span(os.path.join(folder, path), ids[1])))
                continue
            except OSError as error:
                reason = f"{_CLOSED}: {error.strerror}"
            except ValueError as error:
                reason = str(error)
        skipped.append((path.encode(errors="backslashreplace").decode(), reason))
    return rows, skipped


def _skipped_table(rows):
    return pd.DataFrame(rows, columns=["path", "reason"], dtype="str")


def _read_cache(cache):
    """The two tables, or None if they are not there or damaged."""
    try:
        utterances = pd.read_parquet(cache / "utterances.parquet")
        skipped = pd.read_csv(cache / "skipped.csv", dtype="str", keep_default_na=False)
        check_utterances(utterances)
    except (OSError, ValueError):
        return None
    return (utterances, skipped) if list(utterances) == COLUMNS else None


def _write_cache(cache, utterances, skipped):
    """The utterances come last: where they are, all is."""
    try:
        write_table(cache / "skipped.csv", skipped)
        write_table(cache / "utterances.parquet", utterances)
    except OSError as error:
        print(f"the lists are read, but not kept for the next time: {error}")
