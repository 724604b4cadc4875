"""Seconds and memory of EER and minDCF of long trial lists with made-up scores, and how far scikit-learn's ROC is off.

    python tests/benchmarks/eer.py                       VoxCeleb1's 37,720 trials, and 10 million
    python tests/benchmarks/eer.py --list veri_test.txt  the labels of that list instead of made-up ones
    python tests/benchmarks/eer.py --trials 1000000      another long list

Each list is measured in a process of its own, forked off one that has done nothing but its imports. `seconds` is
verification_errors alone, `bootstrap s` 1,000 draws of speakers (short list only), and `peak MB` the most that the
process held, the imports and the list itself included, before scikit-learn is asked.
"""

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np

from speakerlib.data.trials import read_trials
from speakerlib.experiments.verification import errors_with_intervals, verification_errors

SHORT, LONG, SPEAKERS = 37_720, 10_000_000, 40


def main(arguments=None):
    """Prints a line a list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=LONG, help=f"length of the long list, {LONG:,} by default")
    parser.add_argument("--list", type=Path, metavar="FILE", help="take the short list's labels from there")
    options = parser.parse_args(arguments)
    print(f"{'trials':>12}{'seconds':>10}{'bootstrap s':>13}{'peak MB':>9}{'EER %':>8}{'off by':>10}")
    context = multiprocessing.get_context("fork")
    for path, num_trials in ((options.list, SHORT), (None, options.trials)):
        process = context.Process(target=measure, args=(path, num_trials))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the list of {num_trials:,} trials was not measured: exit status {process.exitcode}")


def measure(path, num_trials):
    """Prints the line of one list."""
    random = np.random.default_rng(0)
    labels = read_trials(path)["label"].to_numpy() if path else (random.random(num_trials) < 0.5).astype(np.int8)
    scores = random.normal(size=len(labels))
    scores += 2 * labels
    started = time.perf_counter()
    errors = verification_errors(scores, labels)
    seconds, bootstrap = time.perf_counter() - started, ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    if len(labels) <= SHORT:
        one = random.integers(SPEAKERS, size=len(labels))
        other = np.where(labels == 1, one, (one + random.integers(1, SPEAKERS, len(labels))) % SPEAKERS)
        started = time.perf_counter()
        errors_with_intervals(scores, labels, one, other)
        bootstrap = f"{time.perf_counter() - started:.2f}"
    off = abs(errors["eer"] - roc_error(scores, labels))
    print(f"{len(labels):>12,}{seconds:>10.3f}{bootstrap:>13}{peak:>9.0f}{100 * errors['eer']:>8.3f}{off:>10.1e}",
          flush=True)


def roc_error(scores, labels):
    """EER where the straight pieces of scikit-learn's ROC cross the line of equal errors."""
    from sklearn.metrics import roc_curve

    false_alarm, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = 1 - found - false_alarm
    return np.interp(0, gap[::-1], false_alarm[::-1])


if __name__ == "__main__":
    main()
