"""Downloads the official VoxCeleb archives: resumed where it stopped, checked by MD5, skipped when already right."""

import os
import shlex
import time
from pathlib import Path

from speakerlib.data.archives.access import check_template, connection, find_credentials
from speakerlib.data.archives.answers import LONGEST_WAIT, read_body, read_status
from speakerlib.data.archives.listing import (
    byte_bar,
    choose_archives,
    feed,
    known_sum,
    md5_of,
    new_md5,
    remember,
)
from speakerlib.data.files import folder_lock, require_space

TRIES = 6  # in a row without a new byte


def download_archives(names, folder, url_template, progress=True, archives=None, *, retry_seconds=2.0, timeout=60.0):
    """Downloads archives such as vox1_dev_wav into `folder` and returns the paths of their files.

    names: one or several of list_archives(); url_template: see check_template; the key or the user and password:
    see find_credentials, asked for only if something is missing. A file that is there and right is skipped (its
    size and date are remembered, so that it is read once); one that was cut short goes on where it stopped, from
    <file>.part; a damaged one is fetched once more.

    Raises ValueError for a bad name or template; PermissionError if the server refuses; FileNotFoundError if it has
    no such file; ConnectionError after 6 tries without a new byte; RuntimeError if it sends a page, or twice a file
    with the wrong MD5; OSError if the disk is too small. All keep what is there; the same call goes on.
    """
    chosen = choose_archives(names, archives)
    template = check_template(url_template)
    folder = Path(folder).expanduser()
    with folder_lock(folder, "The archives' download"):
        missing, paths = [], []
        for _, rows in chosen:
            whole = folder / rows["whole"].iloc[0]
            if _is_right(whole, rows["whole_md5"].iloc[0], progress):
                paths.append(whole)
                continue
            lacking = [row for row in rows.itertuples() if not _is_right(folder / row.file, row.md5, progress)]
            missing += [(row, len(lacking) - 1 - i) for i, row in enumerate(lacking)]
            paths += [folder / file for file in rows["file"]]
        if len(paths) > len(missing):
            print(f"{len(paths) - len(missing)} of {len(paths)} files in {folder} are there and right. (Files checked "
                  "before are known by size and date; without .checked.json there, all are read again.)")
        if missing:
            with connection(template, find_credentials(template), timeout) as get:
                for row, further in missing:
                    _fetch(get, row, folder, further, progress, retry_seconds)
            print(f"{len(missing)} files downloaded to {folder}, and right. Next: speakerlib archives extract "
                  f"{' '.join(name for name, _ in chosen)} --output {shlex.quote(str(folder))}")
    return paths


def _is_right(path, md5, progress):
    """Whether a file is there with this MD5, now or when it was last read."""
    if not path.is_file():
        return False
    found = known_sum(path.name, [path])
    if found != md5:
        found = md5_of(path, progress)
        if found == md5:
            remember(path.name, [path], md5)
    return found == md5


def _fetch(get, row, folder, further, progress, retry_seconds):
    """One file under its final name, once its MD5 is right. further: files of the archive still to come."""
    path, part = folder / row.file, folder / f"{row.file}.part"
    if path.is_file():  # and wrong
        longer = path.stat().st_size > (part.stat().st_size if part.is_file() else 0)
        with open(path, "rb") as file:
            cut = longer and b"\0" in file.read(512)  # of another program's download; not a page that it saved
        print(f"{path} has the wrong MD5: {'its download goes on' if cut else 'it is downloaded again'}.")
        os.replace(path, part) if cut else path.unlink()
    for again in (False, True):
        found = _receive(get, row.file, part, row.md5, further, progress, retry_seconds)
        if found == row.md5:
            os.replace(part, path)
            return remember(path.name, [path], found)
        part.unlink()
        if not again:
            print(f"{row.file} arrived with the MD5 {found}, expected {row.md5}: it is downloaded once more.")
    raise RuntimeError(f"{row.file} arrived twice with the wrong MD5: {found}, expected {row.md5}. Either the server "
                       "has another version of it, or something on the way changes it: try another network, or ask "
                       "the archives' authors.")


def _receive(get, file, part, md5, further, progress, retry_seconds):
    """Completes `part`, going on as often as the connection is lost; returns the MD5 of all of it."""
    digest, offset = _start(part, progress)
    furthest, failures = offset, 0
    with byte_bar(file, progress, initial=offset) as bar:
        while digest.hexdigest() != md5:
            wait = 0.0
            try:
                with get(file, offset) as response:
                    first, total = read_status(response, file, offset)
                    bar.total = total
                    if response.status_code == 416 and first == offset:
                        break  # all of it was here
                    body = read_body(response, file, total) if first in (0, offset) else iter(())
                    block = next(body, b"")  # a page is told here, before it replaces anything
                    if first != offset:  # the server knows no ranges, or has another file
                        digest, offset = _start(part, progress, empty=True)
                    if block and total is not None:
                        require_space(part.parent, total - offset + further * total, f"The rest of {file}")
                    while block:
                        _append(part, block)
                        digest.update(block)
                        offset += len(block)
                        bar.update(offset - bar.n)
                        block = next(body, b"")
                    if first is not None and total in (None, offset):
                        break
                trouble = f"it ended at {offset:,} of {total or 0:,} bytes"
            except ConnectionError as error:
                trouble, wait = str(error), getattr(error, "wait", 0.0)
            failures = 1 if offset > furthest else failures + 1
            furthest = max(furthest, offset)
            if failures >= TRIES:
                raise ConnectionError(f"{file}: {trouble}; {TRIES} tries in a row brought no new byte. What has "
                                      f"arrived ({offset:,} bytes) is kept: the same command goes on from there.")
            wait = max(wait, min(retry_seconds * 2 ** (failures - 1), LONGEST_WAIT))
            bar.set_postfix_str(f"{trouble}; again in {wait:.0f} s")
            time.sleep(wait)
            bar.set_postfix_str("")
    return digest.hexdigest()


def _start(part, progress, empty=False):
    """(MD5 so far, size) of what is there of a file; emptied first where that is asked for."""
    digest = new_md5()
    if empty or not part.is_file():
        part.unlink(missing_ok=True)
        return digest, 0
    with byte_bar(f"Reading {part.name}", progress, total=part.stat().st_size) as bar:
        feed(part, bar, digest)
    return digest, part.stat().st_size


def _append(part, block):
    try:
        with open(part, "ab") as file:  # closed each time: what has arrived is there even if we are killed
            file.write(block)
    except OSError as error:
        raise OSError(error.errno, f"cannot write what arrives ({error.strerror}). What is there is kept: free some "
                      "space, and the same command goes on", str(part)) from error
