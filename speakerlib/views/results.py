"""Pictures of chapter 08: result rows and training histories of many runs, one picture a recipe."""

import re

from speakerlib.data.clips import FRAMES_PER_SECOND
from speakerlib.experiments.error_tables import over_seeds
from speakerlib.experiments.ideas import plain
from speakerlib.experiments.mask_table import caption
from speakerlib.experiments.nine_cell_table import A_CELL, ONE_NETWORK, nine_cell_grids, published_cells
from speakerlib.experiments.objective_table import UNTRAINED, error_panels
from speakerlib.experiments.pretrained import SCRATCH
from speakerlib.experiments.records import read_histories
from speakerlib.experiments.tables import RECIPE, describe, has_curve, over_what, published, recipes
from speakerlib.views.comparison import difference_pictures, plot_mask_table
from speakerlib.views.style import new_figure
from speakerlib.views.tables import accuracy_heatmap
from speakerlib.views.training import plot_shots_over_training
from speakerlib.views.verification import plot_lengths_by_condition
from speakerlib.views.voice import plot_ablation, plot_trainings

WAYS, SHOTS = (3, 5, 10), (1, 5, 10)


def published_beside_measured(results, pretraining=None):
    """{name: figure}: each nine-cell table of the plain runs (see ideas.plain) as heat maps, beside the published."""
    found = nine_cell_grids(results, pretraining)
    figures = {}
    for kind, what in ((ONE_NETWORK, "nine_cells"), (A_CELL, "one_network_a_cell")):
        grids = [(recipe, cells) for one, recipe, cells, _ in found if one == kind]
        for name, grid in zip(_names(what, [recipe for recipe, _ in grids]), grids):
            figures[name] = plot_nine_cells(kind, *grid)
    return figures


def plot_nine_cells(kind, recipe, cells):
    """A nine-cell table as heat maps, published and then one for each condition; returns the figure.

    kind, recipe, cells: of nine_cell_table.nine_cell_grids.
    """
    conditions = {f"measured: {name}": part for name, part in cells.groupby("condition", sort=False)}
    parts = {"published: VoxCeleb1, 3 s": published_cells(), **conditions}
    figure, axes = new_figure(4.2 * len(parts), 3.7, columns=len(parts))
    for axis, (title, part) in zip(axes, parts.items()):
        part = part.assign(note=part["accuracy"].map(lambda value: "split\ntoo small" if value != value else ""))
        grid = part.set_index(["num_support", "num_way"]).unstack()
        accuracy, interval, note = (grid[name].reindex(index=SHOTS, columns=WAYS)
                                    for name in ("accuracy", "interval", "note"))
        accuracy_heatmap(accuracy, interval, title=title, axis=axis, absent=note.fillna("not run"))
    figure.suptitle(f"{kind}: {_title(recipe)}\n{over_what(set(cells['seeds']))}", x=0.01, ha="left", fontsize=11)
    return figure


def table_figures(result_table):
    """{end of a file name: figure} of a table of result_tables; {} where there is nothing to draw yet."""
    facts, name = result_table.facts, result_table.name
    if not len(facts.get("cells", ())):
        return {}
    if name == "pretraining":
        return {f"_{picture}": figure for picture, figure in difference_pictures(facts["cells"]).items()}
    if name == "objectives":
        return plot_objectives(**facts)
    if name == "voice":
        return {f"_{facts['place']}" * (facts["place"] > 1): plot_trainings(facts["cells"])}
    if name == "voice_steps":
        task = facts["task"]
        return {"_" + re.sub(r"[^a-z0-9]+", "_", task.lower()): plot_ablation(facts["cells"], task)}
    if name == "masks":
        title = caption(facts["recipe"], facts["cells"]).replace(", pretraining", ",\npretraining")
        return {"": plot_mask_table(facts["cells"], title)}
    return {"": _plot_errors(**facts) if "task" in facts else plot_nine_cells(**facts)}


