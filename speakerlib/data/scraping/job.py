"""Scrapes a list of videos: asks each at a steady rate, writes down what came of it, and can be stopped at any time."""

import heapq
import math
import shutil
import time
import warnings
from collections import Counter, deque
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

from speakerlib.data.files import write_table
from speakerlib.data.loopback import is_loopback
from speakerlib.data.scraping.cutting import samples_digest
from speakerlib.data.scraping.download import read_cookies
from speakerlib.data.scraping.fetching import STAGING, Fetched, fetch_video
from speakerlib.data.scraping.ledger import State, open_ledger
from speakerlib.data.scraping.manifest import write_manifest
from speakerlib.data.scraping.outcomes import clean_message
from speakerlib.data.scraping.progress import Streak, Tally
from speakerlib.data.scraping.url_lists import read_url_lists
from speakerlib.data.workers import local_workers

YOUTUBE = "https://www.youtube.com/watch?v={video}"


def scrape(url_directory, output, *, url_template=YOUTUBE, num_workers=2, rate=None, keep_audio=False, force=False,
           cookies=None, max_tries=3, retry_seconds=10.0, stop_after_blocked=3, min_seconds=0.5, timeout=20.0,
           on_progress=None, client=None):
    """Brings the utterances of a list to <output>/<speaker>/<video>/<utterance>.flac and returns the last Progress.

    The same call goes on where an earlier one was stopped or killed: videos done or gone are not asked again (but
    those done whose files were deleted are, and those gone for a DOUBTFUL reason once), blocked and failed ones are.
    A failed video is tried max_tries times, retry_seconds, then 4 times longer apart, while others go on. After
    stop_after_blocked refusals without a video done between them, 10 videos that failed in a row, or 10 that were not
    found before any was answered, the job stops by itself: see Progress.stopped.

    rate: videos an hour over all workers, default_rate(url_template) by default, math.inf for no limit. keep_audio:
    keeps what was downloaded in <output>/.audio. force: asks every video again, from the first; its files stay
    until others replace them, and a video that was done stays so whatever it is now. cookies: a Netscape cookies
    file. timeout: seconds without an answer. on_progress(Progress): called at the start, after each video, about
    once a second between them and at the end. client: a distributed.Client, to work on other machines that share
    the folder; num_workers processes on this one by default.

    Leaves the ledger, manifest.csv, skipped.csv and, if entries of the list cannot be used, unusable.csv beside the
    speakers. Raises what read_url_lists and open_ledger raise, ValueError for bad arguments, RuntimeError if another
    job is at work in the folder, OSError when the disk is full or read-only, KeyboardInterrupt. Whichever it is, all
    that is finished is kept.
    """
    check_template(url_template)
    rate = (default_rate(url_template) or math.inf) if rate is None else rate
    _check(num_workers=num_workers, rate=rate, max_tries=max_tries, retry_seconds=retry_seconds,
           stop_after_blocked=stop_after_blocked, min_seconds=min_seconds, timeout=timeout)
    if cookies is not None:
        cookies = str(Path(cookies).expanduser().resolve())
        if not Path(cookies).is_file():
            raise FileNotFoundError(f"there is no cookies file {cookies}: export one from a browser, Netscape format.")
        read_cookies(cookies)
    utterances, unusable = read_url_lists(url_directory, min_seconds=min_seconds)
    output = Path(output).expanduser().resolve()
    options = {"output": str(output), "keep_audio": keep_audio, "cookies": cookies, "timeout": timeout,
               "min_seconds": min_seconds}
    with only_job(output), closing(open_ledger(output, utterances)) as ledger, _tidied(output, ledger):
        if len(unusable):
            write_table(output / "unusable.csv", unusable)
        else:
            (output / "unusable.csv").unlink(missing_ok=True)  # what it listed was put right
        videos, states = ledger.waiting(force), ledger.states()
        tally, show = Tally(states, force), _shown(on_progress)
        show(tally.progress(len(videos)))
        stopped = ""
        if videos:
            with nullcontext(client) if client is not None else local_workers(num_workers) as client:
                def submit(video):
                    url = url_template.replace("{video}", video)
                    return client.submit(fetch_video, video, url, ledger.spans(video), pure=False, **options)

                stopped = _drive(submit, videos, states, ledger, tally, show, num_workers=num_workers,
                                 interval=3600 / rate, max_tries=max_tries, retry_seconds=retry_seconds,
                                 streak=Streak(stop_after_blocked, any(state.outcome == "done" for state
                                                                       in states.values())))
    last = tally.progress(0, stopped, finished=not stopped)
    show(last)
    return last


def default_rate(url_template):
    """Videos an hour that a host bears: None, without limit, for this computer; 240 elsewhere."""
    return None if is_loopback(urlsplit(url_template).hostname) else 240


