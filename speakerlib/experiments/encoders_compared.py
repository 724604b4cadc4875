"""Does one way of training beat another? Runs of chapter 07 side by side, paired on the same trials and tasks."""

from functools import lru_cache

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from speakerlib.data.clips import FRAMES_PER_SECOND
from speakerlib.data.features import CONDITIONS
from speakerlib.experiments.comparison import interval_over_speakers_and_seeds
from speakerlib.experiments.query_lengths import OBJECTIVE, objective_name
from speakerlib.experiments.records import read_runs
from speakerlib.experiments.short_utterance import NOTEBOOK as SHORT_UTTERANCES
from speakerlib.experiments.verification import errors_over_seeds, paired_errors
from speakerlib.experiments.verification_tables import spoken
from speakerlib.experiments.verify import NOTEBOOK, length_name

COLUMNS = ["task", "condition", "test_length", "method", "control", "seeds", "method_value", "control_value",
           "difference", "low", "high"]
_APART = (*OBJECTIVE, "seed")  # parameters of chapter 06 that runs may differ in and still be one recipe


def encoder_name(facts):
    """A readable name of how an encoder was trained; facts: of read_speaker_encoder."""
    if facts["kind"] == SHORT_UTTERANCES:
        return objective_name(facts)
    names = {"untrained": "untrained", "checkpoint": "authors' checkpoint"}
    return names.get(facts["kind"], f"{facts['encoder']} of chapter {facts['kind'][:2]}")


def alike(evaluation, run, rows):
    """This run and the complete ones of chapter 07 on the same trials and tasks: a DataFrame, a row a run.

    evaluation, run, rows: of evaluate. Encoders of chapter 06 count if they were trained by the same recipe and for as
    many steps, whatever the objective and the seed; of others, this very one. Columns: method (encoder_name),
    trained_seed, folder, result.
    """
    settings, facts = vars(evaluation.settings), evaluation.facts
    found = {}
    for other in read_runs(NOTEBOOK).to_dict("records"):
        encoder = other["record"].get("speaker_encoder") or {}
        same = all(other.get(name) == value for name, value in settings.items() if name not in ("corpus", "init"))
        if same and other["corpus_fingerprint"] == evaluation.corpus.fingerprint and _recipe(encoder) == _recipe(facts):
            found[encoder_name(encoder), encoder.get("seed") or 0] = other["folder"], other["result"]
    found[encoder_name(facts), facts.get("seed") or 0] = run.folder, rows
    return pd.DataFrame([(*key, *value) for key, value in sorted(found.items())],
                        columns=["method", "trained_seed", "folder", "result"])


def by_length(runs, task, condition, scoring="cosine"):
    """{method: {seconds: (value, low, high)}}: errors (equal error rate) or accuracies, means over training seeds.

    task: `verification` or `identification`; runs: of alike. low, high: the 95 % interval over speakers and seeds.
    Seconds are None for whole utterances.
    """
    lines = {}
    for method, group in runs.groupby("method", sort=False):
        for length, rows in _cells(group, task, condition, scoring).items():
            seconds = None if length is None else length / FRAMES_PER_SECOND
            lines.setdefault(method, {})[seconds] = _value(task, rows, condition, length, scoring)
    return lines


def paired(runs, method, control, scoring="cosine"):
    """A line for each task, condition and length: how much method differs from control (columns COLUMNS).

    runs: of alike; seeds that both were trained with are paired. Values are equal error rates, where less is better,
    and accuracies of identification. low, high: the 95 % interval of the difference over speakers and seeds, both
    drawn again; the two are apart if it excludes 0. ValueError if they have no seed in common.
    """
    ours, theirs = (runs[runs["method"] == name].set_index("trained_seed") for name in (method, control))
    seeds = common_seeds(runs, method, control)
    if not seeds:
        raise ValueError(f"nothing to compare: {method!r} was trained with seeds {sorted(ours.index)}, {control!r} "
                         f"with {sorted(theirs.index)}. Train and evaluate both with the same seeds.")
    ours, theirs, lines = ours.loc[seeds], theirs.loc[seeds], []
    for task in ("verification", "identification"):
        for condition in CONDITIONS:
            cells = [_cells(group, task, condition, scoring) for group in (ours, theirs)]
            for length in cells[0]:
                pair = [cell[length] for cell in cells]
                _require_same(task, length, *pair)
                values = [np.mean([row["eer" if task == "verification" else "accuracy"] for row in rows])
                          for rows in pair]
                found = _difference(task, pair, condition, length, scoring)
                lines.append(dict(zip(COLUMNS, (task, condition, length, method, control, len(seeds), *values, *found),
                                      strict=True)))
    return pd.DataFrame(lines, columns=COLUMNS)


