"""Work B's tables over runs of chapter 07: equal error rates and identification, published beside measured."""

import numpy as np
import pandas as pd

from speakerlib.experiments.comparison import condition_name
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.query_lengths import OBJECTIVE, QUERY_LENGTHS, objective_name
from speakerlib.experiments.scoring import SCORINGS
from speakerlib.experiments.short_utterance import NOTEBOOK as SHORT_UTTERANCES
from speakerlib.experiments.tables import BEST, cost, mean_over_seeds, newest, published, require_one
from speakerlib.experiments.verification_tables import NOT_TRANSCRIBED, spoken
from speakerlib.experiments.verify import NOTEBOOK, TRIAL_LENGTHS

CONDITIONS = ("recorded", "changed")
PAPER = ({"loss_type": "softmax"}, {"loss_type": "prototypical", "use_global_classification": False},
         {"loss_type": "prototypical", "use_global_classification": True})  # its three objectives
VALUES = {"verification": ("eer", "eer_low", "eer_high"), "identification": ("accuracy", "low", "high")}
LENGTHS = {"verification": TRIAL_LENGTHS, "identification": QUERY_LENGTHS[::-1]}
LISTS = {"verification": "trial_list", "identification": "episodes"}

_TESTED = ("corpus", "corpus_fingerprint", "synthetic", "channel_family", "trials", "trials_per_speaker",
           "nb_class_test", "num_support", "num_query", "enroll_length", "test_tasks", "seed")


def judged(runs):
    """Runs of chapter 07 with what they judged: columns method, trained_seed, kind and recipe (a text) are added.

    runs: rows of read_runs(NOTEBOOK), or of read_runs(). recipe: all parameters of the encoder's training but the
    objective (of chapter 06) and the seed, so that encoders of one recipe differ in these alone.
    """
    from speakerlib.experiments.encoders_compared import encoder_name

    runs = runs[runs["notebook"] == NOTEBOOK] if len(runs) else runs
    if runs.empty:
        return runs
    facts = [record.get("speaker_encoder") or {} for record in runs["record"]]
    return runs.assign(method=[encoder_name(each) for each in facts],
                       trained_seed=[(each.get("parameters") or each).get("seed") or 0 for each in facts],
                       kind=[each["kind"] for each in facts], recipe=[_recipe(each) for each in facts])


def error_grids(runs, task):
    """Every table that runs of chapter 07 fill: [(recipe, cells, runs)]; task: `verification` or `identification`.

    recipe: what all runs of a table share: of the test, the training's parameters but objective and seed, and
    `training`, a text. cells: a row for each method, scoring, condition and test_length with value (equal error rate,
    or accuracy), low, high (95 %: over seeds where there are several, else over speakers), seeds. An untrained encoder
    stands in the tables of all that were judged as it was. ValueError if the runs met different trials or tasks.
    """
    found = judged(runs)
    if found.empty:
        return []
    grids = []
    for key, tested in found.groupby(list(_TESTED), dropna=False, sort=True):
        trained, untrained = tested[tested["kind"] != "untrained"], tested[tested["kind"] == "untrained"]
        groups = [part for _, part in trained.groupby("recipe", sort=True)] or [tested[:0]]
        for part in groups:
            rows = pd.concat([part, untrained]) if len(part) else untrained
            recipe = {**dict(zip(_TESTED, key)), "kind": rows["kind"].iloc[0], "training": rows["recipe"].iloc[0],
                      "parameters": (rows["record"].iloc[0].get("speaker_encoder") or {}).get("parameters") or {}}
            rows = newest(rows, ["method", "trained_seed"])
            grids.append((recipe, _cells(rows, task), rows))
    return grids


def error_caption(task, recipe, cells, runs):
    """What such a table holds, in one line."""
    speech = "synthetic speech" if recipe["synthetic"] else "real speech"
    what = (f"{recipe['nb_class_test']}-way {recipe['num_support']}-shot identification of unseen speakers, accuracy "
            f"in %, enrolment {spoken(recipe['enroll_length'])}, {recipe['num_query']} queries, "
            f"{recipe['test_tasks']} tasks" if task == "identification" else
            f"Verification of unseen speakers, EER in %, {cells['size'].iloc[0]:,} trials, enrolment whole")
    lists = cells.groupby("test_length", dropna=False, sort=False)["list"].first()
    return (f"{what}: {recipe['corpus']} ({speech}), {recipe['training']}, condition changed of family "
            f"{recipe['channel_family']}, corpus version {str(recipe['corpus_fingerprint'])[:8]}, "
            f"lists {' '.join(str(digest)[:8] for digest in lists)}; "
            f"in brackets the 95 % interval {over_seeds(cells['seeds'])}; {cost(runs)}")


def over_seeds(seeds):
    """What the intervals of cells with these numbers of seeds span."""
    if max(seeds) == 1:
        return "over speakers (one seed)"
    return "over seeds" if min(seeds) > 1 else "over seeds where there are several, else over speakers"


