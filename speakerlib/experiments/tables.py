"""Result tables from run records: published beside measured, never mixing what cannot be compared."""

import numpy as np
import pandas as pd

from speakerlib.data.files import atomic_path, project_folder
from speakerlib.experiments.ideas import PLAIN, plain

RECIPE = [
    "corpus",
    "corpus_fingerprint",
    "synthetic",
    "front_end",
    "segment_seconds",
    "encoder",
    "init",
    "protocol",
    "episode_rule",
    "num_query",
    "batch_size",
    "learning_rate",
    "num_train_iterations",
    "test_interval",
    "test_tasks",
    "seed",
    *(name for name in PLAIN if name != "encoder"),
]
BEST = " ★"

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, 97.5 %, of 2 to 10 seeds


def published(work):
    """Every figure of a work ('boccio' or 'kye') with its source, as data/published/<work>.csv holds it."""
    return pd.read_csv(project_folder() / "data" / "published" / f"{work}.csv")


def recipes(results):
    """Splits the rows of read_results into groups of one recipe and seed: [(recipe dict, rows), ...]."""
    if results.empty:
        return []
    groups = results.groupby(RECIPE, dropna=False, sort=True)
    return [({**dict(zip(RECIPE, key)), "tasks": rows["tasks"].max()}, rows) for key, rows in groups]


def has_curve(results):
    """For each row, whether its run's training curve is there: committed records lack most of them."""
    known = {folder: (folder / "metrics.csv").exists() for folder in results["folder"].unique()}
    return results["folder"].map(known).astype(bool)


def overview(results):
    """What there is: a line for each protocol, kind of start and cell trained for; the number of runs, their cost."""
    runs = results.drop_duplicates("run")
    runs = runs.assign(start=runs["init"].where(runs["init"] == "scratch", "pretrained"),
                       labelled=runs["labelled_speakers"].map(lambda count: count or "all"))
    groups = runs.groupby(["protocol", "start", "labelled", "trained_num_way", "trained_num_support"])
    return groups.agg(runs=("run", "count"), minutes=("wall_seconds", lambda part: round(part.sum() / 60, 1)),
                      most_memory_mb=("peak_memory_mb", "max"))


def describe(recipe):
    """The recipe in one line, for a table's caption; `seeds`, where it is there, takes the place of `seed`."""
    speech = "synthetic speech" if recipe["synthetic"] else "real speech"
    encoder = recipe["encoder"] + ("" if recipe["init"] == "scratch" else f" from {recipe['init']}")
    seeds = recipe.get("seeds", [recipe.get("seed")])
    return (
        f"{recipe['corpus']} ({speech}), {recipe['front_end']} {recipe['segment_seconds']} s, {encoder}, "
        f"{recipe['protocol']}, rule {recipe['episode_rule']}, {recipe['num_query']} queries, "
        f"{recipe['num_train_iterations']} steps of {recipe['batch_size']} tasks, Adam {recipe['learning_rate']:g}, "
        f"tested each {recipe['test_interval']} steps, {recipe['tasks']:.0f} test tasks a cell, "
        f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}, "
        f"corpus version {str(recipe['corpus_fingerprint'])[:8]}"
    )


def mean_over_seeds(rows, value="accuracy", interval="interval"):
    """(mean, half of the 95 % interval, number of seeds) of one cell; rows: one or more a seed.

    The interval is that of the mean over seeds (Student's t) where there are several, else the row's own.
    """
    values, seeds = rows.groupby("seed")[value].mean(), rows["seed"].nunique()
    if seeds == 1:
        return float(values.iloc[0]), float(rows[interval].iloc[0]), 1
    spread = float(values.std(ddof=1)) / np.sqrt(seeds)
    return float(values.mean()), _T[min(seeds, len(_T) + 1) - 2] * spread, seeds


