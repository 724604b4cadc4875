"""Pictures of masks and of what an autoencoder fills in: one colour scale for all, and holes in a colour outside it."""

from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from speakerlib.views.spectrograms import DECIBELS, in_display_unit, plot_spectrogram
from speakerlib.views.style import GREY, PALETTE, new_figure

REMOVED = "#8FCFC2"  # a green that the colours of the spectrogram do not have
VISIBLE = "#D9D9D9"  # of an error map, where nothing was removed
ERRORS = "PuOr_r"  # violet: too quiet, orange: too loud, white: right
ERROR_LIMIT_DB = 25
LEVEL_LIMITS_DB = (-25, 30)  # of mean-normalised speech: nearly all of it, and the same for every clip
METHODS = {  # name: (as written, colour, marker)
    "autoencoder": ("the autoencoder", PALETTE[3], "o"),
    "0": ("0", GREY, "X"),  # see _label
    "visible mean": ("the mean of what is left of the mel", PALETTE[0], "s"),
    "interpolation": ("lines between what is left", PALETTE[2], "^"),
}


class FillingPicture:
    """Original, masked, reconstruction, and the reconstruction in the holes; below, the errors.

    figure: the whole; update(filling) returns it as PNG bytes for another Filling of the same size, with only what
    changed drawn anew: a tenth of the time.
    """

    def __init__(self, filling, front_end, title=None, width=13, height=5.4):
        self._front_end, self._canvas = front_end, None
        self.figure, _ = new_figure(width, height)
        self.figure.clear()
        above, below = self.figure.subfigures(2, 1, height_ratios=(1, 0.9))  # each row laid out on its own
        axes = above.subplots(1, 4, sharey=True)
        self._images = [plot_holed(frames, front_end, axis, name)
                        for axis, (name, frames) in zip(axes, _four(filling).items(), strict=True)]
        for axis in axes:
            axis.label_outer()
        above.colorbar(self._images[0], ax=axes, label=_level(front_end), pad=0.01)
        axis, self._bars = below.subplots(1, 2)
        self._images.append(plot_error_map(filling, front_end, axis))
        below.colorbar(self._images[-1], ax=axis, label=f"error ({_unit(front_end)})", pad=0.01)
        plot_errors(filling.errors, front_end, self._bars)
        if title:
            self.figure.suptitle(title, x=0.01, ha="left", fontweight="bold")

    def update(self, filling):
        """PNG bytes of the picture of another Filling."""
        if self._canvas is None:
            self._draw_background()
        self._canvas.restore_region(self._background)
        renderer = self._canvas.get_renderer()
        for image, frames in zip(self._images, (*_four(filling).values(), filling.error), strict=True):
            image.set_data(in_display_unit(frames, self._front_end)[0])
            for artist in (image.axes.patch, image, *image.axes.spines.values()):
                artist.draw(renderer)
        self._bars.clear()
        plot_errors(filling.errors, self._front_end, self._bars)
        self._bars.draw(renderer)
        return _png(np.asarray(self._canvas.buffer_rgba()))

    def _draw_background(self):
        """Lays the figure out, once, and keeps all of it that stays."""
        self._canvas = FigureCanvasAgg(self.figure)
        self._canvas.draw()
        self.figure.set_layout_engine("none")
        self._bars.set_visible(False)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        self._bars.set_visible(True)


def plot_holed(frames, front_end, axis, title):
    """Frames (mels, frames) whose NaN are drawn in the colour of what was removed; returns the image."""
    axis.set_facecolor(REMOVED)
    return plot_spectrogram(frames, front_end, axis, title, colour_limits(front_end))


def plot_error_map(filling, front_end, axis):
    """Reconstruction minus original where it was removed, white where it is right; returns the image."""
    limit = ERROR_LIMIT_DB if front_end.scaling == "log" else 128
    title = "error in the holes: violet too quiet, orange too loud"
    image = plot_spectrogram(filling.error, front_end, axis, title, (-limit, limit))
    image.set_cmap(ERRORS)
    axis.set_facecolor(VISIBLE)
    return image


def plot_errors(errors, front_end, axis):
    """Bars of the error of each method, {name: root mean square} as a Filling has it."""
    names = [name for name in METHODS if name in errors][::-1]
    values = [in_unit(errors[name], front_end) for name in names]
    places = np.arange(len(names))
    axis.barh(places - 0.2, values, color=[METHODS[name][1] for name in names], height=0.4)
    for place, name, value in zip(places, names, values, strict=True):
        axis.text(0, place + 0.05, f" {_label(name, front_end)}", va="bottom")
        axis.text(value, place - 0.2, f" {value:.1f}", va="center")
    axis.set(title="how far off, in the holes", xlabel=f"root mean square error ({_unit(front_end)})", yticks=[],
             xlim=(0, 1.12 * max(values) or 1), ylim=(-0.5, len(names) - 0.4))