def error_table(task, cells, conditions=CONDITIONS):
    """A line a method and scoring, a column a condition and length; published lines first, the best value starred.

    The objectives of the paper that were not run have a line that says so.
    """
    columns = {(condition, length): f"{condition}, {spoken(length)}"
               for condition in dict.fromkeys([*conditions, *cells["condition"]]) for length in LENGTHS[task]}
    table, most = _published_lines(task, columns), max(cells["seeds"], default=1)
    best = {key: _best(task, part["value"]) for key, part in cells.groupby(
        ["condition", cells["test_length"].fillna(0)])} if len(cells) else {}
    for (method, scoring), part in cells.groupby(["method", "scoring"], sort=False):
        line = {(row["condition"], None if pd.isna(row["test_length"]) else row["test_length"]): row
                for row in part.to_dict("records")}
        table[f"{method}, {scoring}"] = {
            name: _text(line[key], most, best.get((key[0], key[1] or 0))) if key in line else "not run"
            for key, name in columns.items()}
    for method in missing_methods(cells):
        table[f"{method}, cosine"] = dict.fromkeys(columns.values(), "not run")
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("encoder, scoring")


def missing_methods(cells):
    """The paper's objectives that no run has."""
    defaults = notebook_parameters(SHORT_UTTERANCES)
    return [name for name in (objective_name({**defaults, **each}) for each in PAPER)
            if name not in set(cells["method"])]


def no_cells():
    """The cells of a table without runs."""
    return pd.DataFrame(columns=["method", "scoring", "condition", "test_length", "value", "low", "high", "seeds",
                                 "list", "size"])


def _cells(runs, task):
    value, low, high = VALUES[task]
    rows = [{**row, "condition": condition_name(row), "method": run["method"], "seed": run["trained_seed"],
             "run": run["run"], "list": row[LISTS[task]],
             "size": row["tasks"] if task == "identification" else row["targets"] + row["non_targets"]}
            for run in runs.to_dict("records") for row in run["result"] if row["task"] == task]
    rows = pd.DataFrame(rows).astype({"test_length": float})
    for _, part in rows.groupby(["condition", "test_length"], dropna=False):
        require_one(part, ["list"], f"table of {task}")
    rows["scoring"] = pd.Categorical(rows["scoring"], SCORINGS)
    rows["method"] = pd.Categorical(rows["method"], _order(rows["method"].unique()))
    names = sorted(rows["condition"].unique(), key=lambda name: (name != "recorded", name))
    rows["condition"] = pd.Categorical(rows["condition"], names)
    keys, cells = ["method", "scoring", "condition", "test_length"], []
    for key, part in rows.groupby(keys, dropna=False, sort=True, observed=True):
        mean, half, seeds = mean_over_seeds(part.assign(_half=np.nan), value, "_half")
        ends = (part[low].iloc[0], part[high].iloc[0]) if seeds == 1 else (max(mean - half, 0), min(mean + half, 1))
        cells.append({**dict(zip(keys, key)), "value": mean, "low": ends[0], "high": ends[1], "seeds": seeds,
                      "list": part["list"].iloc[0], "size": part["size"].iloc[0]})
    return pd.DataFrame(cells).astype({"method": str, "scoring": str, "condition": str})


def _order(methods):
    """The paper's objectives first, as it has them; an untrained encoder last."""
    defaults = notebook_parameters(SHORT_UTTERANCES)
    paper = [objective_name({**defaults, **each}) for each in PAPER]
    return sorted(methods, key=lambda name: (name == "untrained", paper.index(name) if name in paper else len(paper),
                                             name))


def _recipe(facts):
    if facts["kind"] != SHORT_UTTERANCES:
        own = {name: value for name, value in (facts.get("parameters") or {}).items()
               if name not in ("seed", "corpus", "print_interval")}
        told = ", ".join(f"{name} {value}" for name, value in own.items()) if own else facts.get("run", "")
        return f"{facts['encoder']} of {facts['kind']}" + f" ({told})" * bool(told and told != facts["kind"])
    own = {**notebook_parameters(SHORT_UTTERANCES), **facts["parameters"]}
    known = ("encoder", "width", "front_end", "num_train_iterations", "nb_class_train", "num_support", "num_query",
             "learning_rate", "augment", "corpus", "print_interval", "test_interval", "test_tasks",
             "nb_class_test", "seed", *OBJECTIVE)
    defaults = notebook_parameters(SHORT_UTTERANCES)
    rest = [f"{name} {value}" for name, value in own.items() if name not in known and value != defaults.get(name)]
    segments = own["nb_class_train"] * (own["num_support"] + own["num_query"])
    channels = "as recorded" if own["augment"] == "none" else f"through channels {own['augment']}"
    return ", ".join([f"{own['encoder']} of width {own['width']:g}", own["front_end"], f"trained {channels}",
                      f"{own['num_train_iterations']} steps of {segments} segments ({own['nb_class_train']} speakers)",
                      f"SGD {own['learning_rate']:g}", *rest])


def _published_lines(task, columns):
    if task == "identification":
        return {"published (Kye et al. 2020, VoxCeleb1)": {
            name: NOT_TRANSCRIBED if condition == "recorded" else "" for (condition, _), name in columns.items()}}
    lines = {}
    for row in published("kye").to_dict("records"):
        lines[f"published: {row['source']} ({row['trials']:,} trials of VoxCeleb1)"] = {
            name: "" if condition != "recorded" else f"{row['value']:.2f}" if length is None else NOT_TRANSCRIBED
            for (condition, length), name in columns.items()}
    return lines


def _best(task, values):
    shown = values.round(3)
    if shown.nunique() < 2:
        return None
    return shown.min() if task == "verification" else shown.max()


def _text(cell, most, best):
    fewer = f" ({cell['seeds']} seed{'s' * (cell['seeds'] > 1)})" if cell["seeds"] < most else ""
    text = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * cell[name] for name in ("value", "low", "high")))
    return text + fewer + BEST * bool(best is not None and round(cell["value"], 3) == best)
