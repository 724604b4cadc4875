"""Makes the demo corpus: synthetic speakers, laid out as VoxCeleb is, the same bytes for the same seed."""

import hashlib
import os
import shutil
import wave
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.espeak import espeak_version
from speakerlib.data.files import atomic_path, data_folder, folder_lock, read_json, require_space, write_json
from speakerlib.data.synthetic_speech import speak_sessions

RECIPE = 1  # raise it with every change to the samples: what an older recipe made is then made again
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"  # of a YouTube video's name


def demo_corpus(num_speakers=None, seed=None, progress=True):
    """The synthetic corpus "demo", made and imported if it is not there yet.

    Without num_speakers and seed, a demo corpus that is there is taken as it is; a first one has 120 speakers
    (60 train, 10 validation, 50 test) of seed 0. Raises what make_demo_corpus and import_corpus raise.
    """
    from speakerlib.data.corpora import import_corpus

    folder = data_folder() / "corpora" / "demo"
    given = {"num_speakers": num_speakers, "seed": seed}
    settings = {name: value for name, value in (_parameters_of(folder) or {}).items() if name != "recipe"}
    settings.update((name, value) for name, value in given.items() if value is not None)
    make_demo_corpus(folder, **settings, progress=progress)
    return import_corpus(folder / "wav", name="demo", split_file=folder / "split.csv", progress=progress,
                         synthetic=True)


def make_demo_corpus(folder=None, num_speakers=120, seed=0, num_sessions=3, num_utterances=5,
                     num_workers=None, progress=True):
    """Writes the synthetic speakers to folder (data/corpora/demo by default), and returns it.

    wav/id90001/<session>/00001.wav and so on, 16 kHz mono int16, 3.1 to 6 s each; split.csv (speaker, split);
    and made.json last. 120 speakers of 3 sessions of 5 utterances are 2.3 hours, 260 MB, half a minute on two
    cores. What was cut short goes on; a demo corpus of other parameters is made again. num_workers: threads,
    one for each core by default; the bytes do not depend on it.

    Raises ValueError for fewer than 3 speakers, 1 session or 1 utterance, a negative seed, or a folder whose
    wav/ is no demo corpus; RuntimeError if espeak-ng is not installed; OSError if the disk is full.
    """
    parameters = {"recipe": RECIPE, "num_speakers": num_speakers, "seed": seed, "num_sessions": num_sessions,
                  "num_utterances": num_utterances}
    _check(parameters)
    folder = Path(folder or data_folder() / "corpora" / "demo")
    if (folder / "wav").exists() and _parameters_of(folder) is None:
        raise ValueError(f"{folder} has a wav/ that is not a demo corpus: it has no made.json. Give another "
                         "folder, or move it away.")
    speakers = [f"id9{number:04d}" for number in range(1, num_speakers + 1)]
    with folder_lock(folder, "demo corpus"):
        if _is_whole(folder, parameters, speakers):
            return folder
        espeak_version()  # says what to install, before anything is touched
        require_space(folder, 150_000 * num_speakers * num_sessions * num_utterances, "the demo corpus")
        _put_away_others(folder, parameters)
        write_json(folder / "making.json", parameters)
        _make_speakers(folder / "wav", speakers, parameters, num_workers, progress)
        with atomic_path(folder / "split.csv") as temporary:
            rows = [f"{name},{split}" for name, split in zip(speakers, _splits(num_speakers), strict=True)]
            temporary.write_text("\n".join(["speaker,split", *rows]) + "\n", encoding="utf-8")
        write_json(folder / "made.json", parameters)
        (folder / "making.json").unlink()
    return folder


def _check(parameters):
    for name, lowest in {"num_speakers": 3, "num_sessions": 1, "num_utterances": 1, "seed": 0}.items():
        value = parameters[name]
        highest = float("inf") if name == "seed" else 9999
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"{name} is {value!r}; expected a whole number from {lowest} to {highest}.")


def _parameters_of(folder):
    """Parameters of the demo corpus in a folder, begun or whole; None if there is none."""
    for name in ("making.json", "made.json"):
        if (folder / name).is_file():
            return read_json(folder / name)
    return None


def _is_whole(folder, parameters, speakers):
    begun, split_file = folder / "making.json", folder / "split.csv"
    return (not begun.exists() and split_file.is_file() and _parameters_of(folder) == parameters
            and all((folder / "wav" / name).is_dir() for name in speakers))


def _put_away_others(folder, parameters):
    """Deletes a demo corpus of other parameters, and what a killed process left. Call with the lock held."""
    there = _parameters_of(folder)
    if there not in (None, parameters):
        changed = ", ".join(f"{name} {there.get(name)} -> {value}" for name, value in parameters.items()
                            if there.get(name) != value)
        print(f"demo corpus: made again, with {changed}.")
        # In this order, a kill at any point leaves no speakers but those of the parameters on file.
        if (folder / "wav").exists():
            os.replace(folder / "wav", folder / f".old-{os.urandom(4).hex()}")
        write_json(folder / "making.json", parameters)
        (folder / "made.json").unlink(missing_ok=True)
    for leftover in [*folder.glob(".old-*"), *(folder / "wav").glob(".id*")]:
        shutil.rmtree(leftover)


def _splits(num_speakers):
    """Split of each speaker in order: 60, 10 and 50 of 120, in proportion; two of each from 6 speakers on."""
    num_validation = max(2 if num_speakers >= 6 else 1, round(num_speakers / 12))
    num_train = round((num_speakers - num_validation) * 6 / 11)
    num_test = num_speakers - num_validation - num_train
    return ["train"] * num_train + ["validation"] * num_validation + ["test"] * num_test


def _make_speakers(folder, speakers, parameters, num_workers, progress):
    """Threads are enough: espeak-ng runs in processes of its own, the rest is numpy, which frees the GIL."""
    from tqdm.auto import tqdm

    missing = [number for number, name in enumerate(speakers) if not (folder / name).is_dir()]
    pool = ThreadPoolExecutor(num_workers or os.cpu_count())
    try:
        jobs = [pool.submit(_make_speaker, folder, speakers[number], number, parameters)
                for number in missing]
        for job in tqdm(as_completed(jobs), "demo corpus (synthetic)", total=len(speakers),
                        initial=len(speakers) - len(jobs), unit=" speakers", disable=not progress):
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _make_speaker(folder, name, number, parameters):
    """A speaker's folder appears whole or not at all."""
    seed = parameters["seed"]
    temporary = folder / f".{name}"
    sessions = speak_sessions(seed, number, parameters["num_sessions"], parameters["num_utterances"])
    for session, utterances in enumerate(sessions):
        place = temporary / _session_name(seed, number, session)
        place.mkdir(parents=True)
        for count, samples in enumerate(utterances, start=1):
            with wave.open(str(place / f"{count:05d}.wav"), "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
                file.writeframes(samples.tobytes())
    os.replace(temporary, folder / name)


def _session_name(seed, number, session):
    """Eleven characters, as of a YouTube video; unlike theirs, never with a dash in front."""
    digest = hashlib.blake2b(f"{seed} {number} {session}".encode(), digest_size=11).digest()
    return _LETTERS[digest[0] % 62] + "".join(_LETTERS[byte % 64] for byte in digest[1:])