def check_template(url_template):
    """ValueError if it is not an http(s) address with {video} in it once, after the host's name."""
    parts = urlsplit(str(url_template))
    after_host = str(url_template).partition("://")[2].partition("/")[2]
    if (parts.scheme not in ("http", "https") or not parts.hostname or str(url_template).count("{video}") != 1
            or "{video}" not in after_host):
        raise ValueError(f"url_template={url_template!r}: expected an http or https address with {{video}} once after "
                         f"the host's name, such as {YOUTUBE}")


def _drive(submit, videos, states, ledger, tally, show, *, num_workers, interval, max_tries, retry_seconds, streak):
    """Asks the videos and records the answers until all are settled, or returns why it stopped before.

    submit(video) returns a future; at most num_workers are in flight, and `interval` seconds lie between two.
    states: {video: State} as the ledger has them now.
    """
    queue, retries, tries = deque(videos), [], Counter()  # retries: a heap of (when, video)
    in_flight, answers = {}, SimpleQueue()
    next_ask, stopped = time.monotonic(), ""
    while in_flight or (not stopped and (queue or retries)):
        now = time.monotonic()
        again = bool(retries) and retries[0][0] <= now
        if not stopped and len(in_flight) < num_workers and now >= next_ask and (again or queue):
            video = heapq.heappop(retries)[1] if again else queue.popleft()
            if states[video].outcome == "done":
                ledger.set_done(video, False)  # while its files may be replaced
            tries[video] += 1
            next_ask = now + interval
            future = submit(video)
            in_flight[future.key] = future, video
            future.add_done_callback(answers.put)
            continue
        soon = [moment - now for moment in (next_ask, *(when for when, _ in retries[:1])) if moment > now]
        try:
            future = answers.get(timeout=min([1.0, *soon]))
        except Empty:
            show(tally.progress(len(queue) + len(retries) + len(in_flight)))
            continue
        _, video = in_flight.pop(future.key)
        fetched = _answer(future, video)
        if states[video].outcome == "done" and fetched.outcome != "done":  # its files are there still
            state = states[video]
            ledger.set_done(video, True)
        else:
            state = State.after(fetched)
            ledger.record(fetched)
        again = fetched.outcome == "failed" and tries[video] < max_tries
        if again:
            heapq.heappush(retries, (time.monotonic() + retry_seconds * 4 ** (tries[video] - 1), video))
        tally.add(fetched, state, settled=not again)
        stopped = stopped or streak.add(video, fetched.outcome, fetched.reason)
        show(tally.progress(len(queue) + len(retries) + len(in_flight), stopped))
    return stopped


def _answer(future, video):
    """What came of a video, whatever became of the worker; OSError when it was the disk."""
    from distributed import KilledWorker

    if future.cancelled():
        raise RuntimeError("the connection to the workers is lost. All that is done is kept; run the same again.")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, OSError):
        raise OSError(error.errno, f"the job stopped at video {video}: {error.strerror or error}") from error
    died = isinstance(error, KilledWorker)  # its message is about the cluster
    message = "the worker process died over it" if died else clean_message(f"{type(error).__name__}: {error}")
    return Fetched(video, "failed", "decode" if died else "unknown", message, 0.0, 0, 0.0, ())


def _shown(on_progress):
    """on_progress, or nothing: a display that breaks must not end a job of days, so it is left out from then on."""
    def show(progress):
        nonlocal on_progress
        try:
            if on_progress is not None:
                on_progress(progress)
        except Exception as error:
            on_progress = None
            warnings.warn(f"on_progress raised {error!r}: the job goes on without it.", RuntimeWarning, stacklevel=2)
    return show


@contextmanager
def only_job(output):
    """Holds the folder for this job; RuntimeError at once if another one is at work in it."""
    from filelock import FileLock, Timeout

    lock = FileLock(output / ".lock")
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"another job is at work in {output}. Wait until it ends, or stop it first.") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {output}: {error.strerror}. Give another folder") from error
    try:
        yield
    finally:
        (output / ".lock").unlink(missing_ok=True)  # while it is held: whoever waits for this file sees that it is gone
        lock.release()


@contextmanager
def _tidied(output, ledger):
    """However the block ends: no half-made files, a manifest of what is there, and Ctrl-C says what it leaves."""
    shutil.rmtree(output / STAGING, ignore_errors=True)  # what a killed job left
    try:
        ledger.forget_missing()
        ledger.trust_unchanged(samples_digest)
        yield
    except BaseException as error:
        shutil.rmtree(output / STAGING, ignore_errors=True)
        with suppress(OSError):
            ledger.trust_unchanged(samples_digest)
            write_manifest(output)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"Interrupted. All that was finished is kept in {output}; the same command goes on "
                                    "from there.") from None
        raise
    shutil.rmtree(output / STAGING, ignore_errors=True)
    write_manifest(output)


def _check(**numbers):
    """ValueError for a number that cannot be what its name says."""
    for name, value in numbers.items():
        whole = name in ("num_workers", "max_tries", "stop_after_blocked")
        positive = whole or name in ("rate", "timeout")
        if (whole and not isinstance(value, int)) or not (value > 0 if positive else value >= 0):
            raise ValueError(f"{name}={value!r}: expected a {'whole ' * whole}number {'above 0' if positive else ''}")
