"""One shard of a waveform store: files decoded end to end, and the record that tells it whole from torn."""

import hashlib
import os
import zlib
from collections import deque
from pathlib import Path

from speakerlib.data.audio import SAMPLE_RATE, AudioError, read_int16
from speakerlib.data.files import atomic_path, checksum, read_json, write_json

VERSION = 1  # of the layout on disk: raise it when old stores must be rebuilt
CHECKED_BYTES = 2_000_000_000  # up to this size, checksums are read; above, sizes alone tell


def shard_path(folder, number):
    """shard-00000.int16, its samples; the record beside it ends in .json."""
    return Path(folder) / f"shard-{number:05d}.int16"


def shard_key(jobs, min_seconds):
    """Changes when the list of files, or a file's size or date, does. jobs: (path, start, duration) each."""
    digest = hashlib.blake2b(f"{VERSION} {SAMPLE_RATE} {min_seconds}".encode(), digest_size=16)
    for path, start, duration in jobs:
        try:
            status = os.stat(path)
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = "missing"
        digest.update(repr((path, start, duration, state)).encode())
    return digest.hexdigest()


def build_shard(folder, number, jobs, key, min_seconds, executor, ahead_at_most, bar):
    """Decodes the files of a shard by threads and writes it, then its record, which is returned.

    The record holds key, lengths (in samples), skipped ([position in jobs, reason] each) and checksum.
    """
    lengths, skipped, crc = [], [], 0
    path = shard_path(folder, number)
    calls = [(*job, min_seconds) for job in jobs]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for position, decoded in enumerate(_in_order(executor, ahead_at_most, decode, calls)):
            if isinstance(decoded, str):
                skipped.append([position, decoded])
            else:
                lengths.append(len(decoded))
                crc = zlib.crc32(decoded, crc)
                file.write(decoded)
            bar.update()
    record = {"key": key, "lengths": lengths, "skipped": skipped, "checksum": f"{crc:08x}"}
    write_json(path.with_suffix(".json"), record)
    return record


def find_shard(folder, number, key):
    """The record of a shard that is there, whole, and made of the same files; else None."""
    path = shard_path(folder, number)
    try:
        record = read_json(path.with_suffix(".json"))
    except (OSError, ValueError):
        return None
    if record.get("key") != key or fault(path, record, 2 * sum(record["lengths"]) <= CHECKED_BYTES):
        return None
    return record


def fault(path, record, with_checksum):
    """What is wrong with a shard, in words, or None."""
    expected = 2 * sum(record["lengths"])
    if not path.is_file():
        return "it is missing"
    if path.stat().st_size != expected:
        return f"it has {path.stat().st_size} bytes, expected {expected}"
    if with_checksum and (found := checksum(path)) != record["checksum"]:
        return f"its checksum is {found}, expected {record['checksum']}"
    return None


def decode(path, start, duration, min_seconds):
    """int16 (samples,) little endian, or the reason why there are none."""
    try:
        samples = read_int16(path, start, duration)
    except AudioError as error:
        return error.reason
    except FileNotFoundError:
        return "missing"
    except OSError as error:  # the disk that holds it
        return f"unreadable: {error.strerror or error}"
    if len(samples) < min_seconds * SAMPLE_RATE:
        return f"too short: {len(samples) / SAMPLE_RATE:.2f} s, at least {min_seconds:g} s"
    return samples.astype("<i2", copy=False)


def _in_order(executor, ahead_at_most, function, calls):
    """function(*call) for every call, by threads, yielded in order; few results are in memory at once."""
    ahead = deque()
    try:
        for call in calls:
            ahead.append(executor.submit(function, *call))
            if len(ahead) >= ahead_at_most:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
