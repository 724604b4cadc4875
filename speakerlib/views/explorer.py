"""The interactive explorer of chapter 02: two clips side by side, under front ends and channels that sliders change."""

from dataclasses import replace

import numpy as np
import torch

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.babble import BabblePool
from speakerlib.data.channels import apply_channels
from speakerlib.data.front_ends import FRONT_ENDS, compute, front_end
from speakerlib.views.own_keys import own_keys
from speakerlib.views.spectrograms import compare_spectrograms
from speakerlib.views.style import figure_png


def clip(corpus, row, seconds=3.0):
    """The first `seconds` of the utterance in that row of corpus.table: float32 (samples,) in [-1, 1]."""
    return corpus.waveforms.read(row)[: round(seconds * SAMPLE_RATE)].astype(np.float32) / 32768


def changed(waveform, channel_seed):
    """The clip through the channel (family I) of that seed."""
    return apply_channels(torch.from_numpy(waveform)[None], [channel_seed])[0].numpy()


def in_a_room(corpus, row, waveform, channel_seed):
    """The clip through the channel (family II) of that seed; the voices behind it are not the row's speaker's."""
    babble = BabblePool(corpus).mix([row], [channel_seed], len(waveform))
    return apply_channels(torch.from_numpy(waveform)[None], [channel_seed], "II", babble)[0].numpy()


def features_of(waveform, front_end):
    """(mels, frames) of one clip, as the front end stores them."""
    return compute(front_end, torch.from_numpy(waveform)[None])[0].numpy()


def example_clips(corpus, seed=0):
    """Four rows of corpus.table for a first look: two of one speaker (of two sessions where there are), two of others.

    Rows come from the training speakers, so that nobody looks at test speakers while choosing.
    """
    draw = np.random.default_rng(seed)
    table = corpus.table[corpus.table["split"] == "train"]
    names = draw.permutation(table["speaker"].unique())
    first = table[table["speaker"] == names[0]]
    one = first.index[draw.integers(len(first))]
    others = first[first["session"] != first.loc[one, "session"]]
    others = others if len(others) else first.drop(index=one)
    rows = [one, others.index[draw.integers(len(others))]] if len(others) else [one, one]
    return rows + [draw.choice(table.index[table["speaker"] == name]) for name in (names[1], names[-1])]


def name_of(corpus, row):
    """Speaker, session and utterance of a row, in one line."""
    line = corpus.table.loc[row]
    session = "" if corpus.table["session"].nunique() == 1 else f"{line['session']}, "
    return f"{line['speaker']}: {session}{line['utterance']}"


def adjusted(name, num_mels, window_ms, hop_ms):
    """A named front end with another number of mels, window and hop (ms)."""
    base = front_end(name)
    window, hop = round(window_ms * base.sample_rate / 1000), round(hop_ms * base.sample_rate / 1000)
    n_fft = max(512, 1 << (window - 1).bit_length())
    return replace(base, num_mels=num_mels, win_length=window, hop_length=hop, n_fft=n_fft)


def explore(corpus, left, right, name, num_mels, window_ms, hop_ms, range_db,
            condition, channel_family, channel_seed, seconds=3.0):
    """What the explorer shows for one state of its controls: (figure, [left waveform, right waveform]).

    left, right: rows of corpus.table. In condition `changed` the two clips go through the family's channels of seeds
    channel_seed and channel_seed + 1.
    """
    waveforms = [clip(corpus, row, seconds) for row in (left, right)]
    if condition == "changed":
        seeds = (channel_seed, channel_seed + 1)
        if channel_family == "I":
            waveforms = [changed(waveform, seed) for waveform, seed in zip(waveforms, seeds)]
        else:
            rows = zip((left, right), waveforms, seeds)
            waveforms = [in_a_room(corpus, row, waveform, seed) for row, waveform, seed in rows]
    shown = adjusted(name, num_mels, window_ms, hop_ms)
    features = [features_of(waveform, shown) for waveform in waveforms]
    titles = [name_of(corpus, row) for row in (left, right)]
    return compare_spectrograms(features, shown, titles, range_db), waveforms


