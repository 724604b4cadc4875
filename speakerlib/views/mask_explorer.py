"""The interactive explorer of chapter 03: any mask over any clip, what the autoencoder fills in, and how it sounds."""

import html

import numpy as np

from speakerlib.data.features import CONDITIONS
from speakerlib.data.front_ends import FRONT_ENDS
from speakerlib.experiments.filling import fill, mask_of, num_segments, read_clip
from speakerlib.models.masks import MASKS, UNITS, num_removed, unit_size
from speakerlib.views.explorer import name_of
from speakerlib.views.masks import FillingPicture
from speakerlib.views.own_keys import own_keys
from speakerlib.views.resynthesis import to_waveform

SPLITS = ("validation", "train")  # the test speakers are left alone
_HINT = "<i>Press <b>Listen</b> to hear this clip, its spectrogram turned back to sound, and the filled holes.</i>"


def example_row(corpus, front_end, segment_seconds, seed=0):
    """A row of corpus.table to begin with: an utterance of a validation speaker, long enough; drawn from the seed.

    A training speaker where no validation speaker has one; ValueError if none has either.
    """
    length = round(segment_seconds * front_end.sample_rate)
    for split in SPLITS:
        rows = corpus.table.index[(corpus.table["split"] == split) & (np.asarray(corpus.waveforms.lengths) >= length)]
        if len(rows):
            return int(np.random.default_rng(seed).choice(rows))
    raise ValueError(f"corpus {corpus.name!r} has no utterance of {segment_seconds} s outside its test speakers. "
                     "Use an autoencoder of shorter segments, or another corpus.")


def explore(corpus, autoencoder, facts, row, segment, condition, mask, mask_ratio, mels, frames, seed):
    """What the explorer shows for one state of its controls: (Clip, Filling, a line on what was removed).

    facts: as read_autoencoder returns them; mels, frames: the size of what is removed at a time (strips: frames
    alone; mixed: each kind's own). ValueError, in words for the person at the sliders, for what does not fit.
    """
    front_end = FRONT_ENDS[facts["front_end"]]
    clip = read_clip(corpus, front_end, facts["segment_seconds"], row, segment, condition)
    unit = None if mask == "mixed" else (mels, frames)
    removed = mask_of(mask, (1, *clip.frames.shape), mask_ratio, seed, unit)[0]
    return clip, fill(autoencoder, clip.frames, removed), _describe(removed[0], mask, mask_ratio, unit, front_end)


def sounds(clip, filling, front_end):
    """What can be heard of a clip, {label: float32 (samples,)}: as it was, and three spectrograms turned back to sound.

    The network never sees the mean of each mel; here it is given back, to all three alike.
    """
    holed = np.where(filling.removed, 0, filling.original)
    shown = {"spectrogram": filling.original, "holes at 0": holed, "holes filled in": filling.pasted}
    return {"the clip": clip.waveform} | {
        label: to_waveform(frames, front_end, clip.means).clamp(-1, 1).numpy() for label, frames in shown.items()}


def players(waveforms, rate=16000):
    """Audio players, one a line, for {label: (samples,)}; as loud as the clips are."""
    from IPython.display import HTML, Audio

    row = '<div style="display:flex;align-items:center;gap:1em"><b style="width:9em">{}</b>{}</div>'
    sounding = {label: Audio(waveform, rate=rate, normalize=False) for label, waveform in waveforms.items()}
    return HTML("".join(row.format(label, audio._repr_html_()) for label, audio in sounding.items()))


class MaskExplorer:
    """Controls over `explore`; the picture and the players beneath are ordinary outputs, so they stay readable.

    corpus, autoencoder and its facts (see read_autoencoder); row: the utterance to begin with. display() shows it;
    `controls` are the widgets by name, `png` the picture as bytes, `filling` what it shows, `message` the line below.
    """

    def __init__(self, corpus, autoencoder, facts, row, mask="boxes", mask_ratio=0.75, seed=0):
        self.corpus, self.autoencoder, self.facts = corpus, autoencoder, facts
        self.front_end = FRONT_ENDS[facts["front_end"]]
        self._outputs, self._picture, self._heard, self._quiet = {}, None, None, True
        self.controls = _controls(corpus, self.front_end, facts, row, mask, mask_ratio, seed)
        self._size_sliders()
        self._initial = {name: control.value for name, control in self.controls.items()}
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name), "value")
        self._quiet = False
        self.redraw()

    def display(self):
        """Shows controls, picture and players in the cell that calls it."""
        from IPython.display import display

        display(_layout(self.controls, self.listen, self.reset))
        for name in ("message", "picture", "players"):
            self._outputs[name] = display(self._output(name), display_id=True)

    def redraw(self):
        """Draws the present state of the controls; a state that does not fit leaves the picture and says why."""
        state = {name: self.controls[name].value for name in _ARGUMENTS}
        try:
            self.clip, self.filling, self.message = explore(self.corpus, self.autoencoder, self.facts, **state)
        except ValueError as error:
            self.message = f"The picture is as it was: {error}"
            return self._show("message")
        if self._picture is None:
            self._picture = FillingPicture(self.filling, self.front_end)
        self.png, heard, self._heard = self._picture.update(self.filling), self._heard, None
        self._show("message", "picture", *(["players"] if heard else []))

    def listen(self, *_):
        """Turns what is shown back to sound, and puts players beneath it."""
        self._heard = sounds(self.clip, self.filling, self.front_end)
        self._show("players")

    def reset(self, *_):
        """Sets every control back to where it began."""
        self._quiet = True
        for name in ("speaker", "row", *self._initial):  # in this order: each offers what the next chooses from
            self.controls[name].value = self._initial[name]
            self._follow(name)
        self._quiet = False
        self.redraw()

    def _changed(self, name):
        if self._quiet:
            return
        self._quiet = True
        self._follow(name)
        self._quiet = False
        self.redraw()

    def _follow(self, name):
        """After a change of one control, sets those that depend on it."""
        if name == "speaker":
            self.controls["row"].options = utterances(self.corpus, self.front_end, self.facts["segment_seconds"],
                                                      self.controls["speaker"].value)
        if name in ("speaker", "row"):
            row = self.controls["row"].value
            last = num_segments(self.corpus, self.front_end, self.facts["segment_seconds"], row) - 1
            self.controls["segment"].max = last
        if name == "mask":
            self._size_sliders()

    def _size_sliders(self):
        """Puts the size sliders to what this kind of mask removes at a time, and locks those that it has no use for."""
        for name, value in zip(("mels", "frames"), UNITS.get(self.controls["mask"].value, (None, None)), strict=True):
            self.controls[name].disabled = value is None
            self.controls[name].value = value or self.controls[name].max

    def _show(self, *names):
        """Brings these outputs up to date, once they are displayed."""
        for name in names:
            if name in self._outputs:
                self._outputs[name].update(self._output(name))

    def _output(self, name):
        from IPython.display import HTML, Image

        if name == "picture":
            return Image(self.png)
        if name == "message":
            return HTML(f"<b>{html.escape(self.message)}</b>")
        return players(self._heard) if self._heard else HTML(_HINT)


