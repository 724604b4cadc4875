"""From scores to probabilities: who of the enrolled spoke, or nobody of them; and how far such probabilities hold."""

import numpy as np
import pandas as pd
import torch

UNKNOWN = "unknown"  # what a stranger is called; nobody can be enrolled under it
PULL = 1e-3  # of the constants towards none: keeps them finite where all trials are told apart
COVARIATES = ("one", "seconds", "people")  # see _covariates; how many clips a person was enrolled with did not pay


def cosines(queries, people):
    """Cosine of each query with each person's mean embedding, float64 (queries, people); both (n, dim).

    ValueError for a mean of length 0. Score normalisation against a cohort was tried and did not pay.
    """
    lengths = np.linalg.norm(people, axis=1)
    if (lengths < 1e-6).any():
        raise ValueError(f"the mean embedding of person {int(lengths.argmin())} is zero: the clips cancel out. Enrol "
                         "that person from other clips.")
    return np.clip(np.asarray(queries, dtype=np.float64) @ (people / lengths[:, None]).T, -1.0, 1.0)


def posteriors(scores, seconds, calibration, present=None):
    """Probabilities of each person and of an unknown one: float64 (queries, people + 1), rows that sum to 1.

    scores: (queries, people); seconds: (queries,) or one number, of sound in the query; calibration: of
    fit_calibration; present: bool (queries, people), where queries have different people (default: all). The log odds
    of a person against an unknown one are linear in the score (Platt 1999), with a slope and an offset that depend on
    the seconds and on how many are enrolled.
    """
    scores, present = _checked(scores, present)
    with torch.no_grad():
        logits = _logits(scores, present, _covariates(seconds, present), *_constants(calibration))
    return logits.softmax(dim=1).numpy()


def is_known(scores, seconds, calibration, false_acceptance, present=None):
    """Whether the best score is one of an enrolled person: bool (queries,), wrongly so for a stranger at a stated rate.

    false_acceptance: one of the rates of calibration["thresholds"]; ValueError for another.
    """
    scores, present = _checked(scores, present)
    constants = torch.tensor(threshold_constants(calibration, false_acceptance), dtype=torch.float64)
    threshold = _covariates(seconds, present) @ constants
    return (_best(scores, present) >= threshold).numpy()


def threshold_constants(calibration, false_acceptance):
    """The constants of the threshold for a stated rate; ValueError if the calibration has none for it."""
    try:
        return calibration["thresholds"][f"{false_acceptance:g}"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"false_acceptance={false_acceptance!r}: the model has thresholds for "
                         f"{', '.join(calibration['thresholds'])}. Use one of them, or calibrate anew.") from error


def fit_calibration(scores, seconds, truth, rates, present=None, covariates=COVARIATES):
    """The constants for `posteriors` and `is_known`: {slope, offset, thresholds}, each number a list over COVARIATES.

    truth: (queries,) the place of the person who spoke, -1 for a stranger. slope and offset make the truth most
    likely; each of rates has a threshold that so many strangers' best scores exceed (linear quantile regression,
    Koenker and Bassett 1978). covariates: the ones used, the others' constants being 0. Raises ValueError if there are
    not both strangers and enrolled people.
    """
    scores, present = _checked(scores, present)
    truth = torch.as_tensor(np.asarray(truth), dtype=torch.int64)
    if not (truth >= 0).any() or not (truth < 0).any():
        raise ValueError(f"{int((truth < 0).sum())} of {len(truth)} queries are of strangers: expected some, and some "
                         "of enrolled people.")
    used = torch.tensor([name in covariates for name in COVARIATES])
    inputs = _covariates(seconds, present)
    target = torch.where(truth < 0, scores.shape[1], truth)
    constants = torch.zeros(2, len(COVARIATES), dtype=torch.float64)
    constants[0, 0] = 1 / max(float(scores[present].std()), 1e-6)
    constants.requires_grad_(True)

    def loss():
        logits = _logits(scores, present, inputs, *(constants * used))
        return torch.nn.functional.cross_entropy(logits, target) + PULL * constants.square().mean() / 100

    _minimise(loss, constants)
    slope, offset = (constants.detach() * used).tolist()
    strangers = truth < 0
    best = _best(scores, present)[strangers]
    thresholds = {f"{rate:g}": _quantile(best, inputs[strangers] * used, 1 - rate).tolist() for rate in rates}
    return {"slope": slope, "offset": offset, "thresholds": thresholds}


