"""Does one objective beat another on short queries? Runs of chapter 07, paired, from their records alone."""

import numpy as np
import pandas as pd

from speakerlib.data.clips import FRAMES_PER_SECOND
from speakerlib.experiments.comparison import condition_name, interval_over_speakers_and_seeds
from speakerlib.experiments.error_tables import error_grids
from speakerlib.experiments.tables import BEST, cost
from speakerlib.experiments.trial_errors import errors_by_pair, interval_over_pairs
from speakerlib.experiments.verification_tables import spoken

SHORT = (100, 200)  # frames of the tests in the tables
SCORING = "cosine"  # as published
UNTRAINED = "untrained"
CLAIMED = ("prototypical + global", "prototypical")  # whose differences from the others are told
_NAMES = {"identification": "accuracy", "verification": "EER"}
_VALUES = {"identification": "accuracy", "verification": "eer"}
_CELL = ["task", "condition", "test_length"]


def objective_grids(runs):
    """Encoders that differ in objective and seed alone: [(recipe, lines, rows of the runs)].

    runs: rows of read_runs. lines: a row for each method, task, condition and test_length, scored by cosine, with
    seeds, value (accuracy, or equal error rate: means over seeds), low, high, and `shares`, (seeds, speakers): the
    accuracy by speaker; or of the decisions about each enrolled speaker's trials, at the threshold of equal errors,
    the share that is wrong, whose mean is the equal error rate but for ties. `pairs`: errors_by_pair of each seed, or
    None. low, high: the 95 % bootstrap interval over speakers and seeds; of errors, both speakers of a trial are drawn
    again where `pairs` tell of them, else the enrolled one alone, which is too narrow. Raises as error_grids does.
    """
    return [(recipe, _lines(rows), rows) for recipe, _, rows in error_grids(runs, "identification")]


def paired_lines(lines, method, control):
    """How much one method differs from another: a row a task, condition and length; empty without a common seed.

    Columns: method, control, seeds, difference, low, high (95 %, over speakers and seeds, paired on the same speakers,
    seeds and tasks) and better: the interval excludes 0 on the side that is wanted (True), on the other (False), or
    does not (None). lines: of objective_grids.
    """
    found, pairs = [], pd.merge(*(lines[lines["method"] == name] for name in (method, control)), on=_CELL,
                                suffixes=("", "_control"))
    for row in pairs.to_dict("records"):
        ours, theirs = row["shares"], row["shares_control"]
        seeds = ours.index.intersection(theirs.index)
        if seeds.empty:
            continue
        if set(ours) != set(theirs):
            raise ValueError(f"{row['task']}, {spoken(row['test_length'])}: {method!r} and {control!r} met other "
                             "speakers. Evaluate both with the same parameters of chapter 07.")
        differences = ours.loc[seeds].to_numpy() - theirs.loc[seeds].to_numpy()
        low, high = interval_over_speakers_and_seeds(differences)
        if row["pairs"] and row["pairs_control"]:
            low, high = interval_over_pairs(*([pairs[seed] for seed in seeds]
                                              for pairs in (row["pairs"], row["pairs_control"])))
        apart = low > 0 or high < 0
        found.append({**{name: row[name] for name in _CELL}, "method": method, "control": control,
                      "seeds": len(seeds), "difference": float(np.nanmean(differences)), "low": low, "high": high,
                      "better": ((low > 0) == (row["task"] == "identification")) if apart else None})
    return pd.DataFrame(found)


def value_table(lines):
    """A line a condition and objective, a column a task and short length, the best starred; a DataFrame of strings."""
    lines, table = lines[lines["test_length"].isin(SHORT)], {}
    best = {cell: _best(cell[0], part["value"]) for cell, part in lines.groupby(_CELL)}
    for condition in _conditions(lines):
        for method in lines["method"].unique():
            part = lines[(lines["condition"] == condition) & (lines["method"] == method)]
            texts = {_column(row): _interval(row, "value") + BEST * bool(
                best[tuple(row[name] for name in _CELL)] == round(row["value"], 3)) for row in part.to_dict("records")}
            table[f"{condition}: {method}"] = {"seeds": str(part["seeds"].max()), **texts}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("objective")


