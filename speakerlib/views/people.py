"""Pictures of chapter 09: answers, a map of who is enrolled, who speaks when, and how the answers err."""

import numpy as np
import pandas as pd
from matplotlib.patheffects import withStroke

from speakerlib.experiments.calibration import UNKNOWN
from speakerlib.experiments.timeline import SILENCE
from speakerlib.views.embeddings import project
from speakerlib.views.style import GREY, MARKERS, PALETTE, new_figure, speaker_looks
from speakerlib.views.tables import accuracy_heatmap

COLOURS = {"recorded": PALETTE[0], "changed I": PALETTE[1], "changed II": PALETTE[3], "mixed": PALETTE[6]}
_LINES = {"recorded": "-", "changed I": "--", "changed II": "-.", "mixed": ":"}
_PERCENT = (1, 2, 5, 10, 20, 40, 60)  # of the error trade-off's axes


def answers_table(asked, answers):
    """A row a clip: who it is, the answer, its probability, the next likely one; a DataFrame of strings.

    asked: [(who it is, clip)]; answers: the Identification of each.
    """
    rows = []
    for (name, _), answer in zip(asked, answers):
        others = answer.table[answer.table["name"] != answer.name].iloc[0]
        rows.append({"clip of": name, "answer": answer.name, "probability": _share(answer.probability),
                     "next": f"{others['name']} ({_share(others['probability'])})",
                     "seconds": f"{answer.seconds:.1f}"})
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="question"))


