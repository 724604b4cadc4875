"""Pictures of what pretraining brings: differences with their intervals, the mask table, errors over training."""

import textwrap

import matplotlib
import numpy as np

from speakerlib.experiments.comparison import GOAL, SHOTS, ideas_of
from speakerlib.experiments.ideas import BUDGET, TREATMENT
from speakerlib.experiments.mask_table import (
    MASKS,
    PUBLISHED,
    RATIOS,
    caption,
    error_curves,
    mask_grids,
    published_cells,
)
from speakerlib.views.style import MARKERS, PALETTE, new_figure

_LEAST = 5.0  # points at the ends of the mask table's colours, at least


def difference_pictures(lines):
    """{name: figure}: what the ideas that were tried with few labelled speakers bring; {} where there are none.

    Of ideas tried with few labels, their trainings with all labels are shown too.
    """
    alike = lines[[*BUDGET, *TREATMENT]].drop(columns="labelled_speakers").astype(str).agg("|".join, axis=1)
    lines = ideas_of(lines[alike.isin(alike[lines["labelled_speakers"] > 0])]) if len(lines) else lines
    return {f"does_pretraining_help_{shots}_shot": plot_differences(part, shots)
            for shots, part in lines.groupby("num_support") if shots in SHOTS}


def mask_pictures(results, pretraining):
    """{name: figure}: the mask table of each recipe, and the errors over pretraining; {} where there are no runs."""
    figures = {}
    for number, (recipe, cells) in enumerate(mask_grids(results, pretraining)):
        title = caption(recipe, cells).replace(", pretraining", ",\npretraining")
        figures["masks_and_ratios" + f"_{number + 1}" * bool(number)] = plot_mask_table(cells, title)
    corpus = results["corpus"].iloc[0]
    if len(curves := error_curves(pretraining, corpus)) > 1:
        title = f"{corpus}: error on what was removed, over pretraining"
        figures["pretraining_errors"] = plot_pretraining_errors(curves, title)
    return figures


