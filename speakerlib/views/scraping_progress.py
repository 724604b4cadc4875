"""How a scraping job goes on, shown in place: in a notebook's output, on a terminal, in a log."""

import html
import shutil
import sys
import textwrap
import time

from speakerlib.data.scraping.estimate import format_bytes, format_hours, format_seconds
from speakerlib.views.style import GREY, PALETTE

# outcome: (colour, character on a terminal)
LOOKS = {
    "done": (PALETTE[0], "#"),
    "gone": (GREY, "x"),
    "blocked": (PALETTE[1], "!"),
    "failed": (PALETTE[3], "?"),
    "pending": ("#C9C9C9", "."),
}
NOTEBOOK_SECONDS, TERMINAL_SECONDS, LOG_SECONDS = 0.5, 0.2, 30.0  # between two drawings
_BAR = ("display: flex; gap: 2px; height: 1.2em; margin: 0.3em 0; overflow: hidden; border-radius: 3px; "
        "background: rgba(128, 128, 128, 0.1)")
_GRID = "display: grid; grid-template-columns: max-content max-content 1fr; column-gap: 1.2em; font-size: 0.92em"
_PENDING = "rgba(128, 128, 128, 0.4)"  # pale on white and on black
_STOPPED = f"border-left: 4px solid {PALETTE[1]}; padding-left: 0.7em; margin: 0.5em 0; font-weight: bold"


def notebook_progress():
    """A function for scrape's on_progress that shows the job in the cell's output, in place; its end stays there."""
    from IPython.display import display

    handle, next_draw = None, 0.0

    def show(progress):
        nonlocal handle, next_draw
        if time.monotonic() < next_draw and not _is_last(progress):
            return
        picture = {"text/html": progress_html(progress), "text/plain": "\n".join(progress_lines(progress))}
        if handle is None:
            handle = display(picture, raw=True, display_id=True)
        else:
            handle.update(picture, raw=True)
        next_draw = time.monotonic() + NOTEBOOK_SECONDS

    return show


def terminal_progress(stream=None):
    """A function for scrape's on_progress that writes to stream (standard error by default).

    A terminal gets a few lines that are updated in place and fit its width; a file or a pipe a line each half
    minute and one at the end.
    """
    stream = stream or sys.stderr
    on_terminal = stream.isatty()
    drawn, next_draw, said_stopped = 0, 0.0, False

    def show(progress):
        nonlocal drawn, next_draw, said_stopped
        if time.monotonic() < next_draw and not _is_last(progress):
            return
        if on_terminal:
            lines = progress_lines(progress, shutil.get_terminal_size().columns - 1)
            stream.write((f"\x1b[{drawn}A\r\x1b[J" if drawn else "") + "\n".join(lines) + "\n")
            drawn = len(lines)
        else:
            stream.write(f"{_videos(progress)}: {_outcomes(progress)}; {', '.join(_numbers(progress))}\n")
            if progress.stopped and not said_stopped:
                stream.write(f"{_printable(progress.stopped)}\n")
            said_stopped = bool(progress.stopped)
        stream.flush()
        next_draw = time.monotonic() + (TERMINAL_SECONDS if on_terminal else LOG_SECONDS)

    return show


def progress_html(progress):
    """A Progress of speakerlib.data.scraping.job as HTML that reads in a light and in a dark theme."""
    counts = {name: (count, LOOKS[name][0] if name != "pending" else _PENDING)
              for name, count in _counts(progress).items()}
    bar = "".join(f'<div title="{name}" style="flex: {count} 0 0; min-width: 4px; background: {colour}"></div>'
                  for name, (count, colour) in counts.items() if count)
    legend = "".join(
        f'<span style="margin-right: 1.4em; white-space: nowrap"><span style="display: inline-block; width: 0.8em; '
        f'height: 0.8em; margin-right: 0.4em; border-radius: 2px; background: {colour}"></span>{name} '
        f"<b>{count:,}</b></span>" for name, (count, colour) in counts.items())
    recent = "".join(f"<code>{_safe(video)}</code><span>{_safe(outcome)}</span><span>{_safe(reason)}</span>"
                     for video, outcome, reason in reversed(progress.recent))
    stopped = f'<div style="{_STOPPED}">{_safe(progress.stopped)}</div>' if progress.stopped else ""
    if recent:
        recent = f'<div style="margin-top: 0.5em">The last ones:</div><div style="{_GRID}">{recent}</div>'
    return (
        f'<div style="max-width: 60em; line-height: 1.6"><div><b>{_videos(progress)}</b> asked for'
        f'{", finished" if progress.finished and not progress.stopped else ""}</div>'
        f'<div role="img" aria-label="{_outcomes(progress)}" style="{_BAR}">{bar}</div><div>{legend}</div>'
        f'<div>{" &middot; ".join(_numbers(progress))}</div>{stopped}{recent}</div>')


def progress_lines(progress, width=79):
    """The same as plain lines of at most `width` characters: a bar, its outcomes, the numbers, why it stopped."""
    width = max(width, 24)
    counts, videos = _counts(progress), _videos(progress)
    length = max(width - len(videos) - 3, 10)
    bar = "".join(LOOKS[name][1] * share for name, share in zip(counts, _shares(list(counts.values()), length)))
    outcomes = [f"{LOOKS[name][1]} {name} {count:,}" for name, count in counts.items() if name != "pending"]
    if len("  ".join(outcomes)) > width:
        outcomes = [text.replace(f" {name}", "") for text, name in zip(outcomes, counts)]
    lines = [f"[{bar:.<{length}}] {videos}", _fit(outcomes, width), _fit(_numbers(progress), width)]
    return [line[:width] for line in lines] + textwrap.wrap(_printable(progress.stopped), width)


def _is_last(progress):
    return progress.finished or bool(progress.stopped)


def _counts(progress):
    return {name: int(progress.counts.get(name, 0)) for name in LOOKS}


def _videos(progress):
    return f"{progress.total - _counts(progress)['pending']:,} of {progress.total:,} videos"


def _outcomes(progress):
    return ", ".join(f"{count:,} {name}" for name, count in _counts(progress).items() if name != "pending")


def _numbers(progress):
    """Utterances, hours, time left, rate and bytes as texts, the most wanted first."""
    texts = [f"{progress.utterances:,} utterances", format_hours(progress.hours)]
    if not _is_last(progress):
        left = progress.seconds_left
        texts.append("time left unknown" if left is None else f"{format_seconds(left)} left")
    if progress.per_hour:
        texts.append(f"{progress.per_hour:,.0f} videos an hour")
    return [*texts, f"{format_bytes(progress.num_bytes)} downloaded", f"{format_seconds(progress.seconds)} in this run"]


def _shares(counts, length):
    """Splits length by the counts: each that is not 0 gets one at least, the largest what is left over."""
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    shares = [max(1, count * length // total) if count else 0 for count in counts]
    shares[counts.index(max(counts))] += length - sum(shares)
    return shares


def _fit(texts, width, separator="  "):
    """As many of the texts, from the first, as fit in width characters."""
    while len(texts) > 1 and len(separator.join(texts)) > width:
        texts = texts[:-1]
    return separator.join(texts)


def _printable(text):
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def _safe(text):
    return html.escape(_printable(text))
