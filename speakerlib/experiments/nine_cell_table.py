"""Work A's table of nine tasks: one network a cell, or one network in all of them; published beside measured."""

import numpy as np
import pandas as pd

from speakerlib.experiments.comparison import condition_name
from speakerlib.experiments.ideas import START, plain, with_starts
from speakerlib.experiments.pretrained import SCRATCH
from speakerlib.experiments.tables import (
    RECIPE,
    cell_text,
    cost,
    describe,
    mean_over_seeds,
    newest,
    over_what,
    published,
    require_one,
)

ONE_NETWORK = "One network, trained 5-way 5-shot, in all nine cells"
A_CELL = "One network a cell"
PUBLISHED = "published (VoxCeleb1)"
NAMES = ("num_way", "num_support", "condition")  # of a cell

_SHARED = [name for name in RECIPE if name not in ("init", "seed")]
_STARTS = [f"start_{name}" for name in START if name != "seed"]


def nine_cell_grids(results, pretraining=None, least=2):
    """Every nine-cell table that the plain runs of notebook 05 fill (see ideas.plain): [(kind, recipe, cells, rows)].

    kind: ONE_NETWORK or A_CELL: different tables, as is each recipe. Beside a table of ONE_NETWORK, one of networks
    that were trained for their cell needs `least` of them. recipe: a dict of what all runs share, with `seeds`. cells:
    a row a cell and condition with accuracy, interval (see tables.mean_over_seeds), low and high (the interval over
    speakers, the mean over seeds of both ends), seeds; NaN where the test split is too small. rows: what they were made
    from.
    """
    grids = []
    for recipe, rows in _recipes(plain(results, pretraining, every_seed=True), pretraining):
        own = (rows["trained_num_way"] == rows["num_way"]) & (rows["trained_num_support"] == rows["num_support"])
        five = (rows["trained_num_way"] == 5) & (rows["trained_num_support"] == 5)
        if five.any():
            grids.append(_grid(ONE_NETWORK, recipe, rows[five]))
        if len(rows.loc[own, ["num_way", "num_support"]].drop_duplicates()) >= (least if five.any() else 1):
            grids.append(_grid(A_CELL, recipe, rows[own]))
    return grids


def nine_cell_tables(results, pretraining=None):
    """nine_cell_grids as [(caption, DataFrame of strings), ...]; the best cell of a column is starred."""
    return [(nine_cell_caption(*grid), nine_cell_table(grid[2])) for grid in nine_cell_grids(results, pretraining)]


def nine_cell_caption(kind, recipe, cells, rows):
    """What a nine-cell table holds, in one line."""
    return f"{kind}: {describe(recipe)}; {over_what(set(cells['seeds']))}; {cost(rows)}"


def nine_cell_table(cells):
    """Nine rows of strings: accuracy in %, published and in each condition, and its interval over test speakers."""
    conditions = list(dict.fromkeys(["recorded", "changed", *cells["condition"]]))
    known, most = cells.set_index(list(NAMES)), max(cells["seeds"], default=1)
    best = {name: _best(part["accuracy"]) for name, part in cells.groupby("condition")}
    table, reference = [], published_cells()
    for cell in reference.itertuples():
        line = {"cell": f"{cell.num_way}-way {cell.num_support}-shot",
                PUBLISHED: cell_text(cell.accuracy, cell.interval, 1, 1, cell.accuracy == reference["accuracy"].max())}
        for condition in conditions:
            key = (cell.num_way, cell.num_support, condition)
            line[condition], line[f"{condition}, over speakers"] = (
                _texts(known.loc[key], most, best[condition]) if key in known.index else ("not run", ""))
        table.append(line)
    return pd.DataFrame(table).set_index("cell")


def published_cells():
    """Work A's nine cells in the form of nine_cell_grids, in the order of its table."""
    cells = published("boccio").query("table == 'nine cells'")[["num_way", "num_support", "accuracy", "interval"]]
    return cells.assign(accuracy=cells["accuracy"] / 100, interval=cells["interval"] / 100, condition=PUBLISHED,
                        seeds=1)