def plot_differences(lines, num_support, title=None):
    """What each idea brings against its control, a panel for each condition; returns the figure.

    lines: of comparison.comparisons. A mark for each number of labelled speakers, filled where the interval excludes
    0; ideas are ordered by what they bring where clips are changed.
    """
    lines = lines if "idea" in lines else ideas_of(lines)
    lines = lines[lines["num_support"] == num_support]
    conditions = sorted(lines["condition"].unique(), key=lambda name: (name != "recorded", name))
    last = lines[lines["condition"] == conditions[-1]].groupby("idea")["difference"].mean()
    order = list(last.sort_values().index)
    labels = sorted(lines["labelled_speakers"].unique(), key=lambda count: count or np.inf)
    figure, axes = new_figure(5.6 + 4.1 * len(conditions), 1.9 + len(order) * (0.28 + 0.17 * len(labels)),
                              columns=len(conditions), sharey=True, sharex=True, squeeze=False)
    for axis, condition in zip(axes[0], conditions):
        axis.axvline(0, color="black", linewidth=1.2)
        axis.axvline(100 * GOAL, color=PALETTE[2], linewidth=1.2, linestyle="--")
        for place, count in enumerate(labels):
            part = lines[(lines["condition"] == condition) & (lines["labelled_speakers"] == count)]
            heights = [order.index(idea) + 0.24 * ((len(labels) - 1) / 2 - place) for idea in part["idea"]]
            _intervals(axis, part, heights, PALETTE[place], MARKERS[place],
                       f"{count:.0f} labelled speakers" if count else "all speakers labelled")
        seen = lines[(lines["condition"] == condition) & lines["seen"].astype(bool)]
        for idea in seen["idea"].unique():
            axis.text(1.0, order.index(idea), " †", transform=axis.get_yaxis_transform(), va="center")
        axis.set_title(condition if condition == "recorded" else f"{condition}: each clip through its own channel")
        axis.set_yticks(range(len(order)), [textwrap.fill(idea, 36) for idea in order])
        axis.set_ylim(-0.6, len(order) - 0.4)
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.annotate(f"goal: +{100 * GOAL:.0f}", (100 * GOAL, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
                      textcoords="offset points", va="top", fontsize=9, color=PALETTE[2])
    foot = "points of accuracy against the same training from scratch: pretraining hurts left of 0, helps right of it"
    if lines["seen"].any():
        foot += "\n† the channels of this condition were met in training or pretraining: no evidence"
    figure.supxlabel(foot, fontsize=11)
    figure.get_layout_engine().set(wspace=0.06)
    handles, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside right upper")
    figure.suptitle(title or _title(lines, num_support), x=0.01, ha="left", fontsize=11)
    return figure


def plot_mask_table(cells, title=None):
    """The mask table as heat maps: published, then one for each condition measured; returns the figure.

    cells: of mask_table.mask_grids. A colour tells the points won or lost against training from scratch.
    """
    conditions = sorted(cells["condition"].unique(), key=lambda name: (name != "recorded", name))
    panels = {PUBLISHED: published_cells(), **{name: cells[cells["condition"] == name] for name in conditions}}
    grids = {name: [_grid(part, value) for value in ("accuracy", "interval")] for name, part in panels.items()}
    scratch = {name: part.loc[part["mask"].isna(), "accuracy"].mean() for name, part in panels.items()}
    gains = {name: 100 * (grids[name][0] - scratch[name]) for name in panels}
    end = max([_LEAST, *(np.nanmax(np.abs(gain)) for gain in gains.values() if np.isfinite(gain).any())])
    shading = matplotlib.colors.Normalize(-end, end)
    figure, axes = new_figure(4.6 * len(panels) + 0.8, 2.6, columns=len(panels), sharey=True, squeeze=False)
    for axis, (name, gain) in zip(axes[0], gains.items()):
        image = axis.imshow(np.ma.masked_invalid(gain), cmap="RdBu", norm=shading, aspect="auto")
        for row, column in np.ndindex(gain.shape):
            accuracy, interval = (100 * grid[row, column] for grid in grids[name])
            dark = np.isfinite(gain[row, column]) and abs(gain[row, column]) > 0.65 * end
            axis.text(column, row, f"{accuracy:.1f}\n± {interval:.1f}" if np.isfinite(accuracy) else "not run",
                      ha="center", va="center", color="white" if dark else "black")
        known = np.isfinite(scratch[name])
        axis.set_title(f"{name}\nfrom scratch: " + (f"{100 * scratch[name]:.1f}" if known else "not run"))
        axis.set_xticks(range(len(RATIOS)), [f"{100 * ratio:.0f} %" for ratio in RATIOS])
        axis.set_yticks(range(len(MASKS)), MASKS)
        axis.set_xlabel("removed")
        axis.tick_params(length=0)
        axis.grid(False)
        axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(axes[0]), label="points against\nfrom scratch")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def plot_pretraining_errors(curves, title=None):
    """The error on what was removed over pretraining, a panel a mask, a colour a ratio; returns the figure.

    curves: of mask_table.error_curves. The mean over seeds, and between which errors they lie.
    """
    masks = [mask for mask in MASKS if any(mask == key[0] for key in curves)]
    figure, axes = new_figure(5.4 * len(masks) + 0.6, 4.0, columns=len(masks), sharey=True, squeeze=False)
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.1, 1.0, len(RATIOS)))
    lowest = []
    for axis, mask in zip(axes[0], masks):
        for (_, ratio), histories in sorted((key, value) for key, value in curves.items() if key[0] == mask):
            table = _errors(histories)
            colour = colours[int(np.argmin(np.abs(np.subtract(RATIOS, ratio))))]
            axis.plot(table.index, table.mean(axis=1), color=colour, label=f"{100 * ratio:.0f} % removed")
            if table.shape[1] > 1:
                axis.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.2, lw=0)
            lowest.append((table.min().min(), table.iloc[-1].max()))
        axis.set(title=mask, xlabel="training step")
        axis.set_xlim(left=0)
    bottom, end = min(low for low, _ in lowest), max(last for _, last in lowest)
    axes[0, 0].set_ylim(bottom - 0.1 * (end - bottom), bottom + 2 * (end - bottom))
    axes[0, 0].set_ylabel("mean squared error, validation")
    max(axes[0], key=lambda axis: len(axis.lines)).legend()
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _intervals(axis, part, heights, colour, marker, label):
    label = {"label": label}
    for line, height in zip(part.to_dict("records"), heights):
        apart = line["low"] > 0 or line["high"] < 0
        axis.plot([100 * line["low"], 100 * line["high"]], [height, height], color=colour, linewidth=1.6)
        axis.plot(100 * line["difference"], height, marker, color=colour, markersize=7,
                  markerfacecolor=colour if apart else "white", linestyle="none")
    axis.plot([], [], marker, color=colour, markersize=7, linestyle="-", **label)


def _title(lines, num_support):
    seeds, first = sorted(lines["seeds"].unique()), lines.iloc[0]
    over = f"{seeds[0]:.0f}" if len(seeds) == 1 else f"{seeds[0]:.0f} to {seeds[-1]:.0f}"
    return (f"Does pretraining help? {first['num_way']:.0f}-way {num_support:.0f}-shot on {first['corpus']}\n"
            f"{over} seeds, 95 % intervals over test speakers and seeds; filled: the interval excludes 0")


def _grid(cells, value):
    grid = np.full((len(MASKS), len(RATIOS)), np.nan)
    for row in cells[cells["mask"].notna()].to_dict("records"):
        grid[MASKS.index(row["mask"]), RATIOS.index(row["mask_ratio"])] = row[value]
    return grid


def _errors(histories):
    """Index: step; a column of validation errors for each seed."""
    import pandas as pd

    columns = [history.dropna(subset="validation_error").set_index("step")["validation_error"] for history in histories]
    return pd.concat(columns, axis=1)