def plot_people(people, asked=(), title=None):
    """The embeddings of all enrolled clips in the plane, and where asked clips fall; returns the figure.

    people: a SpeakerIdentifier; asked: [(label, embedding (dim,))]. A plain projection on the two directions of largest
    spread: near each other there may be far apart in truth, never the other way round.
    """
    owner = people.clips["name"].to_numpy(str)
    points = project(np.concatenate([people.embeddings, *(each[1][None] for each in asked)]), "pca")
    figure, axis = new_figure(8.2, 5.4)
    looks = speaker_looks(owner)
    for name, (colour, marker) in sorted(looks.items()):
        x, y = points[:len(owner)][owner == name].T
        axis.scatter(x, y, s=60, color=colour, marker=marker, label=name)
        axis.plot(x.mean(), y.mean(), "+", color=colour, markersize=14, markeredgewidth=1.5)
    for place, ((label, _), (x, y)) in enumerate(zip(asked, points[len(owner):])):
        axis.plot(x, y, "*", color="black", markersize=12, linestyle="none", label="" if place else "asked about")
        axis.annotate(label, (x, y), xytext=(6, 4), textcoords="offset points", fontweight="bold",
                      path_effects=[withStroke(linewidth=2, foreground="white")])  # readable over other marks
    axis.set(xticks=[], yticks=[], title=title or f"{len(looks)} people, {len(owner)} clips; + is a person's middle")
    axis.spines[:].set_visible(True)
    axis.legend(title="enrolled", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def nearest_clips(people, embedding, count=3):
    """The enrolled clips that are nearest to an embedding: place (in people.clips), name, cosine; nearest first."""
    cosine = people.embeddings @ embedding
    order = np.argsort(-cosine, kind="stable")[:count]
    return pd.DataFrame({"place": order, "name": people.clips["name"].to_numpy()[order], "cosine": cosine[order]})


def plot_timeline(timeline, names, truth=None, title=None):
    """Who speaks when, a line a person and one for anybody else; returns the figure.

    names: who is enrolled; truth: start, end, name, drawn as a frame around each turn.
    """
    lines = [*sorted(names), UNKNOWN]
    colours = {name: colour for name, (colour, _) in speaker_looks(names).items()} | {UNKNOWN: GREY}
    figure, axis = new_figure(11, 0.42 * len(lines) + 1.2)
    for row in timeline[timeline["name"] != SILENCE].to_dict("records"):
        strength = row["probability"] if np.isfinite(row["probability"]) else 1.0
        axis.barh(lines.index(row["name"]), row["end"] - row["start"], left=row["start"], height=0.7,
                  color=colours[row["name"]], alpha=0.35 + 0.65 * strength, linewidth=0)
    for row in truth.to_dict("records") if truth is not None else ():
        line = lines.index(row["name"] if row["name"] in lines else UNKNOWN)
        axis.barh(line, row["end"] - row["start"], left=row["start"], height=0.9, fill=False, edgecolor="black",
                  linewidth=1)
    axis.set_yticks(range(len(lines)), lines)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.set(xlabel="time (s)", title=title or "Who speaks when" + "; frames are the truth" * (truth is not None))
    axis.grid(axis="y", visible=False)
    return figure


def timeline_table(timeline, rows=12):
    """The first turns of a timeline, without the silence between, as strings; a DataFrame."""
    turns = timeline[timeline["name"] != SILENCE].head(rows)
    return pd.DataFrame({"from": turns["start"].map(_clock), "to": turns["end"].map(_clock), "who": turns["name"],
                         "probability": turns["probability"].map(_share)}).set_axis(range(1, len(turns) + 1))


def plot_tradeoff(tradeoff, title=None):
    """Strangers taken for somebody against people missed, a line a condition; returns the figure.

    tradeoff: of open_set_errors.error_tradeoff.
    """
    figure, axis = new_figure(6.6, 4.8)
    for condition, part in tradeoff.groupby("condition", sort=False):
        false, missed = (100 * part[name].clip(lower=1e-4) for name in ("false_acceptance", "missed"))
        axis.plot(false, missed, _LINES[condition], color=COLOURS[condition], label=condition)
    axis.plot(_PERCENT, _PERCENT, color=GREY, linewidth=0.8)
    for scale in (axis.set_xscale, axis.set_yscale):
        scale("log")
    axis.set_xticks(_PERCENT, _PERCENT)
    axis.set_yticks(_PERCENT, _PERCENT)
    axis.minorticks_off()
    axis.set(xlim=(0.8, 70), ylim=(0.8, 100), xlabel="strangers taken for somebody (%)",
             ylabel="people rejected or mistaken (%)", title=title or "Strangers let in, people missed")
    axis.legend()
    return figure


def plot_reliability(found, title=None):
    """How often answers of a probability are right, a line a condition, with 95 % of each bin; returns the figure.

    found: {condition: (reliability table, expected calibration error)}. On the diagonal probabilities hold.
    """
    figure, axis = new_figure(7.4, 4.8)
    axis.plot([0, 100], [0, 100], color=GREY, linewidth=0.8)
    for place, (condition, (table, error)) in enumerate(found.items()):
        table = table[table["queries"] >= 20]
        x, y, low, high = (100 * table[name] for name in ("confidence", "accuracy", "accuracy_low", "accuracy_high"))
        axis.errorbar(x, y, yerr=[(y - low).clip(lower=0), (high - y).clip(lower=0)], marker=MARKERS[place], capsize=2,
                      color=COLOURS[condition], linestyle=_LINES[condition], label=f"{condition}: {100 * error:.1f}")
    axis.set(xlabel="probability of the answer (%)", ylabel="answers that are right (%)", xlim=(0, 101), ylim=(0, 101),
             title=title or "Do the probabilities hold?")
    axis.legend(title="mean distance from\nthe diagonal, points", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_seconds(seconds):
    """Accuracy by seconds of enrolment and of the question, a heat map a condition; returns the figure.

    seconds: of enrolment.accuracy_by_seconds.
    """
    conditions = list(COLOURS)[:-1]
    conditions = [name for name in conditions if name in set(seconds["condition"])]
    figure, axes = new_figure(4.6 * len(conditions), 4, columns=len(conditions), squeeze=False)
    for axis, condition in zip(axes[0], conditions):
        part = seconds[seconds["condition"] == condition]
        table, low, high = (part.pivot(index="enrolment_seconds", columns="query_seconds", values=name)
                            for name in ("accuracy", "low", "high"))
        accuracy_heatmap(table, (high - low) / 2, condition, vmin=1 / part["num_way"].iloc[0], axis=axis)
        axis.set_xticks(range(table.shape[1]), [f"{each:g} s" for each in table.columns])
        axis.set_yticks(range(table.shape[0]), [f"{each:g} s" for each in table.index])
        axis.set_xlabel("question")
    axes[0, 0].set_ylabel("enrolment")
    return figure


def errors_table(errors):
    """The rows of open_set_errors as strings in %, with their 95 % intervals over the speakers who ask."""
    names = {"false_acceptance": "strangers taken for somebody", "rejected": "people rejected",
             "mistaken": "people mistaken", "correct": "people named", "accuracy": "likeliest answer right"}
    table = {row["condition"]: {**{label: f"{100 * row[name]:.1f} ({100 * row[f'{name}_low']:.1f} to "
                                          f"{100 * row[f'{name}_high']:.1f})" for name, label in names.items()},
                                "calibration error": f"{100 * row['ece']:.1f}"} for row in errors.to_dict("records")}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("clips, %")


def _share(value):
    return f"{100 * value:.0f} %" if np.isfinite(value) else "not calibrated"


def _clock(seconds):
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
