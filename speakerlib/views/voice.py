"""Pictures of chapter 10: a clip as recorded and through both families of channels, the training, the three tasks."""

import numpy as np
import pandas as pd
import torch

from speakerlib.data.front_ends import front_end, normalise
from speakerlib.data.speeds import at_speed
from speakerlib.experiments.voice_table import SEEN, TRAINED, seen_conditions
from speakerlib.experiments.voice_tasks import WARPED
from speakerlib.views.explorer import changed, clip, features_of, in_a_room
from speakerlib.views.spectrograms import DECIBELS, plot_spectrogram
from speakerlib.views.style import GREY, MARKERS, PALETTE, new_figure

FRONT = "compact"  # what the encoder hears; log_mel is the same with the mean left in
COLOURS = {"recorded": PALETTE[0], "changed I": PALETTE[1], "changed II": PALETTE[3]}
_MARKS = dict(zip(COLOURS, MARKERS))


def three_ways(corpus, row, channel_seed=0, seconds=3.0):
    """{condition: waveform} of one utterance: recorded, and through a channel of family I and one of family II."""
    recorded = clip(corpus, row, seconds)
    return {"recorded": recorded, "changed I": changed(recorded, channel_seed),
            "changed II": in_a_room(corpus, row, recorded, channel_seed)}


def three_speeds(corpus, row, speeds=(0.8, 1.0, 1.25), seconds=3.0):
    """{label: waveform}: one clip played slower, as it is, and faster."""
    recorded = clip(corpus, row, seconds)
    return {f"speed {speed:g}": at_speed(recorded, speed) for speed in speeds}


def plot_ways(waveforms, means_removed=False, range_db=60):
    """Spectrograms of {label: waveform} side by side, on one scale, of as many seconds each; returns the figure.

    means_removed: a second row shows what is left once each mel's mean over the clip is taken away.
    """
    front = front_end(FRONT)
    stored = [features_of(waveform, front) for waveform in waveforms.values()]
    rows = [(stored, "as it is", 10)] + means_removed * [([_without_mean(each, front) for each in stored],
                                                          "mean removed", 0.5)]
    figure, axes = new_figure(4 * len(stored) + 1, 2.7 * len(rows) + 0.3, rows=len(rows), columns=len(stored),
                              sharey=True, sharex=True, squeeze=False)
    for line, (pictures, kind, loudest) in zip(axes, rows):
        high = DECIBELS * max(np.quantile(each, 1 - loudest / 1000) for each in pictures)
        for axis, picture, label in zip(line, pictures, waveforms):
            image = plot_spectrogram(picture, front, axis, f"{label}, {kind}" if means_removed else label,
                                     (high - range_db, high))
            axis.label_outer()
        figure.colorbar(image, ax=line, label="level (dB)", pad=0.01)
    axes[0, 0].set_xlim(0, max(each.shape[1] for each in stored) * front.hop_length / front.sample_rate)
    return figure


