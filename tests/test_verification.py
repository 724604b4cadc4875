"""EER, minDCF and DET against scikit-learn's ROC and the definitions; intervals that cover; what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from speakerlib.experiments.verification import (
    det_points,
    equal_error_rate,
    errors_with_intervals,
    min_dcf,
    paired_errors,
    verification_errors,
)
from speakerlib.views.verification import plot_by_length, plot_det, plot_scores

# Few values, so that ties are common; both kinds are always there.
trials = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60).filter(
    lambda drawn: len({label for _, label in drawn}) == 2)


def made_up(num_trials, seed=0, apart=2.0, decimals=None):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, num_trials)
    scores = random.normal(size=num_trials) + apart * labels
    return (scores if decimals is None else scores.round(decimals)), labels


def roc_errors(scores, labels):
    """EER where the ROC's straight pieces meet miss = false alarm, and minDCF, from scikit-learn's ROC."""
    false_alarm, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = 1 - found - false_alarm  # falls from 1 to -1
    eer = np.interp(0, gap[::-1], false_alarm[::-1])
    costs = {p: (p * (1 - found) + (1 - p) * false_alarm).min() / p for p in (0.01, 0.001)}
    return eer, costs


def speakers_of(labels, num_speakers, seed=0):
    random = np.random.default_rng(seed)
    one = random.integers(num_speakers, size=len(labels))
    other = np.where(labels == 1, one, (one + random.integers(1, num_speakers, len(labels))) % num_speakers)
    return np.char.add("s", one.astype(str)), np.char.add("s", other.astype(str))


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_long_list_agrees_with_scikit_learns_roc(decimals, dtype):
    scores, labels = made_up(37_720, decimals=decimals)
    scores = scores.astype(dtype)
    eer, costs = roc_errors(scores, labels)
    errors = verification_errors(scores, labels)
    assert errors["eer"] == pytest.approx(eer, abs=1e-9) and 0.1 < eer < 0.2
    for p, cost in costs.items():
        assert errors[f"min_dcf_{p}"] == pytest.approx(cost, abs=1e-9)
    accepted = scores >= errors["threshold"]
    assert np.mean(accepted[labels == 0]) == pytest.approx(eer, abs=0.02)
    assert np.mean(~accepted[labels == 1]) == pytest.approx(eer, abs=0.02)
    assert errors["targets"] + errors["non_targets"] == 37_720 and errors["targets"] == labels.sum()


@settings(max_examples=200)
@given(trials)
def test_any_list_agrees_with_the_roc_and_with_counting(drawn):
    scores, labels = (np.array(part) for part in zip(*drawn))
    false_alarm, miss, threshold = det_points(scores, labels)
    eer, costs = roc_errors(scores, labels)
    assert equal_error_rate(false_alarm, miss) == pytest.approx(eer, abs=1e-9)
    for p, cost in costs.items():
        assert min_dcf(false_alarm, miss, p) == pytest.approx(cost, abs=1e-9)
    assert threshold[-1] == np.inf and (np.diff(threshold) > 0).all()
    counted = [((scores[~labels] >= place).mean(), (scores[labels] < place).mean()) for place in threshold]
    np.testing.assert_allclose(np.stack([false_alarm, miss], axis=1), counted, atol=1e-15)


def curve_errors(scores, labels):
    """The definition: every point of the curve is looked at."""
    false_alarm, miss, threshold = det_points(scores, labels)
    return {"eer": equal_error_rate(false_alarm, miss),
            **{f"min_dcf_{p}": min_dcf(false_alarm, miss, p) for p in (0.01, 0.001)},
            "threshold": threshold[np.abs(miss - false_alarm).argmin()],
            "targets": np.count_nonzero(labels), "non_targets": np.count_nonzero(np.equal(labels, 0))}


@settings(max_examples=300)
@given(trials, st.sampled_from(["float32", "float64", "int64"]))
def test_without_the_curve_the_errors_are_the_same_to_the_last_digit(drawn, dtype):
    scores, labels = (np.array(part) for part in zip(*drawn))
    scores = (scores / 3 if dtype.startswith("float") else scores).astype(dtype)
    assert verification_errors(scores, labels) == curve_errors(scores, labels)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("apart", [-1.0, 0.0, 2.0, 4.0, 20.0])
def test_long_lists_of_any_kind_have_the_errors_of_the_curve(share, apart):
    random = np.random.default_rng(3)
    labels = random.random(20_000) < share
    scores = random.normal(size=20_000) + apart * labels
    for some in (scores, scores.round(2), scores.astype(np.float32), -np.abs(scores)):
        assert verification_errors(some, labels.astype(np.int8)) == curve_errors(some, labels)


@settings(max_examples=60)
@given(trials, st.integers(0, 1000))
def test_errors_depend_on_the_order_of_scores_alone(drawn, seed):
    scores, labels = (np.array(part) for part in zip(*drawn))
    order = np.random.default_rng(seed).permutation(len(scores))
    known, again = verification_errors(scores, labels), verification_errors(np.exp(scores[order]), labels[order])
    assert {**known, "threshold": 0} == {**again, "threshold": 0}
    turned = verification_errors(-scores, ~labels)  # the two errors change places
    assert turned["eer"] == pytest.approx(known["eer"], abs=1e-12)


def test_extremes():
    assert verification_errors([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])["eer"] == 0
    assert verification_errors([0.8, 0.9, 0.1, 0.2], [0, 0, 1, 1])["eer"] == 1
    tied = verification_errors(np.zeros(10), [1, 0] * 5)
    assert tied["eer"] == 0.5 and tied["min_dcf_0.01"] == 1 and tied["threshold"] == 0
    false_alarm, miss, _ = det_points([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1])
    assert (false_alarm, miss) == (pytest.approx([1, 0.5, 0.5, 0, 0]), pytest.approx([0, 0, 0.5, 0.5, 1]))


@pytest.mark.parametrize(("scores", "labels", "message"), [
    ([], [], "the list of trials is empty: expected target and non-target trials"),
    ([0.1, 0.2], [1, 1], "all 2 trials are target trials: expected some non-target trials"),
    ([0.1, 0.2], [0, 0], "all 2 trials are non-target trials: expected some target trials"),
    ([0.1, np.nan, 0.3, np.nan], [1, 0, 1, 0], "2 of 4 scores are not finite numbers, the first that of trial 1: nan"),
    ([0.1, 0.2, -np.inf], [1, 0, 1], "1 of 3 scores are not finite.* trial 2: -inf"),
    ([np.inf, 0.2], [1, 0], "1 of 2 scores are not finite.* trial 0: inf"),
    ([0.1, 0.2, 0.3], [1, 0, np.nan], "labels such as .*nan.*: expected 1 for one speaker, 0 for two"),
    ([0.1, 0.2], ["1", "0"], "labels such as .*1.*: expected 1 for one speaker, 0 for two"),
    ([0.1, 0.2], [1, 2], "labels such as .*2.*: expected 1 for one speaker, 0 for two"),
    ([0.1, 0.2], [1, 0, 1], r"scores of shape \(2,\) and labels of shape \(3,\): expected one score"),
    ([[0.1, 0.2]], [[1, 0]], r"scores of shape \(1, 2\)"),
])
def test_what_cannot_be_measured_is_refused(scores, labels, message):
    for measure in (verification_errors, det_points):
        with pytest.raises(ValueError, match=message):
            measure(scores, labels)


def test_a_prior_is_a_probability():
    with pytest.raises(ValueError, match="p_target=1: expected a probability"):
        min_dcf(np.array([1, 0.0]), np.array([0, 1.0]), 1)


# Intervals over speakers


def voices(num_speakers, random, num_utterances=5):
    """Every pair of utterances of speakers whose voices differ in how well they are told apart."""
    voice, spread = random.normal(size=(num_speakers, 3)), random.uniform(0.2, 1.2, num_speakers)
    speaker = np.repeat(np.arange(num_speakers), num_utterances)
    points = voice[speaker] + spread[speaker, None] * random.normal(size=(len(speaker), 3))
    one, other = np.triu_indices(len(speaker), 1)
    return -np.linalg.norm(points[one] - points[other], axis=1), speaker[one], speaker[other]


@pytest.mark.slow
def test_an_interval_over_speakers_covers_the_error_of_all_speakers():
    random = np.random.default_rng(0)
    scores, one, other = voices(800, random, 3)
    truth = verification_errors(scores, one == other)["eer"]
    hits = 0
    for _ in range(100):
        scores, one, other = voices(20, random)
        _, low, high = errors_with_intervals(scores, one == other, one, other, draws=200)["eer"]
        hits += low <= truth <= high
    assert 88 <= hits <= 100


def test_an_interval_over_speakers_is_wider_than_one_over_trials():
    scores, one, other = voices(20, np.random.default_rng(1), 15)
    labels = one == other
    value, low, high = errors_with_intervals(scores, labels, one, other, draws=300)["eer"]
    assert value == verification_errors(scores, labels)["eer"] and low < value < high
    assert errors_with_intervals(scores, labels, one, other, draws=300)["eer"] == (value, low, high)
    deviation = np.sqrt(value * (1 - value) / labels.sum())  # as if trials were independent
    assert high - low > 1.5 * 2 * 1.96 * deviation


def test_drawing_speakers_again_is_copying_their_trials(monkeypatch):
    scores, labels = made_up(400, apart=1.0, decimals=1)
    one, other = speakers_of(labels, 5)
    drawn = np.array([0, 0, 0, 2, 3])  # s0 three times, s1 and s4 not at all

    class Fixed:
        def integers(self, *_, **__):
            return drawn

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Fixed())
    codes = {name: place for place, name in enumerate(dict.fromkeys(np.concatenate([one, other])))}
    times = np.bincount(drawn, minlength=5)
    counts = [times[codes[a]] if label else times[codes[a]] * times[codes[b]]
              for a, b, label in zip(one, other, labels)]
    copied = verification_errors(np.repeat(scores, counts), np.repeat(labels, counts))
    again = errors_with_intervals(scores, labels, one, other, draws=2)
    for name, (_, low, high) in again.items():
        assert low == high == pytest.approx(copied[name], abs=1e-12)


def test_methods_are_compared_on_the_same_draws():
    scores, one, other = voices(20, np.random.default_rng(2), 10)
    labels = one == other
    noise = np.random.default_rng(3).normal(size=(3, len(scores)))
    better, worse = scores + 0.1 * noise, scores + 2 * noise
    difference, low, high = paired_errors(better, worse, labels, one, other, draws=200)["eer"]
    known = np.mean([verification_errors(a, labels)["eer"] - verification_errors(b, labels)["eer"]
                     for a, b in zip(better, worse)])
    assert difference == pytest.approx(known) and low < difference < high < 0
    _, alone_low, alone_high = errors_with_intervals(better[0], labels, one, other, draws=200)["eer"]
    assert high - low < 0.7 * (alone_high - alone_low)  # speakers that are hard are hard for both
    assert paired_errors(better, better, labels, one, other, draws=50)["eer"] == (0, 0, 0)
    turned = paired_errors(worse, better, labels, one, other, draws=200)["eer"]
    assert turned == pytest.approx((-difference, -high, -low))


def test_the_spread_over_seeds_counts():
    scores, one, other = voices(20, np.random.default_rng(4))
    labels = one == other
    noise = np.random.default_rng(5).normal(size=(3, len(scores)))
    lucky = np.stack([scores + amount * part for amount, part in zip((0, 0.5, 2), noise)])
    spread = np.ptp(paired_errors(lucky, np.stack([scores] * 3), labels, one, other, draws=200)["eer"][1:])
    alike = np.stack([scores + 0.6 * part for part in noise])
    assert spread > 2 * np.ptp(paired_errors(alike, np.stack([scores] * 3), labels, one, other, draws=200)["eer"][1:])


def test_speakers_that_do_not_fit_the_labels_are_refused():
    scores, labels = made_up(20)
    one, other = speakers_of(labels, 4)
    with pytest.raises(ValueError, match=r"trial \d+ is labelled [01] and has the speakers .*in the order of the tri"):
        errors_with_intervals(scores, labels, one, np.roll(other, 1))
    with pytest.raises(ValueError, match=r"enrolment speakers of shape \(19,\) for 20 trials"):
        errors_with_intervals(scores, labels, one[1:], other)
    with pytest.raises(ValueError, match=re.escape("scores of shapes (1, 20) and (2, 20): expected both methods")):
        paired_errors(scores, np.stack([scores] * 2), labels, one, other)
    with pytest.raises(ValueError, match="speakers None and None|has the speakers"):
        errors_with_intervals(scores, labels, np.where(labels == 1, None, one), np.where(labels == 1, None, other))


# Long lists


def test_the_benchmark_of_long_lists_runs_to_its_end():
    script = Path(__file__).resolve().parent / "benchmarks" / "eer.py"
    done = subprocess.run([sys.executable, str(script), "--trials", "5000"], cwd=script.parents[2], timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.lstrip()[:1].isdigit()]
    assert [line.split()[0] for line in lines] == ["37,720", "5,000"]
    for line in lines:
        assert float(line.split()[-1]) < 1e-9  # from scikit-learn's EER


# Pictures


def test_a_det_curve_of_gaussian_scores_is_straight_and_named_by_its_error():
    scores, labels = made_up(200_000, apart=1.5)
    figure = plot_det({"all": (scores, labels), "few": (scores[:200], labels[:200])}, limits=(0.01, 0.6))
    axis = figure.axes[0]
    x, y = axis.lines[0].get_data()
    shown = (x > -2) & (x < 0)
    np.testing.assert_allclose(x[shown] + y[shown], -1.5, atol=0.05)  # probits add up to minus the separation
    assert len(x) < 10_000
    named = [text.get_text() for text in axis.get_legend().get_texts()]
    assert named[0] == f"all: EER {100 * verification_errors(scores, labels)['eer']:.1f} %" and "few: EER" in named[1]
    ticks = [text.get_text() for text in axis.get_xticklabels()]
    assert ticks[:4] == ["1", "2", "5", "10"]


def test_a_list_without_errors_is_said_to_be_below_the_picture():
    figure = plot_det({"sure": ([0.1, 0.2, 0.8], [0, 0, 1])})
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "sure: EER 0.0 %, below this picture"]


def test_histograms_of_scores_mark_the_threshold_and_bear_one_value():
    scores, labels = made_up(500)
    axis = plot_scores(scores, labels).axes[0]
    threshold = verification_errors(scores, labels)["threshold"]
    assert axis.lines[0].get_xdata() == pytest.approx([threshold, threshold])
    assert f"two speakers:\n{(labels == 0).sum()} trials" in [text.get_text() for text in axis.get_legend().get_texts()]
    plot_scores(np.zeros(4), [1, 0, 1, 0])


def test_errors_by_length_stand_in_the_order_of_their_lengths():
    lines = {"a": {None: (0.1, 0.05, 0.2), 1.0: (0.3, 0.3, 0.3), 2.0: (0.2, 0.1, 0.4)}, "b": {1.0: (0.4, 0.3, 0.5)}}
    axis = plot_by_length(lines).axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1 s", "2 s", "whole"]
    first, second = (container[0].get_ydata() for container in axis.containers)
    assert first == pytest.approx([30, 20, 10]) and second == pytest.approx([40])
    ends = np.sort([segment[:, 1] for segment in axis.containers[0][2][0].get_segments()])
    np.testing.assert_allclose(ends, [[30, 30], [10, 40], [5, 20]])
