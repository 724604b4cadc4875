"""Probabilities and thresholds: against loops, and on scores whose truth is known."""

import numpy as np
import pytest

from speakerlib.experiments.calibration import (
    cosines,
    expected_calibration_error,
    fit_calibration,
    is_known,
    posteriors,
    reliability,
    top_label,
)

CONSTANTS = {"slope": [8.0, 1.0, -0.5], "offset": [-4.0, -0.5, -0.7], "thresholds": {"0.05": [0.5, 0.1, 0.05]}}


def made_up_scores(num_tasks=6000, seed=0, most=6):
    """Scores of tasks of 1 to `most` people, longer queries telling more: (scores, seconds, truth, present)."""
    random = np.random.default_rng(seed)
    people, seconds = random.integers(1, most + 1, num_tasks), random.choice([0.5, 1, 2, 4], num_tasks)
    truth = np.where(random.random(num_tasks) < 0.5, -1, random.integers(0, people))
    present = np.arange(most) < people[:, None]
    scores = random.normal(0.1, 0.2, (num_tasks, most))
    asked = np.flatnonzero(truth >= 0)
    scores[asked, truth[asked]] += 0.4 + 0.1 * np.log2(seconds[asked])
    return scores, seconds, truth, present


def test_posteriors_are_their_definition():
    scores, seconds, _, present = made_up_scores(50)
    found = posteriors(scores, seconds, CONSTANTS, present)
    for row in range(50):
        x = np.array([1, np.log2(seconds[row] / 2), np.log2(present[row].sum())])
        weights = [np.exp(CONSTANTS["slope"] @ x * scores[row, place] + CONSTANTS["offset"] @ x) * present[row, place]
                   for place in range(6)] + [1.0]
        assert found[row] == pytest.approx(np.array(weights) / sum(weights))


def test_seconds_beyond_what_was_calibrated_count_as_its_ends():
    one = posteriors([[0.5]], 8, CONSTANTS)
    assert posteriors([[0.5]], 3600, CONSTANTS) == pytest.approx(one)


def test_a_fit_gives_probabilities_and_rates_that_hold_on_other_trials():
    scores, seconds, truth, present = made_up_scores()
    found = fit_calibration(scores, seconds, truth, (0.02, 0.1), present)
    scores, seconds, truth, present = made_up_scores(20000, seed=1)
    confidence, correct = top_label(posteriors(scores, seconds, found, present), truth)
    assert expected_calibration_error(confidence, correct) < 0.025
    strangers = truth < 0
    for rate in (0.02, 0.1):
        known = is_known(scores, seconds, found, rate, present)
        assert known[strangers].mean() == pytest.approx(rate, rel=0.25)
        for people in (1, 6):  # and not only on average: more people are more likely to be like a stranger
            part = strangers & (present.sum(axis=1) == people)
            assert known[part].mean() == pytest.approx(rate, rel=0.6)


def test_a_covariate_that_is_not_used_has_no_constants():
    scores, seconds, truth, present = made_up_scores(2000)
    found = fit_calibration(scores, seconds, truth, (0.05,), present, covariates=("one", "people"))
    assert found["slope"][1] == found["offset"][1] == found["thresholds"]["0.05"][1] == 0 != found["offset"][2]


def test_scores_that_tell_all_apart_still_give_finite_constants():
    truth = np.array([0, -1] * 50)
    found = fit_calibration(np.where(truth == 0, 0.9, 0.1)[:, None], 2, truth, (0.05,))
    assert np.isfinite(found["slope"]).all() and np.abs(found["slope"]).max() < 1e4
    assert posteriors([[0.9], [0.1]], 2, found)[:, 0] == pytest.approx([1, 0], abs=0.02)


def test_what_cannot_be_fitted_or_asked():
    with pytest.raises(ValueError, match="0 of 3 queries are of strangers"):
        fit_calibration([[0.5]] * 3, 1, [0, 0, 0], (0.05,))
    for rate in (0.07, None, "often"):
        with pytest.raises(ValueError, match="thresholds for 0.05"):
            is_known([[0.5]], 1, CONSTANTS, rate)
    with pytest.raises(ValueError, match="at least one person"):
        posteriors(np.zeros((3, 0)), 1, CONSTANTS)


def test_expected_calibration_error_by_hand():
    confidence, correct = [0.95, 0.95, 0.55, 0.55], [True, False, True, True]
    assert expected_calibration_error(confidence, correct) == pytest.approx((2 * 0.45 + 2 * 0.45) / 4)
    table = reliability(confidence, correct)
    assert table["queries"].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert table["accuracy"].iloc[[5, 9]].tolist() == [1.0, 0.5] and table["accuracy"].isna().sum() == 8
    assert (table["accuracy_low"].iloc[9] < 0.5) and (table["accuracy_high"].iloc[9] > 0.5)
    assert reliability([1.0], [True])["queries"].iloc[-1] == 1


def test_the_top_label_counts_the_unknown():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7]])
    confidence, correct = top_label(probabilities, [0, -1, 1])
    assert confidence.tolist() == [0.7, 0.7, 0.7] and correct.tolist() == [True, True, False]


def test_clips_that_cancel_out_have_no_mean():
    with pytest.raises(ValueError, match="person 1 is zero"):
        cosines(np.eye(2), np.array([[1.0, 0.0], [0.0, 0.0]]))