def top_label(probabilities, truth, present=None):
    """(confidence, correct) of each query: the probability of the likeliest answer, and whether it is the truth.

    truth: the place of the person who spoke, -1 for a stranger.
    """
    answer = probabilities.argmax(axis=1)
    unknown = probabilities.shape[1] - 1
    return probabilities.max(axis=1), answer == np.where(np.asarray(truth) < 0, unknown, truth)


def reliability(confidence, correct, bins=10):
    """A row a bin of equal width: low, high, queries, confidence and accuracy (means), accuracy_low and accuracy_high.

    The last two: 95 % Wilson interval over queries. Empty bins have NaN. Drawn, the diagonal is perfect calibration.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, share = (np.bincount(place, part, minlength=bins) / count for part in (confidence, correct))
        spread = 1.96 * np.sqrt(share * (1 - share) / count + 0.9604 / count ** 2)
        low, high = ((share + 1.9208 / count + sign * spread) / (1 + 3.8416 / count) for sign in (-1, 1))
    return pd.DataFrame({"low": np.arange(bins) / bins, "high": np.arange(1, bins + 1) / bins, "queries": count,
                         "confidence": mean, "accuracy": share, "accuracy_low": low, "accuracy_high": high})


def expected_calibration_error(confidence, correct, bins=10):
    """The mean distance of confidence and accuracy over bins, weighed by their queries (Guo et al. 2017)."""
    table = reliability(confidence, correct, bins)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float((gap * table["queries"]).sum() / max(1, table["queries"].sum()))


def _covariates(seconds, present):
    """(queries, covariates): 1, doublings of 2 s of the query (0.5 to 8 s), doublings of one enrolled person."""
    people = present.sum(dim=1).double()
    seconds = torch.as_tensor(np.broadcast_to(np.asarray(seconds, dtype=float), len(people)).copy())
    return torch.stack([torch.ones_like(people), (seconds.clamp(0.5, 8.0) / 2).log2(), people.log2()], dim=1)


def _logits(scores, present, inputs, slope, offset):
    logits = (inputs @ slope)[:, None] * scores + (inputs @ offset)[:, None]
    return torch.cat([logits.masked_fill(~present, -torch.inf), torch.zeros(len(scores), 1, dtype=scores.dtype)], dim=1)


def _best(scores, present):
    return scores.masked_fill(~present, -torch.inf).max(dim=1).values


def _quantile(values, inputs, share):
    """Constants whose linear function of the inputs lies above `share` of the values."""
    constants = torch.zeros(inputs.shape[1], dtype=torch.float64)
    constants[0] = values.quantile(share)
    constants.requires_grad_(True)
    for width in (0.1, 0.03, 0.01, 0.003, 0.001):  # of the rounded corner, in deviations: smooth for the solver
        rounded = width * float(values.std())

        def loss(rounded=rounded):
            above = values - inputs @ constants
            corner = rounded * torch.nn.functional.softplus(above / rounded)  # smooth max(0, above)
            return (corner - (1 - share) * above).mean() / values.std() + 1e-9 * constants.square().sum()

        _minimise(loss, constants)
    return constants.detach()


def _minimise(loss, constants):
    solver = torch.optim.LBFGS([constants], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12,
                               line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)


def _constants(calibration):
    return (torch.tensor(calibration[name], dtype=torch.float64) for name in ("slope", "offset"))


def _checked(scores, present):
    scores = torch.as_tensor(np.array(scores, dtype=np.float64))
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"scores of shape {tuple(scores.shape)}: expected (queries, people), of at least one person.")
    present = torch.ones_like(scores, dtype=torch.bool) if present is None else torch.as_tensor(np.asarray(present))
    return scores.masked_fill(~present, 0.0), present