def shots_over_training(results, num_way=5):
    """{name: figure}: accuracy over training where checkpoints are chosen, a line for each num_support that has a run.

    Of the plain runs whose training curve is in their folder.
    """
    rows = plain(results)
    rows = rows[(rows["trained_num_way"] == num_way) & has_curve(rows)]
    if "checkpoint_num_way" in rows:  # a small validation split may have played with fewer speakers
        rows = rows[rows["checkpoint_num_way"].fillna(num_way) == num_way]
    found = recipes(rows)
    cells = published_cells().query("num_way == @num_way")
    known, figures = dict(zip(cells["num_support"], cells["accuracy"])), {}
    for name, (recipe, part) in zip(_names("shots_over_training", [recipe for recipe, _ in found]), found):
        histories, folders = read_histories(part), part.groupby("trained_num_support")["folder"].first()
        curves = {shots: histories[folder] for shots, folder in folders.items()}
        split = "test" if recipe["protocol"] == "as_published" else "validation"
        figures[name] = plot_shots_over_training(curves, num_way, _title(recipe, break_after=2), split,
                                                 published=known)
    return figures


def _plot_errors(task, recipe, cells):
    """Work B's table by length, a panel a condition; scored by cosine."""
    what = {"verification": ("equal error rate (%)", None),
            "identification": ("identification accuracy (%)", 1 / recipe["nb_class_test"])}[task]
    panels = {}
    for row in cells[cells["scoring"] == "cosine"].to_dict("records"):
        seconds = None if row["test_length"] != row["test_length"] else row["test_length"] / FRAMES_PER_SECOND
        line = panels.setdefault(row["condition"], {}).setdefault(row["method"], {})
        line[seconds] = tuple(row[name] for name in ("value", "low", "high"))
    figure = plot_lengths_by_condition(panels, *what, published_errors(task))
    speech = "synthetic speech" if recipe["synthetic"] else "real speech"
    figure.suptitle(f"{recipe['corpus']} ({speech}), {recipe['training']}\nscored by cosine; bars: 95 % intervals "
                    f"{over_seeds(cells['seeds'])}", x=0.01, ha="left", fontsize=11)
    return figure


def plot_objectives(recipe, cells):
    """{end of a file name: figure}: errors by the length of the test, a line an objective, a panel a condition.

    recipe, cells: of objective_table.objective_grids.
    """
    trained = recipe["parameters"]
    end = "_".join(f"{name}-{trained[name]}" for name in ("augment", "num_train_iterations") if name in trained)
    figures = {}
    for task, what in (("identification", f"{recipe['nb_class_test']:.0f}-way identification error (%)"),
                       ("verification", "equal error rate (%)")):
        chance = 1 - 1 / recipe["nb_class_test"] if task == "identification" else 0.5
        figure = plot_lengths_by_condition(error_panels(cells, task), what, chance, published_errors(task))
        seeds = sorted(set(cells.loc[cells["method"] != UNTRAINED, "seeds"])) or [1]
        speech = "synthetic speech" if recipe["synthetic"] else "real speech"
        figure.suptitle(f"{recipe['corpus']} ({speech}), {recipe['training']}\nbars: 95 % over speakers and seeds "
                        f"({' or '.join(map(str, seeds))} seeds an objective)", x=0.01, ha="left", fontsize=11)
        figures[f"_{task}_{end}".rstrip("_")] = figure
    return figures


def published_errors(task):
    """{seconds: value} of work B's published errors, as plot_lengths_by_condition takes them; {} if there is none."""
    rows = published("kye").query("metric == 'EER %' and test == 'full'") if task == "verification" else ()
    return {None: rows["value"].iloc[0] / 100} if len(rows) else {}


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
        differs = [name for name in RECIPE if str(recipe.get(name)) != str(first.get(name))]
        names.append("_".join([base, *(f"{name}-{_plain(recipe[name])[-12:]}" for name in differs)]))
    return names


def _plain(value):
    return re.sub(r"[^\w.-]+", "-", str(value))


def _title(recipe, break_after=None):
    """The caption's first half: what matters most to someone who sees only the picture; on two lines if asked."""
    parts = describe(recipe).split(", ")
    parts = [*parts[:4], next(part for part in parts if "steps of" in part and "tasks" in part)]
    parts += [f"seeds {' '.join(map(str, recipe['seeds']))}"] if len(recipe.get("seeds", ())) > 1 else []
    if break_after is None:
        return ", ".join(parts)
    return ", ".join(parts[:break_after]) + ",\n" + ", ".join(parts[break_after:])
