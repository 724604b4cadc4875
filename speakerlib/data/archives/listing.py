"""The official VoxCeleb archives: their files and MD5 sums, and the parts of one read as a single file."""

import hashlib
import io
import os
import re
from pathlib import Path

import pandas as pd

from speakerlib.data.files import check_name, read_json, write_json

CHECKED = ".checked.json"  # in the archives' folder: what was found right, by size and date
BLOCK = 1 << 20


def list_archives(csv=None):
    """Table with one row a file to download, in the order in which an archive's parts are joined.

    Columns: name (vox1_dev_wav), corpus (vox1), file (vox1_dev_wav_partaa), md5 of the file, whole (the zip that
    the parts make: vox1_dev_wav.zip) and whole_md5. csv: a file of the columns file, md5, whole (empty for a
    whole archive), instead of the official one. Raises ValueError for one of another form.
    """
    csv = Path(csv or Path(__file__).with_name("archives.csv"))
    given = pd.read_csv(csv, dtype=str, keep_default_na=False)
    if list(given.columns) != ["file", "md5", "whole"]:
        raise ValueError(f"{csv} has the columns {', '.join(given.columns)}, expected file, md5, whole.")
    for row in given.itertuples():
        check_name(row.file, f"{csv}: the file")
        if not re.fullmatch("[0-9a-f]{32}", row.md5):
            raise ValueError(f"{csv}: the MD5 of {row.file} is {row.md5!r}, expected 32 hexadecimal digits.")
    sums = dict(zip(given["file"], given["md5"], strict=True))
    parts = given[given["whole"] != ""]
    unknown = sorted({*parts["whole"]} - {*sums})
    if given["file"].duplicated().any() or unknown:
        raise ValueError(f"{csv} lists a file twice, or parts of an archive without its MD5: {', '.join(unknown)}.")
    split = {*parts["whole"]}
    wholes = given[(given["whole"] == "") & ~given["file"].isin(split)].assign(whole=lambda table: table["file"])
    table = pd.concat([parts, wholes], ignore_index=True)
    table["name"] = [os.path.splitext(whole)[0] for whole in table["whole"]]
    table["corpus"] = [name.split("_")[0] for name in table["name"]]
    table["whole_md5"] = [sums[whole] for whole in table["whole"]]
    return table.sort_values(["name", "file"], ignore_index=True)[
        ["name", "corpus", "file", "md5", "whole", "whole_md5"]]


def choose_archives(names, archives=None):
    """[(name, rows of its files)] of list_archives' table, or of `archives`; ValueError for an unknown name."""
    table = list_archives() if archives is None else archives
    names = list(dict.fromkeys([names] if isinstance(names, str) else names))
    known = list(dict.fromkeys(table["name"]))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"there is no archive {', '.join(map(repr, unknown)) or 'named'}: expected one or more of "
                         f"{', '.join(known)}.")
    return [(name, table[table["name"] == name]) for name in names]


def archive_paths(rows, folder):
    """The files in `folder` that make one archive, in order: its parts, else the whole; [] if some are missing."""
    parts = [Path(folder) / file for file in rows["file"]]
    whole = Path(folder) / rows["whole"].iloc[0]
    return parts if all(part.is_file() for part in parts) else [whole] if whole.is_file() else []


def open_parts(paths):
    """One readable, seekable binary file that is the paths' contents end to end; nothing is copied."""
    return io.BufferedReader(_Parts(paths), 1 << 16)


def check_files(paths, sums, key, whole_sum, progress=True):
    """Reads the files of an archive once and compares their MD5 sums, and that of all of them joined.

    sums: one a path; whole_sum: of all. What was right before, at the same size and date, is not read again
    (remembered under `key` in .checked.json). Raises ValueError that names the file and both sums.
    """
    if known_sum(key, paths) == whole_sum:
        return
    whole = new_md5()
    with byte_bar(f"Checking {key}", progress, total=sum(path.stat().st_size for path in paths)) as bar:
        for path, expected in zip(paths, sums, strict=True):
            digest = new_md5()
            feed(path, bar, digest, whole)
            if (found := digest.hexdigest()) != expected:
                forget(path.name, path.parent)
                raise ValueError(f"{path} is damaged: its MD5 is {found}, expected {expected}. 'speakerlib archives "
                                 f"download {os.path.splitext(key)[0]} --output {path.parent} --url-template ...' "
                                 "fetches it again.")
            remember(path.name, [path], found)
    if whole.hexdigest() != whole_sum:
        raise ValueError(f"the parts of {key} have the right MD5 sums, but joined they give {whole.hexdigest()}, "
                         f"expected {whole_sum}: the list of archives does not fit them.")
    remember(key, paths, whole_sum)


def md5_of(path, progress=True):
    """Hexadecimal MD5 of a file."""
    digest = new_md5()
    with byte_bar(f"Checking {path.name}", progress, total=path.stat().st_size) as bar:
        feed(path, bar, digest)
    return digest.hexdigest()


def feed(path, bar, *digests):
    """Gives a file's bytes to every digest, and counts them on the bar."""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            for digest in digests:
                digest.update(block)
            bar.update(len(block))


def new_md5():
    return hashlib.md5(usedforsecurity=False)


def byte_bar(text, progress=True, **options):
    """A progress bar in bytes, with the time left."""
    from tqdm.auto import tqdm

    return tqdm(desc=text, unit="B", unit_scale=True, disable=not progress, **options)


def known_sum(key, paths):
    """The MD5 that was found for files that have not changed since by size and date, or None."""
    record = _memory(paths[0].parent).get(key)
    if isinstance(record, dict) and record.get("files") == _signature(paths):
        return record.get("md5")
    return None


def remember(key, paths, md5):
    """Keeps a checked MD5 beside the files, where that folder can be written."""
    folder = paths[0].parent
    if os.access(folder, os.W_OK):
        write_json(folder / CHECKED, {**_memory(folder), key: {"md5": md5, "files": _signature(paths)}})


def forget(key, folder):
    """Drops what is remembered of a file that turned out to be wrong."""
    memory = _memory(folder)
    if memory.pop(key, None) and os.access(folder, os.W_OK):
        write_json(folder / CHECKED, memory)


def _memory(folder):
    try:
        memory = read_json(folder / CHECKED)
    except (OSError, ValueError):  # only a memory: without it, files are read once more
        return {}
    return memory if isinstance(memory, dict) else {}


def _signature(paths):
    states = [path.stat() for path in paths]
    return [[path.name, state.st_size, state.st_mtime_ns] for path, state in zip(paths, states, strict=True)]


class _Parts(io.RawIOBase):
    """Files end to end. io.BufferedReader around it makes reads complete and safe between threads."""

    def __init__(self, paths):
        self._files = [open(path, "rb", buffering=0) for path in paths]
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]  # where each begins, and the end of all
        self._position = 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}, before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer):
        for file, start, end in zip(self._files, self._starts, self._starts[1:], strict=False):
            if start <= self._position < end:  # up to the end of this part; the next call goes on in the next one
                file.seek(self._position - start)
                count = file.readinto(memoryview(buffer)[:end - self._position])
                self._position += count
                return count
        return 0

    def close(self):
        for file in getattr(self, "_files", []):
            file.close()
        super().close()
