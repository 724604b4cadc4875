"""What each step of chapter 10's recipe brought: added one by one, paired on the same tasks, from run records alone."""

import numpy as np
import pandas as pd

from speakerlib.experiments.comparison import interval_over_speakers_and_seeds
from speakerlib.experiments.records import read_results
from speakerlib.experiments.voice_tasks import ONCE, TRANSDUCTIVE, WARPED
from speakerlib.experiments.voice_weights import NOTEBOOK

STEPS = {  # each has all that those above it have; none has masks
    "softmax, speech as recorded": {"front_end": "log_mel", "augment": "none", "speed_perturbation": False,
                                    "loss_type": "softmax", "use_pairs": False, "pooling": "mean",
                                    "spec_augment": False},
    "+ mean removed": {"front_end": "compact"},
    "+ channels": {"augment": "II"},
    "+ speeds": {"speed_perturbation": True},
    "+ margin": {"loss_type": "am_softmax"},
    "+ pairs": {"use_pairs": True},
    "+ attention": {"pooling": "attentive"},
}
LONGER = "+ longer training"  # compared with the last of STEPS, as MASKS is
SEVERAL = "+ asked at several warps"  # of the longest training
MASKS, TOGETHER = "tried: masks", "tried: all queries at once"  # not of the recipe; TOGETHER compared with SEVERAL
BUDGET = ["corpus", "corpus_fingerprint", "num_copies", "width", "batch_size", "learning_rate", "test_tasks"]
COLUMNS = ["step", "steps_trained", "heard", "task", "seeds", "speakers", "accuracy", "low", "high", "difference",
           "difference_low", "difference_high"]


def read_ablation(corpus):
    """ablation_lines of the complete runs on a corpus (its name); empty where there are none."""
    try:
        return ablation_lines(read_results(NOTEBOOK, corpus))
    except FileNotFoundError:
        return pd.DataFrame(columns=COLUMNS)


def ablation_lines(results):
    """A row for each step that was run, condition and task: COLUMNS; none where fewer than two of STEPS were.

    results: rows of read_results("10_voice_training") of one corpus. Runs are compared that share BUDGET and the number
    of steps of training (those with most cases are taken); LONGER is the last step trained longest. Clips are asked
    about once but in SEVERAL and TOGETHER (see voice_tasks). accuracy: over seeds and speakers, low to high its 95 %
    bootstrap interval over both. difference: to the step before, paired by seed and speaker on the same tasks, NaN for
    the first and without a common seed. ValueError if tasks differ.
    """
    best = []
    results = results if "asked" in results else results[:0].assign(asked=None)
    for _, group in results.groupby(BUDGET, sort=False):
        for count in sorted(group["num_train_iterations"].unique()):
            found = _found(group, count)
            if len(found) > max(1, len(best)):
                best = found
    lines = []
    for step, rows, before in best:
        for (heard, task), part in rows.groupby(["heard", "task"], sort=False):
            values, earlier = _by_speaker(part), None
            if before is not None:
                earlier = before[(before["heard"] == heard) & (before["task"] == task)]
            low, high = interval_over_speakers_and_seeds(values.to_numpy())
            lines.append({"step": step, "steps_trained": int(rows["num_train_iterations"].iloc[0]), "heard": heard,
                          "task": task, "seeds": len(values), "speakers": values.shape[1],
                          "accuracy": float(values.to_numpy().mean()), "low": low, "high": high,
                          **_difference(part, earlier, f"{step}, {heard}, {task}")})
    return pd.DataFrame(lines, columns=COLUMNS)


def ablation_table(lines, task):
    """The lines of one task as strings: accuracy, and what the step brought with its interval; a column a condition."""
    table = {}
    for row in lines[lines["task"] == task].to_dict("records"):
        text = f"{100 * row['accuracy']:.1f}"
        if np.isfinite(row["difference"]):
            text += "; {:+.1f} ({:+.1f} to {:+.1f})".format(
                *(100 * row[name] for name in ("difference", "difference_low", "difference_high")))
        table.setdefault(row["heard"], {})[row["step"]] = text
    return pd.DataFrame(table).rename_axis("accuracy, %; points to the step before")


def ablation_caption(lines, results, task):
    """What such a table holds, in one line; lines: of ablation_lines of these results."""
    runs = results[results["num_train_iterations"].isin(lines["steps_trained"]) & (results["augment"] != "both")]
    told = ", ".join(f"{step.removeprefix('+ ').removeprefix('tried: ')} {count:,}" for step, count in
                     lines.drop_duplicates("step")[["step", "steps_trained"]].itertuples(index=False)
                     if count != lines["steps_trained"].iloc[0])
    return (f"{task}: what each step brings; {results['corpus'].iloc[0]}, {lines['steps_trained'].iloc[0]:,} steps of "
            f"training{f' ({told})' * bool(told)}; from “+ channels” on, channels of family II were heard in training; "
            f"{lines['speakers'].iloc[0]} unseen speakers, {' or '.join(map(str, sorted(lines['seeds'].unique())))} "
            f"seeds, in brackets 95 % over both, paired on the same tasks; commit "
            f"{', '.join(sorted(runs['commit'].astype(str).unique()))}")


def _found(group, count):
    """[(step, rows, rows of what it is compared with)] of the steps that were trained for so many iterations."""
    found, wanted, last = [], {}, None
    for step, changed in STEPS.items():
        wanted |= changed
        rows = _chosen(group, {**wanted, "num_train_iterations": count, "asked": ONCE})
        if len(rows):
            found.append((step, rows, last))
            last = rows
    if not found or found[-1][0] != list(STEPS)[-1]:
        return found
    longest = {**wanted, "num_train_iterations": _chosen(group, wanted)["num_train_iterations"].max()}
    once, several, together = (_chosen(group, {**longest, "asked": asked}) for asked in (ONCE, WARPED, TRANSDUCTIVE))
    masked = _chosen(group, {**wanted, "spec_augment": True, "num_train_iterations": count, "asked": ONCE})
    others = ((LONGER, once[once["num_train_iterations"] > count], last), (SEVERAL, several, once),
              (TOGETHER, together, several), (MASKS, masked, last))
    return found + [each for each in others if len(each[1])]


def _chosen(rows, wanted):
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows


def _by_speaker(rows):
    """Accuracy by seed and speaker."""
    return pd.DataFrame({row["seed"]: row["by_speaker"] for row in rows.to_dict("records")}).T


def _difference(ours, theirs, where):
    none = dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan)
    if theirs is None or not len(theirs):
        return none
    values, others = _by_speaker(ours), _by_speaker(theirs)
    seeds = values.index.intersection(others.index)
    if seeds.empty:
        return none
    if set(ours["episodes"]) != set(theirs["episodes"]) or set(values) != set(others):
        raise ValueError(f"{where}: the step before met other tasks. Steps are compared on the same tasks only: run "
                         "both with the same test_tasks, on the corpus as it is now.")
    differences = (values.loc[seeds] - others.loc[seeds, values.columns]).to_numpy()
    low, high = interval_over_speakers_and_seeds(differences)
    return {"difference": float(differences.mean()), "difference_low": low, "difference_high": high}
