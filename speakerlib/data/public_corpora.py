"""Public corpora in one line each: downloaded through torchaudio's dataset classes, then imported like any folder."""

import http.client
import os
import shutil
import socket
import ssl
import urllib.error
from contextlib import contextmanager
from pathlib import Path

from speakerlib.data.corpora import import_table
from speakerlib.data.files import data_folder, folder_lock, require_space
from speakerlib.data.patterns import make_table

# subset: (bytes to download, hours, speakers, utterances) as published; the first subset is the default
CORPORA = {
    "librispeech": {
        "page": "https://www.openslr.org/12", "tree": "LibriSpeech",
        "pattern": "{speaker}/{session}/{speaker}-{session}-{utterance}.flac",
        "subsets": {
            "dev-clean": (337e6, 5.4, 40, 2703), "dev-other": (314e6, 5.3, 33, 2864),
            "test-clean": (346e6, 5.4, 40, 2620), "test-other": (328e6, 5.1, 33, 2939),
            "train-clean-100": (6.3e9, 100.6, 251, 28539), "train-clean-360": (23e9, 363.6, 921, 104014),
            "train-other-500": (30e9, 496.7, 1166, 148688),
        },
    },
    "speech_commands": {
        "page": "https://www.tensorflow.org/datasets/catalog/speech_commands", "tree": "SpeechCommands",
        "pattern": "{word}/{speaker}_nohash_{take}.wav",
        "subsets": {
            "speech_commands_v0.02": (2.4e9, 29.0, 2618, 105829), "speech_commands_v0.01": (1.5e9, 17.7, 1881, 64721),
        },
    },
}
STAGING = ".downloading"
_SILENCE = 60.0  # seconds without an answer after which a connection counts as lost
_GROWTH = 2.5  # what an archive and the files in it take on disk, per byte of the archive


def download_corpus(name, subset=None, folder=None, progress=True):
    """Downloads a public corpus of CORPORA, unless it is there, and imports it as <name>-<subset>; returns it.

    "librispeech": session is the chapter, subset dev-clean by default. "speech_commands": the speaker is the hash in
    the file's name, the utterance <word>-<take>, without sessions; background noise is left out; subset
    speech_commands_v0.02 (or v0.02) by default. folder: where the extracted tree lies or is put, data/downloads/<name>
    by default; a tree that lies there is used as it is. Splits are drawn by seed (see assign_splits).

    For other corpora, and for several subsets as one corpus, use import_corpus on their folder. Raises ValueError for
    an unknown name or subset, ConnectionError if the download fails, RuntimeError if what arrived is damaged, OSError
    if the disk is too small.
    """
    facts, subset = _find(name, subset)
    folder = Path(folder or data_folder() / "downloads" / name).expanduser().resolve()
    root = _root_of(folder, facts["tree"], subset) or _download(name, facts, subset, folder)
    source = root / facts["tree"] / subset
    table = make_table(_read_names(name, root, subset, progress), source, facts["pattern"])
    published = facts["subsets"][subset][3]
    if len(table) != published:
        print(f"{source} holds {len(table):,} utterances; {subset} was published with {published:,}. Delete the folder "
              "to download it again.")
    return import_table(table, source, _corpus_name(name, subset), progress=progress)


def _find(name, subset):
    """(facts, full name of the subset); ValueError with what there is."""
    if name not in CORPORA:
        raise ValueError(f"there is no public corpus {name!r}; expected one of {', '.join(CORPORA)}. Any other corpus "
                         "is imported from its folder: import_corpus(folder, pattern=...), or speakerlib import.")
    facts = CORPORA[name]
    subset = subset or next(iter(facts["subsets"]))
    if subset not in facts["subsets"]:
        subset, given = f"{name}_{subset}", subset
        if subset not in facts["subsets"]:
            raise ValueError(f"{name} has no subset {given!r}; expected one of {', '.join(facts['subsets'])}.")
    return facts, subset


def _corpus_name(name, subset):
    return subset if subset.startswith(name) else f"{name}-{subset}"


def _root_of(folder, tree, subset):
    """The folder above `tree`, if the subset lies in `folder`, whichever of the three folders that is."""
    for root in (folder, folder.parent, folder.parent.parent):
        place = root / tree / subset
        if place.is_dir() and place.is_relative_to(folder):
            return root
    return None


def _download(name, facts, subset, folder):
    """Downloads and unpacks beside the final place, and moves there what is whole; returns `folder`."""
    num_bytes, hours, speakers, _ = facts["subsets"][subset]
    total = _GROWTH * num_bytes + 3600 * hours * 32000
    print(f"{name} {subset}: {num_bytes / 1e9:.1f} GB to download, then unpacked; {hours:,.0f} hours of {speakers:,} "
          f"speakers. It takes about {total / 1e9:.1f} GB in all, of which the waveform store is "
          f"{3600 * hours * 32000 / 1e9:.1f} GB.")
    with folder_lock(folder, f"{name} {subset}"):
        staging, place = folder / STAGING, folder / facts["tree"]
        if not (place / subset).is_dir():  # nobody fetched it while this process waited
            shutil.rmtree(staging / facts["tree"], ignore_errors=True)  # unpacked in part; a whole archive is kept
            for leftover in staging.glob("*.partial"):
                leftover.unlink()
            require_space(folder, _GROWTH * num_bytes, f"{name} {subset}")
            staging.mkdir(parents=True, exist_ok=True)
            with _explain(name, facts, subset, place / subset):
                _dataset(name)(root=staging, url=subset, download=True)
            place.mkdir(exist_ok=True)
            # The subset comes last: it tells that all is there.
            for found in sorted((staging / facts["tree"]).iterdir(), key=lambda path: path.name == subset):
                if not (place / found.name).exists():
                    os.replace(found, place / found.name)
        shutil.rmtree(staging, ignore_errors=True)
    return folder


@contextmanager
def _explain(name, facts, subset, place):
    """Says what to do when a download fails; a silent connection is given up."""
    advice = (f"Run it again later; or get {subset}.tar.gz from {facts['page']} in another way, unpack it so that its "
              f"folders lie in {place}, and run it again.")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        raise ConnectionError(f"the download of {name} {subset} failed ({error or type(error).__name__}). {advice}") \
            from error
    except (RuntimeError, EOFError) as error:
        raise RuntimeError(f"the archive of {name} {subset} arrived damaged ({error}). {advice}") from error
    finally:
        socket.setdefaulttimeout(before)


def _dataset(name):
    from torchaudio import datasets

    return {"librispeech": datasets.LIBRISPEECH, "speech_commands": datasets.SPEECHCOMMANDS}[name]


def _read_names(name, root, subset, progress):
    """Rows (speaker, session, utterance, path) of a tree, by get_metadata alone: __getitem__ would decode."""
    from tqdm.auto import tqdm

    dataset, rows = _dataset(name)(root=root, url=subset), []
    for number in tqdm(range(len(dataset)), "Reading names", unit="file", disable=not progress):
        try:
            path, *rest = dataset.get_metadata(number)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"a transcript of {root / subset} cannot be found ({error}). Put it back; or use "
                                    "import_corpus on the folder, which needs none.") from error
        path = root / CORPORA[name]["tree"] / path
        if name == "librispeech":
            speaker, session, utterance = path.stem.split("-")
        else:
            _, word, speaker, take = rest
            session, utterance = "1", f"{word}-{take}"
        rows.append((speaker, session, utterance, str(path)))
    if not rows:
        raise ValueError(f"{root} holds a folder {subset} without audio that is named as in {name}. Delete it to "
                         "download it again.")
    return rows
