"""Pictures of chapter 06: lengths of episodes, an objective's parts over training, accuracy by query length."""

import numpy as np

from speakerlib.experiments.query_lengths import lines_by_length
from speakerlib.views.style import GREY, MARKERS, PALETTE, new_figure
from speakerlib.views.verification import plot_by_length

_LOSSES = {"episodic_loss": ("of the episode", PALETTE[0]), "global_loss": ("among all training speakers", PALETTE[1])}
_ACCURACIES = {"training_accuracy": ("training, in the episode", PALETTE[0]),
               "global_accuracy": ("training, among all speakers", PALETTE[1])}


def plot_lengths(episodes, title=None):
    """How long the support and the queries of some episodes are, one line an episode; returns the figure.

    episodes: LengthEpisodes.
    """
    figure, axis = new_figure(8, 0.8 + 0.28 * len(episodes))
    places = np.arange(len(episodes))
    parts = [("supports", PALETTE[0], 0.2, [episode.support for episode in episodes]),
             ("queries", PALETTE[3], -0.2, [episode.query for episode in episodes])]
    for label, colour, aside, crops in parts:
        if crops[0] is not None:
            seconds = [part.length / 100 for part in crops]
            axis.barh(places - aside, seconds, height=0.36, color=colour, label=f"{crops[0].utterances.size} {label}")
    axis.set(yticks=places, yticklabels=[f"step {place}" for place in places], xlabel="length of a segment (s)",
             title=title or "The first episodes")
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_objective(history, title=None, reference=None, split="validation"):
    """The parts of the loss (left), and accuracies (right), over the steps of one training; the best step is marked.

    history: columns step, training_loss, and any of episodic_loss, global_loss, training_accuracy, global_accuracy,
    validation_accuracy and validation_accuracy_<length>; reference: {label: accuracy in 0..1}; a grey line tells where
    the learning rate was lowered.
    """
    figure, (loss, accuracy) = new_figure(12, 3.8, columns=2)
    for axis, parts, scale in ((loss, _LOSSES, 1), (accuracy, _ACCURACIES, 100)):
        for column, (label, colour) in parts.items():
            if column in history:
                known = history.dropna(subset=column)
                axis.plot(known["step"], scale * known[column], color=colour, label=label)
    tested = history.dropna(subset="validation_accuracy") if "validation_accuracy" in history else history[:0]
    lengths = [column for column in history if column.startswith("validation_accuracy_")]
    for marker, column in zip(MARKERS, lengths):
        seconds = column.removeprefix("validation_accuracy_").removesuffix("s")
        accuracy.plot(tested["step"], 100 * tested[column], color=PALETTE[3], marker=marker, markersize=4.5,
                      linestyle="--" if marker == MARKERS[0] else "-", label=f"{split}, {seconds} s")
    if len(tested):
        best = tested.loc[tested["validation_accuracy"].idxmax()]
        accuracy.plot(best["step"], 100 * best["validation_accuracy"], "*", color=PALETTE[6], markersize=12,
                      label=f"best: {100 * best['validation_accuracy']:.1f} % at step {best['step']:.0f}")
    for label, value in (reference or {}).items():
        accuracy.axhline(100 * value, color=GREY, linestyle="--", linewidth=1.2, label=f"{label} ({100 * value:.1f} %)")
    if "learning_rate" in history:
        rates = history.dropna(subset="learning_rate")
        for place in np.flatnonzero(np.diff(rates["learning_rate"])):
            loss.axvline(rates["step"].iloc[place], color=GREY, linewidth=1)
            loss.annotate(f" rate {rates['learning_rate'].iloc[place + 1]:g}", (rates["step"].iloc[place], 1),
                          xycoords=("data", "axes fraction"), va="top", color=GREY, fontsize=9)
    loss.set(title="Loss", xlabel="training step", ylabel="loss")
    accuracy.set(title="Accuracy", xlabel="training step", ylabel="accuracy (%)")
    for axis, place in ((loss, {}), (accuracy, {"loc": "center left", "bbox_to_anchor": (1, 0.5)})):
        axis.set_xlim(left=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(**place)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def plot_query_lengths(compared, title=None):
    """Accuracy by the length of the query, a line an objective, a panel a condition; returns the figure.

    compared: {objective: rows of evaluate_by_length}.
    """
    conditions = list(dict.fromkeys(row["condition"] for rows in compared.values() for row in rows))
    num_way = next(iter(compared.values()))[0]["num_way"]
    figure, axes = new_figure(11, 4.2, columns=len(conditions), squeeze=False)
    lowest, highest = (pick(row[end] for rows in compared.values() for row in rows)
                       for pick, end in ((min, "low"), (max, "high")))
    for axis, condition in zip(axes[0], conditions):
        plot_by_length(lines_by_length(compared, condition), f"{num_way}-way accuracy (%)", condition, axis)
        axis.axhline(100 / num_way, color=GREY, linestyle="--", linewidth=1.2)
        axis.text(0.99, 100 / num_way, "chance", transform=axis.get_yaxis_transform(), color=GREY, va="bottom",
                  ha="right")
        axis.set(xlabel="length of the query",
                 ylim=(max(0, min(100 / num_way, 100 * lowest) - 4), min(102, 100 * highest + 6 + 6 * len(compared))))
        own = max(row["high"] for rows in compared.values() for row in rows if row["condition"] == condition)
        axis.legend(loc="upper left" if own < 0.7 * highest or highest < 0.7 else "lower right")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure
