"""Errors of speaker verification: misses and false alarms, EER and minDCF by sorting, intervals over speakers."""

from bisect import bisect_left
from collections import namedtuple

import numpy as np
import pandas as pd

P_TARGETS = (0.01, 0.001)  # prior probabilities of a target, for minDCF


def det_points(scores, labels):
    """Both error rates at every threshold: (false_alarm, miss, threshold), three float arrays, thresholds rising.

    scores: (trials,), higher for voices more alike; labels: (trials,), 1 for a target trial (one speaker), 0 for a
    non-target (two). A trial is accepted if its score is at least the threshold, so trials of one score stand or fall
    together. The last threshold is infinite: nothing is accepted. Raises ValueError for an empty list, scores that are
    not finite, labels that are not 0 or 1, or labels of one kind only.
    """
    scores, labels = _check(scores, labels)
    order = np.argsort(scores)
    threshold, target = scores[order], labels[order]
    del order  # a long list's peak is here
    ends = _ends(threshold)
    false_alarm, miss = _rates(np.cumsum(target)[ends], ends + 1)
    return false_alarm, miss, np.append(threshold[ends], np.inf)


def equal_error_rate(false_alarm, miss):
    """The rate at which both errors are equal, on the straight line between the two points where they cross.

    false_alarm (falling), miss (rising): as det_points returns them. Published values that take the nearest point
    instead (as Kye et al. 2020) differ by at most one trial's share.
    """
    gap = miss - false_alarm
    after = np.searchsorted(gap, 0)  # gap rises from -1, all accepted, to 1
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(false_alarm[after - 1] + share * (false_alarm[after] - false_alarm[after - 1]))


def min_dcf(false_alarm, miss, p_target):
    """The least detection cost over all thresholds (NIST), both errors costing 1, targets having prior p_target.

    Divided by the cost of the better system that never listens, min(p_target, 1 - p_target), so that 1 is useless.
    With fewer than some 10 / p_target non-target trials it hangs on a handful of them: one false alarm more is dearer
    than many misses.
    """
    if not 0 < p_target < 1:
        raise ValueError(f"p_target={p_target!r}: expected a probability between 0 and 1, such as 0.01.")
    return float((p_target * miss + (1 - p_target) * false_alarm).min() / min(p_target, 1 - p_target))


def verification_errors(scores, labels):
    """{eer, min_dcf_0.01, min_dcf_0.001, threshold, targets, non_targets} of a list of scored trials (see det_points).

    threshold: the score at which the two errors are nearest to each other. The values are those of det_points' curve
    to the last digit, found without the curve: targets and non-targets are sorted apart, which needs no argsort.
    """
    scores, target = _check(scores, labels)
    targets, non_targets = scores.compress(target), scores.compress(~target)
    targets.sort()
    non_targets.sort()
    eer, threshold = _crossing(targets, non_targets)
    costs = _least_costs(targets, non_targets)
    return {"eer": eer, **{f"min_dcf_{p}": cost for p, cost in zip(P_TARGETS, costs)}, "threshold": threshold,
            "targets": len(targets), "non_targets": len(non_targets)}


def errors_with_intervals(scores, labels, enrolment_speakers, test_speakers, seed=0, draws=1000):
    """{eer: (value, low, high), min_dcf_0.01: ..., min_dcf_0.001: ...} with 95 % bootstrap intervals over speakers.

    enrolment_speakers, test_speakers: (trials,) names. Speakers are drawn again, with all their trials: a target trial
    counts as often as its speaker was drawn, a non-target trial as often as the product of its two (the vertex
    bootstrap, Snijders and Borgatti 1999), since one voice that is easily mistaken spoils many trials at once. Each
    draw finds a threshold of its own, so that minDCF's interval reaches further down than up.
    """
    values = verification_errors(scores, labels)
    scores, labels = _check(scores, labels)
    pairs = _pairs(labels, enrolment_speakers, test_speakers)
    drawn = _bootstrap([_rank(scores, labels, *pairs[:2])], pairs.speakers, seed, draws)
    return {name: (values[name], *_limits(part)) for name, part in zip(_NAMES, drawn[:, 0].T)}


def errors_over_seeds(scores, labels, enrolment_speakers, test_speakers, seed=0, draws=1000):
    """{eer: (mean, low, high), ...} of one method that was trained with several seeds, on the same trials.

    scores: (seeds, trials). low, high: the 95 % interval over speakers and seeds, both drawn again; it needs three
    seeds or more to know what they add.
    """
    values, drawn = _errors_by_seed([scores], labels, enrolment_speakers, test_speakers, seed, draws)
    return {name: (float(values[0, :, place].mean()), *_limits(drawn[:, 0, place]))
            for place, name in enumerate(_NAMES)}


