"""Curves of a training: live in the notebook while it runs, whole when it has ended."""

import time

import numpy as np

from speakerlib.views.style import GREY, MARKERS, PALETTE, figure_png, new_figure

_LOSSES = {"training_loss": ("training", PALETTE[0]), "validation_loss": ("{split}", PALETTE[3])}
_ERRORS = {"training_error": ("training", PALETTE[0]), "validation_error": ("{split}", PALETTE[3])}
_ACCURACIES = {
    "training_accuracy": ("training, query", PALETTE[0]),
    "support_accuracy": ("training, support", PALETTE[5]),
    "validation_accuracy": ("{split}", PALETTE[3]),
}


class LiveCurve:
    """Redraws the curves in place as training reports its history: pass it as `on_progress`.

    Drawing takes at most about a twentieth of the time: a report that comes too soon is kept for the next one.
    Call `finish()` after training, so that the last report is drawn. Outside a notebook it draws nothing.
    plot: draws a history, as plot_history does; title, reference, split: passed on to it.
    """

    def __init__(self, title=None, reference=None, split="validation", plot=None):
        self.title, self.reference, self.split = title, reference, split
        self.plot = plot or plot_history
        self.history = None
        self.png = None  # the last picture
        self._handle, self._next_draw = None, 0.0

    def __call__(self, history):
        self.history = history
        if _in_notebook() and time.monotonic() >= self._next_draw:
            self._draw()

    def finish(self):
        """Draws what was reported last; safe to call when nothing was."""
        if _in_notebook() and self.history is not None:
            self._draw()

    def _draw(self):
        from IPython.display import Image, display

        started = time.monotonic()
        self.png = figure_png(self.plot(self.history, self.title, self.reference, self.split))
        if self._handle is None:
            self._handle = display(Image(self.png), display_id=True)
        else:
            self._handle.update(Image(self.png))
        now = time.monotonic()
        self._next_draw = now + 20 * (now - started)