def plot_voice_training(history, title=None, reference=None, split="validation"):
    """The loss and its parts (left), accuracies on unseen speakers by condition (right); returns the figure.

    history: columns step, training_loss, and any other `..._loss`, training_accuracy, validation_accuracy (the mean
    that chooses the weights) and validation_accuracy_<condition>; reference: {label: accuracy in 0..1}.
    """
    figure, (loss, accuracy) = new_figure(12, 3.8, columns=2)
    parts = [name for name in history if name.endswith("_loss") and history[name].notna().any()]
    for colour, name in zip(PALETTE, parts if len(parts) != 2 else parts[:1]):  # a single part is the loss itself
        known = history.dropna(subset=name)
        label = "sum" if name == "training_loss" and len(parts) > 2 else name.removesuffix("_loss").replace("_", " ")
        loss.plot(known["step"], known[name], color=colour, label=label)
    if "training_accuracy" in history:
        known = history.dropna(subset="training_accuracy")
        accuracy.plot(known["step"], 100 * known["training_accuracy"], color=GREY, linewidth=1.2,
                      label="training, its own voices")
    tested = history.dropna(subset="validation_accuracy") if "validation_accuracy" in history else history[:0]
    for name in [name for name in history if name.startswith("validation_accuracy_")]:
        condition = name.removeprefix("validation_accuracy_").replace("_", " ")
        accuracy.plot(tested["step"], 100 * tested[name], color=COLOURS.get(condition, PALETTE[5]), markersize=4.5,
                      marker=_MARKS.get(condition, "P"), label=f"{split}, {condition}")
    if len(tested):
        best = tested.loc[tested["validation_accuracy"].idxmax()]
        accuracy.plot(best["step"], 100 * best["validation_accuracy"], "*", color=PALETTE[6], markersize=12,
                      label=f"kept: mean {100 * best['validation_accuracy']:.1f} % at step {best['step']:.0f}")
    for label, value in (reference or {}).items():
        accuracy.axhline(100 * value, color=GREY, linestyle="--", linewidth=1.2, label=f"{label} ({100 * value:.1f} %)")
    loss.set(title="Loss", xlabel="training step", ylabel="loss")
    accuracy.set(title="Accuracy", xlabel="training step", ylabel="accuracy (%)")
    for axis, place in ((loss, {}), (accuracy, {"loc": "center left", "bbox_to_anchor": (1, 0.5)})):
        axis.set_xlim(left=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(**place)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def voice_table(rows, augment):
    """Tasks and ways of asking by condition as strings, `91.7 (89.0 to 94.1)`: accuracy, 95 % over test speakers.

    rows: of voice_rows; augment: what training heard, for the daggers.
    """
    seen, table = seen_conditions(augment), {}
    for row in rows:
        column = row["heard"] + SEEN * (row["heard"] in seen)
        texts = table.setdefault(column, {})
        values = (100 * row[name] for name in ("accuracy", "low", "high"))
        texts[_task(row), row["asked"]] = "{:.1f} ({:.1f} to {:.1f})".format(*values)
    return pd.DataFrame(table).rename_axis(["accuracy, %", "asked"])


def plot_voice_tasks(rows, augment, title=None):
    """Accuracy of each task in each condition, asked at several warps; returns the figure.

    With the interval over test speakers, and chance. Hollow marks are of channels that training heard. rows: of
    voice_rows.
    """
    rows = [row for row in rows if row["asked"] == WARPED]
    tasks, conditions = (list(dict.fromkeys(row[name] for row in rows)) for name in ("task", "heard"))
    figure, axis = new_figure(2.6 * len(tasks) + 1.6, 4)
    for place, condition in enumerate(conditions):
        part = [row for row in rows if row["heard"] == condition]
        accuracy, low, high = (100 * np.array([row[name] for row in part]) for name in ("accuracy", "low", "high"))
        across = [tasks.index(row["task"]) + 0.2 * (place - (len(conditions) - 1) / 2) for row in part]
        seen = condition in seen_conditions(augment)
        axis.errorbar(across, accuracy, yerr=np.abs([accuracy - low, high - accuracy]), fmt=_MARKS[condition],
                      color=COLOURS[condition], markersize=8, capsize=3, markerfacecolor="white" if seen else None,
                      label=condition + (", heard in training" if seen else ""))
        for x, y, top in zip(across, accuracy, high):
            axis.annotate(f"{y:.0f}", (x, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9,
                          color=COLOURS[condition])
    for row in (row for row in rows if row["heard"] == conditions[0]):
        place, chance = tasks.index(row["task"]), 100 / row["num_way"]
        axis.plot([place - 0.42, place + 0.42], [chance, chance], color=GREY, linestyle="--", linewidth=1.2)
        axis.annotate("chance", (place + 0.42, chance), xytext=(0, 2), textcoords="offset points", ha="right",
                      fontsize=9, color=GREY)
    first = {row["task"]: _task(row) for row in rows}
    axis.set_xticks(range(len(tasks)), [first[task].replace(", ", "\n", 1) for task in tasks])
    axis.set(ylabel="accuracy on unseen speakers (%)", ylim=(0, 106), xlim=(-0.6, len(tasks) - 0.4))
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    if title:
        axis.set_title(title)
    return figure


def plot_trainings(lines, title=None):
    """Accuracy by condition, a panel a task, marks by the channels that training heard; returns the figure.

    Hollow marks are of channels that training heard. lines: of voice_table.voice_grids.
    """
    tasks, trained = (list(dict.fromkeys(lines[name])) for name in ("task", "augment"))
    figure, axes = new_figure(4.2 * len(tasks) + 1.5, 4, columns=len(tasks), squeeze=False)
    for axis, task in zip(axes[0], tasks):
        part = lines[lines["task"] == task]
        heard = list(dict.fromkeys(part["heard"]))
        for row in part.to_dict("records"):
            place = trained.index(row["augment"])
            across = heard.index(row["heard"]) + 0.22 * (place - (len(trained) - 1) / 2)
            value, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
            seen = row["heard"] in seen_conditions(row["augment"])
            axis.errorbar(across, value, yerr=[[max(0, value - low)], [max(0, high - value)]], fmt=MARKERS[place],
                          color=PALETTE[place], markersize=7, capsize=3, markerfacecolor="white" if seen else None,
                          label=f"trained through {TRAINED[row['augment']]}" if row["heard"] == heard[0] else None)
            axis.annotate(f"{value:.0f}", (across, high), xytext=(0, 3), textcoords="offset points", ha="center",
                          fontsize=9, color=PALETTE[place])
        axis.set_xticks(range(len(heard)), heard)
        axis.set(title=task, xlim=(-0.5, len(heard) - 0.5), ylim=(None, 103))
        axis.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("accuracy on unseen speakers (%)")
    axes[0, -1].plot([], [], "o", color=GREY, markerfacecolor="white", label="hollow: heard in training,\nno evidence")
    handles = [axes[0, place].get_legend_handles_labels() for place in (0, -1)]
    labels = {label: handle for found in handles for handle, label in zip(*found)}
    axes[0, -1].legend(labels.values(), labels.keys(), loc="center left", bbox_to_anchor=(1, 0.5))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def plot_ablation(lines, task, title=None):
    """Accuracy of one task as the recipe grows, a line a condition, with intervals over speakers and seeds.

    What was tried beside the recipe stands apart, joined to nothing. lines: of voice_ablation.ablation_lines, whose
    channels in training are of family II. Returns the figure.
    """
    part = lines[lines["task"] == task]
    trained = dict(zip(part["step"], part["steps_trained"]))
    steps = sorted(trained, key=lambda step: step.startswith("tried"))
    figure, axis = new_figure(1.1 * len(steps) + 4, 4.4)
    for place, (condition, rows) in enumerate(part.groupby("heard", sort=False)):
        for tried, group in rows.groupby(rows["step"].str.startswith("tried")):
            across = [steps.index(step) + 0.08 * (place - 1) for step in group["step"]]
            accuracy, low, high = (100 * group[name].to_numpy() for name in ("accuracy", "low", "high"))
            told = condition + (",\nheard from “+ channels” on" if condition == "changed II" else "")
            axis.errorbar(across, accuracy, yerr=np.abs([accuracy - low, high - accuracy]), marker=_MARKS[condition],
                          color=COLOURS[condition], markersize=7, capsize=3, linestyle="none" if tried else "-",
                          label=None if tried else told)
    first_tried = sum(not step.startswith("tried") for step in steps)
    if first_tried < len(steps):
        axis.axvline(first_tried - 0.5, color=GREY, linestyle=":", linewidth=1.2)
    names = [step.replace(", ", ",\n") + f"\n({trained[step]:,} steps)" * step.startswith("tried") for step in steps]
    axis.set_xticks(range(len(steps)), names, rotation=25, ha="right")
    axis.set(ylabel="accuracy (%)", ylim=(None, 101), title=title or f"{task}: what each step brings")
    axis.set_xlim(-0.4, len(steps) - 0.6)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _task(row):
    """A task's name; where there were too few speakers for it, with the ways that it had."""
    wanted = row["task"].split("-way")[0]
    return row["task"] if str(row["num_way"]) == wanted else f"{row['task']} (of {row['num_way']} speakers only)"


def _without_mean(stored, front):
    """What the network sees of stored features (mels, frames)."""
    return normalise(front, torch.from_numpy(stored)).numpy()
