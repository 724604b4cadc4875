"""One look for every picture: a palette that colour-blind readers can tell apart, and readable defaults."""

from io import BytesIO

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

from speakerlib.data.files import atomic_path

# Okabe and Ito (2008), without their yellow, which vanishes on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
SPEAKER_COLOURS = PALETTE[:6]  # black is for what is asked about
GREY = "#6B6B6B"
PAPER_WIDTH = 7.0  # inches: the text of a page, or two columns of one
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


_places = {}  # speaker: place in the corpus that use_style was told of


def use_style(corpus=None):
    """Sets matplotlib's defaults for this process; call it once, at the top of a notebook.

    corpus: whose speakers have the same colour in every picture, of whomever else it shows, and in every notebook.
    """
    matplotlib.rcParams.update(_STYLE)
    _places.clear()
    if corpus is not None:
        _places.update((name, place) for place, name in enumerate(sorted(corpus.table["speaker"].unique())))


def new_figure(width=7.0, height=4.0, rows=1, columns=1, **options):
    """A figure of width x height inches and its axes, as plt.subplots returns them.

    A notebook shows the figure when it is a cell's last value, and only then.
    """
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)  # pyplot forgets it: nothing is shown twice, nothing is kept in memory
    return figure, axes


def speaker_looks(speakers):
    """{speaker: (colour, marker)}, whatever the order or repetition of the names.

    The colour is a function of the speaker's place in the corpus (see use_style), where people who are not of the
    corpus come after all others; so is the marker, unless another speaker of the picture has the same look: then it is
    the next one that is free. Up to 42 speakers of a picture look different from each other where colours are spread
    evenly.
    """
    names = sorted(set(speakers))
    strangers = [name for name in names if name not in _places]
    places = {name: _places[name] if name in _places else len(_places) + strangers.index(name) for name in names}
    looks = {}
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        row, colour = divmod(place, len(SPEAKER_COLOURS))
        wanted = [(SPEAKER_COLOURS[colour], MARKERS[(row + step) % len(MARKERS)]) for step in range(len(MARKERS))]
        looks[name] = next((look for look in wanted if look not in looks.values()), wanted[0])
    return looks


def figure_png(figure):
    """The figure as PNG bytes, at its own dots an inch: drawn once, where savefig lays it out twice."""
    stream = BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def save_figure(figure, path):
    """Writes the figure as a PNG and, beside it, as a PDF, each whole or not at all; returns the PNG's path.

    Both are of paper size: at most PAPER_WIDTH inches wide, a wider figure with all that is in it in proportion. The
    PNG has 150 dots for each inch of the figure, the PDF its text as text, its fonts embedded. The bytes depend on the
    picture alone, so that an unchanged figure is no change in git.
    """
    scale = min(1.0, PAPER_WIDTH / figure.get_figwidth())
    with atomic_path(path) as temporary:
        on_paper = {"dpi": (150 / scale, 150 / scale)}
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None}, pil_kwargs=on_paper)
    with atomic_path(path.with_suffix(".pdf")) as temporary:
        _write_pdf(figure, temporary, scale)
    return path


def _write_pdf(figure, path, scale):
    """matplotlib's own way to a PDF, with everything on the page `scale` times as large: savefig knows no scale."""
    from matplotlib.backends.backend_mixed import MixedModeRenderer
    from matplotlib.backends.backend_pdf import Op, PdfFile, RendererPdf

    (width, height), dpi, layout = figure.get_size_inches(), figure.dpi, figure.get_layout_engine()
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # outlines that stay text: publishers refuse type 3
        file = PdfFile(path, metadata={"CreationDate": None})
        try:
            figure.dpi = 72  # a point is a dot
            figure.set_layout_engine("none")  # everything is in its place already, as in the PNG
            file.newPage(scale * width, scale * height)
            file.width, file.height = width, height  # before scaling: what lies beyond is left out
            file.output(scale, 0, 0, scale, 0, 0, Op.concat_matrix)
            page = RendererPdf(file, dpi, height, width)
            renderer = MixedModeRenderer(figure, width, height, dpi, page)
            figure.draw(renderer)
            renderer.finalize()
            file.finalize()
        finally:
            figure.dpi = dpi
            figure.set_layout_engine(layout)
            file.close()