def against_others(runs, method):
    """The lines of paired of one method against each other one that shares a seed with it; none is an empty table."""
    others = [other for other in runs["method"].unique() if other != method and common_seeds(runs, method, other)]
    lines = [paired(runs, method, other) for other in others]
    return pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(columns=COLUMNS)


def what_is_compared(runs, method):
    """A sentence on what stands beside a method, and what would have to be run for more."""
    seeds = runs.groupby("method", sort=False)["trained_seed"].apply(lambda part: ", ".join(map(str, sorted(part))))
    told = "; ".join(f"{name} (seeds {each})" for name, each in seeds.items())
    if len(seeds) > 1:
        return f"Trained alike and judged on the same trials: {told}. Below, {method} less each other one, in points."
    return (f"Judged on these trials so far: {told}. To compare, train another objective in chapter 06 with the same "
            "parameters and seed, and run this notebook with the same parameters and `init` naming that run.")


def common_seeds(runs, method, control):
    """Training seeds that both methods have a run of."""
    seeds = [set(runs.loc[runs["method"] == name, "trained_seed"]) for name in (method, control)]
    return sorted(seeds[0] & seeds[1])


def paired_table(lines):
    """The lines of paired as a table of strings: a row a comparison and condition, a column a task and length."""
    if lines.empty:
        return pd.DataFrame()

    def text(line):
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * line[name] for name in ("difference", "low", "high")))

    names = {"verification": "EER", "identification": "accuracy"}
    cells = [{"comparison": f"{line['method']} less {line['control']}", "condition": line["condition"],
              "seeds": line["seeds"], "column": f"{names[line['task']]}, {spoken(line['test_length'])}",
              "text": text(line)} for line in lines.to_dict("records")]
    table = pd.DataFrame(cells).pivot(index=["comparison", "condition", "seeds"], columns="column", values="text")
    order = dict.fromkeys(cell["column"] for cell in cells)
    return table[list(order)].rename_axis(columns=None)


def _recipe(facts):
    """What has to be equal for two encoders to be compared by what remains."""
    if facts.get("kind") != SHORT_UTTERANCES:
        return facts.get("kind"), facts.get("sha256")
    parameters = facts.get("parameters") or {}
    return facts["kind"], tuple(sorted((name, value) for name, value in parameters.items() if name not in _APART))


def _cells(runs, task, condition, scoring):
    """{test length: rows, one a run} of one task, condition and scoring, each with its run's folder."""
    cells = {}
    for run in runs.to_dict("records"):
        for row in run["result"]:
            if (row["task"], row["condition"], row["scoring"]) == (task, condition, scoring):
                cells.setdefault(row["test_length"], []).append({**row, "folder": run["folder"]})
    return cells


def _value(task, rows, condition, length, scoring):
    if task == "verification":
        return errors_over_seeds(_scores(rows, condition, length, scoring), *_trials(rows[0]["folder"], length))["eer"]
    return float(np.mean([row["accuracy"] for row in rows])), *interval_over_speakers_and_seeds(_by_speaker(rows))


def _difference(task, pair, condition, length, scoring):
    if task == "verification":
        scores = [_scores(rows, condition, length, scoring) for rows in pair]
        return paired_errors(*scores, *_trials(pair[0][0]["folder"], length))["eer"]
    ours, theirs = (np.mean([row["accuracy"] for row in rows]) for rows in pair)
    return float(ours - theirs), *interval_over_speakers_and_seeds(_by_speaker(pair[0]) - _by_speaker(pair[1]))


def _require_same(task, length, ours, theirs):
    name = "trial_list" if task == "verification" else "episodes"
    lists = {row[name] for row in (*ours, *theirs)}
    if len(lists) > 1:
        raise ValueError(f"{task}, {spoken(length)}: the runs met different trials or tasks ({', '.join(lists)}). "
                         "Evaluate all encoders on one corpus, with the same parameters of chapter 07.")


def _by_speaker(rows):
    return pd.DataFrame([row["by_speaker"] for row in rows]).sort_index(axis=1).to_numpy(dtype=float)


def _scores(rows, condition, length, scoring):
    name = f"{condition}/{length_name(length)}/{scoring}"
    return np.stack([_read_scores(row["folder"])[name].numpy() for row in rows])


@lru_cache(maxsize=64)
def _read_scores(folder):
    return load_file(folder / "scores.safetensors")


@lru_cache(maxsize=16)
def _trials(folder, length):
    """(labels, enrolled speakers, test speakers) of a run's list."""
    table = pd.read_csv(folder / f"trials_{length_name(length)}.csv", dtype={"enrolment": str, "test": str})
    enrolled, tested = (table[side].str.split("/").str[0].to_numpy(str) for side in ("enrolment", "test"))
    return table["label"].to_numpy(), enrolled, tested
