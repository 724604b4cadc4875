"""Practice for scraping without the internet: small lists in VoxCeleb's layout, made videos, a server with faults."""

import hashlib
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.files import atomic_path, folder_lock, read_json, write_json
from speakerlib.data.practice.media import CONTENT_TYPES, hum, write_video
from speakerlib.data.scraping.url_lists import FRAME_RATE

RECIPE = 1  # raise it with every change to what is made: what an older recipe made is then made again
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_SHARED_EVERY = 10  # one video in this many also serves a second speaker
_LONGEST = 12.0  # seconds of an utterance


@dataclass(frozen=True)
class _Video:
    """What one practice video is made of; spans: (speaker number, utterance number, first frame, last frame)."""

    number: int
    name: str
    suffix: str
    seconds: float
    spans: tuple


def make_practice(folder, num_speakers=6, num_videos=3, num_utterances=3, seconds=20.0, seed=0, speech=True,
                  flaws=False, progress=False):
    """Makes practice lists and videos in `folder`, and returns it; what is there already is not made again.

    url_lists/txt/<speaker>/<video>/<utterance>.txt as VoxCeleb's, and videos/<video>.m4a, .webm, .mp4 in turn,
    num_videos a speaker of `seconds` s each. One video in ten serves a second speaker too, and is then twice as
    long. speech: synthetic voices (needs espeak-ng), otherwise hums, faster and with nothing to install. flaws: the
    last video but one has three lists more, 00091 to 00093: one cut off, one of a third of a second, one past its end.

    Raises ValueError for a number out of range or a folder that holds other lists or videos; RuntimeError if
    espeak-ng is missing.
    """
    parameters = {"recipe": RECIPE, "num_speakers": num_speakers, "num_videos": num_videos,
                  "num_utterances": num_utterances, "seconds": float(seconds), "seed": seed, "speech": bool(speech),
                  "flaws": bool(flaws)}
    _check(parameters)
    folder = Path(folder)
    if not (folder / "practice.json").exists() and any((folder / name).exists() for name in ("url_lists", "videos")):
        raise ValueError(f"{folder} has a url_lists/ or videos/ that is no practice: it has no practice.json. Give "
                         "another folder, or move them away.")
    videos = _plan(parameters)
    with folder_lock(folder, "practice videos"):
        _put_away_others(folder, parameters)
        flawed = videos[-2:-1] or videos if flaws else []
        for path, content in [*_lists(videos, seed), *_flaws(flawed, seed)]:
            path = folder / "url_lists" / "txt" / path
            if not path.exists():
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
        _make_videos(folder / "videos", videos, parameters, progress)
    return folder


