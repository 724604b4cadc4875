"""Work A's table of masks and ratios: accuracy from each autoencoder's encoder, published beside measured."""

import pandas as pd

from speakerlib.experiments.comparison import condition_name
from speakerlib.experiments.ideas import BUDGET, PLAIN_AUTOENCODER, START, TREATMENT, names, with_starts
from speakerlib.experiments.tables import cell_text, cost, has_curve, mean_over_seeds, newest, published

MASKS = ("strips", "boxes")
RATIOS = (0.55, 0.65, 0.75, 0.85, 0.95)
PUBLISHED = "published (VoxCeleb1)"
SWEEP = "notebooks/sweeps/mae_table.yaml"

_RECIPE = [*BUDGET, *(name for name in TREATMENT if name not in ("start_mask", "start_mask_ratio"))]


def mask_grids(results, pretraining, least=2):
    """What the table shows, measured: [(recipe dict, cells), ...], a recipe being all but mask, ratio and seed.

    results, pretraining: rows of read_results("05_protonet_training") and read_runs("04_mae_pretraining"), joined by
    the id of the autoencoder's run. cells: rows of mask, mask_ratio, condition, accuracy, interval (half of the 95 %
    one: over seeds where there are several, else over tasks) and seeds; from scratch: mask None. The recipe's `cost`
    tells the runs behind them, the autoencoders' too. Recipes with fewer than `least` of the ten cells are left out.
    """
    if results.empty:
        return []
    rows = with_starts(results, pretraining).dropna(subset="accuracy")
    rows = rows.query("num_way == num_support == trained_num_way == trained_num_support == 5")
    rows = rows.assign(condition=[condition_name(row) for row in rows.to_dict("records")])
    known = rows["start_mask"].isin(MASKS) & rows["start_mask_ratio"].isin(RATIOS)
    scratch = rows[~rows["pretrained"]]
    grids = []
    for key, group in rows[known].groupby(_RECIPE, dropna=False, sort=True):
        recipe = dict(zip(_RECIPE, key))
        if len(group[["start_mask", "start_mask_ratio"]].drop_duplicates()) < least:
            continue
        cells = [_cell(mask, ratio, part) for (mask, ratio, _), part in
                 group.groupby(["start_mask", "start_mask_ratio", "condition"], sort=False)]
        control = scratch
        for name in BUDGET:
            control = control[control[name] == recipe[name]]
        cells += [_cell(None, None, part) for _, part in control.groupby("condition", sort=False)]
        recipe["cost"] = _cost(pd.concat([group, control]), pretraining)
        grids.append((recipe, pd.DataFrame(cells)))
    for (recipe, _), idea in zip(grids, names(pd.DataFrame([recipe for recipe, _ in grids]))) if grids else ():
        recipe["idea"] = idea
    return grids


def published_cells():
    """Work A's ten cells and the one from scratch, in the form of mask_grids."""
    rows = published("boccio")
    ten = rows[rows["table"] == "pretrained"]
    scratch = rows.query("table == 'nine cells' and num_way == 5 and num_support == 5").assign(mask=None)
    cells = pd.concat([ten, scratch])[["mask", "mask_ratio", "accuracy", "interval"]]
    cells[["accuracy", "interval"]] /= 100
    return cells.assign(condition=PUBLISHED, seeds=1)


def mae_tables(results, pretraining):
    """[(caption, DataFrame of strings), ...]: published and measured, a line for each mask and condition.

    The best ratio of each line is starred. "not run": see how_to_fill.
    """
    return [(f"{caption(recipe, cells)}; {recipe['cost']}", mask_table(cells))
            for recipe, cells in mask_grids(results, pretraining)]