class SpectrogramExplorer:
    """Controls over `explore`; the picture and the players beneath are ordinary outputs, so they stay readable.

    corpus: a Corpus; left, right: the rows to begin with. display() shows it; `controls` are the widgets by name,
    `png` the picture as bytes.
    """

    def __init__(self, corpus, left, right):
        self.corpus, self._outputs, self._quiet = corpus, {}, False
        self.controls = _controls(corpus, left, right)
        self._initial = {name: control.value for name, control in self.controls.items()}
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name), "value")
        self.redraw()

    def display(self):
        """Shows controls, picture and players in the cell that calls it."""
        from IPython.display import display

        display(_layout(self.controls, self.reset))
        self._outputs = {name: display(shown, display_id=True) for name, shown in self._shown().items()}

    def redraw(self):
        """Draws the present state of the controls."""
        state = {name: self.controls[name].value for name in _ARGUMENTS}
        figure, self.waveforms = explore(self.corpus, **state)
        self.png = figure_png(figure)
        for name, shown in self._shown().items():
            if self._outputs.get(name):
                self._outputs[name].update(shown)

    def reset(self, *_):
        """Sets every control back to where it began."""
        self._quiet = True
        for name in sorted(self._initial, key=lambda name: name in ("left", "right")):  # speakers before utterances
            self.controls[name].value = self._initial[name]
            self._fill_utterances(name)
        self._quiet = False
        self.redraw()

    def _changed(self, name):
        if self._quiet:
            return
        self._quiet = True
        self._fill_utterances(name)
        if name == "name":
            for slider, value in _slider_values(self.controls["name"].value).items():
                self.controls[slider].value = value
        self._quiet = False
        self.redraw()

    def _fill_utterances(self, name):
        """After a change of a speaker, offers that speaker's utterances."""
        if name in ("left_speaker", "right_speaker"):
            self.controls[name.split("_")[0]].options = _utterances(self.corpus, self.controls[name].value)

    def _shown(self):
        from IPython.display import Image

        players = [_player(waveform, side) for waveform, side in zip(self.waveforms, ("left", "right"), strict=True)]
        return {"picture": Image(self.png), "left": players[0], "right": players[1]}


_ARGUMENTS = ("left", "right", "name", "num_mels", "window_ms", "hop_ms", "range_db",
              "condition", "channel_family", "channel_seed")


def _controls(corpus, left, right):
    import ipywidgets as widgets

    speakers = sorted(corpus.table["speaker"].unique())
    wide = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="300px")}
    controls = {}
    for side, row in (("left", left), ("right", right)):
        speaker = corpus.table.loc[row, "speaker"]
        controls[f"{side}_speaker"] = widgets.Dropdown(options=speakers, value=speaker, description=f"{side} speaker",
                                                        **wide)
        controls[side] = widgets.Dropdown(options=_utterances(corpus, speaker), value=row, description=f"{side} clip",
                                          **wide)
    first = _slider_values("compact")
    controls["name"] = widgets.Dropdown(options=list(FRONT_ENDS), value="compact", description="front end", **wide)
    for name, low, high, step, text in (
        ("num_mels", 16, 256, 8, "mels"),
        ("window_ms", 5, 128, 1, "window, ms"),
        ("hop_ms", 5, 30, 1, "hop, ms"),
        ("range_db", 20, 100, 5, "range, dB"),
    ):
        controls[name] = widgets.IntSlider(first.get(name, 60), low, high, step, description=text, **wide)
    controls["condition"] = widgets.Dropdown(options=["recorded", "changed"], description="condition", **wide)
    families = [("I: equaliser, band, noise", "I"), ("II: room, voices, codec", "II")]
    controls["channel_family"] = widgets.Dropdown(options=families, description="family", **wide)
    controls["channel_seed"] = widgets.IntSlider(0, 0, 50, description="channel", **wide)
    return controls


def _slider_values(name):
    """Where a named front end puts the sliders."""
    base = front_end(name)
    milliseconds = 1000 / base.sample_rate
    return {
        "num_mels": base.num_mels,
        "window_ms": round(base.win_length * milliseconds),
        "hop_ms": round(base.hop_length * milliseconds),
    }


def _utterances(corpus, speaker):
    """(label, row) of a speaker's utterances."""
    rows = corpus.table[corpus.table["speaker"] == speaker]
    many = rows["session"].nunique() > 1
    return [
        (f"{line.session + ', ' if many else ''}{line.utterance} ({line.duration:.1f} s)", line.Index)
        for line in rows.itertuples()
    ]


def _layout(controls, reset):
    import ipywidgets as widgets

    button = widgets.Button(description="Reset", tooltip="Back to where it began")
    button.on_click(reset)
    columns = [
        [controls[name] for name in ("left_speaker", "left", "right_speaker", "right")],
        [controls[name] for name in ("name", "num_mels", "window_ms", "hop_ms")],
        [controls[name] for name in ("range_db", "condition", "channel_family", "channel_seed")] + [button],
    ]
    wrapping = widgets.Layout(flex_flow="row wrap", align_items="flex-start")  # narrow windows get one column
    return widgets.HBox([*(widgets.VBox(column) for column in columns), own_keys()], layout=wrapping)


def _player(waveform, label):
    """An audio player with the side's name; as loud as the clip is."""
    from IPython.display import HTML, Audio

    player = Audio(waveform, rate=SAMPLE_RATE, normalize=False)._repr_html_()
    return HTML(f'<div style="display:flex;align-items:center;gap:1em"><b style="width:3em">{label}</b>{player}</div>')
