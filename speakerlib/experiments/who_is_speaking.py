"""Chapter 09: people to enrol and clips to ask about, from a folder or a corpus; a meeting; how the answers err."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.experiments.calibration import expected_calibration_error, reliability
from speakerlib.experiments.enrolment import accuracy_by_seconds
from speakerlib.experiments.open_set import embed_open_set
from speakerlib.experiments.open_set_errors import answers, error_tradeoff, open_set_errors

NOTEBOOK = "09_who_is_speaking"
SUFFIXES = {".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".webm", ".aac"}
SHORTEST, LONGEST = 1.0, 6.0  # seconds of an example
PAUSE = 0.4  # seconds between two turns of a meeting


@dataclass(frozen=True)
class Guests:
    """enrolled: {name: clips}; asked: [(who it is, clip)], some of strangers. Clips: paths, or float32 arrays."""

    enrolled: dict
    asked: list


def find_guests(settings, corpus):
    """The Guests of notebook 09's settings: of its folder of people, or of the corpus."""
    if settings.people_folder != "none":
        return guests_of_folder(settings.people_folder)
    return guests_of_corpus(corpus, settings.num_people, settings.num_clips, settings.seed)


def guests_of_folder(folder):
    """Guests of <folder>/<name>/<clips>: the last clip of each is asked about, the others enrol; sorted by file name.

    Whoever has one clip alone is a stranger who asks. ValueError where nobody has two clips, FileNotFoundError where
    there is no folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}. Expected <folder>/<name>/<clips>, a folder a person.")
    found = {place.name: sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
             for place in sorted(folder.iterdir()) if place.is_dir()}
    enrolled = {name: clips[:-1] for name, clips in found.items() if len(clips) > 1}
    if not enrolled:
        seen = ", ".join(f"{name} ({len(clips)})" for name, clips in found.items()) or "no folders in it"
        raise ValueError(f"{folder}: nobody has two clips ({seen}). Expected <folder>/<name>/<clips>, two or more of "
                         f"a person, as {', '.join(sorted(SUFFIXES))}.")
    return Guests(enrolled, [(name, clips[-1]) for name, clips in found.items() if clips])


def guests_of_corpus(corpus, num_people, num_clips, seed=0, num_strangers=1):
    """Guests who are test speakers of a corpus, drawn by the seed; each is asked about with an utterance of its own.

    ValueError if there are not so many test speakers with so many utterances of a second.
    """
    table = corpus.table[(corpus.table["split"] == "test") & (corpus.table["duration"] >= SHORTEST)]
    counts = table["speaker"].value_counts().sort_index()
    fit = counts.index[counts > num_clips].to_numpy(str)
    if len(fit) < num_people + num_strangers:
        raise ValueError(f"corpus {corpus.name!r} has {len(fit)} test speakers with {num_clips + 1} utterances of a "
                         f"second; num_people={num_people} and a stranger need {num_people + num_strangers}.")
    random, rows = np.random.default_rng([seed, 9]), {}
    for name in random.permutation(fit)[:num_people + num_strangers]:
        own = np.flatnonzero((corpus.table["speaker"] == name) & corpus.table.index.isin(table.index))
        rows[str(name)] = random.permutation(own)[:num_clips + 1]
    names = sorted(list(rows)[:num_people]) + list(rows)[num_people:]
    return Guests({name: [_waveform(corpus, row) for row in rows[name][:-1]] for name in names[:num_people]},
                  [(name, _waveform(corpus, rows[name][-1])) for name in names])


def find_recording(settings, guests):
    """(waveform, truth) for the timeline: of notebook 09's settings' file, whose truth is None, or a meeting."""
    from speakerlib.data.given_clips import read_clip

    if settings.recording != "none":
        return read_clip(settings.recording), None
    return meeting(guests, seed=settings.seed)


def meeting(guests, turns=8, seed=0):
    """(waveform, table of start, end, name): the clips that are asked about, one after another with pauses between.

    The clips are given, or of files, which are read here.
    """
    from speakerlib.data.given_clips import read_clip

    random = np.random.default_rng([seed, 10])
    order = [place for _ in range(-(-turns // len(guests.asked))) for place in random.permutation(len(guests.asked))]
    pieces, rows, now, pause = [], [], 0, np.zeros(round(PAUSE * SAMPLE_RATE), np.float32)
    for place in order[:turns]:
        name, clip = guests.asked[place]
        waveform = read_clip(clip)
        waveform = 0.1 * waveform / max(1e-6, float(np.sqrt(np.mean(np.square(waveform)))))
        rows.append((now / SAMPLE_RATE, (now + len(waveform)) / SAMPLE_RATE, name))
        pieces += [waveform, pause]
        now += len(waveform) + len(pause)
    return np.clip(np.concatenate(pieces), -1, 1), pd.DataFrame(rows, columns=["start", "end", "name"])


def share_right(timeline, truth, strangers=()):
    """Share of the time of true turns in which a timeline has the right name ("unknown" for strangers).

    None where the truth is.
    """
    from speakerlib.experiments.calibration import UNKNOWN

    if truth is None:
        return None
    right = 0.0
    for start, end, name in truth.itertuples(index=False):
        wanted = timeline[timeline["name"] == (UNKNOWN if name in strangers else name)]
        right += (wanted["end"].clip(upper=end) - wanted["start"].clip(lower=start)).clip(lower=0).sum()
    return float(right / (truth["end"] - truth["start"]).sum())


def times_real_time(people, seconds=600.0, seed=0):
    """How many seconds of sound a timeline takes a second: measured once on a made-up recording of so many seconds."""
    random = np.random.default_rng(seed)
    waveform = 0.1 * random.standard_normal(round(seconds * SAMPLE_RATE), dtype=np.float32)
    people.timeline(waveform[:SAMPLE_RATE * 20])  # what is made at the first call
    began = perf_counter()
    people.timeline(waveform)
    return seconds / (perf_counter() - began)


def errors_on_test_speakers(people, corpus, num_tasks=2000, seed=0, most=None):
    """How the answers of an encoder err on the test speakers of a corpus: {name: table}.

    people: a SpeakerIdentifier with a calibration; most: utterances of each speaker, None: all. errors, tradeoff,
    seconds: see open_set_errors, error_tradeoff, accuracy_by_seconds; reliability: {condition: (reliability, expected
    calibration error)}, clips of mixed conditions under "mixed".
    """
    encoder, front = people.weights.encoder, people.weights.front_end.name
    calibration = people.weights.calibration
    clips = embed_open_set(encoder, corpus, front, "test", seed=seed, progress=False, most=most)
    conditions = [*dict.fromkeys(name for name, _ in clips.embeddings), None]
    found = {condition or "mixed": answers(clips, calibration, condition, num_tasks, seed) for condition in conditions}
    return {
        "errors": open_set_errors(clips, calibration, num_tasks=num_tasks, seed=seed),
        "tradeoff": error_tradeoff(clips, num_tasks=num_tasks, seed=seed),
        "reliability": {name: (reliability(*each), expected_calibration_error(*each)) for name, each in found.items()},
        "seconds": accuracy_by_seconds(encoder, corpus, front, enrolment_seconds=(1, 3, 10), num_tasks=num_tasks,
                                       query_seconds=lengths_that_fit(corpus.table), seed=seed, most=most),
    }


def lengths_that_fit(table, num_way=5, seconds=(0.5, 1, 3), clips=4):
    """Those seconds that so many test speakers have so many utterances of; the shortest in any case."""
    test = table[table["split"] == "test"]
    counts = {each: (test["duration"] > each).groupby(test["speaker"]).sum() for each in seconds}
    return tuple(each for each in seconds if each == min(seconds) or (counts[each] >= clips).sum() >= num_way)


def _waveform(corpus, row):
    samples = np.asarray(corpus.waveforms.read(int(row)))[:round(LONGEST * SAMPLE_RATE)]
    return samples.astype(np.float32) / 32768 if samples.dtype == np.int16 else samples.astype(np.float32)
