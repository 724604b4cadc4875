"""The views of a scraping job: they fit where they are shown, hide nothing, and say why a job stopped."""

import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakerlib.data.scraping.progress import OUTCOMES, Progress
from speakerlib.views import scraping, scraping_progress
from speakerlib.views.style import figure_png

STOPPED = ("Stopped: the last 3 answers but for videos that are gone were refusals (bot check). Wait some hours, lower "
           "the rate, or give a file of cookies. The same command goes on from here.")


def progress(done=4012, gone=903, blocked=12, failed=7, pending=17562, **changes):
    counts = dict(zip(OUTCOMES, (done, gone, blocked, failed, pending), strict=True))
    values = {"total": sum(counts.values()), "counts": counts, "utterances": 27312, "hours": 62.314,
              "num_bytes": 19_200_000_000, "seconds": 73_212.0, "per_hour": 241.8, "seconds_left": 262_000.0,
              "recent": (("abcdefghijk", "done", ""), ("-bcdefghijk", "gone", "private"))}
    return Progress(**(values | changes))


NOTHING = progress(0, 0, 0, 0, 0, utterances=0, hours=0.0, num_bytes=0, seconds=0.0, per_hour=0.0, seconds_left=None,
                   recent=())


class Clock:
    """Stands in for time.monotonic of the views."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(scraping_progress.time, "monotonic", lambda: self.now)


class Terminal(io.StringIO):
    """A terminal that a test can read: what stands on its screen after everything written so far."""

    def isatty(self):
        return True

    def screen(self):
        lines, row = [""], 0
        for part in re.findall(r"\x1b\[\d*[AJ]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if part.endswith("A") and part[0] == "\x1b":
                row -= int(part[2:-1])
            elif part == "\x1b[J":
                lines[row:] = [""]
            elif part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part != "\r":
                lines[row] += part
        return lines


@pytest.fixture
def terminal(monkeypatch):
    """Makes a Terminal of so many columns."""
    def make(columns):
        monkeypatch.setattr(scraping_progress.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
        return Terminal()
    return make


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
@pytest.mark.parametrize("shown", [progress(), progress(stopped=STOPPED), progress(finished=True), NOTHING,
                                   progress(pending=1_100_000)])
def test_lines_fit_the_terminal_and_keep_what_matters(terminal, columns, shown):
    stream = terminal(columns)
    scraping_progress.terminal_progress(stream)(shown)
    lines = stream.screen()
    assert max(map(len, lines)) < columns  # the last column would break the line
    assert lines[1].split()[0] == "#" and lines[1].split()[-2 if columns < 60 else -3] == "?"  # all four outcomes
    assert f"{shown.utterances:,} utterances" in lines[2]
    assert shown.stopped in " ".join(lines)
    if columns >= 60:
        assert f"{shown.total - shown.counts['pending']:,} of {shown.total:,} videos" in lines[0]
        if shown.seconds_left and not shown.finished and not shown.stopped:
            assert "3 d 1 h left" in lines[2]


@given(st.lists(st.integers(0, 10**6), min_size=5, max_size=5), st.integers(20, 200))
def test_the_bar_is_full_and_shows_every_outcome_that_there_is(counts, width):
    bar = re.match(r"\[(.*?)\]", scraping_progress.progress_lines(progress(*counts), width)[0])[1]
    if sum(counts):
        assert "".join(sorted(set(bar), key="#x!?.".index)) == "".join(
            letter for letter, count in zip("#x!?.", counts) if count)
        assert list(bar) == sorted(bar, key="#x!?.".index)
    else:
        assert set(bar) == {"."}


def test_the_bar_is_in_proportion():
    bar = re.match(r"\[(.*?)\]", scraping_progress.progress_lines(progress(50, 25, 0, 0, 25), 124)[0])[1]
    assert bar.count("#") / len(bar) == pytest.approx(0.5, abs=0.02)
    assert bar.count("x") / len(bar) == pytest.approx(0.25, abs=0.02)


def test_a_terminal_is_updated_in_place_at_a_bearable_pace(monkeypatch, terminal):
    clock, stream = Clock(monkeypatch), terminal(60)
    show = scraping_progress.terminal_progress(stream)
    for done in range(100):
        show(progress(done=done))
        clock.now += 1 / 16
    assert stream.getvalue().count("# done") == 25  # four a second
    show(progress(done=4711, stopped=STOPPED))  # at once, though it is too soon
    lines = stream.screen()
    assert sum("# done" in line for line in lines) == 1 and "# done 4,711" in lines[1]
    assert lines[-1] == ""  # what is printed next begins a line of its own
    show(progress(done=4712, finished=True))  # fewer lines: nothing of the old ones stays
    assert "Stopped" not in "".join(stream.screen()) and "# done 4,712" in stream.screen()[1]


def test_a_log_gets_a_line_each_half_minute_and_the_end(monkeypatch):
    clock, stream = Clock(monkeypatch), io.StringIO()
    show = scraping_progress.terminal_progress(stream)
    for second in range(61):
        show(progress(done=second))
        clock.now += 1
    show(progress(stopped=STOPPED))
    lines = stream.getvalue().splitlines()
    assert [re.search(r"([\d,]+) done", line)[1] for line in lines[:-1]] == ["0", "30", "60", "4,012"]
    assert lines[-1] == STOPPED and "\x1b" not in stream.getvalue()
    assert "17,562" not in lines[0] and "903 gone, 12 blocked, 7 failed; 27,312 utterances" in lines[0]


def test_progress_goes_to_standard_error(capsys):
    scraping_progress.terminal_progress()(progress())
    out, error = capsys.readouterr()
    assert out == "" and "27,312 utterances" in error


@pytest.mark.parametrize("left, said", [(None, "time left unknown"), (45.0, "45 s left"), (262_000.0, "3 d 1 h left")])
def test_the_time_left_or_that_it_is_unknown(left, said):
    assert said in scraping_progress.progress_html(progress(seconds_left=left))
    assert said in "\n".join(scraping_progress.progress_lines(progress(seconds_left=left)))


class Page(HTMLParser):
    """The text of some HTML, its tags, and whether each is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_notebook_shows_outcomes_in_colour_and_in_words():
    page = Page(scraping_progress.progress_html(progress()))
    text = " ".join(" ".join(page.texts).split())
    for said in ("4,934 of 22,496 videos asked for", "done 4,012", "gone 903", "blocked 12", "failed 7",
                 "pending 17,562", "27,312 utterances", "62.31 hours", "242 videos an hour", "19.2 GB", "private"):
        assert said in text, said
    assert text.index("-bcdefghijk") < text.index("abcdefghijk ")  # the newest first
    segments = {attrs["title"]: attrs["style"] for tag, attrs in page.tags if "title" in attrs}
    assert list(segments) == list(OUTCOMES) and "flex: 903 0 0" in segments["gone"]
    assert next(attrs for _, attrs in page.tags if attrs.get("role") == "img")["aria-label"].startswith("4,012 done")
    assert not any("color:" in re.sub("background[^;]*", "", attrs.get("style", "")) for _, attrs in page.tags), (
        "text takes the theme's colour")


