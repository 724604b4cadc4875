"""Result tables from run records: published beside measured, never mixing what cannot be compared."""

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


def published(work):
    """Every figure of a work ('boccio' or 'kye') with its source, as data/published/<work>.csv holds it."""
    return pd.read_csv(project_folder() / "data" / "published" / f"{work}.csv")


def recipes(results):
    """Splits the rows of read_results into groups that one table may hold: [(recipe dict, rows), ...]."""
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
    """The recipe in one line, for a table's caption."""
    speech = "synthetic speech" if recipe["synthetic"] else "real speech"
    encoder = recipe["encoder"] + ("" if recipe["init"] == "scratch" else f" from {recipe['init']}")
    return (
        f"{recipe['corpus']} ({speech}), {recipe['front_end']} {recipe['segment_seconds']} s, {encoder}, "
        f"{recipe['protocol']}, rule {recipe['episode_rule']}, {recipe['num_query']} queries, "
        f"{recipe['num_train_iterations']} steps of {recipe['batch_size']} tasks, Adam {recipe['learning_rate']:g}, "
        f"tested each {recipe['test_interval']} steps, {recipe['tasks']:.0f} test tasks a cell, "
        f"seed {recipe['seed']}, corpus version {recipe['corpus_fingerprint'][:8]}"
    )


def nine_cell_tables(results):
    """Every nine-cell table that the plain runs of notebook 05 fill (see ideas.plain): [(caption, DataFrame), ...].

    One network in all nine cells and one network a cell are different tables; so is each recipe. A table of networks
    that were trained for their cell needs more than one of them.
    """
    tables = []
    for recipe, rows in recipes(plain(results)):
        own = (rows["trained_num_way"] == rows["num_way"]) & (rows["trained_num_support"] == rows["num_support"])
        five = (rows["trained_num_way"] == 5) & (rows["trained_num_support"] == 5)
        if five.any():
            caption = f"One network, trained 5-way 5-shot, in all nine cells: {describe(recipe)}"
            tables.append((caption, _nine_cells(rows[five])))
        if rows.loc[own, "run"].nunique() > 1:
            tables.append((f"One network a cell: {describe(recipe)}", _nine_cells(rows[own])))
    return tables


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


def _nine_cells(rows):
    """Nine rows; accuracy in % with the interval over tasks, and the bootstrap interval over test speakers."""
    rows = rows.set_index(["num_way", "num_support", "condition"])
    if rows.index.has_duplicates:
        raise ValueError("two runs fill the same cell: pass the rows of one recipe (see recipes()).")
    table = []
    for cell in published("boccio").query("table == 'nine cells'").itertuples():
        line = {
            "cell": f"{cell.num_way}-way {cell.num_support}-shot",
            "published (VoxCeleb1)": f"{cell.accuracy:.1f} ± {cell.interval:.1f}",
        }
        for condition in ("recorded", "changed"):
            line[condition], line[f"{condition}, over speakers"] = _measured(
                rows, (cell.num_way, cell.num_support, condition)
            )
        table.append(line)
    return pd.DataFrame(table).set_index("cell")


def _measured(rows, key):
    if key not in rows.index:
        return "not run", ""
    row = rows.loc[key]
    if pd.isna(row["accuracy"]):
        return "split too small", ""
    return (
        f"{100 * row['accuracy']:.1f} ± {100 * row['interval']:.1f}",
        f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
    )


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
