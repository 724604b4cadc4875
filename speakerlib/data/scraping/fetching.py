"""Fetches one video: downloads it, cuts its utterances, and puts each in its place as a whole."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from speakerlib.data.audio import AudioError
from speakerlib.data.scraping.cutting import cut_utterances
from speakerlib.data.scraping.download import DISK_ERRORS, download_audio
from speakerlib.data.scraping.outcomes import classify, clean_message
from speakerlib.data.scraping.url_lists import check_utterances

STAGING = ".scraping"  # in the output folder: what is being fetched, one folder a video
AUDIO = ".audio"  # in the output folder: the videos' whole audio, where it is kept


@dataclass(frozen=True)
class Fetched:
    """What came of a video; utterances: (speaker, utterance, num_samples, sha256, skipped), skipped "" if written."""

    video: str
    outcome: str
    reason: str
    message: str
    seconds: float
    num_bytes: int
    audio_seconds: float
    utterances: tuple


def fetch_video(video, url, spans, output, *, keep_audio=False, cookies=None, timeout=20.0, min_seconds=0.5):
    """Downloads a video and writes its utterances to <output>/<speaker>/<video>/<utterance>.flac; returns Fetched.

    spans: list of (speaker, utterance, start, end) in seconds. What goes wrong with the video or the network is the
    outcome, with its reason and message; nothing is written then. What was written for the video before is replaced,
    or stays. keep_audio leaves what was downloaded as <output>/.audio/<video>.<suffix>. All work is done in
    <output>/.scraping/<video>, which is gone at the end; what a killed worker left there is deleted first.

    Raises OSError if the disk is full, read-only or not ours; ValueError for an id, a span or a cookies file that
    is none.
    """
    if not spans:
        raise ValueError(f"video {video!r} has no utterances; expected at least one (speaker, utterance, start, end).")
    check_utterances(pd.DataFrame([(speaker, video, utterance, start, end) for speaker, utterance, start, end in spans],
                                  columns=["speaker", "video", "utterance", "start", "end"]))
    output, begin = Path(output), time.monotonic()
    staging = output / STAGING / video
    num_bytes, audio_seconds, utterances = 0, 0.0, ()
    try:
        shutil.rmtree(staging, ignore_errors=True)
        for name in ("download", "utterances"):
            (staging / name).mkdir(parents=True)
        try:
            path = download_audio(url, staging / "download", cookies, timeout)
            num_bytes = path.stat().st_size
            cuts, audio_seconds = cut_utterances(path, spans, staging / "utterances", min_seconds)
        except AudioError as error:
            outcome, reason, message = "failed", "decode", error.reason
        except RuntimeError as error:
            outcome, reason, message = *classify(error), str(error)
        else:
            utterances = _publish(cuts, video, output)
            if keep_audio:
                _keep(path, output / AUDIO / f"{video}{path.suffix}")
            outcome, reason, message = "done", "", ""
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise OSError(error.errno, f"cannot write to {output}: {error.strerror}. What was fetched so far is kept; "
                      "make room for more, or see to the permissions, and run the same command again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Fetched(video, outcome, reason, clean_message(message), time.monotonic() - begin, num_bytes, audio_seconds,
                   utterances)


def _publish(cuts, video, output):
    """Moves every utterance to its place, each whole; returns what Fetched holds of them."""
    for cut in cuts:
        if cut.path is not None:
            _move(cut.path, output / cut.speaker / video / f"{cut.utterance}.flac")
    return tuple((cut.speaker, cut.utterance, cut.num_samples, cut.sha256, cut.skipped) for cut in cuts)


def _keep(path, target):
    """Moves the audio to its place; another kind of it, from an earlier time, makes room."""
    _move(path, target)
    for other in target.parent.glob(f"{target.stem}.*"):
        if other != target:
            other.unlink()


def _move(path, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