def test_the_notebook_says_why_a_job_stopped_and_when_it_finished():
    assert STOPPED in "".join(Page(scraping_progress.progress_html(progress(stopped=STOPPED))).texts)
    assert "finished" not in scraping_progress.progress_html(progress(stopped=STOPPED))
    assert ", finished" in scraping_progress.progress_html(progress(finished=True))
    assert "0 of 0 videos" in "".join(Page(scraping_progress.progress_html(NOTHING)).texts)


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_a_site_said_is_text_and_never_markup(reason, stopped):
    wild = progress(recent=(("<b>x</b>", "failed", f"<script>{reason}"),), stopped=f"<img src=x>{stopped}")
    page = Page(scraping_progress.progress_html(wild))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "<script>" in "".join(page.texts)
    for line in scraping_progress.progress_lines(wild, 60):
        assert line.isprintable() and len(line) <= 60


def test_one_output_cell_is_updated_and_keeps_the_end(monkeypatch):
    clock, shown, updated = Clock(monkeypatch), [], []

    class Handle:
        def update(self, picture, raw):
            updated.append(picture)

    def display(picture, raw, display_id):
        shown.append(picture)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    show = scraping_progress.notebook_progress()
    for done in range(40):
        show(progress(done=done))
        clock.now += 0.1
    assert len(shown) == 1 and len(updated) == 7  # twice a second
    show(progress(done=4711, finished=True))
    assert "4,711" in updated[-1]["text/html"] and "# done 4,711" in updated[-1]["text/plain"]


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def title(figure):
    return figure.axes[0].get_title() or figure.axes[0].get_title(loc="left")


