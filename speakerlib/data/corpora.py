"""Corpora: a table with one row an utterance, the waveforms of its rows, and the list of what was skipped."""

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.files import (
    check_name,
    checksum,
    data_folder,
    folder_lock,
    project_folder,
    read_json,
    write_json,
    write_table,
)
from speakerlib.data.manifests import compare_with_manifest, manifest_digest, read_manifest, restrict_to_manifest
from speakerlib.data.patterns import CONTAINERS, ID_COLUMNS, scan, utterance_keys
from speakerlib.data.splits import SPLITS, assign_splits, check_splits, folder_splits
from speakerlib.data.waveform_store import WaveformStore, build_waveform_store

COLUMNS = ["speaker", "session", "utterance", "path", "start", "duration", "split"]
VERSION = 1  # of the files in a corpus' folder: raise it when corpora must be imported anew
UNCHECKED = "waveforms-unchecked"  # decoded, but not known yet to be what a manifest lists


@dataclass(frozen=True, eq=False)
class Corpus:
    """An imported corpus: row i of `table` (COLUMNS; seconds) is utterance i of `waveforms`."""

    name: str
    folder: Path
    table: pd.DataFrame = field(repr=False)
    waveforms: WaveformStore = field(repr=False)
    skipped: pd.DataFrame = field(repr=False)  # path, reason
    synthetic: bool

    @cached_property
    def fingerprint(self):
        """Hexadecimal digits that change when any sample, name or split does; not when the files move."""
        digest = hashlib.blake2b(self.waveforms.fingerprint.encode(), digest_size=8)
        names = utterance_keys(self.table, "\t") + "\t" + self.table["split"] + "\n"
        digest.update("".join(names.to_list()).encode())
        return digest.hexdigest()


def find_corpus(name_or_folder):
    """The corpus that a user means by a name, or by a folder of audio, which is imported now."""
    given = str(name_or_folder).strip()
    if not given:
        raise ValueError(f"no corpus is named: expected a name or a folder of audio. {_what_exists()}")
    if given in list_corpora():
        return open_corpus(given)
    folder = Path(given).expanduser()
    if folder.is_dir():
        return import_corpus(folder)
    if given == "demo":
        from speakerlib.data.demo_corpus import demo_corpus

        return demo_corpus()
    if os.sep in given or given.startswith((".", "~")):
        raise FileNotFoundError(f"there is no folder {folder.resolve()}. {_what_exists()}")
    return open_corpus(given)


def import_corpus(source, name=None, pattern=None, split_file=None, seed=0, progress=True, min_seconds=0.5,
                  synthetic=False, manifest=None, partial=False):
    """Makes a corpus of a folder of audio and returns it: scan, waveform store, splits, table.

    name: the folder's, by default (its parent's for one called wav); pattern: see scan. Splits come from split_file,
    or data/splits/<name>.csv where there is one; else from the tree's own dev/ and test/, as VoxCeleb2 has them (see
    folder_splits); else they are drawn by seed (see assign_splits). manifest: a csv of utterances and hashes (see
    read_manifest): the corpus is then exactly these utterances, or, if partial, what there is of them, and
    manifest_lacks.csv lists the others. Everything goes to data/corpora/<name>. Files that cannot be used are
    counted, and listed in skipped.csv with their reasons. An import that was cut short goes on; one whose source has
    not changed since is opened at once.

    Raises what scan, assign_splits and read_manifest raise; ValueError if no file can be used, another folder was
    imported under this name, or, unless partial, an utterance of the manifest is absent or has other samples, with
    the corpus that was there before left as it is; OSError if the disk is full.
    """
    source = Path(source).expanduser().resolve()
    name = check_name(name or _name_of(source), "the corpus")
    return import_table(scan(source, pattern), source, name, split_file=split_file, seed=seed, progress=progress,
                        min_seconds=min_seconds, synthetic=synthetic, manifest=manifest, partial=partial)