def plot_masks(original, masks, front_end, title=None, width=13, height=2.9):
    """One clip (mels, frames) under several masks, {title: bool (mels, frames), True is removed}; the figure."""
    shown = [("original", original), *((name, np.where(removed, np.nan, original)) for name, removed in masks.items())]
    return _grid([shown], front_end, title, width, height)


def plot_fillings(fillings, front_end, title=None, width=13, height=4.8):
    """Several Fillings of one clip, {title: Filling}: what was left above, filled in below with the error written."""
    above = [(name, filling.masked) for name, filling in fillings.items()]
    below = [(f"off by {in_unit(filling.errors['autoencoder'], front_end):.1f} {_unit(front_end)}", filling.pasted)
             for filling in fillings.values()]
    return _grid([above, below], front_end, title, width, height)


def plot_error_by_ratio(table, front_end, width=13, height=3.8):
    """Error over the mask ratio, one picture a kind of mask; table: as error_by_ratio returns it; the figure."""
    kinds = list(dict.fromkeys(table["mask"]))
    figure, axes = new_figure(width, height, columns=len(kinds), sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, (_, colour, marker) in METHODS.items():
            rows = table[(table["mask"] == kind) & (table["method"] == name)]
            values = in_unit(rows["rms_error"], front_end)
            axis.plot(rows["mask_ratio"], values, color=colour, marker=marker, label=_label(name, front_end))
        axis.set(title=kind, xlabel="mask ratio", xticks=sorted(table["mask_ratio"].unique()))
    axes[0, 0].set(ylabel=f"error in the holes ({_unit(front_end)})")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def plot_filmstrip(film, front_end, title=None, most=5, clips=2, width=13):
    """Holes filled at some steps of a training, between what was left and the original: one row a clip; the figure.

    film: a Filmstrip; most: steps that are shown, the first and the last among them.
    """
    places = np.unique(np.linspace(0, len(film.steps) - 1, min(most, len(film.steps))).round().astype(int))
    rows = []
    for clip in range(min(clips, len(film.originals))):
        original, removed, filled = film.originals[clip], film.masks[clip], film.reconstructions[:, clip]
        steps = [(f"step {film.steps[i]:,}", np.where(removed, filled[i], original)) for i in places]
        row = [("what is left", np.where(removed, np.nan, original)), *steps, ("original", original)]
        rows.append(row if clip == 0 else [(None, frames) for _, frames in row])
    return _grid(rows, front_end, title, width, 0.6 + 2.1 * len(rows))


def colour_limits(front_end):
    """(darkest, brightest) in the unit of the pictures, the same for every clip."""
    return LEVEL_LIMITS_DB if front_end.scaling == "log" else (0, 255)


def in_unit(error, front_end):
    """An error in the values that the network sees, in the unit of the pictures: dB of log features, levels."""
    return error * DECIBELS if front_end.scaling == "log" else error


def _four(filling):
    return {"original": filling.original, "what is left": filling.masked, "reconstruction": filling.reconstruction,
            "holes filled in": filling.pasted}


def _grid(rows, front_end, title, width, height):
    """Rows of (title, frames (mels, frames)) on one colour scale; the figure."""
    figure, axes = new_figure(width, height, len(rows), len(rows[0]), sharex=True, sharey=True, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for axis, (name, frames) in zip(line, row, strict=True):
            image = plot_holed(frames, front_end, axis, name)
            axis.label_outer()
    figure.colorbar(image, ax=axes, label=_level(front_end), pad=0.01)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _label(name, front_end):
    if name == "0":
        return "0: the mel's mean, holes included" if front_end.mean_normalise else "0: the quietest"
    return METHODS[name][0]


def _level(front_end):
    return "dB above the mel's mean" if front_end.mean_normalise else f"level ({_unit(front_end)})"


def _unit(front_end):
    return "dB" if front_end.scaling == "log" else "of 255"


def _png(pixels):
    """PNG bytes of (height, width, 4) pixels, packed lightly: it is for the screen."""
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(pixels[..., :3]).save(stream, "png", compress_level=1)
    return stream.getvalue()