_ARGUMENTS = ("row", "segment", "condition", "mask", "mask_ratio", "mels", "frames", "seed")


def utterances(corpus, front_end, segment_seconds, speaker):
    """(label, row) of a speaker's utterances that are as long as a segment."""
    rows = corpus.table[corpus.table["speaker"] == speaker]
    return [(f"{name_of(corpus, line.Index).split(': ', 1)[1]} ({line.duration:.1f} s)", line.Index)
            for line in rows.itertuples() if num_segments(corpus, front_end, segment_seconds, line.Index)]


def _speakers(corpus, front_end, segment_seconds):
    """(label, speaker), those of the validation split first; test speakers and the too short are left out."""
    long = np.asarray(corpus.waveforms.lengths) >= round(segment_seconds * front_end.sample_rate)
    table = corpus.table[long]
    return [(f"{speaker} ({split})", speaker) for split in SPLITS
            for speaker in sorted(table.loc[table["split"] == split, "speaker"].unique())]


def _controls(corpus, front_end, facts, row, mask, mask_ratio, seed):
    import ipywidgets as widgets

    wide = {"style": {"description_width": "80px"}, "layout": widgets.Layout(width="290px")}
    seconds, speaker = facts["segment_seconds"], corpus.table.loc[row, "speaker"]
    last = num_segments(corpus, front_end, seconds, row) - 1
    return {
        "speaker": widgets.Dropdown(options=_speakers(corpus, front_end, seconds), value=speaker,
                                    description="speaker", **wide),
        "row": widgets.Dropdown(options=utterances(corpus, front_end, seconds, speaker), value=row,
                                description="utterance", **wide),
        "segment": widgets.IntSlider(0, 0, last, description="segment", **wide),
        "condition": widgets.Dropdown(options=CONDITIONS, description="condition", **wide),
        "mask": widgets.Dropdown(options=MASKS, value=mask, description="mask", **wide),
        "mask_ratio": widgets.FloatSlider(mask_ratio, min=0.05, max=0.95, step=0.05, description="ratio", **wide),
        "mels": widgets.IntSlider(16, 1, facts["num_mels"], description="mels", **wide),
        "frames": widgets.IntSlider(30, 1, facts["num_frames"], description="frames", **wide),
        "seed": widgets.IntSlider(seed, 0, max(50, seed), description="seed", **wide),
    }


def _layout(controls, listen, reset):
    import ipywidgets as widgets

    buttons = []
    for text, tip, pressed in (("Listen", "Turns what is shown back to sound", listen),
                               ("Reset", "Back to where it began", reset)):
        buttons.append(widgets.Button(description=text, tooltip=tip, layout=widgets.Layout(width="140px")))
        buttons[-1].on_click(pressed)
    columns = [
        [controls[name] for name in ("speaker", "row", "segment", "condition")],
        [controls[name] for name in ("mask", "mask_ratio", "mels", "frames")],
        [controls["seed"], widgets.HBox(buttons)],
    ]
    wrapping = widgets.Layout(flex_flow="row wrap", align_items="flex-start")  # narrow windows get one column
    return widgets.HBox([*(widgets.VBox(column) for column in columns), own_keys()], layout=wrapping)


def _describe(removed, mask, mask_ratio, unit, front_end):
    """One line on a mask (mels, frames): how much is gone, and in what."""
    share = f"{100 * removed.float().mean():.0f} % removed"
    if mask == "mixed":
        return f"{share}: strips, boxes or patches, as the seed has it"
    mels, frames = unit_size(mask, *removed.shape, unit)
    units = (removed.shape[0] // mels) * (removed.shape[1] // frames)
    milliseconds = 1000 * frames * front_end.hop_length / front_end.sample_rate
    return (f"{share}: {num_removed(mask, units, mask_ratio)} of {units} {mask}, "
            f"each of {mels} mels x {frames} frames ({milliseconds:.0f} ms)")