def published_reference(num_way, num_support):
    """{label: accuracy} of work A's cell, for a line in a picture; {} for a task that it does not have."""
    cells = published_cells().query("num_way == @num_way and num_support == @num_support")
    return {"published, VoxCeleb1": float(value) for value in cells["accuracy"]}


def missing_cells(rows):
    """[(num_way, num_support, seed)]: of the nine cells those without a run of every seed, with the first that lacks.

    rows: of nine_cell_grids.
    """
    seeds = sorted(map(int, rows["seed"].unique()))
    known = rows.groupby(["num_way", "num_support"])["seed"].agg(set).to_dict()
    nine = [tuple(cell) for cell in published_cells()[["num_way", "num_support"]].itertuples(index=False)]
    absent = {cell: [seed for seed in seeds if seed not in known.get(cell, ())] for cell in nine}
    return [(*cell, lacking[0]) for cell, lacking in absent.items() if lacking]


def _recipes(results, pretraining):
    """[(recipe, rows)]: all that one table may hold, over seeds."""
    if results.empty:
        return []
    rows = with_starts(results, pretraining)
    rows = rows.assign(condition=[condition_name(row) for row in rows.to_dict("records")])
    names, found = [*_SHARED, "pretrained", *_STARTS], []
    for key, part in rows.groupby(names, dropna=False, sort=True):
        recipe = dict(zip(names, key))
        found.append(({**recipe, "init": _start(part), "tasks": part["tasks"].max()}, part))
    return found


def _start(rows):
    starts = sorted(rows["init"].unique())
    if len(starts) == 1:
        return starts[0]
    first, steps = rows.iloc[0], ""
    if pd.notna(first["start_num_train_iterations"]):
        steps = f"; {first['start_num_train_iterations']:.0f} steps of {first['start_batch_size']:.0f} clips"
    return f"{len(starts)} autoencoders ({first['start_mask']} {100 * first['start_mask_ratio']:.0f} %{steps})"


def _grid(kind, recipe, rows):
    require_one(rows, [*_SHARED, "pretrained"], "nine-cell table")
    if recipe["init"] != SCRATCH:  # of autoencoders of several seeds, each training counts with that of its own
        rows = rows.assign(own=(rows["start_seed"] == rows["seed"]).astype(int)).sort_values("own", kind="stable")
        rows = rows.drop_duplicates(["seed", *NAMES], keep="last").drop(columns="own")
    rows = newest(rows, ["seed", *NAMES])
    cells = [{**dict(zip(NAMES, key)), **_cell(part)} for key, part in rows.groupby(list(NAMES), sort=False)]
    return kind, {**recipe, "seeds": sorted(map(int, rows["seed"].unique()))}, pd.DataFrame(cells), rows


def _cell(rows):
    known = rows.dropna(subset="accuracy").astype({"accuracy": float, "interval": float, "low": float, "high": float})
    if known.empty:
        return {"accuracy": np.nan, "interval": np.nan, "low": np.nan, "high": np.nan, "seeds": rows["seed"].nunique()}
    accuracy, interval, seeds = mean_over_seeds(known)
    return {"accuracy": accuracy, "interval": interval, "low": known["low"].mean(), "high": known["high"].mean(),
            "seeds": seeds}


def _texts(cell, most, best):
    if pd.isna(cell["accuracy"]):
        return "split too small", ""
    found = best is not None and round(cell["accuracy"], 3) == best
    return (cell_text(cell["accuracy"], cell["interval"], int(cell["seeds"]), most, found),
            f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}")


def _best(accuracies):
    """The highest, to the digit that is shown; None where there is nothing to choose from."""
    shown = accuracies.dropna().round(3)
    return shown.max() if shown.nunique() > 1 else None
