"""Tables of accuracies as pictures."""

import matplotlib
import numpy as np

from speakerlib.views.style import GREY, new_figure

_SHADES = "Blues"


def accuracy_heatmap(table, half_width=None, title=None, vmin=0.0, vmax=1.0, axis=None, absent=None):
    """Accuracies of the N-way K-shot cells as a heat map: rows are shots (index), columns ways.

    table: DataFrame of accuracies in 0..1, index num_support, columns num_way. half_width: like table, half of the
    95 % interval. absent: like table, what is read where it has NaN (default: "no result"). vmin, vmax: the accuracies
    at the ends of the shading: give two maps that are compared the same ones. Returns the figure.
    """
    if axis is None:
        figure, axis = new_figure(1.5 * len(table.columns) + 1.8, 0.85 * len(table) + 1.3)
    values = table.to_numpy(dtype=float)
    shading = matplotlib.colors.Normalize(vmin, vmax)
    axis.imshow(values, cmap=_SHADES, norm=shading, aspect="auto")
    for row, column in np.ndindex(values.shape):
        width = None if half_width is None else float(half_width.to_numpy()[row, column])
        known = np.isfinite(values[row, column])
        text = _cell(values[row, column], width) if known or absent is None else absent.to_numpy()[row, column]
        axis.text(column, row, text, ha="center", va="center", fontsize=12 if known else 11,
                  color=GREY if not known else "white" if shading(values[row, column]) > 0.6 else "black")
    axis.set_xticks(range(len(table.columns)), [f"{way}-way" for way in table.columns])
    axis.set_yticks(range(len(table.index)), [f"{shot}-shot" for shot in table.index])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.set_title(title or "Accuracy, %")
    return axis.figure


def _cell(value, half_width):
    if not np.isfinite(value):
        return "no result"
    if half_width is None or not np.isfinite(half_width):
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f}\n± {100 * half_width:.1f}"