def practice_faults(utterances, seed=0):
    """A mix of faults for a notebook, {video: fault}: one video each, drawn from a table of utterances.

    They are spread over the speakers, and few videos get few faults: at least half of them work.
    """
    kinds = ["private", "bot check", "removed", "not audio", "terminated", "region", "flaky"]
    speakers = utterances.groupby("video")["speaker"].agg(set).to_dict()
    free = np.random.default_rng(seed).permutation(sorted(speakers)).tolist()
    faults, losses = {}, Counter()
    for kind in kinds[:len(free) // 2]:
        video = min(free, key=lambda name: max(losses[speaker] for speaker in speakers[name]))
        free.remove(video)
        losses.update(speakers[video])
        faults[video] = kind
    return faults


def _check(parameters):
    for name, lowest in {"num_speakers": 1, "num_videos": 1, "num_utterances": 1, "seed": 0}.items():
        value = parameters[name]
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= 9999:
            raise ValueError(f"{name} is {value!r}; expected a whole number from {lowest} to 9999.")
    room = parameters["seconds"] / parameters["num_utterances"]
    if not 1 <= room <= 1e5:
        raise ValueError(f"seconds is {parameters['seconds']:g} for {parameters['num_utterances']} utterances a "
                         "video; expected at least one second each.")


def _put_away_others(folder, parameters):
    """Deletes what other parameters made, in an order that mixes nothing if it is cut short."""
    record = folder / "practice.json"
    if not record.exists() or read_json(record) != parameters:
        for name in ("videos", "url_lists"):
            if (folder / name).exists():
                os.replace(folder / name, folder / f".old-{os.urandom(4).hex()}")
        write_json(record, parameters)
    for leftover in [*folder.glob(".old-*"), *(folder / "videos").glob(".*.part*")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _plan(parameters):
    """Every video, in order: whom it serves, and where each of their utterances is."""
    seed, num_speakers = parameters["seed"], parameters["num_speakers"]
    videos = []
    for number in range(num_speakers * parameters["num_videos"]):
        speakers = [number // parameters["num_videos"]]
        if number % _SHARED_EVERY == 1 and num_speakers > 1:
            speakers.append((speakers[0] + 1) % num_speakers)
        owners = np.repeat(speakers, parameters["num_utterances"])
        draw = np.random.default_rng([seed, number])
        seconds = parameters["seconds"] * len(speakers)
        spans, room = [], seconds / len(owners)
        for place, speaker in enumerate(draw.permutation(owners).tolist()):
            length = min(_LONGEST, room * draw.uniform(0.65, 0.95))
            start = place * room + draw.uniform(0, room - length)
            first = int(start * FRAME_RATE)
            spans.append((speaker, sum(span[0] == speaker for span in spans) + 1, first,
                          first + max(int(length * FRAME_RATE), 1) - 1))
        suffix = list(CONTENT_TYPES)[number % len(CONTENT_TYPES)]
        videos.append(_Video(number, _video_name(seed, number), suffix, seconds, tuple(spans)))
    return videos


def _video_name(seed, number):
    """Eleven characters as of a YouTube video, now and then with '-' or '_' in front."""
    digest = hashlib.blake2b(f"practice {seed} {number}".encode(), digest_size=11).digest()
    front = {0: "-", 3: "_"}.get(number % 5, _LETTERS[digest[0] % 62])
    return front + "".join(_LETTERS[byte % 64] for byte in digest[1:])


def _lists(videos, seed):
    """Yields (path below txt/, bytes) of every list, as varied as the real ones."""
    for video in videos:
        for speaker, utterance, first, last in video.spans:
            draw = np.random.default_rng([seed, video.number, speaker, utterance])
            name = f"id9{speaker + 1:04d}"
            yield f"{name}/{video.name}/{utterance:05d}.txt", _list_file(name, video.name, first, last, draw)


def _flaws(videos, seed):
    """Lists as no reader wants them: cut off before its frames, too short to use, past the end of the video."""
    for video in videos:
        name, end = f"id9{video.spans[0][0] + 1:04d}", int(video.seconds * FRAME_RATE)
        for utterance, (first, last) in {91: (0, 0), 92: (10, 17), 93: (end + 50, end + 150)}.items():
            content = _list_file(name, video.name, first, last, np.random.default_rng([seed, utterance]))
            content = content.partition(b"FRAME")[0] if utterance == 91 else content
            yield f"{name}/{video.name}/{utterance:05d}.txt", content


def _list_file(speaker, video, first, last, draw):
    """One utterance's list: header, boxes in pixels or parts of the picture, tabs or spaces, CRLF or LF."""
    gap = str(draw.choice([" ", "\t", " \t"]))
    confidence = str(draw.choice([f"{draw.uniform(5, 25):.1f}", f"{draw.uniform(5, 25):.3f}{gap}(1)"]))
    header = [f"Identity  :{gap}{speaker}", f"Reference :{gap}{video}", f"Offset    :{gap}{draw.integers(-9, 10)}",
              f"FV Conf   :{gap}{confidence}"]
    if draw.random() < 0.8:  # older lists lack it
        header.append(f"ASD Conf  :{gap}{draw.uniform(1, 8):.4g}")
    box = [241, 52, 128, 128] if draw.random() < 0.5 else [0.458, 0.078, 0.296, 0.526]
    tail = gap if draw.random() < 0.5 else ""
    rows = [gap.join(["FRAME", "X", "Y", "W", "H"]) + tail]
    rows += [gap.join([f"{frame:06d}", *map(str, box)]) + tail for frame in range(first, last + 1)]
    end = str(draw.choice(["\n", "\r\n"]))
    return (end.join([*header, "", *rows]) + str(draw.choice(["", end, 2 * end]))).encode()


def _make_videos(folder, videos, parameters, progress):
    """Threads are enough: espeak-ng runs in processes of its own, and the encoders free the GIL."""
    from tqdm.auto import tqdm

    missing = [video for video in videos if not (folder / f"{video.name}{video.suffix}").exists()]
    if not missing:
        return
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        voices = _voices(missing, parameters, pool)
        jobs = [pool.submit(write_video, folder / f"{video.name}{video.suffix}", video.seconds,
                            _pieces(video, voices, parameters), parameters["seed"] + video.number)
                for video in missing]
        for job in tqdm(as_completed(jobs), "practice videos (synthetic)", total=len(videos),
                        initial=len(videos) - len(jobs), unit=" videos", disable=not progress):
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(video, voices, parameters):
    """[(first sample, int16 samples)] of a video's utterances."""
    pieces = []
    for speaker, utterance, first, last in video.spans:
        length = (last + 1 - first) / FRAME_RATE
        if parameters["speech"]:
            # What was said is said again from its beginning until the utterance is full.
            samples = np.resize(voices[speaker][video.number][utterance - 1], round(length * SAMPLE_RATE))
        else:
            draw = np.random.default_rng([parameters["seed"], video.number, speaker, utterance])
            samples = hum(length, 110 * 2 ** (speaker * 0.37 % 1.5), draw)
        pieces.append((round(first / FRAME_RATE * SAMPLE_RATE), samples))
    return pieces


def _voices(missing, parameters, pool):
    """{speaker: {video number: utterances}} of what is missing; each speaker's videos are their sessions."""
    if not parameters["speech"]:
        return {}
    from speakerlib.data.espeak import espeak_version
    from speakerlib.data.synthetic_speech import speak_sessions

    espeak_version()  # says what to install
    sessions = {span[0]: [] for video in missing for span in video.spans}
    for video in _plan(parameters):
        for speaker in sorted({span[0] for span in video.spans} & set(sessions)):
            sessions[speaker].append(video.number)
    jobs = {speaker: pool.submit(speak_sessions, parameters["seed"], speaker, len(numbers),
                                 parameters["num_utterances"]) for speaker, numbers in sessions.items()}
    return {speaker: dict(zip(sessions[speaker], job.result(), strict=True)) for speaker, job in jobs.items()}
