"""What chapter 00 shows: the state of the installation, clips to listen to, one task, and two accuracies."""

import html

import numpy as np
from matplotlib.patches import Rectangle

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.front_ends import mel_centres
from speakerlib.views.spectrograms import DECIBELS
from speakerlib.views.style import GREY, PALETTE, new_figure, speaker_looks

_MARKS = {"ok": "✓", "warn": "!", "FAIL": "✗"}
_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 7000)


def checks_table(results):
    """{name: (status, what was seen, advice)} of the doctor's checks as a pandas Styler, one line a check."""
    import pandas as pd

    lines = [(_MARKS[status], name, text + (f" → {advice}" if advice else ""))
             for name, (status, text, advice) in results.items()]
    table = pd.DataFrame(lines, columns=["", "check", "what was seen"])
    left = [{"selector": "th, td", "props": "text-align: left; padding: 0.2em 0.8em;"}]
    return table.style.hide(axis="index").set_table_styles(left)


def players(corpus, segments, captions):
    """A row of audio players, one a segment. captions: {segment id: text above its player}."""
    rows = [(caption, segments.loc[segment]) for segment, caption in captions.items()]
    return row_of_players((caption, corpus.waveforms.read(int(row["utterance"]), int(row["start"]), int(row["length"])))
                          for caption, row in rows)


def row_of_players(waveforms):
    """A row of audio players: pairs (text above, samples at 16 kHz)."""
    from IPython.display import HTML, Audio

    cells = []
    for caption, samples in waveforms:
        player = Audio(samples, rate=SAMPLE_RATE)._repr_html_().replace("<audio", '<audio style="width: 15em"')
        cells.append(f'<div style="margin: 0 1em 0.5em 0"><b>{html.escape(str(caption))}</b><br>{player}</div>')
    return HTML(f'<div style="display: flex; flex-wrap: wrap">{"".join(cells)}</div>')


def plot_spectra(prototypes, query, speakers, distances, truth, front_end):
    """Average spectra of the speakers (way, dim) and of one query (dim,), in natural log power over the mels.

    What comes after the mels (the spread over time) is not drawn. distances: (way,), of the query to each speaker, and
    truth, the place of the speaker who is right, are for the legend. Returns the figure.
    """
    prototypes, query = prototypes[:, : front_end.num_mels], query[: front_end.num_mels]
    figure, axis = new_figure(10, 4)
    centres, nearest = mel_centres(front_end), int(np.argmin(distances))
    reference = 2 * np.log(front_end.win_length / 4)  # a full-scale sine
    looks = speaker_looks(speakers)
    for place, (speaker, spectrum) in enumerate(zip(speakers, prototypes)):
        colour, marker = looks[speaker]
        notes = [note for note, at in (("nearest", nearest), ("the right one", truth)) if at == place]
        label = f"{speaker}: {distances[place]:.1f}" + (f" ({' and '.join(notes)})" if notes else "")
        width = 3 if place == nearest else 1.8
        axis.plot(centres, DECIBELS * (spectrum - reference), color=colour, label=label, linewidth=width,
                  marker=marker, markevery=(2 * place, 12), markersize=6)
    axis.plot(centres, DECIBELS * (query - reference), color="black", linestyle="--", label="Who is this?")
    axis.set_xscale("symlog", linthresh=1000)  # about how the ear, and the mel scale, space frequencies
    axis.set_xticks(_TICKS_HZ, [f"{hertz:,}" for hertz in _TICKS_HZ])
    axis.minorticks_off()
    axis.set(xlim=(centres[0], centres[-1]), xlabel="frequency (Hz)", ylabel="mean level (dB)",
             title="Average spectrum of the clips that enrol each speaker, and of one to attribute")
    axis.legend(title="speaker: distance to the clip", loc="center left", bbox_to_anchor=(1, 0.5), alignment="left")
    return figure


def plot_who_is_who(guesses, speakers):
    """Guesses (way, query), the place of the speaker that each query was given to, as a table in colours.

    Rows are the true speakers, columns the guessed ones; the framed diagonal is right. Returns the figure.
    """
    way, num_query = guesses.shape
    counts = np.stack([np.bincount(row, minlength=way) for row in guesses])
    figure, axis = new_figure(1.0 * way + 2.2, 0.62 * way + 1.3)
    axis.imshow(counts, cmap="Blues", vmin=0, vmax=num_query, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        strong = counts[row, column] >= 0.6 * num_query
        axis.text(column, row, counts[row, column] or "·", ha="center", va="center", fontsize=12,
                  color="white" if strong else "black", fontweight="bold" if strong and row == column else "normal")
        if row == column:
            axis.add_patch(Rectangle((row - 0.49, row - 0.49), 0.98, 0.98, fill=False, linewidth=1.5,
                                     clip_on=False))
    axis.set_xticks(range(way), speakers)
    axis.set_yticks(range(way), speakers)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    right = int(np.trace(counts))
    axis.set(xlabel="guessed speaker", ylabel="true speaker")
    axis.set_title(f"{right} of {counts.sum()} clips go to the right speaker")
    return figure


def plot_conditions(results, num_way, speech):
    """Bars of accuracy_by_condition's results, with the interval over speakers and the chance line.

    speech: what was tested, for the title. Returns the figure.
    """
    figure, axis = new_figure(9, 1.1 + 0.75 * len(results))
    for place, (condition, row) in enumerate(results.items()):
        value, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
        axis.barh(place, value, height=0.62, color=PALETTE[place])
        axis.plot([low, high], [place, place], color="black", linewidth=1.6, marker="|", markersize=9)
        axis.text(max(high, value) + 1.5, place, f"{value:.1f} ± {100 * row['interval']:.1f} %", va="center",
                  fontweight="bold")
    axis.axvline(100 / num_way, color=GREY, linestyle="--", linewidth=1.2)
    axis.text(100 / num_way, -0.62, f" chance, {100 / num_way:.0f} %", color=GREY, va="center")
    axis.set_yticks(range(len(results)), list(results))
    axis.set(xlim=(0, 100), ylim=(len(results) - 0.5, -0.85), xlabel="clips attributed to the right speaker (%)",
             title=f"{speech}: {num_way} speakers, average spectra, no training")
    axis.grid(axis="y", visible=False)
    return figure
