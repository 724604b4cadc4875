"""Pictures of chapter 08: result rows and training histories of many runs, one picture a recipe."""

import pandas as pd

from speakerlib.experiments.ideas import plain
from speakerlib.experiments.pretrained import SCRATCH
from speakerlib.experiments.records import read_histories
from speakerlib.experiments.tables import RECIPE, describe, has_curve, published, recipes
from speakerlib.views.style import new_figure
from speakerlib.views.tables import accuracy_heatmap
from speakerlib.views.training import plot_shots_over_training


def published_beside_measured(results, num_way=5, num_support=5):
    """{name: figure}: a recipe's network trained num_way-way num_support-shot, in nine cells, beside the published.

    Of the plain runs (see ideas.plain).
    """
    found = plain(results).query("trained_num_way == @num_way and trained_num_support == @num_support")
    found = recipes(found.dropna(subset="accuracy"))
    names = _names("nine_cells", [recipe for recipe, _ in found])
    return {name: _maps(recipe, rows) for name, (recipe, rows) in zip(names, found)}


def shots_over_training(results, num_way=5):
    """{name: figure}: accuracy over training where checkpoints are chosen, a line for each num_support that has a run.

    Of the plain runs whose training curve is in their folder.
    """
    rows = plain(results)
    rows = rows[(rows["trained_num_way"] == num_way) & has_curve(rows)]
    if "checkpoint_num_way" in rows:  # a small validation split may have played with fewer speakers
        rows = rows[rows["checkpoint_num_way"].fillna(num_way) == num_way]
    found = recipes(rows)
    figures = {}
    for name, (recipe, part) in zip(_names("shots_over_training", [recipe for recipe, _ in found]), found):
        histories, folders = read_histories(part), part.groupby("trained_num_support")["folder"].first()
        curves = {shots: histories[folder] for shots, folder in folders.items()}
        split = "test" if recipe["protocol"] == "as_published" else "validation"
        figures[name] = plot_shots_over_training(curves, num_way, _title(recipe, break_after=2), split)
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


def _names(what, recipes):
    """A file name for each recipe: front end, length, protocol, start.

    Of recipes that share these, the one that trained on most tasks has this name alone; the others say what differs.
    """
    bases = [f"{what}_{recipe['front_end']}_{recipe['segment_seconds']:g}s_{recipe['protocol']}"
             + "_pretrained" * (recipe["init"] != SCRATCH) for recipe in recipes]
    names = []
    for base, recipe in zip(bases, recipes):
        alike = [other for other_base, other in zip(bases, recipes) if other_base == base]
        first = max(alike, key=lambda other: other["num_train_iterations"] * other["batch_size"])
        differs = [name for name in RECIPE if str(recipe[name]) != str(first[name])]
        names.append("_".join([base, *(f"{name}-{str(recipe[name])[-12:]}" for name in differs)]))
    return names


def _title(recipe, break_after=None):
    """The caption's first half: what matters most to someone who sees only the picture; on two lines if asked."""
    parts = describe(recipe).split(", ")
    parts = [*parts[:4], next(part for part in parts if "steps" in part)]
    if break_after is None:
        return ", ".join(parts)
    return ", ".join(parts[:break_after]) + ",\n" + ", ".join(parts[break_after:])