def mask_table(cells):
    """Cells of mask_grids as strings, a line for each mask and condition; the best ratio of each is starred."""
    conditions = list(dict.fromkeys(cells["condition"]))
    most = max(cells["seeds"], default=1)
    cells, table = pd.concat([published_cells().assign(seeds=most), cells]), []
    for mask in MASKS:
        for condition in (PUBLISHED, *conditions):
            line = cells[cells["condition"] == condition]
            ten = line[line["mask"] == mask].set_index("mask_ratio")
            best = round(ten["accuracy"].max(), 3) if len(ten) else None
            texts = {f"{ratio:g}": _text(ten.loc[ratio], most, best) if ratio in ten.index else "not run"
                     for ratio in RATIOS}
            scratch = line[line["mask"].isna()]
            table.append({"mask": f"{mask}, {condition}", **texts,
                          "from scratch": _text(scratch.iloc[0], most) if len(scratch) else "not run"})
    return pd.DataFrame(table).set_index("mask")


def caption(recipe, cells):
    """What a mask table holds, in one line."""
    seeds = sorted(set(cells["seeds"]))
    over = "seeds" if seeds[0] > 1 else "tasks" if seeds[-1] == 1 else "seeds where there are several, else over tasks"
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    steps, tasks = recipe["start_num_train_iterations"], recipe["batch_size"]
    parts = [
        f"5-way 5-shot from an autoencoder's encoder, by mask and ratio: {recipe['corpus']} "
        f"({'synthetic' if recipe['synthetic'] else 'real'} speech)",
        recipe["idea"],
        f"{recipe['front_end']} {recipe['segment_seconds']} s",
        recipe["protocol"],
        "" if pd.isna(steps) else f"pretraining {steps:.0f} steps of {recipe['start_batch_size']:.0f} clips",
        f"training {recipe['num_train_iterations']} steps of {tasks} task{'s' * (tasks > 1)}",
        f"seeds: {count}",
        f"± is the 95 % interval over {over}",
    ]
    return ", ".join(part for part in parts if part)


def how_to_fill(corpus):
    """A sentence for cells that were not run: the sweep, and the commands of a single cell."""
    return (f"All ten cells, and what is missing of them: speakerlib sweep {SWEEP}. One cell: speakerlib run "
            f"04_mae_pretraining -p corpus {corpus} -p mask strips -p mask_ratio 0.55, then speakerlib run "
            f"05_protonet_training -p corpus {corpus} -p init <the run that it names>.")


def error_curves(pretraining, corpus):
    """{(mask, mask_ratio): [history of each seed]} of a corpus' autoencoders whose errors one picture may compare.

    Those of work A (ideas.PLAIN_AUTOENCODER), of the settings with which most were trained.
    """
    if pretraining.empty:
        return {}
    rows = pretraining[pretraining["corpus"] == corpus]
    for name, value in PLAIN_AUTOENCODER.items():
        rows = rows[rows[name] == value]
    rows = rows[rows["mask"].isin(MASKS) & has_curve(rows)]
    if rows.empty:
        return {}
    shared = [name for name in (*START, "corpus_fingerprint", "front_end", "segment_seconds", "test_interval")
              if name not in ("mask", "mask_ratio", "seed")]
    rows = max((part for _, part in rows.groupby(shared, dropna=False)), key=len)
    return {key: [pd.read_csv(folder / "metrics.csv") for folder in part["folder"]]
            for key, part in rows.groupby(["mask", "mask_ratio"])}


def _cell(mask, ratio, rows):
    accuracy, interval, seeds = mean_over_seeds(newest(rows, ["seed", "start_seed"]))
    return {"mask": mask, "mask_ratio": ratio, "condition": rows["condition"].iloc[0], "accuracy": accuracy,
            "interval": interval, "seeds": seeds}


def _cost(rows, pretraining):
    """Of the trainings and of the autoencoders that they started from."""
    facts = ["run", "wall_seconds", "commit"]
    starts = pretraining[pretraining["run"].isin(rows["init"])] if len(pretraining) else pretraining
    return cost(pd.concat([rows[facts], *([starts[facts]] if len(starts) else [])]))


def _text(cell, most, best=None):
    found = best is not None and round(cell["accuracy"], 3) == best
    return cell_text(cell["accuracy"], cell["interval"], int(cell["seeds"]), most, found)