def import_table(found, source, name, split_file=None, seed=0, progress=True, min_seconds=0.5, synthetic=False,
                 manifest=None, partial=False):
    """What import_corpus does once the folder `source` is scanned. found: a table as make_table returns it."""
    folder = data_folder() / "corpora" / check_name(name, "the corpus")
    committed = project_folder() / "data" / "splits" / f"{name}.csv"
    if split_file is None and committed.is_file():
        split_file = committed
    wanted = None
    pattern = found.attrs["pattern"]
    if manifest is not None:
        wanted = read_manifest(manifest)
        found = restrict_to_manifest(found, wanted, name, partial)
    check_splits(found, seed, split_file)
    chosen = folder_splits(found, source, seed) if split_file is None else None
    record = {"version": VERSION, "name": name, "source": _relative(source, folder), "pattern": pattern,
              "synthetic": bool(synthetic), "min_seconds": min_seconds, "seed": seed,
              "split_file": split_file and checksum(split_file), "num_files": len(found),
              "files": _files_digest(found["path"]), **({"splits": "folders"} if chosen else {}),
              **({} if wanted is None else {"manifest": manifest_digest(wanted), "partial": bool(partial)})}
    with folder_lock(folder, f"corpus {name!r}"):
        unchanged = _unchanged(folder, record, source)
        if unchanged:
            return unchanged
        # A manifest is checked against samples, so they are decoded beside the corpus that is there.
        aside = wanted is not None and ((folder / "corpus.json").exists() or (folder / UNCHECKED).exists())
        store = folder / (UNCHECKED if aside else "waveforms")
        skipped = build_waveform_store(found["path"], store, min_seconds=min_seconds, progress=progress)
        waveforms = WaveformStore.open(store)
        table = found.drop(index=skipped.index).reset_index(drop=True)
        lacking = ()
        if wanted is not None:
            unusable = found.loc[skipped.index, ID_COLUMNS].assign(reason=skipped["reason"])
            lacking = compare_with_manifest(table, waveforms, unusable, wanted, name, partial, progress)
        write_table(folder / "skipped.csv", skipped)
        _report_skipped(name, folder, found, skipped)
        table["path"] = [_relative(path, folder) for path in table["path"]]
        table["start"] = 0.0
        table["duration"] = waveforms.lengths / SAMPLE_RATE
        table["split"] = assign_splits(table, seed, split_file, chosen)
        (folder / "corpus.json").unlink(missing_ok=True)
        _put_in_place(store, folder / "waveforms")
        (folder / "manifest_lacks.csv").unlink(missing_ok=True)
        if len(lacking):
            write_table(folder / "manifest_lacks.csv", lacking)
        write_table(folder / "corpus.parquet", table[COLUMNS])
        write_json(folder / "corpus.json", {**record, "waveforms": waveforms.fingerprint})
        print(f"corpus {name!r}: {len(table)} utterances of {table['speaker'].nunique()} speakers, "
              f"{table['duration'].sum() / 3600:.2f} hours, with paths read as {record['pattern']}.")
        return _open(name, WaveformStore(folder / "waveforms", waveforms.index))


def open_corpus(name):
    """Opens an imported corpus by its name.

    Raises FileNotFoundError, with the corpora that there are, if it was not imported; RuntimeError if its
    files are torn or do not fit together.
    """
    return _open(name)


def _open(name, waveforms=None):
    """open_corpus; waveforms: its store, where its checksums were read a moment ago."""
    folder = data_folder() / "corpora" / check_name(name, "the corpus")
    if not (folder / "corpus.json").is_file():
        begun = "only partly imported" if (folder / "waveforms").is_dir() else "not imported"
        command = "speakerlib demo" if name == "demo" else "speakerlib import <folder of audio>"
        raise FileNotFoundError(f"corpus {name!r} is {begun}. {_what_exists()} To import it: {command}")
    record = read_json(folder / "corpus.json")
    if record.get("version") != VERSION:
        raise RuntimeError(f"corpus {name!r} in {folder} was written as version {record.get('version')}, "
                           f"expected {VERSION}. Import it again.")
    try:
        table = pd.read_parquet(folder / "corpus.parquet")
    except (OSError, ValueError) as error:  # missing or torn
        raise RuntimeError(f"corpus {name!r}: its table cannot be read ({error}). Import it again.") from error
    waveforms = WaveformStore.open(folder / "waveforms") if waveforms is None else waveforms
    if list(table.columns) != COLUMNS or len(table) != len(waveforms):
        raise RuntimeError(f"corpus {name!r}: the table in {folder} has {len(table)} rows of "
                           f"{', '.join(table.columns)}, the waveforms {len(waveforms)}. Import it again.")
    if record.get("waveforms") != waveforms.fingerprint:
        raise RuntimeError(f"corpus {name!r}: the waveforms in {folder} are not its table's: an import "
                           "was cut short. Import it again.")
    skipped = pd.read_csv(folder / "skipped.csv", dtype="str", keep_default_na=False)
    return Corpus(name, folder, table, waveforms, skipped, record["synthetic"])


