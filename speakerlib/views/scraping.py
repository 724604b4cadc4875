"""A scraping job as pictures: what its list holds, what came of the videos, what each speaker keeps."""

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from speakerlib.data.scraping.estimate import format_hours
from speakerlib.views.scraping_progress import LOOKS
from speakerlib.views.style import GREY, PALETTE, new_figure

NAMED_SPEAKERS = 40  # with more, each speaker is a dot instead of a bar
MOST_UTTERANCES, LONGEST = 20, 30  # of a video, in seconds: what is above joins the last bar


def plot_list(utterances):
    """A list's videos by how many utterances they hold, and its utterances by their length; returns the figure.

    utterances: as read_url_lists returns them.
    """
    videos = utterances.groupby("video").agg(held=("utterance", "size"), speakers=("speaker", "nunique"))
    seconds = utterances["end"] - utterances["start"]
    figure, (left, right) = new_figure(10, 3.4, columns=2)
    held, several = videos["held"].clip(upper=MOST_UTTERANCES), videos["speakers"] > 1
    left.hist([held[~several], held[several]], bins=np.arange(0.5, held.max() + 1), stacked=True, rwidth=0.85,
              color=PALETTE[:2], label=[f"of one speaker ({(~several).sum():,})", f"of several ({several.sum():,})"])
    left.set(title=f"{len(videos):,} videos hold {len(utterances):,} utterances", ylabel="videos",
             xlabel="utterances of a video" + _last_bar(videos["held"], MOST_UTTERANCES, MOST_UTTERANCES))
    left.legend()
    top = np.ceil(min(seconds.max(), LONGEST))
    right.hist(seconds.clip(upper=top), bins=np.linspace(0, top, 31), color=PALETTE[2])
    right.axvline(seconds.median(), color=PALETTE[6], linestyle="--", linewidth=1.5)
    right.set(title=f"{format_hours(seconds.sum() / 3600)} of speech, median {seconds.median():.1f} s",
              xlabel="seconds of an utterance" + _last_bar(seconds, LONGEST, LONGEST - 1), ylabel="utterances")
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.grid(axis="x", visible=False)
    return figure


def plot_outcomes(counts):
    """Videos by outcome, one bar each, cut into its reasons, which stand below it; returns the figure.

    counts: what report returned, or read_ledger's table of videos.
    """
    if "outcomes" not in counts:
        counts = _counted(counts)
    outcomes, total = counts["outcomes"], counts["videos"]
    figure, axis = new_figure(8, 4)
    longest = max([*outcomes.values(), 1])
    for row, (name, count) in enumerate(outcomes.items()):
        reasons = counts["reasons"].get(name) or {"": count}
        left = 0
        for number in reasons.values():
            axis.barh(row, number, left=left, height=0.5, color=LOOKS[name][0], edgecolor="white", linewidth=1)
            left += number
        axis.text(count + 0.01 * longest, row, f"{count:,}" + (f"  ({100 * count / total:.1f} %)" if total else ""),
                  va="center")
        axis.annotate(_some_reasons(reasons), (0, row + 0.29), xytext=(3, 0), textcoords="offset points", va="top",
                      fontsize=9, color=GREY)
    axis.set(yticks=range(len(outcomes)), yticklabels=list(outcomes), xlim=(0, 1.25 * longest),
             ylim=(len(outcomes) - 0.3, -0.5), xlabel="videos",
             title=f"{outcomes['done']:,} of {total:,} videos are in hand")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.tick_params(axis="y", length=0)
    axis.grid(False)
    return figure


def plot_utterances_per_speaker(utterances, min_utterances=5):
    """Each speaker's utterances in hand against those of the list, with the least that is wanted; returns the figure.

    utterances: read_ledger's table. Up to 40 speakers are bars with names, the fewest in hand last; more are dots.
    """
    written = (utterances["sha256"] != "").groupby(utterances["speaker"])
    speakers = pd.DataFrame({"in_hand": written.sum(), "listed": written.size()})
    speakers = speakers.sort_values(["in_hand", "listed"], ascending=False, kind="stable")
    few = int((speakers["in_hand"] < min_utterances).sum())
    named = len(speakers) <= NAMED_SPEAKERS
    figure, axis = new_figure(8, 1.6 + 0.28 * len(speakers)) if named else new_figure(7, 5)
    (_draw_speaker_bars if named else _draw_speaker_dots)(axis, speakers, min_utterances)
    axis.set_title(f"Fewer than {min_utterances} utterances in hand: {few:,} of {len(speakers):,} speakers")
    return figure


def _draw_speaker_bars(axis, speakers, least):
    rows = range(len(speakers))
    axis.barh(rows, speakers["listed"], color=LOOKS["pending"][0], height=0.7, label="in the list")
    axis.barh(rows, speakers["in_hand"], color=LOOKS["done"][0], height=0.7, label="in hand")
    axis.axvline(least, color=PALETTE[3], linestyle="--", linewidth=1.5, label=f"{least} utterances")
    for row, (in_hand, listed) in enumerate(zip(speakers["in_hand"], speakers["listed"])):
        axis.annotate(f"{in_hand} of {listed}", (listed, row), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=9)
    axis.set(yticks=rows, yticklabels=speakers.index, ylim=(len(speakers) - 0.4, -0.6), xlabel="utterances",
             xlim=(0, 1.12 * max([least, *speakers["listed"]])))
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.figure.legend(loc="outside lower center", ncols=3)


def _draw_speaker_dots(axis, speakers, least):
    short = speakers["in_hand"] < least
    top = 1.05 * speakers["listed"].max()
    axis.plot([0, top], [0, top], color=GREY, linewidth=1)
    axis.text(0.7 * top, 0.72 * top, "all of the list", color=GREY, ha="right", va="bottom")
    for part, look in ((speakers[~short], {"color": LOOKS["done"][0], "marker": "o", "alpha": 0.4}),
                       (speakers[short], {"color": PALETTE[3], "marker": "^", "alpha": 0.8})):
        axis.plot(part["listed"], part["in_hand"], linestyle="", markersize=4.5, markeredgewidth=0, **look)
    axis.axhline(least, color=PALETTE[3], linestyle="--", linewidth=1.5)
    axis.annotate(f"{least}", (1, least), xycoords=("axes fraction", "data"), xytext=(4, 0), color=PALETTE[3],
                  textcoords="offset points", va="center", annotation_clip=False)
    axis.set(xlim=(0, top), ylim=(-0.01 * top, top), xlabel="utterances in the list, one dot a speaker",
             ylabel="utterances in hand")


def _counted(videos):
    """The part of report's dict that plot_outcomes draws, from a table of videos."""
    found = videos["outcome"].value_counts()
    return {"videos": len(videos), "outcomes": {name: int(found.get(name, 0)) for name in LOOKS},
            "reasons": {name: videos.loc[videos["outcome"] == name, "reason"].value_counts().to_dict()
                        for name in ("gone", "blocked", "failed")}}


def _some_reasons(reasons, most=6):
    listed = [f"{name} {count:,}" for name, count in reasons.items() if name]
    return ", ".join(listed[:most] + [f"and {len(listed) - most} more"] * (len(listed) > most))


def _last_bar(values, most, least):
    return f" (last bar: {least} or more)" if values.max() > most else ""
