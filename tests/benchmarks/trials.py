"""EER and minDCF of 10 million trials, beside one sort of their scores.

    python tests/benchmarks/trials.py

Memory and other lists: see eer.py. The yardstick is scikit-learn's ROC curve.
"""

import numpy as np
from eer import roc_error
from side_by_side import alternate, faster, options, table, write

from speakerlib.experiments.verification import (
    P_TARGETS,
    det_points,
    equal_error_rate,
    min_dcf,
    verification_errors,
)

TRIALS = 10_000_000


def main(arguments=None):
    """Writes the section, and returns the times."""
    quick = options(__doc__, arguments).quick
    num_trials, random = (10_000 if quick else TRIALS), np.random.default_rng(0)
    labels = (random.random(num_trials) < 0.5).astype(np.int8)
    scores = random.normal(size=num_trials) + 2 * labels
    curve = det_points(scores, labels)[:2]
    known = {"eer": equal_error_rate(*curve), **{f"min_dcf_{p}": min_dcf(*curve, p) for p in P_TARGETS}}
    del curve  # a long list's arrays are large
    found = verification_errors(scores, labels)
    assert found.items() >= known.items(), (found, known)
    off = abs(found["eer"] - roc_error(scores, labels))
    assert off < 1e-6, off
    times = alternate({"scikit-learn's ROC": lambda: roc_error(scores, labels),
                       "verification_errors": lambda: verification_errors(scores, labels),
                       "argsort of the scores": lambda: np.argsort(scores),
                       "limit: one sort of the scores": lambda: np.sort(scores)}, *((1, 0) if quick else (5, 1)))
    longer = {name: 1 / faster(times, "verification_errors", name)[0] for name in list(times)[2:]}
    sort = longer["limit: one sort of the scores"]
    write("EER of many trials", (
        f"`trials.py`, {num_trials:,} trials of made-up scores in float64, half of them targets; EER, both minDCF and "
        f"the threshold. It takes **{sort:.1f} times** one sort (target: within 3{'' if sort <= 3 else '; **missed**'})"
        f" and {longer['argsort of the scores']:.2f} times one argsort, which would take the labels along: numpy sorts "
        "bare numbers with the processor's widest units, several times as fast. So targets and non-targets are sorted "
        "apart; the threshold of equal errors is searched for by halving, the least costs among the highest percent "
        "of the non-targets alone. The values are those of the whole curve to the last digit. "
        f"Its EER is within {off:.0e} of the ROC's."),
        table(times, "scikit-learn's ROC", num_trials, "trials"), quick)
    return times


if __name__ == "__main__":
    main()
