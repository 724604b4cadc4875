"""Extracts the official VoxCeleb archives from their parts: checked first, whole files only, done ones skipped."""

import os
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from speakerlib.data.archives.listing import archive_paths, byte_bar, check_files, choose_archives, open_parts
from speakerlib.data.archives.members import check_members
from speakerlib.data.files import checksum, folder_lock, read_json, require_space, write_json

BATCH = 200  # members given to a thread at a time
DISK_BLOCK = 4096


def extract_archives(names, folder, output=None, progress=True, archives=None, *, num_workers=None):
    """Extracts archives that lie in `folder`, as parts or whole; returns the folders, one a corpus.

    The files of vox1_dev_wav go to <output>/vox1/wav/..., those of vox2_dev_aac to <output>/vox2/dev/aac/...;
    output: `folder` by default. The MD5 sums are checked first, then every member's path and kind. A file that is
    there with the right size and CRC is skipped, so the same call goes on after an interruption. An archive that was
    extracted whole may be deleted: it is then taken as done.

    Raises ValueError for a bad name, a wrong MD5 or an archive that must not be extracted (see check_members);
    FileNotFoundError for missing parts; OSError if the disk is too small.
    """
    folder = Path(folder).expanduser()
    output = Path(output).expanduser() if output else folder
    chosen = choose_archives(names, archives)
    markers = {name: output / f".{name}.extracted.json" for name, _ in chosen}
    for name, rows in chosen:
        if not archive_paths(rows, folder) and not _finished(markers[name], rows["whole_md5"].iloc[0]):
            raise FileNotFoundError(_what_is_missing(name, rows, folder))
    targets = []
    with folder_lock(output, "The extraction"):
        for name, rows in chosen:
            paths, whole = archive_paths(rows, folder), rows["whole"].iloc[0]
            whole_md5 = rows["whole_md5"].iloc[0]
            targets.append(output / rows["corpus"].iloc[0])
            if not paths:
                print(f"{name}: extracted to {targets[-1]} before; its archives are away, so nothing is checked again.")
                continue
            sums = [whole_md5] if paths[0].name == whole else rows["md5"]
            check_files(paths, sums, whole, whole_md5, progress)
            _extract(name, paths, whole_md5, targets[-1], markers[name], progress, num_workers)
    return list(dict.fromkeys(targets))


def _extract(name, paths, md5, target, marker, progress, num_workers):
    with open_parts(paths) as parts:
        num_bytes = sum(path.stat().st_size for path in paths)
        try:
            archive = zipfile.ZipFile(parts)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{name} is not a zip archive ({error}), although its MD5 is right.") from error
        with archive:
            print(f"{name}: looking at its list of files.")
            members = check_members(archive.infolist(), num_bytes, name)
            todo, num_right = _plan(members, target, _finished(marker, md5))
            require_space(target, sum(-(-member.file_size // DISK_BLOCK) * DISK_BLOCK for member, there in todo
                                      if not there), f"The extraction of {name}")
            num_written = _write_all(archive, todo, target, name, progress, num_workers) if todo else 0
    if todo:
        if hasattr(os, "sync"):
            os.sync()  # a marker must not survive a power cut that its files did not
        write_json(marker, {"md5": md5, "files": len(members)})
    print(f"{name}: {len(members):,} files in {target}, {len(members) - num_written:,} of them were there and right.")


def _plan(members, target, finished):
    """[(member, whether a file of its size is there)] of those to look at, and the number known to be right.

    finished: since when all of the archive is known to be right, in ns; what has not changed since is not read.
    """
    todo = []
    for member in members:
        there = False
        try:
            state = os.stat(target / member.filename)
            there = state.st_size == member.file_size
            if there and finished and max(state.st_mtime_ns, state.st_ctime_ns) < finished:
                continue
        except FileNotFoundError:
            pass
        todo.append((member, there))
    return todo, len(members) - len(todo)


def _write_all(archive, todo, target, name, progress, num_workers):
    """Writes what is not there yet, by threads; returns the number of files written."""
    batches = [todo[first:first + BATCH] for first in range(0, len(todo), BATCH)]
    stop, num_written = threading.Event(), 0
    total = sum(member.file_size for member, _ in todo)
    with (ThreadPoolExecutor(num_workers or min(8, os.cpu_count() or 1)) as executor,
          byte_bar(f"Extracting {name}", progress, total=total) as bar):
        futures = [executor.submit(_write_batch, archive, batch, target, stop, bar) for batch in batches]
        try:
            for future in as_completed(futures):
                num_written += future.result()
        except BaseException:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            raise
    return num_written


def _write_batch(archive, batch, target, stop, bar):
    num_written = 0
    for member, there in batch:
        if stop.is_set():
            break
        path = target / member.filename
        if not (there and checksum(path) == f"{member.CRC:08x}"):
            _write(archive, member, path)
            num_written += 1
        bar.update(member.file_size)
    return num_written


def _write(archive, member, path):
    """One file, whole under its name or not at all. Its temporary name is always the same, so that what a killed
    job left is written over by the next one, without a search through the tree.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with archive.open(member) as source, open(temporary, "wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
        if temporary.stat().st_size != member.file_size:
            raise zipfile.BadZipFile(f"it ends after {temporary.stat().st_size:,} of {member.file_size:,} bytes")
        os.replace(temporary, path)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{member.filename} cannot be extracted: {error}. The archive is not what its authors made, "
                         "although its MD5 is right.") from error
    except OSError as error:
        raise OSError(error.errno, f"cannot be extracted ({error.strerror}). What is there is kept: the same command "
                      "goes on from it", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _finished(marker, md5):
    """When the archive of this MD5 had been extracted completely, in ns by the clock of its disk; 0 if it was not."""
    try:
        return marker.stat().st_mtime_ns if read_json(marker).get("md5") == md5 else 0
    except (OSError, ValueError, AttributeError):
        return 0


def _what_is_missing(name, rows, folder):
    missing = [file for file in rows["file"] if not (folder / file).is_file()]
    return (f"{name} is not complete in {folder}: {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing. "
            f"Run 'speakerlib archives download {name} --output {folder} --url-template ...' first.")
