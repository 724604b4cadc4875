"""How well chapter 10's encoder knows unseen speakers, by the channels that training heard; from run records alone."""

from itertools import product

import numpy as np
import pandas as pd

from speakerlib.experiments.comparison import interval_over_speakers_and_seeds
from speakerlib.experiments.tables import cost
from speakerlib.experiments.voice_tasks import CONDITIONS, TASKS, WARPED

TRAINED = {"both": "both families", "II": "family II alone", "I": "family I alone"}  # augment: what it is called
SEEN = " †"  # of a condition whose family of channels was heard in training: no evidence for other microphones
_RECIPE = ["corpus", "corpus_fingerprint", "front_end", "num_copies", "speed_perturbation", "spec_augment", "width",
           "pooling", "loss_type", "use_pairs", "batch_size", "learning_rate", "test_tasks"]
_PRETRAINED = {  # measured once on 40 other speakers of the same source, 5-way with clips of 3 s, channels of family I
    "recorded": {"5-way 1-shot, 3 s": "98.5", "5-way 5-shot, 3 s": "99.9"},
    "changed I": {"5-way 1-shot, 3 s": "70.9", "5-way 5-shot, 3 s": "92.1"},
}


def seen_conditions(augment):
    """Conditions whose channels are of a family that training heard: a result there is no evidence for other rooms."""
    return [name for name in CONDITIONS if name != "recorded" and augment in ("both", name.removeprefix("changed "))]


def voice_grids(results):
    """Recipes that were trained through both families: [(recipe, lines, rows)], most runs first.

    results: rows of read_results("10_voice_training"). Of a recipe and a family, the longest training counts. lines: a
    row for each augment, heard and task, asked at several warps: seeds, speakers, accuracy over both, its 95 %
    bootstrap interval over both.
    """
    grids = []
    results = results[results["asked"] == WARPED] if "asked" in results else results[:0]
    for values, group in results[results["augment"].isin(TRAINED)].groupby(_RECIPE, sort=False) if len(results) else ():
        longest = group.groupby("augment")["num_train_iterations"].transform("max")
        group = group[group["num_train_iterations"] == longest]
        if (group["augment"] == "both").any():
            grids.append((dict(zip(_RECIPE, values)), pd.DataFrame(_lines(group)), group))
    return sorted(grids, key=lambda grid: -grid[2]["run"].nunique())


def voice_caption(recipe, rows):
    """What such a table holds, in one line."""
    steps = {TRAINED[augment]: part["num_train_iterations"].iloc[0] for augment, part in rows.groupby("augment")}
    told = ", ".join(f"{count:,} ({name})" for name, count in steps.items())
    if len(set(steps.values())) == 1:
        told = f"{next(iter(steps.values())):,}"
    speech = "synthetic speech" if rows["synthetic"].iloc[0] else "real speech"
    wider = f"an encoder {recipe['width']:g} times as wide, " * (recipe["width"] != 1)
    return (f"The voice, not the microphone: {recipe['corpus']} ({speech}), {wider}trained {told} steps of "
            f"{recipe['batch_size']} clips; accuracy in % of {recipe['test_tasks']:,} tasks on unseen speakers, in "
            f"brackets 95 % over speakers and seeds; {cost(rows)}")


def voice_table(lines, reference=False):
    """A line for each training and condition, a column a task, as strings; † where it is no evidence.

    reference: with a pretrained encoder of 1.42 million parameters, of thousands of speakers, on 40 other speakers.
    """
    table = {}
    for row in lines.to_dict("records"):
        name = f"{TRAINED[row['augment']]}: {row['heard']}" + SEEN * (row["heard"] in seen_conditions(row["augment"]))
        text = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * row[key] for key in ("accuracy", "low", "high")))
        table.setdefault(name, {"seeds": str(row["seeds"])})[row["task"]] = text
    for heard, texts in _PRETRAINED.items() if reference else ():
        table[f"a well-known pretrained encoder, 40 other speakers: {heard}"] = {"seeds": "", **texts}
    found = pd.DataFrame.from_dict(table, orient="index", columns=["seeds", *TASKS]).fillna("not run")
    return found.rename_axis("trained through: heard")


def _lines(rows):
    for augment, heard, task in product(TRAINED, CONDITIONS, TASKS):
        part = rows[(rows["augment"] == augment) & (rows["heard"] == heard) & (rows["task"] == task)]
        if part.empty:
            continue
        shares = pd.DataFrame(list(part["by_speaker"])).to_numpy(float)
        low, high = interval_over_speakers_and_seeds(shares)
        yield {"augment": augment, "heard": heard, "task": task, "seeds": shares.shape[0],
               "speakers": shares.shape[1], "accuracy": float(np.nanmean(shares)), "low": low, "high": high}
