"""One look for every picture: a palette that colour-blind readers can tell apart, and readable defaults."""

from io import BytesIO

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

from speakerlib.data.files import atomic_path

# Okabe and Ito (2008), without their yellow, which vanishes on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
GREY = "#6B6B6B"
MAP = "magma"  # of equal perceived steps, and still ordered when printed in grey

_STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "image.cmap": MAP,
}


def use_style():
    """Sets matplotlib's defaults for this process; call it once, at the top of a notebook."""
    matplotlib.rcParams.update(_STYLE)


def new_figure(width=7.0, height=4.0, rows=1, columns=1, **options):
    """A figure of width x height inches and its axes, as plt.subplots returns them.

    A notebook shows the figure when it is a cell's last value, and only then.
    """
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)  # pyplot forgets it: nothing is shown twice, nothing is kept in memory
    return figure, axes


def speaker_colours(speakers):
    """{speaker: colour}, the same whatever the order or repetition of the names; colours return after seven."""
    return {speaker: PALETTE[i % len(PALETTE)] for i, speaker in enumerate(sorted(set(speakers)))}


def speaker_markers(speakers):
    """{speaker: marker}; with speaker_colours, 49 speakers have a look of their own."""
    return {speaker: MARKERS[i // len(PALETTE) % len(MARKERS)] for i, speaker in enumerate(sorted(set(speakers)))}


def figure_png(figure):
    """The figure as PNG bytes, at its own dots an inch: drawn once, where savefig lays it out twice."""
    stream = BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def save_figure(figure, path):
    """Writes the figure as a PNG of 150 dots an inch, whole or not at all; returns the path.

    The bytes depend on the picture alone, so that an unchanged figure is no change in git.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    return path
