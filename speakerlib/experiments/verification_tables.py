"""The tables of chapter 07: errors by length and scoring, lines for its pictures, published figures beside."""

import pandas as pd

from speakerlib.data.clips import FRAMES_PER_SECOND
from speakerlib.experiments.scoring import SCORINGS
from speakerlib.experiments.tables import published
from speakerlib.experiments.verification import P_TARGETS

NOT_TRANSCRIBED = "not transcribed"
_VALUES = {"verification": ("eer", "eer_low", "eer_high"), "identification": ("accuracy", "low", "high")}


def spoken(length):
    """The length of a test in words: `whole`, or such as `2 s`; length: frames, or None (NaN in a table's column)."""
    return "whole" if pd.isna(length) else f"{length / FRAMES_PER_SECOND:g} s"


def errors_table(rows):
    """Verification as a table of strings: a line for each condition, length and scoring; rows: of evaluate.

    Equal error rate in %, minDCF for two priors, each with its 95 % interval over speakers.
    """
    lines = {}
    for row in rows:
        if row["task"] == "verification":
            values = {"EER %": _text(row, "eer", 100, 1)}
            values |= {f"minDCF, p = {prior}": _text(row, f"min_dcf_{prior}", 1, 2) for prior in P_TARGETS}
            lines[row["condition"], spoken(row["test_length"]), row["scoring"]] = values
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(index=["condition", "test", "scoring"])


def lines_by_length(rows, task, condition):
    """{scoring: {seconds: (value, low, high)}} of one task and condition, as plot_by_length draws it.

    Equal error rates of `verification`, accuracies of `identification`; seconds are None for whole utterances.
    """
    return {scoring: {row["test_length"] and row["test_length"] / FRAMES_PER_SECOND:
                      tuple(row[name] for name in _VALUES[task]) for row in rows
                      if (row["task"], row["condition"], row["scoring"]) == (task, condition, scoring)}
            for scoring in SCORINGS}


def beside_published(rows, corpus_name, num_trials):
    """What Kye et al. 2020 report beside this run, in condition recorded, scored by cosine.

    num_trials: of the list; a published value stands in a line of its own unless it is of a list of as many trials.
    """
    here = f"here, on {corpus_name}"
    measured = [row for row in rows if row["condition"] == "recorded" and row["scoring"] == "cosine"]
    lines = [{"measure": f"{row['metric']}, {row['trials']:,} trials of VoxCeleb1, {row['test']} length",
              "published": f"{row['value']:g}", "of": row["source"],
              here: _percent(measured, row) if row["trials"] == num_trials else "other trials"}
             for row in published("kye").to_dict("records")]
    for row in measured:
        if row["task"] == "verification":
            name = f"EER %, {row['targets'] + row['non_targets']:,} trials, test {spoken(row['test_length'])}"
            value = row["eer"]
        else:
            name = (f"{row['num_way']}-way {row['num_support']}-shot accuracy %, enrolment "
                    f"{spoken(row['enroll_length'])}, test {spoken(row['test_length'])}")
            value = row["accuracy"]
        lines.append({"measure": name, "published": NOT_TRANSCRIBED, "of": "", here: f"{100 * value:.1f}"})
    return pd.DataFrame(lines).set_index("measure")


def _percent(measured, line):
    """The equal error rate of whole utterances."""
    found = [row["eer"] for row in measured if row["task"] == "verification" and row["test_length"] is None]
    return f"{100 * found[0]:.2f}" if line["metric"].startswith("EER") and found else ""


def _text(row, name, scale, digits):
    value, low, high = (f"{scale * row[each]:.{digits}f}" for each in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} to {high})"
