"""Errors by pair of speakers: the interval from a record is that of the scores, and never of other trials."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from speakerlib.experiments.checkpoints import save_weights
from speakerlib.experiments.trial_errors import as_record, errors_by_pair, interval_over_pairs
from speakerlib.experiments.verification import paired_errors, verification_errors
from speakerlib.experiments.verify import rate_by_speaker

NAMES = [f"s{number:02d}" for number in range(20)]


@pytest.fixture(scope="module")
def trials():
    """100 targets and 100 non-targets of each of 20 speakers, as chapter 07 draws them."""
    random = np.random.default_rng(0)
    enrolled = np.repeat(np.arange(20), 200)
    labels = np.tile(np.repeat([1, 0], 100), 20)
    others = (enrolled + random.integers(1, 20, size=len(enrolled))) % 20
    return SimpleNamespace(labels=labels, enrolled=enrolled, tested=np.where(labels == 1, enrolled, others))


def judged(folder, trials, seed, better=0.0, alike=0.6):
    """(row, scores) of a run whose voices differ in how alike pairs of them are, by chance of its seed."""
    random = np.random.default_rng(seed)
    pairs = alike * random.standard_normal((20, 20))
    pairs, own = (pairs + pairs.T) / 2, 0.5 * np.random.default_rng(99).standard_normal(20)
    scores = (2 + better) * trials.labels + own[trials.enrolled] * trials.labels
    scores = scores + pairs[trials.enrolled, trials.tested] + random.standard_normal(len(scores))
    folder.mkdir(parents=True)
    save_weights({"recorded/1s/cosine": torch.from_numpy(scores)}, folder / "scores.safetensors")
    pd.DataFrame({"label": trials.labels, "enrolment": [f"{NAMES[code]}/a/u" for code in trials.enrolled],
                  "test": [f"{NAMES[code]}/b/u" for code in trials.tested]}).to_csv(folder / "trials_1s.csv")
    facts = verification_errors(scores, trials.labels)
    return {"condition": "recorded", "scoring": "cosine", "test_length": 100, **facts}, scores


def test_counts_are_of_the_list_and_average_to_the_equal_error_rate(trials, tmp_path):
    row, scores = judged(tmp_path / "run", trials, 0)
    found = errors_by_pair(row, tmp_path / "run")
    counts, wrong = found["trials"], found["wrong"]
    assert found["speakers"] == NAMES and counts.sum() == 4000 and (np.diag(counts) == 100).all()
    others = ~np.eye(20, dtype=bool)
    rate = (np.diag(wrong).sum() / np.diag(counts).sum() + wrong[others].sum() / counts[others].sum()) / 2
    assert rate == pytest.approx(row["eer"], abs=1 / 4000)
    names = np.array(NAMES)[trials.enrolled]
    shares = rate_by_speaker(scores, pd.DataFrame({"label": trials.labels}), names, row["threshold"])
    assert 1 - np.mean(list(shares.values())) == pytest.approx(row["eer"], abs=1 / 4000)


def test_a_record_gives_the_interval_that_the_scores_give(trials, tmp_path):
    ours, theirs = ([judged(tmp_path / f"{better}{seed}", trials, 10 * seed + (better > 0), better)
                     for seed in range(3)] for better in (0.3, 0.0))
    folders = [[tmp_path / f"{better}{seed}" for seed in range(3)] for better in (0.3, 0.0)]
    pairs = [[json.loads(json.dumps(as_record(errors_by_pair(row, folder)))) for (row, _), folder in zip(rows, each)]
             for rows, each in zip((ours, theirs), folders)]
    pairs = [[errors_by_pair({"pairs": each}, tmp_path / "nothing") for each in method] for method in pairs]
    low, high = interval_over_pairs(*pairs)
    names = np.array(NAMES)
    exact, exact_low, exact_high = paired_errors(
        *(np.stack([scores for _, scores in rows]) for rows in (ours, theirs)), trials.labels,
        names[trials.enrolled], names[trials.tested], draws=400)["eer"]
    width = exact_high - exact_low
    assert low == pytest.approx(exact_low, abs=0.15 * width) and high == pytest.approx(exact_high, abs=0.15 * width)
    assert interval_over_pairs(pairs[0], pairs[0]) == (0, 0)
    one = interval_over_pairs(pairs[0])
    assert one[0] < np.mean([row["eer"] for row, _ in ours]) < one[1]


def test_one_voice_that_is_taken_for_all_others_makes_the_interval_wide():
    counts = np.full((20, 20), 10) + np.diag(np.full(20, 180))
    wolf = np.zeros((20, 20), dtype=int)
    wolf[:7, 7] = wolf[8:, 7] = 10  # whoever is enrolled
    spread = np.zeros((20, 20), dtype=int)
    spread[np.arange(20), (np.arange(20) + 1) % 20] = 10 - (np.arange(20) == 0) * 10  # as many, of all alike
    intervals = [interval_over_pairs([{"speakers": NAMES, "trials": counts, "wrong": wrong}])
                 for wrong in (wolf, spread)]
    widths = [high - low for low, high in intervals]
    assert intervals[0][0] == 0 and widths[0] > 1.5 * widths[1]  # draws without the wolf err nowhere


def test_other_trials_are_refused_and_without_scores_nothing_is_known(trials, tmp_path):
    row, _ = judged(tmp_path / "run", trials, 0)
    found = errors_by_pair(row, tmp_path / "run")
    assert errors_by_pair(row, tmp_path / "another") is None
    for other in ({**found, "trials": found["trials"] + 1}, {**found, "speakers": [*NAMES[:-1], "s99"]}):
        with pytest.raises(ValueError, match="met different trials"):
            interval_over_pairs([found], [other])