def paired_errors(scores, other, labels, enrolment_speakers, test_speakers, seed=0, draws=1000):
    """{eer: (difference, low, high), ...}: errors of one method less those of another on the same trials.

    scores, other: (trials,), or (seeds, trials), row i of both being of one seed; the errors are averaged over them.
    low, high: the 95 % interval over speakers and seeds, both drawn again, for both methods alike. The methods are
    apart if it excludes 0; below 0 the first one errs less.
    """
    scores, other = np.atleast_2d(np.asarray(scores)), np.atleast_2d(np.asarray(other))
    if scores.shape != other.shape:
        raise ValueError(f"scores of shapes {scores.shape} and {other.shape}: expected both methods on the same trials "
                         "and seeds, (seeds, trials).")
    values, drawn = _errors_by_seed([scores, other], labels, enrolment_speakers, test_speakers, seed, draws)
    return {name: (float((values[0] - values[1])[:, place].mean()), *_limits(drawn[:, 0, place] - drawn[:, 1, place]))
            for place, name in enumerate(_NAMES)}


_Pairs = namedtuple("_Pairs", "one other speakers")
_Ranked = namedtuple("_Ranked", "one other target ends")  # trials in the order of their scores
_NAMES = ("eer", *(f"min_dcf_{p}" for p in P_TARGETS))


def _summary(false_alarm, miss):
    return {"eer": equal_error_rate(false_alarm, miss),
            **{f"min_dcf_{p}": min_dcf(false_alarm, miss, p) for p in P_TARGETS}}


def _crossing(targets, non_targets):
    """(EER, threshold) of sorted scores: where miss - false alarm, which rises with the threshold, comes to 0."""
    def rates(threshold):
        return ((len(non_targets) - np.searchsorted(non_targets, threshold)) / len(non_targets),
                np.searchsorted(targets, threshold) / len(targets))

    def crossed(threshold):
        false_alarm, miss = rates(threshold)
        return miss - false_alarm >= 0

    places = [bisect_left(part, True, key=crossed) for part in (targets, non_targets)]
    after = min((part[place] for part, place in zip((targets, non_targets), places) if place < len(part)),
                default=np.inf)
    below = [(part, np.searchsorted(part, after)) for part in (targets, non_targets)]
    before = max(part[place - 1] for part, place in below if place)
    false_alarm, miss = np.transpose([rates(before), rates(after)])
    return equal_error_rate(false_alarm, miss), float((before, after)[np.abs(miss - false_alarm).argmin()])


def _least_costs(targets, non_targets):
    """minDCF of each of P_TARGETS, of sorted scores.

    The best threshold lies just above a non-target's score, or accepts all: lowered from there to the next one, it
    gains targets alone. Nor does it let more non-targets pass than cost as much as accepting nothing at all,
    p_target / (1 - p_target) of them, so that the few highest are enough.
    """
    share = max(p / (1 - p) for p in P_TARGETS)
    highest = non_targets[-min(len(non_targets), int(share * len(non_targets)) + 2):]
    passed = len(highest) - np.searchsorted(highest, highest, side="right")
    missed = np.searchsorted(targets, highest, side="right")
    false_alarm, miss = np.append(1, passed / len(non_targets)), np.append(0, missed / len(targets))
    return [min_dcf(false_alarm, miss, p) for p in P_TARGETS]


def _errors_by_seed(methods, labels, enrolment_speakers, test_speakers, seed, draws):
    """Errors (methods, seeds, measures) of scores (seeds, trials) each, and their means over speakers and seeds drawn
    again, (draws, methods, measures): all methods meet the same draws.
    """
    methods = [np.atleast_2d(np.asarray(scores)) for scores in methods]
    num_seeds = len(methods[0])
    found = [[verification_errors(row, labels) for row in scores] for scores in methods]
    values = np.array([[[errors[name] for name in _NAMES] for errors in row] for row in found])
    pairs = _pairs(_check(methods[0][0], labels)[1], enrolment_speakers, test_speakers)
    ranked = [_rank(*_check(row, labels), *pairs[:2]) for scores in methods for row in scores]
    drawn = _bootstrap(ranked, pairs.speakers, seed, draws).reshape(draws, len(methods), num_seeds, -1)
    if num_seeds > 1:  # drawn again from themselves, few seeds vary less than new ones
        drawn += (np.sqrt(num_seeds / (num_seeds - 1)) - 1) * (drawn - drawn.mean(axis=2, keepdims=True))
    again = np.random.default_rng((seed, 1)).integers(num_seeds, size=(draws, num_seeds))
    return values, drawn[np.arange(draws)[:, None], :, again].mean(axis=1)


