"""Curves of a training: live in the notebook while it runs, whole when it has ended."""

import time

import numpy as np

from speakerlib.views.style import GREY, PALETTE, figure_png, new_figure

_LOSSES = {"training_loss": ("training", PALETTE[0]), "validation_loss": ("validation", PALETTE[3])}
_ACCURACIES = {
    "training_accuracy": ("training, query", PALETTE[0]),
    "support_accuracy": ("training, support", PALETTE[5]),
    "validation_accuracy": ("validation", PALETTE[3]),
}


class LiveCurve:
    """Redraws loss and accuracy in place as training reports its history: pass it as `on_progress`.

    Drawing takes at most about a twentieth of the time: a report that comes too soon is kept for the next one.
    Call `finish()` after training, so that the last report is drawn. Outside a notebook it draws nothing.
    reference: see plot_history.
    """

    def __init__(self, title=None, reference=None):
        self.title, self.reference = title, reference
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
        self.png = figure_png(plot_history(self.history, self.title, self.reference))
        if self._handle is None:
            self._handle = display(Image(self.png), display_id=True)
        else:
            self._handle.update(Image(self.png))
        now = time.monotonic()
        self._next_draw = now + 20 * (now - started)


def plot_history(history, title=None, reference=None):
    """Loss (left) and accuracy (right) over the steps of one training; the best validation step is marked.

    history: columns step, and any of training_loss, validation_loss, training_accuracy, support_accuracy,
    validation_accuracy (accuracies in 0..1; rows that lack a value hold NaN).
    reference: {label: accuracy in 0..1}, drawn as dashed lines, such as {"chance": 0.2}.
    """
    figure, (loss, accuracy) = new_figure(10, 3.6, columns=2)
    _draw_lines(loss, history, _LOSSES, scale=1)
    _draw_lines(accuracy, history, _ACCURACIES, scale=100)
    loss.set(title="Loss", xlabel="training step", ylabel="loss")
    accuracy.set(title="Accuracy", xlabel="training step", ylabel="accuracy (%)")
    _draw_references(accuracy, reference)
    _mark_best(accuracy, history)
    for axis in (loss, accuracy):
        axis.set_xlim(left=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def plot_shots_over_training(histories, num_way=5, column="validation_accuracy", title=None, axis=None):
    """N-way K-shot accuracy over training for several K in one picture, with the chance line.

    histories: {num_support: history}; column holds accuracies in 0..1. Returns the figure.
    """
    figure, axis = (axis.figure, axis) if axis is not None else new_figure(7.5, 4.2)
    last_step = 0
    for colour, (num_support, history) in zip(PALETTE, sorted(histories.items())):
        steps, values = _known(history, column)
        if len(steps) == 0:
            raise ValueError(f"the history of num_support={num_support} has no value in {column!r}: nothing to draw.")
        axis.plot(steps, 100 * values, color=colour, marker="o", markersize=3.5)
        axis.annotate(f" {num_support}-shot: {100 * values[-1]:.1f} %", (steps[-1], 100 * values[-1]),
                      xytext=(4, 0), textcoords="offset points", color=colour, va="center", fontweight="bold")
        last_step = max(last_step, steps[-1])
    _spread(axis.texts)
    axis.axhline(100 / num_way, color=GREY, linestyle="--", linewidth=1.2)
    axis.text(0, 100 / num_way, " chance", color=GREY, va="bottom")
    axis.set(xlim=(0, 1.22 * last_step), ylim=(100 / num_way - 5, 101), xlabel="training step",
             ylabel=f"{num_way}-way accuracy (%)",
             title=title or f"{num_way}-way K-shot accuracy on {column.split('_')[0]} speakers, over training")
    return figure


def _draw_lines(axis, history, columns, scale):
    for column, (label, colour) in columns.items():
        steps, values = _known(history, column)
        if len(steps):
            markers = {"marker": "o", "markersize": 3.5} if len(steps) < 60 else {}
            axis.plot(steps, scale * values, color=colour, label=label, **markers)


def _draw_references(axis, reference):
    for label, value in (reference or {}).items():
        axis.axhline(100 * value, color=GREY, linestyle="--", linewidth=1.2, label=f"{label} ({100 * value:.1f} %)")


def _mark_best(axis, history):
    steps, values = _known(history, "validation_accuracy")
    if len(steps):
        best = int(np.argmax(values))
        axis.plot(steps[best], 100 * values[best], "*", color=PALETTE[6], markersize=12,
                  label=f"best validation: {100 * values[best]:.1f} % at step {steps[best]:.0f}")


def _known(history, column):
    """Steps and values of the rows that have one."""
    if column not in history:
        return np.empty(0), np.empty(0)
    values = history[column].to_numpy(dtype=float)
    known = np.isfinite(values)
    return history["step"].to_numpy(dtype=float)[known], values[known]


def _spread(texts, least=3.5):
    """Moves labels at the lines' ends apart (in points of accuracy), so that none covers another."""
    last = -np.inf
    for text in sorted(texts, key=lambda text: text.xy[1]):
        place = max(text.xy[1], last + least)
        text.xyann = (4, 0)
        text.xy = (text.xy[0], place)
        last = place


def _in_notebook():
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None
