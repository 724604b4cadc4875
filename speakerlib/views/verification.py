"""Pictures of verification: DET curves on probit axes, histograms of both kinds of scores, errors by query length."""

import numpy as np
import torch

from speakerlib.experiments.verification import det_points, equal_error_rate
from speakerlib.views.style import GREY, MARKERS, PALETTE, new_figure

TICKS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
_LINES = ("-", "--", "-.", ":")


def plot_det(scored, title=None, limits=(0.005, 0.6), axis=None):
    """Misses over false alarms, one line a method, both axes stretched as a normal distribution is; returns the figure.

    scored: {label: (scores (trials,), labels (trials,))}. On these axes Gaussian scores give a straight line; a lower
    line errs less. The dots are the equal error rates. limits: the rates that are shown.
    """
    if axis is None:
        _, axis = new_figure(5.8, 5.6)
    low, high = (float(_probit(limit)) for limit in limits)
    for number, (label, (scores, labels)) in enumerate(scored.items()):
        false_alarm, miss, _ = det_points(scores, labels)
        rate = equal_error_rate(false_alarm, miss)
        colour = PALETTE[number % len(PALETTE)]
        outside = ", below this picture" if _probit(rate) < low else ""
        axis.plot(*_corners(false_alarm, miss, low, high), color=colour, linestyle=_LINES[number % len(_LINES)],
                  label=f"{label}: EER {100 * rate:.1f} %{outside}")
        if low <= _probit(rate) <= high:
            axis.plot(_probit(rate), _probit(rate), MARKERS[number % len(MARKERS)], color=colour, markersize=7)
    axis.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=":")
    axis.annotate("equal errors", (high, high), xytext=(-10, -4), textcoords="offset points", ha="right", va="top",
                  rotation=45, color=GREY, fontsize=9)
    ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
    names = [f"{100 * tick:g}" for tick in ticks]
    axis.set(xlim=(low, high), ylim=(low, high), xticks=_probit(ticks), xticklabels=names, yticks=_probit(ticks),
             yticklabels=names, xlabel="false alarms: other speakers accepted (%)",
             ylabel="misses: the speaker rejected (%)", title=title or "Detection error trade-off")
    axis.set_aspect("equal")
    axis.legend(loc="lower left", frameon=True, edgecolor="none", framealpha=0.9)
    return axis.figure


def plot_scores(scores, labels, title=None, axis=None, bins=60):
    """Histograms of target and non-target scores with the threshold of the equal error rate; returns the figure.

    scores, labels: (trials,). Each kind's bars have an area of 1: there may be many more of one than of the other.
    """
    false_alarm, miss, threshold = det_points(scores, labels)
    scores, target = np.asarray(scores), np.asarray(labels) == 1
    if axis is None:
        _, axis = new_figure(8.6, 3.8)
    edges = np.linspace(scores.min(), scores.max(), bins + 1) if scores.min() < scores.max() else bins
    for kind, name, colour, hatch in ((~target, "two speakers", PALETTE[3], "//"), (target, "one speaker", PALETTE[0],
                                                                                   None)):
        axis.hist(scores[kind], bins=edges, density=True, color=colour, alpha=0.55, hatch=hatch, edgecolor="white",
                  linewidth=0.3, label=f"{name}:\n{np.count_nonzero(kind):,} trials")
    rate, place = equal_error_rate(false_alarm, miss), threshold[np.abs(miss - false_alarm).argmin()]
    axis.axvline(place, color=PALETTE[6], linestyle="--", linewidth=1.4,
                 label=f"threshold {place:.2f}:\n{100 * rate:.1f} % of each err")
    axis.set(xlabel="score", ylabel="density", title=title or "Scores of the trials")
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=1)
    return axis.figure


def plot_by_length(values, ylabel="equal error rate (%)", title=None, axis=None):
    """A value by the length of what is tested, one line a method with its 95 % intervals; returns the figure.

    values: {label: {seconds: (value, low, high)}}, shares of 1; the lengths stand side by side, whatever they are, and
    None is the whole utterance.
    """
    if axis is None:
        _, axis = new_figure(6.4, 4.2)
    lengths = sorted({seconds for line in values.values() for seconds in line}, key=lambda each: each or np.inf)
    for number, (label, line) in enumerate(values.items()):
        places = np.array([place for place, seconds in enumerate(lengths) if seconds in line])
        middle, low, high = 100 * np.array([line[seconds] for seconds in lengths if seconds in line], dtype=float).T
        aside = 0.06 * (number - (len(values) - 1) / 2)  # bars do not cover each other
        axis.errorbar(places + aside, middle, np.maximum([middle - low, high - middle], 0), label=label, capsize=3,
                      color=PALETTE[number % len(PALETTE)], marker=MARKERS[number % len(MARKERS)], markersize=6,
                      linestyle=_LINES[number % len(_LINES)])
    axis.set(xticks=range(len(lengths)), xticklabels=[f"{seconds:g} s" if seconds else "whole" for seconds in lengths],
             xlim=(-0.4, len(lengths) - 0.6), xlabel="length of what is tested", ylabel=ylabel,
             title=title or "By the length of the test")
    axis.grid(axis="x", visible=False)
    axis.legend()
    return axis.figure


def plot_lengths_by_condition(panels, ylabel="equal error rate (%)", chance=None, published=None):
    """plot_by_length side by side, a panel a condition on one scale; returns the figure.

    panels: {condition: values of plot_by_length}; chance: a share of 1, for a dashed line; published: {seconds: value},
    grey lines beside the lengths that the panel `recorded` has.
    """
    figure, axes = new_figure(5.6 * len(panels), 4.2, columns=len(panels), sharey=True, squeeze=False)
    for axis, (condition, values) in zip(axes[0], panels.items()):
        plot_by_length(values, ylabel if axis is axes[0, 0] else None, condition, axis)
        if chance is not None:
            axis.axhline(100 * chance, color=GREY, linestyle="--", linewidth=1.2)
            axis.text(0.01, 100 * chance, "chance", transform=axis.get_yaxis_transform(), color=GREY, va="bottom")
        lengths = sorted({seconds for line in values.values() for seconds in line}, key=lambda each: each or np.inf)
        for seconds in set(published or {}) & set(lengths if condition == "recorded" else ()):
            place, value = lengths.index(seconds), 100 * published[seconds]
            axis.plot([place - 0.3, place + 0.3], [value, value], color=GREY, linestyle=":", linewidth=1.6)
            axis.annotate("published,\nVoxCeleb1", (place - 0.32, value), ha="right", va="center", fontsize=9,
                          color=GREY)
        if axis is not axes[0, -1]:
            axis.get_legend().remove()
    return figure


def _probit(rate):
    """The standard normal deviate below which `rate` of a population lies; infinite for 0 and 1."""
    return torch.special.ndtri(torch.as_tensor(np.asarray(rate, dtype=np.float64))).numpy()


def _corners(false_alarm, miss, low, high, steps=800):
    """The curve in probits, thinned to what a picture can show, drawn out to the edges where it leaves them."""
    x, y = (np.clip(_probit(rate), low - 1, high + 1) for rate in (false_alarm, miss))
    cells = np.round(np.stack([x, y]) * (steps / (high - low)))
    keep = np.append(True, (np.diff(cells) != 0).any(axis=0))
    keep[:-1] |= keep[1:]  # both ends of each step: a step of one list's few trials stays square
    return x[keep], y[keep]