def _check(scores, labels):
    """Both as arrays, float (trials,) and bool (trials,)."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores of shape {scores.shape} and labels of shape {labels.shape}: expected one score and "
                         "one label a trial, (trials,).")
    if not len(scores):
        raise ValueError("the list of trials is empty: expected target and non-target trials. Is the list of another "
                         "corpus or split?")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"{np.count_nonzero(~finite):,} of {len(scores):,} scores are not finite numbers, the first "
                         f"that of trial {first}: {scores[first]}. Look at the embeddings of its utterances: silence, "
                         "or a training that diverged?")
    target = labels == 1
    if np.count_nonzero(target) + np.count_nonzero(labels == 0) < len(labels):
        wrong = labels[~target & (labels != 0)]
        raise ValueError(f"labels such as {wrong[0]!r}: expected 1 for one speaker, 0 for two.")
    if target.all() or not target.any():
        kind, missing = ("target", "non-target") if target.all() else ("non-target", "target")
        raise ValueError(f"all {len(target):,} trials are {kind} trials: expected some {missing} trials, too, since "
                         "an error rate needs both.")
    return scores, target


def _ends(values):
    """Last index of each run of equal values (sorted)."""
    return np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)


def _rates(targets, trials):
    """(false_alarm, miss) from how many target trials, and trials, there are up to each distinct score."""
    num_targets, num_non_targets = targets[-1], trials[-1] - targets[-1]
    false_alarm, miss = np.empty((2, len(targets) + 1))
    false_alarm[0], miss[0] = 1, 0
    np.divide(targets, num_targets, out=miss[1:])
    np.subtract(targets, trials, out=false_alarm[1:])  # minus the non-targets below; in place, for long lists
    false_alarm[1:] += num_non_targets
    false_alarm[1:] /= num_non_targets
    return false_alarm, miss


def _pairs(target, enrolment_speakers, test_speakers):
    """Codes of the speakers of each trial; for a target trial, `other` is a code beyond all speakers."""
    for what, names in (("enrolment", enrolment_speakers), ("test", test_speakers)):
        if np.shape(names) != target.shape:
            raise ValueError(f"{what} speakers of shape {np.shape(names)} for {len(target):,} trials: expected one a "
                             "trial.")
    both = np.concatenate([np.asarray(enrolment_speakers), np.asarray(test_speakers)])
    codes, names = pd.factorize(both)
    one, other = codes.reshape(2, -1)
    if (codes < 0).any() or ((one == other) != target).any():
        row = int(np.flatnonzero((one == other) != target)[0]) if (codes >= 0).all() else int((codes < 0).argmax())
        row %= len(target)
        raise ValueError(f"trial {row} is labelled {int(target[row])} and has the speakers {both[row]!r} and "
                         f"{both[row + len(target)]!r}: expected 1 for the same speaker, 0 for two. Are the speakers "
                         "in the order of the trials?")
    if len(names) < 2:
        raise ValueError(f"{len(names)} speaker: an interval over speakers needs several.")
    return _Pairs(one, np.where(target, len(names), other), len(names))


def _rank(scores, target, one, other):
    order = np.argsort(scores)
    return _Ranked(one[order].astype(np.int32), other[order].astype(np.int32), target[order], _ends(scores[order]))


def _bootstrap(ranked, num_speakers, seed, draws):
    """Errors (draws, len(ranked), measures) of every list of scores under the same draws; NaN without both kinds."""
    from tqdm.auto import trange

    random = np.random.default_rng(seed)
    errors = np.full((draws, len(ranked), 1 + len(P_TARGETS)), np.nan)
    for draw in trange(draws, desc="Bootstrap", delay=5, leave=False):
        weights = np.bincount(random.integers(num_speakers, size=num_speakers), minlength=num_speakers)
        weights = np.append(weights, 1)  # what a target trial's own speaker is multiplied by
        for place, trials in enumerate(ranked):
            weight = weights[trials.one] * weights[trials.other]
            targets = np.cumsum(weight * trials.target)[trials.ends]
            total = np.cumsum(weight)[trials.ends]
            if 0 < targets[-1] < total[-1]:
                errors[draw, place] = list(_summary(*_rates(targets, total)).values())
    return errors


def _limits(values):
    """95 % interval of draws; those that held one kind of trial only tell nothing."""
    known = values[np.isfinite(values)]
    if not len(known):
        raise ValueError(f"none of {len(values)} draws of speakers held both kinds of trials; use more draws or "
                         "more speakers.")
    return tuple(float(value) for value in np.percentile(known, [2.5, 97.5]))
