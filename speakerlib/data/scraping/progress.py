"""How far a scraping job is: counts kept in memory, the pace of this run, and when to stop by itself."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.scraping import outcomes
from speakerlib.data.scraping.ledger import State
from speakerlib.data.scraping.outcomes import STOPPING, advice

OUTCOMES = (*outcomes.OUTCOMES, "pending")
STOP_AFTER_FAILED = 10  # different videos in a row
_GO_ON = "What is done is kept, and what was refused or failed does not count as gone: the same command goes on."


@dataclass(frozen=True)
class Progress:
    """A job at one moment. utterances, hours and num_bytes are of the videos done, also by earlier runs."""

    total: int  # videos
    counts: dict  # outcome -> videos, with "pending"
    utterances: int  # written
    hours: float  # of these
    num_bytes: int  # downloaded for them
    seconds: float  # of this run
    per_hour: float  # videos settled in this run
    seconds_left: float | None  # None: unknown
    recent: tuple  # the last five (video, outcome, reason), the newest last
    stopped: str = ""  # why the job stopped by itself, and how to go on
    finished: bool = False  # nothing is left to ask in this run


class Tally:
    """The counts behind Progress, kept as results come so that none costs a look through the ledger."""

    def __init__(self, states, everything=False):
        """states: those of the ledger; everything: all is asked again, so all counts as pending."""
        self._states = dict.fromkeys(states, State(None, 0, 0, 0)) if everything else dict(states)
        self._counts = Counter(state.outcome for state in self._states.values())
        self._sums = [sum(column) for column in zip(*(state[1:] for state in self._states.values()))]
        self._recent = deque(maxlen=5)
        self._started = time.monotonic()
        self._settled = 0

    def add(self, fetched, state, settled):
        """Counts one result: `state` is what the ledger holds of its video now, settled: it is not asked again."""
        before, self._states[fetched.video] = self._states[fetched.video], state
        self._counts[before.outcome] -= 1
        self._counts[state.outcome] += 1
        self._sums = [total + new - old for total, new, old in zip(self._sums, state[1:], before[1:])]
        self._recent.append((fetched.video, fetched.outcome, fetched.reason))
        self._settled += settled

    def progress(self, num_left, stopped="", finished=False):
        """The Progress now; num_left: videos that are not settled in this run."""
        seconds = time.monotonic() - self._started
        num_utterances, num_samples, num_bytes = self._sums
        counts = {outcome: self._counts[None if outcome == "pending" else outcome] for outcome in OUTCOMES}
        seconds_left = seconds / self._settled * num_left if self._settled else None
        return Progress(len(self._states), counts, num_utterances, num_samples / SAMPLE_RATE / 3600, num_bytes,
                        seconds, self._settled / seconds * 3600 if seconds else 0.0,
                        0.0 if finished else None if stopped else seconds_left, tuple(self._recent), stopped, finished)


@dataclass
class Streak:
    """What has gone wrong in a row, to tell one bad video from a job that has no chance to go on."""

    stop_after_blocked: int
    found: bool = False  # something is at the address of some video, as an earlier run may know
    missing: int = 0
    blocked: int = 0
    failed: dict = field(default_factory=dict)  # video -> reason

    def add(self, video, outcome, reason):
        """Takes one result; returns "", or the sentence that says why the job should stop and how to go on.

        Refusals that concern us, not the video (STOPPING), are counted until a video is done: a private video is
        named as such to a refused client too, so "gone" proves nothing. Failures of different videos are counted
        until one is answered in any other way. If nothing is at the addresses of the first videos, it is the URL
        template that is wrong.
        """
        if reason == "not found":
            self.missing += 1
            if self.missing >= STOP_AFTER_FAILED and not self.found:
                return f"Stopped: of {self.missing} videos, none was found. {advice(reason)} {_GO_ON}"
        elif outcome != "failed":
            self.found = True
        if outcome == "done":
            self.blocked = 0
        if outcome == "failed":
            self.failed[video] = reason
        else:
            self.failed = {}
        if outcome == "blocked" and reason in STOPPING:
            self.blocked += 1
            if self.blocked >= self.stop_after_blocked:
                return (f"Stopped: {self.blocked} videos were refused ({reason}) and none arrived in between. "
                        f"{advice(reason)} {_GO_ON}")
        if len(self.failed) >= STOP_AFTER_FAILED:
            most = Counter(self.failed.values()).most_common(1)[0][0]
            return f"Stopped: {len(self.failed)} videos in a row failed, most of them: {most}. {advice(most)} {_GO_ON}"
        return ""