def difference_table(lines):
    """The claim: differences of CLAIMED methods from the other trained ones, each pair once, as strings in points.

    `better`, `worse`: where the interval excludes 0.
    """
    lines, table = lines[lines["test_length"].isin(SHORT)], {}
    for condition in _conditions(lines):
        part = lines[lines["condition"] == condition]
        for place, method in enumerate(CLAIMED):
            for control in part["method"].unique():
                found = paired_lines(part, method, control)
                if control in (UNTRAINED, *CLAIMED[:place + 1]) or found.empty:
                    continue
                texts = {_column(row): _interval(row, "difference", "+") + {True: " better", False: " worse"}.get(
                    row["better"], "") for row in found.to_dict("records")}
                table[f"{condition}: {method} less {control}"] = {"seeds": str(found["seeds"].max()), **texts}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("difference")


def error_panels(lines, task):
    """{condition: {method: {seconds: (error, low, high)}}} of a task, as plot_by_length draws it; shares of 1."""
    panels = {condition: {} for condition in _conditions(lines)}
    for row in lines[lines["task"] == task].to_dict("records"):
        seconds = None if pd.isna(row["test_length"]) else row["test_length"] / FRAMES_PER_SECOND
        error = (row["value"], row["low"], row["high"]) if task == "verification" else (
            1 - row["value"], 1 - row["high"], 1 - row["low"])
        panels[row["condition"]].setdefault(row["method"], {})[seconds] = error
    return panels


def objective_caption(recipe, lines, rows, what="Objectives for short utterances"):
    """What such a table holds, in one line."""
    trials = next(row["targets"] + row["non_targets"] for row in rows["result"].iloc[0]
                  if row["task"] == "verification")
    speech = "synthetic speech" if recipe["synthetic"] else "real speech"
    unknown = lines.loc[lines["task"] == "verification", "pairs"].isna().any()
    narrow = " (of EER: the enrolled speakers alone, which is too narrow)" if unknown else ""
    speakers = lines["shares"].iloc[0].shape[1]
    return (f"{what}: {recipe['corpus']} ({speech}), {recipe['training']}; accuracy in % of "
            f"{recipe['nb_class_test']:.0f}-way {recipe['num_support']:.0f}-shot identification, enrolment "
            f"{spoken(recipe['enroll_length'])}, {recipe['test_tasks']:,.0f} tasks; EER in % of {trials:,} trials, "
            f"enrolment whole; both of {speakers} unseen speakers, by the length of the test, scored by cosine; in "
            f"brackets 95 % over speakers and seeds{narrow}; {cost(rows)}")


def _lines(runs):
    rows = [{**row, "condition": condition_name(row), "method": run["method"], "seed": run["trained_seed"],
             "folder": run["folder"]}
            for run in runs.to_dict("records") for row in run["result"] if row["scoring"] == SCORING]
    rows, lines = pd.DataFrame(rows), []
    for (method, task, condition, length), part in rows.groupby(
            ["method", "task", "condition", "test_length"], dropna=False, sort=False):
        shares = pd.DataFrame(list(part["by_speaker"]), index=part["seed"].to_numpy(), dtype=float).sort_index(axis=1)
        shares = shares if task == "identification" else 1 - shares
        pairs = _pairs(part) if task == "verification" else None
        low, high = interval_over_pairs(list(pairs.values())) if pairs else interval_over_speakers_and_seeds(
            shares.to_numpy())
        lines.append({"method": method, "task": task, "condition": condition,
                      "test_length": length, "seeds": len(part),
                      "value": float(part[_VALUES[task]].mean()), "low": low, "high": high, "shares": shares,
                      "pairs": pairs})
    lines = pd.DataFrame(lines)
    order = {name: place for place, name in enumerate(runs["method"].unique())}
    lines = lines.sort_values(["task", "test_length"], kind="stable")  # identification first, whole utterances last
    return lines.sort_values("method", key=lambda names: names.map(lambda name: (
        name == UNTRAINED, "global" in name, name != "softmax", order[name])), kind="stable", ignore_index=True)


def _pairs(rows):
    """{seed: errors_by_pair}; None unless all are known."""
    found = {row["seed"]: errors_by_pair({**row, "test_length": None if pd.isna(row["test_length"]) else
                                          int(row["test_length"])}, row["folder"]) for row in rows.to_dict("records")}
    return found if all(found.values()) else None


def _conditions(lines):
    return sorted(lines["condition"].unique(), key=lambda name: (name != "recorded", name))


def _column(row):
    return f"{_NAMES[row['task']]}, {spoken(row['test_length'])}"


def _interval(row, value, sign=""):
    return f"{{:{sign}.1f}} ({{:{sign}.1f}} to {{:{sign}.1f}})".format(
        *(100 * row[name] for name in (value, "low", "high")))


def _best(task, values):
    shown = values.map(lambda value: round(value, 3))
    return None if shown.nunique() < 2 else shown.max() if task == "identification" else shown.min()
