"""Wrong decisions by pair of speakers: all that a record needs for an equal error rate's interval over speakers."""

from functools import lru_cache

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from speakerlib.experiments.verify import length_name

MOST_SPEAKERS = 100  # with more, the pairs outgrow a record


def errors_by_pair(row, folder):
    """{speakers, trials, wrong} of a row of verification: counts (enrolled, tested), the diagonal being targets.

    wrong: the trials that are decided wrongly at the threshold of equal errors. Taken from the row's own `pairs`, as
    published records have them, else from the scores in the run's folder; None where there are neither, or more than
    MOST_SPEAKERS speakers.
    """
    if row.get("pairs"):
        return {name: value if name == "speakers" else np.array(value) for name, value in row["pairs"].items()}
    if not (folder / "scores.safetensors").is_file():
        return None
    labels, enrolled, tested, names = _trials(folder, row["test_length"])
    if len(names) > MOST_SPEAKERS:
        return None
    key = f"{row['condition']}/{length_name(row['test_length'])}/{row['scoring']}"
    wrong = (_scores(folder)[key].numpy() >= row["threshold"]) != (labels == 1)
    counts = np.zeros((2, len(names), len(names)), dtype=int)
    np.add.at(counts[0], (enrolled, tested), 1)
    np.add.at(counts[1], (enrolled, tested), wrong)
    return {"speakers": names, "trials": counts[0], "wrong": counts[1]}


def interval_over_pairs(ours, theirs=None, seed=0, draws=4000):
    """95 % interval of the mean equal error rate over seeds, or of its difference to another method's: (low, high).

    ours, theirs: errors_by_pair of each seed's run, in the same order of seeds. Speakers and seeds are both drawn
    again: a target trial counts as often as its speaker was drawn, a non-target trial as often as the product of its
    two, as in errors_with_intervals; but each run's threshold stays where it was. What seeds add is stretched as in
    interval_over_speakers_and_seeds. ValueError if the runs met different trials.
    """
    first = ours[0]
    for other in (*ours, *(theirs or ())):
        if list(other["speakers"]) != list(first["speakers"]) or (other["trials"] != first["trials"]).any():
            raise ValueError("the runs met different trials: their speakers, or how many trials there are of each "
                             "pair, differ. Evaluate all encoders with the same parameters of chapter 07.")
    wrong = np.stack([each["wrong"] for each in ours]).astype(float)
    wrong -= np.stack([each["wrong"] for each in theirs]) if theirs else 0
    random = np.random.default_rng(seed)
    count, seeds = len(first["speakers"]), len(wrong)
    weights = random.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    trials = _weighed(first["trials"][None].astype(float), weights)
    known = (trials > 0).all(axis=(0, 1))  # draws that held both kinds of trials
    rates = _weighed(wrong, weights)[..., known] / trials[..., known]
    means = rates.mean(axis=0)  # misses and false alarms count alike: (seeds, draws)
    if seeds > 1:
        means = means + (np.sqrt(seeds / (seeds - 1)) - 1) * (means - means.mean(axis=0))
    again = random.integers(seeds, size=means.shape)
    drawn = np.take_along_axis(means, again, axis=0).mean(axis=0)
    return tuple(float(value) for value in np.percentile(drawn, [2.5, 97.5]))


def as_record(pairs):
    """errors_by_pair as JSON holds it."""
    return {name: value if name == "speakers" else np.asarray(value).tolist() for name, value in pairs.items()}


def _weighed(counts, weights):
    """Weighted sums (targets and non-targets, seeds, draws) of counts (seeds, speakers, speakers)."""
    diagonal = np.diagonal(counts, axis1=1, axis2=2)
    others = counts * (1 - np.eye(counts.shape[-1]))
    return np.stack([diagonal @ weights.T, ((weights @ others) * weights).sum(axis=-1)])


@lru_cache(maxsize=64)
def _scores(folder):
    return load_file(folder / "scores.safetensors")


@lru_cache(maxsize=16)
def _trials(folder, length):
    """(labels, codes of the enrolled speakers, of the tested ones, the names of all)."""
    table = pd.read_csv(folder / f"trials_{length_name(length)}.csv", dtype={"enrolment": str, "test": str})
    speakers = [table[side].str.split("/").str[0].to_numpy(str) for side in ("enrolment", "test")]
    names, codes = np.unique(np.concatenate(speakers), return_inverse=True)
    return table["label"].to_numpy(), *codes.reshape(2, -1), names.tolist()