def list_corpora():
    """Names of the imported corpora, sorted."""
    return sorted(path.parent.name for path in (data_folder() / "corpora").glob("*/corpus.json"))


def summary(corpus, segment_seconds=(1.5, 3.0)):
    """Speakers, sessions, utterances, hours and non-overlapping segments by length, by split and in total."""
    table = corpus.table.assign(samples=corpus.waveforms.lengths)
    rows = {}
    for split in [*SPLITS, "total"]:
        part = table if split == "total" else table[table["split"] == split]
        rows[split] = {"speakers": part["speaker"].nunique(),
                       "sessions": len(part[["speaker", "session"]].drop_duplicates()),
                       "utterances": len(part), "hours": round(part["samples"].sum() / SAMPLE_RATE / 3600, 3)}
        for seconds in segment_seconds:
            segments = part["samples"] // round(seconds * SAMPLE_RATE)
            rows[split][f"segments of {seconds} s"] = int(segments.sum())
    counts = pd.DataFrame.from_dict(rows, orient="index")
    counts.index.name = "split"
    return counts


def _name_of(source):
    return source.parent.name if source.name.lower() in CONTAINERS else source.name


def _unchanged(folder, record, source):
    """The corpus in `folder` if it was imported like this from the same files, else None (and says why).

    Raises ValueError rather than replace the corpus of another folder that happens to have the same name.
    """
    if not (folder / "corpus.json").is_file():
        return None
    name, earlier = record["name"], read_json(folder / "corpus.json")
    earlier.pop("waveforms", None)
    before = (folder / earlier.get("source", "")).resolve()
    if before == source:  # synthetic speech stays synthetic, however it is imported again
        record["synthetic"] |= earlier.get("synthetic", False)
    if earlier == record:
        try:
            return open_corpus(name)
        except (OSError, RuntimeError, ValueError) as error:
            print(f"corpus {name!r} is damaged and is imported again: {error}")
            return None
    if before != source and before.is_dir():
        raise ValueError(f"corpus {name!r} was imported from {before}, not from {source}. Import this one "
                         f"under another name, or delete {folder} first.")
    if "manifest" in earlier and "manifest" not in record:
        print(f"corpus {name!r} was restricted to a manifest, and is now imported without one.")
    elif earlier.get("files") != record["files"] and earlier.get("manifest") == record.get("manifest"):
        print(f"corpus {name!r}: its files changed since it was imported ({earlier.get('num_files')} then, "
              f"{record['num_files']} now); what changed is imported again.")
    return None


def _relative(path, folder):
    """Relative to the corpus' folder if inside it, so that the folder can move; absolute otherwise."""
    path, inside = str(path), f"{folder}{os.sep}"
    return path[len(inside):] if path.startswith(inside) else path


def _files_digest(paths):
    """Changes when the list of files does, or a size or date in it."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        status = os.stat(path)
        digest.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _report_skipped(name, folder, found, skipped):
    """Prints what was skipped and why; ValueError if that is everything."""
    if not len(skipped):
        return
    kinds = skipped["reason"].str.split(":").str[0].value_counts()
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    listed = f"The list is in {folder / 'skipped.csv'}."
    if len(skipped) == len(found):
        raise ValueError(f"corpus {name!r}: none of its {len(found)} files can be used ({counts}), such as "
                         f"{skipped['path'].iloc[0]}: {skipped['reason'].iloc[0]}. {listed}")
    print(f"corpus {name!r}: {len(skipped)} of {len(found)} files were skipped ({counts}). {listed}")
    lost = sorted(set(found["speaker"]) - set(found.drop(index=skipped.index)["speaker"]))
    if lost:
        print(f"corpus {name!r}: {len(lost)} of {found['speaker'].nunique()} speakers have no usable file "
              f"and are left out: {', '.join(lost[:5])}{' ...' if len(lost) > 5 else ''}.")


def _put_in_place(store, place):
    """Moves a waveform store that was built aside to where the corpus' is looked for, and clears what is left."""
    if store != place:
        shutil.rmtree(place, ignore_errors=True)
        os.replace(store, place)
    shutil.rmtree(place.with_name(UNCHECKED), ignore_errors=True)


def _what_exists():
    names = list_corpora()
    return f"The imported corpora are {', '.join(names)}." if names else "No corpus is imported yet."
