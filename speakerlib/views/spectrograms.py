"""Pictures of clips: waveforms and spectrograms with axes in seconds and hertz."""

import numpy as np

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.front_ends import mel_centres
from speakerlib.views.style import MAP, PALETTE, new_figure

DECIBELS = 10 / np.log(10)  # of one unit of natural log power
_TICKS_HZ = (250, 500, 1000, 2000, 4000, 7000)


def plot_waveform(waveform, axis, title=None):
    """Samples (samples,) at 16 kHz over time in seconds."""
    axis.plot(np.arange(len(waveform)) / SAMPLE_RATE, waveform, color=PALETTE[0], linewidth=0.6)
    axis.set(xlabel="time (s)", ylabel="amplitude (of full scale)", xlim=(0, len(waveform) / SAMPLE_RATE))
    if title:
        axis.set_title(title)


def plot_spectrogram(features, front_end, axis, title=None, limits=None):
    """Features (mels, frames) as `front_ends.compute` returns them; returns the drawn image.

    Low frequencies are at the bottom, whatever the front end's order. Log features are shown in dB, bytes as they
    are. limits: (darkest, brightest) in that unit, to give several pictures one scale.
    """
    picture, _ = in_display_unit(features, front_end)
    seconds = picture.shape[1] * front_end.hop_length / SAMPLE_RATE
    low, high = limits or (picture.min(), picture.max())
    extent = (0, seconds, -0.5, len(picture) - 0.5)
    scale = {"cmap": MAP, "vmin": low, "vmax": high, "interpolation": "nearest"}  # smoothing doubles the time
    image = axis.imshow(picture, origin="lower", aspect="auto", extent=extent, **scale)
    centres = mel_centres(front_end)
    ticks = [hertz for hertz in _TICKS_HZ if centres[0] <= hertz <= centres[-1]]
    labels = [f"{hertz:,}" for hertz in ticks]
    axis.set_yticks(np.interp(ticks, centres, np.arange(len(centres))), labels)
    axis.set(xlabel="time (s)", ylabel="frequency (Hz)")
    axis.grid(False)
    if title:
        axis.set_title(title)
    return image


def compare_spectrograms(features, front_end, titles, range_db=None, width=11, height=3.6):
    """Several clips (a list of (mels, frames)) side by side with one colour scale; returns the figure.

    range_db: for log features, how far below the loudest value the colours reach.
    """
    pictures = [in_display_unit(part, front_end)[0] for part in features]
    unit = in_display_unit(features[0], front_end)[1]
    high = max(picture.max() for picture in pictures)
    low = min(picture.min() for picture in pictures)
    if range_db is not None and front_end.scaling == "log":
        low = high - range_db
    figure, axes = new_figure(width, height, columns=len(features), sharey=True, squeeze=False)
    for axis, part, title in zip(axes[0], features, titles, strict=True):
        image = plot_spectrogram(part, front_end, axis, title, (low, high))
        axis.label_outer()
    figure.colorbar(image, ax=axes[0], label=unit, pad=0.01)
    return figure


def in_display_unit(features, front_end):
    """(mels, frames) with row 0 the lowest mel, and the unit: log features in dB, bytes as levels."""
    picture = np.asarray(features, dtype=np.float32)
    picture = picture[::-1] if front_end.flip else picture
    if front_end.scaling == "log":
        return DECIBELS * picture, "level (dB)"
    return picture, "level (0 to 255)"
