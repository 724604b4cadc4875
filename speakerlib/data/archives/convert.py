"""Converts a folder of m4a and wav files to 16 kHz mono FLAC or wav, beside them, and lists what cannot be read."""

import os
from contextlib import closing
from pathlib import Path

import pandas as pd

from speakerlib.data.audio import SAMPLE_RATE, AudioError, read_audio, to_int16, write_audio
from speakerlib.data.files import folder_lock, remove_leftovers, require_space, write_table
from speakerlib.data.patterns import list_audio
from speakerlib.data.workers import in_processes

SOURCES = (".m4a", ".wav")
TARGETS = (".flac", ".wav")
SKIPPED = "convert_skipped.csv"
BATCH = 16  # files a task: one alone takes less time than handing it over
FEWEST = 100  # files a process, below which starting it costs more than it saves
FLAC_SHARE = 0.6  # of the size as wav, at most, for speech


def convert_audio(folder, suffix=".flac", num_workers=None, delete_source=False, progress=True):
    """Converts every m4a (and wav) file in `folder` to 16 kHz mono int16; returns the table of what it skipped.

    <name>.m4a becomes <name>.flac (or .wav) in the same place; one that is there and not older is left alone. The
    result has the columns path (relative) and reason, and is written to convert_skipped.csv in the folder. A new
    file appears whole or not at all. delete_source: a source is deleted once the new file has been read back and is
    as long. Raises FileNotFoundError or NotADirectoryError for the folder, ValueError for another suffix or if there
    is no audio, OSError if the disk is too small.
    """
    suffix = f".{suffix.lower().lstrip('.')}"
    if suffix not in TARGETS:
        raise ValueError(f"cannot convert to {suffix!r}: expected flac or wav.")
    folder = Path(folder).expanduser().resolve()
    sources = [path for path in list_audio(folder) if (end := Path(path).suffix.lower()) in SOURCES and end != suffix]
    with folder_lock(folder, "The conversion"):
        jobs, twice = _choose(sources, suffix)
        todo = [job for job in jobs if delete_source or not _is_newer(folder / job[1], folder / job[0])]
        for parent in {os.path.dirname(path) for path, _ in todo}:
            remove_leftovers(folder / parent)
        require_space(folder, _estimate_bytes(folder, todo, suffix, delete_source), "The conversion")
        results = _convert_all(folder, todo, num_workers, delete_source, progress)
        skipped = pd.DataFrame(sorted([*twice, *((path, reason) for path, done, reason in results if not done)]),
                               columns=["path", "reason"], dtype="str")
        _write_skipped(folder / SKIPPED, skipped)
    converted = sum(done == "converted" for _, done, _ in results)
    print(f"{folder}: {converted:,} of {len(sources):,} files converted to {suffix[1:]}, "
          f"{len(sources) - converted - len(skipped):,} had been before, {len(skipped):,} skipped"
          f"{f' (see {SKIPPED} there)' if len(skipped) else ''}.")
    return skipped


def _choose(sources, suffix):
    """([source, target] of each), and (source, reason) for a second file of the same name without its suffix."""
    jobs, twice = {}, []
    for path in sources:  # sorted: .m4a before .wav
        target = os.path.splitext(path)[0] + suffix
        if target in jobs:
            twice.append((path, f"the same name as {os.path.basename(jobs[target])}, which makes {suffix} of it"))
        jobs.setdefault(target, path)
    return [(path, target) for target, path in jobs.items()], twice


def _convert_all(folder, jobs, num_workers, delete_source, progress):
    """[(path, "converted" | "there" | "", reason)], by processes: decoding returns to Python at each frame, so that
    threads would wait for each other.
    """
    from tqdm.auto import tqdm

    jobs = [(str(folder), source, target, delete_source) for source, target in jobs]
    num_workers = min(num_workers or os.cpu_count(), len(jobs) // FEWEST)
    results = []
    with tqdm(total=len(jobs), desc="Converting", unit="file", disable=not progress) as bar:
        def convert(batches):
            answers = (in_processes(_convert, batches, num_workers) if num_workers > 1 else
                       ((batch, _convert(batch)) for batch in batches))
            with closing(answers):
                for batch, answer in answers:
                    if answer is None:
                        yield batch
                    else:
                        results.extend(answer)
                        bar.update(len(batch))

        batches = [jobs[first:first + BATCH] for first in range(0, len(jobs), BATCH)]
        lost = [[job] for batch in convert(batches) for job in batch]
        crashed = [job for (job,) in convert(lost)] if lost else []
    return results + [(source, "", "unreadable: the decoder crashes") for _, source, _, _ in crashed]


def _convert(batch):
    return [(source, *_convert_file(Path(folder, source), Path(folder, target), delete_source))
            for folder, source, target, delete_source in batch]


def _convert_file(source, target, delete_source):
    """("converted" or "there", ""), or ("", the reason why not)."""
    import soundfile

    try:
        samples = to_int16(read_audio(source))
    except AudioError as error:
        return "", error.reason
    except FileNotFoundError:
        return "", "missing"
    done = "there"
    if not (_is_newer(target, source) and _is_whole(target, len(samples))):
        try:
            write_audio(target, samples)
        except soundfile.LibsndfileError as error:
            raise OSError(f"cannot write {target} ({error}). What is converted is kept: free some space, and the same "
                          "command goes on.") from error
        done = "converted"
    if delete_source:
        if not _is_whole(target, len(samples)):
            return "", f"kept: {target.name} cannot be read back"
        source.unlink()
    return done, ""


def _is_newer(target, source):
    try:
        return target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def _is_whole(path, num_samples):
    """Whether the file can be read to its end and has this many samples, at our rate in one channel."""
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (soundfile.LibsndfileError, OSError):
        return False
    return rate == SAMPLE_RATE and samples.shape == (num_samples,)


def _estimate_bytes(folder, jobs, suffix, delete_source, num_sampled=8):
    """What the new files will take, from a few of them decoded."""
    sizes = {path: (folder / path).stat().st_size for path, target in jobs if not (folder / target).exists()}
    encoded = decoded = 0
    for path in list(sizes)[::max(1, len(sizes) // num_sampled)]:
        try:
            decoded += 2 * len(read_audio(folder / path))
            encoded += sizes[path]
        except (AudioError, OSError):
            continue
    share = decoded / encoded * (FLAC_SHARE if suffix == ".flac" else 1) if encoded else 0
    return sum(sizes.values()) * max(0, share - bool(delete_source))


def _write_skipped(path, skipped):
    if skipped.empty:
        path.unlink(missing_ok=True)
    else:
        write_table(path, skipped)

