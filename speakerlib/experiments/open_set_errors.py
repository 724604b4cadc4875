"""How answers err where strangers ask too: calibrated on validation speakers, measured on test speakers."""

import numpy as np
import pandas as pd

from speakerlib.data.corpora import find_corpus
from speakerlib.data.front_ends import front_end as find_front_end
from speakerlib.experiments.calibration import (
    expected_calibration_error,
    fit_calibration,
    is_known,
    posteriors,
    top_label,
)
from speakerlib.experiments.open_set import CONDITIONS, draw_open_set, embed_open_set, score_open_set
from speakerlib.experiments.voice_weights import (
    SHIPPED_WEIGHTS,
    keep_calibration,
    read_voice_weights,
    weights_digest,
)

RATES = (0.01, 0.02, 0.05, 0.1)  # of false acceptance that have a threshold
PEOPLE = 5  # who are enrolled in a table's tasks
NUM_TASKS = 8000
MEASURES = ("false_acceptance", "rejected", "mistaken", "correct")


def calibrate(encoder, corpus, front_end="compact", rates=RATES, num_tasks=NUM_TASKS, seed=0, progress=True):
    """The constants that make probabilities of an encoder's scores, found on the validation speakers of a corpus.

    Tasks enrol 1 to 8 people with 1 to 5 utterances each and ask with 0.5 to 3 s, half of them of a stranger; every
    clip is as recorded, or through a channel of family I or II of its own. Returns what fit_calibration does, with what
    it was found on; voice_weights.keep_calibration puts it into the encoder's file. Raises what embed_open_set does.
    """
    clips = embed_open_set(encoder, corpus, front_end, "validation", seed=seed, progress=progress)
    draw = draw_open_set(clips, num_tasks, seed=seed)
    constants = fit_calibration(score_open_set(clips, draw), draw.seconds, draw.truth, rates, draw.present)
    return {**constants, "weights": weights_digest(encoder, find_front_end(front_end)), "corpus": corpus.name,
            "corpus_fingerprint": corpus.fingerprint, "synthetic": bool(corpus.synthetic), "split": "validation",
            "speakers": len(set(clips.speakers)), "tasks": num_tasks, "strangers": 0.5, "conditions": list(CONDITIONS),
            "seed": seed}


def ship(weights, path=SHIPPED_WEIGHTS, **options):
    """Writes the encoder of a run of chapter 10 with its calibration, on its corpus, as the model that ships.

    weights: see read_voice_weights; options: of calibrate. Returns the calibration.
    """
    found = read_voice_weights(weights)
    calibration = calibrate(found.encoder, find_corpus(found.facts["corpus"]), found.front_end.name, **options)
    keep_calibration(found.path, calibration, path)
    return calibration


def open_set_errors(clips, calibration, false_acceptance=0.05, people=PEOPLE, enrolments=3, seconds=3,
                    num_tasks=NUM_TASKS, seed=0):
    """A row a condition (all clips recorded, changed I, changed II, or mixed): how answers err at a stated rate.

    clips: embed_open_set of test speakers. Columns: condition, false_acceptance (strangers taken for somebody),
    rejected, mistaken and correct (of those enrolled), accuracy and ece (of the likeliest answer), each but the last
    with low and high: the 95 % bootstrap interval over speakers who ask; and what was asked.
    """
    people = min(people, int(clips.codes.max()))
    rows = []
    for condition in (*dict.fromkeys(name for name, _ in clips.embeddings), None):
        draw = draw_open_set(clips, num_tasks, people, enrolments, seconds, condition, seed)
        scores = score_open_set(clips, draw)
        known = is_known(scores, draw.seconds, calibration, false_acceptance, draw.present)
        confidence, right = top_label(posteriors(scores, draw.seconds, calibration, draw.present), draw.truth)
        asked = clips.speakers[draw.query]
        row = {"condition": condition or "mixed", "stated": false_acceptance}
        for name, (counted, value) in {**_decisions(scores, known, draw.truth),
                                       "accuracy": (np.ones_like(right), right)}.items():
            row[name], row[f"{name}_low"], row[f"{name}_high"] = _over_speakers(value[counted], asked[counted])
        rows.append({**row, "ece": expected_calibration_error(confidence, right), "people": people,
                     "enrolments": enrolments, "seconds": seconds, "tasks": num_tasks,
                     "speakers": len(set(clips.speakers))})
    return pd.DataFrame(rows)


def error_tradeoff(clips, people=PEOPLE, enrolments=3, seconds=3, num_tasks=NUM_TASKS, seed=0, points=200):
    """The detection error trade-off: a row a condition and threshold, thresholds rising.

    Columns: condition, threshold (of the best score), false_acceptance, rejected, mistaken, and missed: the last two
    together. At most `points` rows a condition, at quantiles of the strangers' scores.
    """
    people = min(people, int(clips.codes.max()))
    tables = []
    for condition in (*dict.fromkeys(name for name, _ in clips.embeddings), None):
        draw = draw_open_set(clips, num_tasks, people, enrolments, seconds, condition, seed)
        scores = score_open_set(clips, draw)
        best, strangers = scores.max(axis=1), draw.truth < 0
        right = scores.argmax(axis=1) == draw.truth
        thresholds = np.unique(np.quantile(best, np.linspace(0, 1, points)))
        known = best[:, None] >= thresholds
        enrolled = known[~strangers]
        table = pd.DataFrame({"condition": condition or "mixed", "threshold": thresholds,
                              "false_acceptance": known[strangers].mean(axis=0), "rejected": 1 - enrolled.mean(axis=0),
                              "mistaken": (enrolled & ~right[~strangers][:, None]).mean(axis=0)})
        tables.append(table.assign(missed=table["rejected"] + table["mistaken"]))
    return pd.concat(tables, ignore_index=True)


def answers(clips, calibration, condition=None, num_tasks=NUM_TASKS, seed=0, **tasks):
    """(confidence, correct) of open-set tasks as calibrate draws them, of other speakers: for `reliability`.

    tasks: people, enrolments, seconds, as draw_open_set takes them.
    """
    draw = draw_open_set(clips, num_tasks, condition=condition, seed=seed, **tasks)
    return top_label(posteriors(score_open_set(clips, draw), draw.seconds, calibration, draw.present), draw.truth)


def _decisions(scores, known, truth):
    """{measure: (which tasks count, what is averaged over them)}."""
    strangers, right = truth < 0, scores.argmax(axis=1) == truth
    return dict(zip(MEASURES, ((strangers, known), (~strangers, ~known), (~strangers, known & ~right),
                               (~strangers, known & right))))


def _over_speakers(values, speakers, draws=2000, seed=0):
    """(mean, low, high): speakers are drawn again, with all their queries."""
    codes = np.unique(speakers, return_inverse=True)[1]
    total, count = np.bincount(codes, values), np.bincount(codes)
    drawn = np.random.default_rng(seed).integers(len(count), size=(draws, len(count)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    return float(values.mean()), *(float(value) for value in np.percentile(means, [2.5, 97.5]))