def over_what(seeds):
    """What the ± of cells with these numbers of seeds spans, for a caption."""
    over = ("tasks (one seed)" if max(seeds) == 1 else "seeds" if min(seeds) > 1
            else "seeds where there are several, else over tasks")
    return f"± is the 95 % interval over {over}"


def cell_text(value, interval, seeds, most_seeds, best=False):
    """`91.7 ± 0.2` in %, with a star on the best, and the number of seeds where other cells of the table have more."""
    fewer = f" ({seeds} seed{'s' * (seeds > 1)})" if seeds < most_seeds else ""
    return f"{100 * value:.1f} ± {100 * interval:.1f}{fewer}" + BEST * bool(best)


def cost(runs):
    """`27 runs, 1.2 hours, commit 0123456789ab`; runs: rows with run, wall_seconds and commit, a run once or more."""
    runs = runs.drop_duplicates("run")
    hours, commits = runs["wall_seconds"].sum() / 3600, runs["commit"].value_counts(dropna=False)
    told = [str(commit) + f" ({count})" * (len(commits) > 1) for commit, count in commits.items()]
    return (f"{len(runs)} run{'s' * (len(runs) > 1)}, {f'{hours:.1f}' if hours >= 0.95 else f'{hours:.2g}'} hours, "
            + (f"commit {told[0]}" if len(told) == 1 else f"of {len(told)} commits: {', '.join(told)}"))


def require_one(rows, names, what="table"):
    """ValueError that names what is mixed and how to choose, unless the rows agree on every name."""
    mixed = {name: sorted(rows[name].astype(str).unique()) for name in names
             if name in rows and rows[name].astype(str).nunique() > 1}
    if mixed:
        told = "; ".join(f"{name}: {', '.join(values[:4])}{', ...' * (len(values) > 4)}"
                         for name, values in mixed.items())
        name, values = next(iter(mixed.items()))
        raise ValueError(f"one {what} would mix runs that cannot be compared ({told}). Choose one of each, such as "
                         f"results[results[{name!r}] == ...], or speakerlib table ... -p {name} {values[0]}.")


def newest(rows, cell):
    """The rows, of those with the same values in the columns `cell` (runs made again) those of the last finished run.

    Two versions of the program may have filled one cell of a seed: the captions' commits tell.
    """
    order = [name for name in ("finished", "run") if name in rows]
    return rows.sort_values(order, kind="stable", na_position="first").drop_duplicates(cell, keep="last").sort_index()


def nine_cell_tables(results):
    """Work A's nine cells, published beside measured: [(caption, DataFrame of strings), ...]; see nine_cell_table."""
    from speakerlib.experiments import nine_cell_table

    return nine_cell_table.nine_cell_tables(results)


def write_markdown(path, tables):
    """Writes [(caption, DataFrame), ...] as one Markdown file."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            "\n".join(f"**{caption}**\n\n{markdown(table)}\n" for caption, table in tables), encoding="utf-8"
        )


def markdown(table):
    """A DataFrame of ready strings as a Markdown table."""
    header = [table.index.name or "", *table.columns]
    lines = [header, ["---"] * len(header), *([label, *row] for label, row in zip(table.index, table.to_numpy()))]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def headline(results, num_way=5, num_support=5):
    """Lines for a terminal: each plain recipe, and beneath it the accuracy of that cell from the network for it."""
    lines = []
    for recipe, rows in recipes(plain(results)):
        rows = rows.query(
            "num_way == @num_way == trained_num_way and num_support == @num_support == trained_num_support"
        )
        found = [
            f"  {num_way}-way {num_support}-shot, {row['condition']}: {100 * row['accuracy']:.1f} % "
            f"± {100 * row['interval']:.1f} over {row['tasks']:.0f} tasks, "
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f} over {row['speakers']:.0f} speakers"
            for row in rows.dropna(subset="accuracy").to_dict("records")
        ]
        lines += [f"{describe(recipe)}:", *found] if found else []
    return lines
