"""Pictures of chapter 08: result rows and training histories of many runs, one picture a recipe."""

import pandas as pd

from speakerlib.experiments.tables import describe, published, recipes
from speakerlib.views.style import new_figure
from speakerlib.views.tables import accuracy_heatmap
from speakerlib.views.training import plot_shots_over_training


def published_beside_measured(results, num_way=5, num_support=5):
    """{name: figure}: a recipe's network trained num_way-way num_support-shot, in nine cells, beside the published."""
    figures = {}
    for recipe, rows in recipes(results):
        rows = rows.query("trained_num_way == @num_way and trained_num_support == @num_support")
        if rows["accuracy"].notna().any():
            figures[_name("nine_cells", recipe, figures)] = _maps(recipe, rows)
    return figures


def shots_over_training(results, histories, num_way=5):
    """{name: figure}: accuracy over training where checkpoints are chosen, a line for each num_support that has a run.

    results: rows of read_results; histories: run folder -> history.
    """
    figures = {}
    for recipe, rows in recipes(results[results["trained_num_way"] == num_way]):
        if "checkpoint_num_way" in rows:  # a small validation split may have played with fewer speakers
            rows = rows[rows["checkpoint_num_way"].fillna(num_way) == num_way]
        runs = rows.groupby("trained_num_support")["folder"].first()
        if runs.empty:
            continue
        curves = {shots: histories[folder] for shots, folder in runs.items()}
        split = "test" if recipe["protocol"] == "as_published" else "validation"
        figures[_name("shots_over_training", recipe, figures)] = plot_shots_over_training(
            curves, num_way, _title(recipe, break_after=2), split
        )
    return figures


def _maps(recipe, rows):
    reference = published("boccio").query("table == 'nine cells'")
    reference = reference.assign(accuracy=reference["accuracy"] / 100, interval=reference["interval"] / 100)
    parts = {
        "published: VoxCeleb1, 3 s": reference,
        **{f"measured: {name}": part for name, part in rows.groupby("condition", sort=False)},
    }
    figure, axes = new_figure(4.2 * len(parts), 3.7, columns=len(parts))
    for axis, (title, part) in zip(axes, parts.items()):
        part = part.astype({"accuracy": float, "interval": float})
        grid = pd.pivot_table(
            part, index="num_support", columns="num_way", values=["accuracy", "interval"], dropna=False
        )
        accuracy_heatmap(grid["accuracy"], grid["interval"], title=title, axis=axis)
    figure.suptitle(_title(recipe), x=0.01, ha="left", fontsize=11)
    return figure


def _name(what, recipe, taken):
    """A file name that tells front end, length and protocol; numbered if recipes differ in other things only."""
    name = f"{what}_{recipe['front_end']}_{recipe['segment_seconds']:g}s_{recipe['protocol']}"
    return name if name not in taken else f"{name}_{len(taken)}"


def _title(recipe, break_after=None):
    """The caption's first half: what matters most to someone who sees only the picture; on two lines if asked."""
    parts = describe(recipe).split(", ")
    parts = [*parts[:4], next(part for part in parts if "steps" in part)]
    if break_after is None:
        return ", ".join(parts)
    return ", ".join(parts[:break_after]) + ",\n" + ", ".join(parts[break_after:])
