"""Chapter 09's microphone: speech recorded in the browser enrols a person, or asks who is speaking."""

import math
import warnings
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import traitlets

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.views.own_keys import script_with_keys
from speakerlib.views.people import nearest_clips, plot_people
from speakerlib.views.style import figure_png

LONGEST = 20  # seconds of a recording: 2 MB at 48 kHz, far below what a server takes in one message
SHOWN = 5  # candidates
FEWEST = 4  # points of a map
PURPOSES = ("ask", "enrol")


class Microphone(anywidget.AnyWidget):
    """Two buttons, a name, the level of the sound and the answer; microphone.js records, `hear` answers.

    people: a SpeakerIdentifier, which a recording is enrolled in or asked of. `waveform` and `sample_rate` are of the
    last recording, kept here alone: what is recorded is no part of the widget's state, so a saved notebook lacks it.
    heard: called with each (purpose, name, waveform, sample_rate) that could be used.
    """

    _esm = script_with_keys("microphone.js")
    _css = Path(__file__).with_name("microphone.css")
    longest = traitlets.Float(LONGEST).tag(sync=True)

    def __init__(self, people, heard=None, **options):
        super().__init__(**options)
        self.people, self.heard = people, heard
        self.waveform, self.sample_rate = None, None
        self.on_msg(self._received)

    def __repr__(self):
        return f"Microphone({len(self.people.names)} people)"

    def _received(self, _, content, buffers):
        if content.get("kind") != "recorded":
            return
        purpose, name, sample_rate = (content.get(key) for key in ("purpose", "name", "sample_rate"))
        self.waveform, self.sample_rate = samples_of(buffers[0] if buffers else b""), sample_rate
        text, candidates, used = hear(self.people, purpose, name, self.waveform, sample_rate)
        self.send({"kind": "answered", "text": text, "candidates": candidates})
        if used and self.heard:
            self.heard(purpose, name, self.waveform, sample_rate)


def microphone(people):
    """The Microphone above a map of who is enrolled, on which each question falls; it plays the nearest clips."""
    wave, picture = Microphone(people), ipywidgets.Image(layout={"max_width": "820px"})

    def draw(purpose=None, name="", waveform=None, sample_rate=None):
        embedding = people.embed([waveform], sample_rate)[0] if purpose == "ask" else None
        asked = [("you", embedding)] if purpose == "ask" else []
        if asked:
            captions, sounds = nearest_sounds(people, embedding)
            wave.send({"kind": "nearest", "captions": captions}, sounds)
        if len(people.embeddings) + len(asked) >= FEWEST:
            picture.value = figure_png(plot_people(people, asked))

    wave.heard = draw
    draw()
    return ipywidgets.VBox([wave, picture])


def hear(people, purpose, name, waveform, sample_rate):
    """Enrols a recording under a name, beside what is there, or asks who it is. Returns (text, candidates, used).

    candidates: [[name, probability or None]], the likeliest first; used: whether there was an answer. What the
    recording lacks is in the text, as is whether it is clipped.
    """
    if purpose not in PURPOSES:
        return f"purpose={purpose!r}: expected one of {', '.join(PURPOSES)}.", [], False
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            text, candidates = _asked(people, waveform, sample_rate) if purpose == "ask" else (
                _enrolled(people, name, waveform, sample_rate), [])
        except ValueError as error:
            return _called(error), [], False
    return " ".join([text, *dict.fromkeys(_called(each.message) for each in warned)]), candidates, True


def samples_of(pcm):
    """float32 (samples,) in [-1, 1] of 16-bit samples, low byte first."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768


def nearest_sounds(people, embedding):
    """(captions, WAV files as bytes) of the enrolled clips nearest to an embedding, of those whose sound is here."""
    from IPython.display import Audio

    nearest = [row for row in nearest_clips(people, embedding).to_dict("records")
               if people.audio[row["place"]] is not None]
    return ([f"{row['name']}, cosine {row['cosine']:.2f}" for row in nearest],
            [Audio(people.audio[row["place"]], rate=SAMPLE_RATE).data for row in nearest])


def _asked(people, waveform, sample_rate):
    answer = people.identify(waveform, sample_rate)
    rows = answer.table[["name", "probability"]].head(SHOWN).itertuples(index=False)
    candidates = [[name, None if math.isnan(probability) else float(probability)] for name, probability in rows]
    who = "Nobody who is enrolled" if answer.name == "unknown" else answer.name
    return f"{who}, by {answer.seconds:.1f} s of sound.", candidates


def _enrolled(people, name, waveform, sample_rate):
    name = name.strip() if isinstance(name, str) else name
    people.enrol(name, [waveform], sample_rate, add=name in people.names)
    own = people.clips[people.clips["name"] == name]["seconds"]
    count = f"{len(own)} clip" + "s" * (len(own) > 1)
    return f"{name} is enrolled, with {count} of {own.sum():.1f} s together."


def _called(message):
    """A message about the one clip, as a sentence about the recording."""
    text = str(message).replace("clip 1 of 1", "the recording")
    return text[:1].upper() + text[1:]
