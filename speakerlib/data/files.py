"""Where the workbook's files live, and how they are written so that a kill never leaves half of one."""

import json
import os
import re
import shutil
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")
_UMASK = os.umask(0)  # it can only be read by setting it, which is not safe once threads write
os.umask(_UMASK)


def project_folder():
    """The folder that holds notebooks/, data/ and figures/."""
    return Path(__file__).resolve().parents[2]


def data_folder():
    """Where corpora, features and runs are kept: $SPEAKERLIB_DATA, or data/ in the project."""
    return Path(os.environ.get("SPEAKERLIB_DATA") or project_folder() / "data").expanduser().resolve()


def check_name(name, what):
    """Returns name if it is safe as one part of a path; ValueError otherwise."""
    if not _NAME.fullmatch(str(name)):
        raise ValueError(f"{what} {name!r} cannot name a file: expected letters, digits, '.', '_', '-' or "
                         "spaces, starting with a letter, a digit or '_'. Rename it.")
    return str(name)


@contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, which replaces it only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".part{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, record):
    """Writes a record (dicts, lists, numbers, strings) atomically."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path):
    """Reads what write_json wrote; ValueError that names the file if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Delete it and rerun what makes it.") from error


def write_table(path, table):
    """Writes a DataFrame without its index atomically: csv, or parquet where the name ends so."""
    with atomic_path(path) as temporary:
        if temporary.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, lineterminator="\n")


def checksum(path, block=1 << 22):
    """CRC-32 of a file, as 8 hexadecimal digits: tells a torn shard, not a forged one."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(block):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


@contextmanager
def folder_lock(folder, what):
    """Only one process at a time builds in `folder`; others wait, then find the work done."""
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{what}: another process is at work in {folder}; waiting for it.")
        lock.acquire()
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def remove_leftovers(folder):
    """Deletes the temporary files that a killed process left in `folder`. Call with the lock held."""
    for path in Path(folder).glob(".*.part*"):
        path.unlink(missing_ok=True)


def require_space(folder, num_bytes, what):
    """OSError, before any work, if the disk that holds `folder` has less than num_bytes free."""
    folder = wanted = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        larger = "set SPEAKERLIB_DATA to" if wanted.resolve().is_relative_to(data_folder()) else "name"
        raise OSError(f"{what} needs {num_bytes / 1e6:,.1f} MB in {folder}, and {free / 1e6:,.1f} MB are free. "
                      f"Free some space, or {larger} a folder on a larger disk.")