def test_a_list_is_drawn_with_every_video_and_utterance():
    rows = [(speaker, f"video-{v:05d}", f"{u:05d}", 9.0 * u, 9.0 * u + 4 + (v == 2) * 90)
            for v, (number, speakers) in enumerate([(3, "a"), (3, "a"), (1, "b"), (40, "ab")])
            for speaker in speakers for u in range(number // len(speakers))]
    table = pd.DataFrame(rows, columns=["speaker", "video", "utterance", "start", "end"])
    figure = scraping.plot_list(table)
    left, right = figure.axes
    assert title(figure) == "4 videos hold 47 utterances"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["of one speaker (3)", "of several (1)"]
    assert sum(bar.get_height() for bar in left.patches) == 4
    assert sum(bar.get_height() for bar in right.patches) == 47  # also the one of 94 s
    assert "20 or more" in left.get_xlabel() and "29 or more" in right.get_xlabel()


REPORT = {"videos": 100, "outcomes": dict(zip(OUTCOMES, (60, 25, 6, 4, 5))),
          "reasons": {"gone": {"private": 15, "removed": 10}, "blocked": {"bot check": 6}, "failed": {"network": 4}}}


def test_bars_of_outcomes_are_cut_into_reasons_which_stand_below():
    figure = scraping.plot_outcomes(REPORT)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(OUTCOMES)
    assert {"60  (60.0 %)", "25  (25.0 %)", "private 15, removed 10", "bot check 6", "network 4"} <= set(texts(figure))
    rows = {}
    for bar in axis.patches:
        rows.setdefault(round(bar.get_y() + bar.get_height() / 2), []).append(bar.get_width())
    assert rows == {0: [60], 1: [15, 10], 2: [6], 3: [4], 4: [5]}
    assert "60 of 100 videos" in title(figure)


def test_a_ledgers_videos_draw_the_same_picture_as_its_report():
    videos = pd.DataFrame([(outcome, reason) for outcome, count in REPORT["outcomes"].items()
                           for reason, number in REPORT["reasons"].get(outcome, {"": count}).items()
                           for _ in range(number)], columns=["outcome", "reason"])
    assert figure_png(scraping.plot_outcomes(videos)) == figure_png(scraping.plot_outcomes(REPORT))


def test_no_videos_and_many_reasons_are_drawn_too():
    assert "0 of 0 videos" in title(scraping.plot_outcomes(pd.DataFrame(columns=["outcome", "reason"])))
    many = {"videos": 9, "outcomes": dict(zip(OUTCOMES, (0, 9, 0, 0, 0))),
            "reasons": {"gone": {f"reason{k}": 1 for k in range(9)}}}
    figure = scraping.plot_outcomes(many)
    assert next(text for text in texts(figure) if "reason0" in text).endswith("reason5 1, and 3 more")


def utterances(counts):
    """A ledger's table of utterances; counts: {speaker: (in hand, in the list)}."""
    return pd.DataFrame([(speaker, "ab" * 32 if row < in_hand else "") for speaker, (in_hand, listed) in counts.items()
                         for row in range(listed)], columns=["speaker", "sha256"])


def test_a_few_speakers_are_bars_with_names():
    figure = scraping.plot_utterances_per_speaker(utterances({"a": (2, 9), "b": (9, 9), "c": (0, 4)}), 5)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a", "c"]
    assert texts(figure) == ["9 of 9", "2 of 9", "0 of 4"]
    assert title(figure) == "Fewer than 5 utterances in hand: 2 of 3 speakers"


def test_many_speakers_are_dots_and_none_is_lost():
    generator = np.random.default_rng(0)
    counts = {f"id{number}": (int(generator.integers(0, 30)), 30 + number % 7) for number in range(100)}
    axis = scraping.plot_utterances_per_speaker(utterances(counts), 5).axes[0]
    dots = {(x, y) for line in axis.lines if line.get_linestyle() == "None" for x, y in line.get_xydata()}
    assert dots == {(listed, in_hand) for in_hand, listed in counts.values()}
    short = next(line for line in axis.lines if line.get_marker() == "^").get_ydata()
    assert len(short) == sum(in_hand < 5 for in_hand, _ in counts.values()) and max(short) < 5


def test_a_ledger_without_an_utterance_is_drawn():
    figure_png(scraping.plot_utterances_per_speaker(utterances({}), 5))