def plot_history(history, title=None, reference=None, split="validation"):
    """Loss (left) and accuracy (right) over the steps of one training; the best step of `split` is marked.

    history: columns step, and any of training_loss, validation_loss, training_accuracy, support_accuracy,
    validation_accuracy (accuracies in 0..1; rows that lack a value hold NaN).
    reference: {label: accuracy in 0..1}, drawn as dashed lines, such as {"chance": 0.2}.
    split: whose speakers the validation columns come from: `test` under protocol `as_published`.
    """
    figure, (loss, accuracy) = new_figure(10, 3.6, columns=2)
    _draw_lines(loss, history, _LOSSES, 1, split)
    _draw_lines(accuracy, history, _ACCURACIES, 100, split)
    loss.set(title="Loss", xlabel="training step", ylabel="loss")
    accuracy.set(title="Accuracy", xlabel="training step", ylabel="accuracy (%)")
    _draw_references(accuracy, reference)
    _mark_best(accuracy, history, split)
    for axis in (loss, accuracy):
        axis.set_xlim(left=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def plot_errors_over_training(history, title=None, reference=None, split="validation"):
    """An autoencoder's error on what was removed over the steps of its training; the best step is marked.

    history: columns step, training_error, validation_error (mean squared, over the removed values), and the losses,
    which get a picture of their own where the protocol or a second objective makes them another number. The marked
    step is the one whose loss chose the weights.
    reference: {label: error of what needs no training}; those far above the curve are only named.
    """
    apart = "validation_loss" in history and not np.allclose(
        *(history[name].dropna() for name in ("validation_loss", "validation_error")))
    figure, axes = new_figure(10, 3.6, columns=2 if apart else 1, squeeze=False)
    _draw_lines(axes[0, 0], history, _ERRORS, 1, split)
    steps, values = _known(history, "validation_error")
    if len(steps):
        best = int(np.argmin(_known(history, "validation_loss")[1] if apart else values))  # the loss chooses
        axes[0, 0].plot(steps[best], values[best], "*", color=PALETTE[6], markersize=12,
                        label=f"best {split}: {_short(values[best])} at step {steps[best]:.0f}")
    for (label, value), line in zip((reference or {}).items(), ("--", ":", "-.")):
        axes[0, 0].axhline(value, color=GREY, linestyle=line, linewidth=1.2, label=f"{label}: {_short(value)}")
    curves = [values for _, values in (_known(history, name) for name in _ERRORS) if len(values)]
    if curves:  # the first steps are far above
        heights = [*np.concatenate(curves), *(reference or {}).values()]
        wanted = 1.3 * max(min(heights), *(values[-1] for values in curves))
        bottom, top = min(heights), min(max(heights), wanted)
        axes[0, 0].set_ylim(bottom - 0.1 * (top - bottom), top + 0.05 * (top - bottom))
    axes[0, 0].set(title="Error on what was removed", xlabel="training step", ylabel="mean squared error")
    if apart:
        _draw_lines(axes[0, 1], history, _LOSSES, 1, split)
        agrees = "training_agreement" in history  # in validation there are more utterances to tell apart
        axes[0, 1].set(title="Loss, with agreement" if agrees else "Loss, divided by all values",
                       xlabel="training step", ylabel="loss" if agrees else "loss as published")
    for axis in axes[0]:
        axis.set_xlim(left=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=True, edgecolor="none", framealpha=0.9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def plot_shots_over_training(histories, num_way=5, title=None, split="validation", axis=None, published=None):
    """N-way K-shot accuracy over training for several K in one picture, with the chance line; returns the figure.

    histories: {num_support: history} with the column validation_accuracy in 0..1; split: see plot_history; published:
    {num_support: accuracy}, dotted lines of the same colours.
    """
    figure, axis = (axis.figure, axis) if axis is not None else new_figure(7.5, 4.2)
    last_step, ends = 0, []
    for colour, (num_support, history) in zip(PALETTE, sorted(histories.items())):
        steps, values = _known(history, "validation_accuracy")
        if len(steps) == 0:
            raise ValueError(
                f"the history of num_support={num_support} has no validation_accuracy: nothing to draw. "
                "Train on, at least to the first test_interval."
            )
        axis.plot(steps, 100 * values, color=colour, marker="o", markersize=3.5)
        if num_support in (published or {}):
            axis.axhline(100 * published[num_support], color=colour, linestyle=":", linewidth=1.2)
        ends.append((100 * values[-1], f"{num_support}-shot: {100 * values[-1]:.1f} %", colour))
        last_step = max(last_step, steps[-1])
    axis.axhline(100 / num_way, color=GREY, linestyle="--", linewidth=1.2)
    axis.text(0, 100 / num_way, f" chance: {100 / num_way:.0f} %", color=GREY, va="bottom")
    axis.set(xlim=(0, 1.03 * last_step), ylim=(min(100 / num_way - 5, axis.get_ylim()[0]), 102), xlabel="training step",
             ylabel=f"{num_way}-way accuracy on {split} speakers (%)",
             title=title or f"{num_way}-way K-shot accuracy over training")
    _label_ends(axis, ends)
    if set(published or {}) & set(histories):
        axis.plot([], [], color=GREY, linestyle=":", linewidth=1.2, label="published at the end, on VoxCeleb1")
        axis.legend(loc="best")
    return figure


def plot_starts(histories, title=None, split="validation"):
    """Accuracy over training from several starts in one picture; returns the figure.

    histories: {label: history} with the column validation_accuracy in 0..1; split: see plot_history.
    """
    figure, axis = new_figure(7.5, 4.2)
    for colour, marker, (label, history) in zip(PALETTE, MARKERS, histories.items()):
        steps, values = _known(history, "validation_accuracy")
        axis.plot(steps, 100 * values, color=colour, marker=marker, markersize=4, label=label)
    axis.set(xlabel="training step", ylabel=f"accuracy on {split} speakers (%)",
             title=title or "From scratch and from an autoencoder")
    axis.set_xlim(left=0)
    axis.legend(loc="lower right")
    return figure


def _draw_lines(axis, history, columns, scale, split):
    for column, (label, colour) in columns.items():
        steps, values = _known(history, column)
        if len(steps):
            markers = {"marker": "o", "markersize": 3.5} if len(steps) < 60 else {}
            axis.plot(steps, scale * values, color=colour, label=label.format(split=split), **markers)


def _draw_references(axis, reference):
    for (label, value), line in zip((reference or {}).items(), ("--", ":", "-.")):
        axis.axhline(100 * value, color=GREY, linestyle=line, linewidth=1.2, label=f"{label} ({100 * value:.1f} %)")


def _mark_best(axis, history, split):
    steps, values = _known(history, "validation_accuracy")
    if len(steps):
        best = int(np.argmax(values))
        axis.plot(steps[best], 100 * values[best], "*", color=PALETTE[6], markersize=12,
                  label=f"best {split}: {100 * values[best]:.1f} % at step {steps[best]:.0f}")


def _short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _known(history, column):
    """Steps and values of the rows that have one."""
    if column not in history:
        return np.empty(0), np.empty(0)
    values = history[column].to_numpy(dtype=float)
    known = np.isfinite(values)
    return history["step"].to_numpy(dtype=float)[known], values[known]


def _label_ends(axis, ends, least=5.5):
    """Writes (height, text, colour) right of the axis, moved apart (by `least` points of accuracy) where they meet."""
    ends = sorted(ends)
    places = []
    for height, _, _ in ends:
        places.append(max(height, places[-1] + least) if places else height)
    above = max(0.0, places[-1] - 100)  # the topmost stays beside the axis, and pushes down those it would cover
    for i in reversed(range(len(places))):
        ceiling = places[i + 1] - least if i + 1 < len(places) else places[i] - above
        places[i] = min(places[i], ceiling)
    for place, (_, text, colour) in zip(places, ends):
        axis.annotate(text, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                      color=colour, va="center", fontweight="bold", annotation_clip=False)


def _in_notebook():
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None
