"""Views: what a person moves changes what is seen, axes tell the truth, and nothing is drawn twice."""

import re
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pressed import press

from speakerlib.data import front_ends
from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.experiments.nine_cell_table import published_reference
from speakerlib.views import explorer, spectrograms, style, tables, training
from speakerlib.views.embeddings import embedding_map
from speakerlib.views.results import published_errors
from speakerlib.views.verification import plot_lengths_by_condition


def tone(hertz, seconds=1.0):
    time = np.arange(round(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.fixture
def corpus(data_folder, tmp_path):
    """Five speakers of one tone each, two sessions, two utterances."""
    for speaker in range(5):
        for session in "ab":
            for utterance in range(2):
                path = tmp_path / "audio" / f"s{speaker}" / session / f"{utterance}.wav"
                write_audio(path, tone(200 + 150 * speaker, 1 + 0.2 * utterance))
    return import_corpus(tmp_path / "audio", name="tones", progress=False)


@pytest.mark.parametrize("name", ["compact", "boccio"])
def test_the_frequency_axis_is_where_a_tone_is(name):
    shown = front_ends.front_end(name)
    for hertz in (500, 2000, 4000):
        features = explorer.features_of(tone(hertz), shown)
        picture, _ = spectrograms.in_display_unit(features, shown)
        loudest = np.median(picture[:, 10:-10].argmax(axis=0))
        assert front_ends.mel_centres(shown)[int(loudest)] == pytest.approx(hertz, rel=0.05)
    figure, axis = style.new_figure()
    spectrograms.plot_spectrogram(features, shown, axis)
    ticks = dict(zip([label.get_text() for label in axis.get_yticklabels()], axis.get_yticks(), strict=True))
    assert ticks["4,000"] == pytest.approx(loudest, abs=1.5)
    assert axis.get_xlim()[1] == pytest.approx(1.0, abs=0.02)


def test_clips_side_by_side_share_one_scale():
    shown = front_ends.front_end("compact")
    parts = [explorer.features_of(gain * tone(500), shown) for gain in (1, 0.01)]
    figure = spectrograms.compare_spectrograms(parts, shown, ["loud", "quiet"], range_db=60)
    limits = {axis.images[0].get_clim() for axis in figure.axes if axis.images}
    assert len(limits) == 1
    low, high = limits.pop()
    assert high - low == pytest.approx(60)


def test_every_control_changes_the_picture_and_reset_brings_it_back(corpus, monkeypatch):
    table = corpus.table
    left, right = table.index[0], table.index[-1]
    shown = explorer.SpectrogramExplorer(corpus, left, right)
    first, sound = shown.png, shown.waveforms[1]
    begun = {name: control.value for name, control in shown.controls.items()}
    changes = {
        "num_mels": 40,
        "window_ms": 40,
        "hop_ms": 20,
        "range_db": 30,
        "condition": "changed",
        "channel_family": "II",
        "channel_seed": 7,
        "name": "boccio",
        "left_speaker": table["speaker"].iloc[-1],
    }
    for name, value in changes.items():
        before = shown.png
        shown.controls[name].value = value
        assert shown.png != before, name
    assert shown.controls["num_mels"].value == 256  # the sliders follow the front end
    assert dict(shown.controls["left"].options)  # and the utterances the speaker
    assert table.loc[shown.controls["left"].value, "speaker"] == changes["left_speaker"]
    assert not np.array_equal(shown.waveforms[1], sound)  # the players play what is shown
    press(shown, "Reset", monkeypatch)
    assert shown.png == first and np.array_equal(shown.waveforms[1], sound)
    assert (shown.controls["left"].value, shown.controls["right"].value) == (left, right)
    assert {name: control.value for name, control in shown.controls.items()} == begun


def test_example_clips_are_of_training_speakers_and_two_sessions(corpus):
    one, again, other, third = (corpus.table.loc[row] for row in explorer.example_clips(corpus, seed=3))
    assert {line["split"] for line in (one, again, other, third)} == {"train"}
    assert one["speaker"] == again["speaker"] and one["session"] != again["session"]
    assert other["speaker"] != one["speaker"]


def test_a_changed_clip_keeps_its_length_and_depends_on_its_seed():
    waveform = tone(440)
    assert np.array_equal(explorer.changed(waveform, 3), explorer.changed(waveform, 3))
    assert not np.allclose(explorer.changed(waveform, 3), explorer.changed(waveform, 4))
    assert explorer.changed(waveform, 3).shape == waveform.shape


def test_the_second_family_is_a_room_with_other_voices(corpus):
    row, waveform = corpus.table.index[0], tone(200)
    heard = explorer.in_a_room(corpus, row, waveform, 3)
    assert heard.shape == waveform.shape
    assert np.array_equal(heard, explorer.in_a_room(corpus, row, waveform, 3))
    assert not np.allclose(heard, explorer.in_a_room(corpus, row, waveform, 4))
    figure, shown = explorer.explore(corpus, row, row, "compact", 64, 25, 10, 60, "changed", "II", 3, seconds=1.0)
    np.testing.assert_array_equal(shown[0], explorer.in_a_room(corpus, row, explorer.clip(corpus, row, 1.0), 3))
    assert not np.array_equal(shown[0], shown[1])  # one clip, two channels


def history():
    steps = np.arange(5, 55, 5)
    frame = pd.DataFrame({"step": steps, "training_loss": 10 / steps, "training_accuracy": steps / 60})
    frame["validation_accuracy"] = [np.nan, 0.5, np.nan, 0.9, np.nan, 0.7, np.nan, 0.6, np.nan, 0.8]
    return frame


def test_curves_mark_the_best_validation_step():
    figure = training.plot_history(history(), reference={"chance": 0.2})
    labels = [text for axis in figure.axes for text in axis.get_legend_handles_labels()[1]]
    assert any("90.0 % at step 20" in label for label in labels) and any("chance" in label for label in labels)


def test_shots_over_training_has_a_line_for_each_number_of_shots():
    figure = training.plot_shots_over_training({1: history(), 5: history(), 10: history()}, split="test")
    axis = figure.axes[0]
    ends = [text for text in axis.texts if "-shot" in text.get_text()]
    assert {text.get_text() for text in ends} == {f"{shots}-shot: 80.0 %" for shots in (1, 5, 10)}
    heights = sorted(text.xy[1] for text in ends)
    assert np.diff(heights).min() > 4  # labels of equal curves do not cover each other
    assert "test speakers" in axis.get_ylabel()  # as published, and said so
    with pytest.raises(ValueError, match="num_support=5 has no validation_accuracy"):
        training.plot_shots_over_training({1: history(), 5: history().drop(columns="validation_accuracy")})


def test_the_live_curve_keeps_one_picture_and_its_finish_draws_the_last_report(monkeypatch):
    shown, updated = [], []

    class Handle:
        def update(self, picture):
            updated.append(picture.data)

    def display(picture, display_id):
        shown.append(picture.data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    curve = training.LiveCurve("title")
    curve(history())
    assert not shown  # outside a notebook nothing is drawn
    monkeypatch.setattr(training, "_in_notebook", lambda: True)
    for rows in range(2, 10):
        curve(history()[:rows])
    curve.finish()
    assert len(shown) == 1 and 1 <= len(updated) < 8  # in place, and not at every report
    assert updated[-1] == curve.png == style.figure_png(training.plot_history(history()[:9], "title"))


def test_a_heat_map_writes_each_accuracy_and_says_what_was_not_run():
    grid = pd.DataFrame([[0.9, np.nan], [0.95, 0.8]], index=[1, 5], columns=[3, 5])
    texts = {text.get_text() for text in tables.accuracy_heatmap(grid, 0.1 * grid).axes[0].texts}
    assert texts == {"90.0\n± 9.0", "no result", "95.0\n± 9.5", "80.0\n± 8.0"}


def test_an_embedding_map_gives_each_of_twenty_speakers_a_look_of_its_own():
    generator = torch.Generator().manual_seed(0)
    speakers = np.repeat([f"s{number:02d}" for number in range(20)], 4)
    vectors = torch.randn(80, 8, generator=generator).numpy()
    assert len(set(style.speaker_looks(speakers).values())) == 20
    first = style.figure_png(embedding_map(vectors, speakers, method="pca", seed=1))
    assert first == style.figure_png(embedding_map(vectors, speakers, method="pca", seed=1))
    with pytest.raises(ValueError, match="expected one of tsne, pca"):
        embedding_map(vectors, speakers, method="umap")


def test_a_speaker_of_the_corpus_has_one_colour_in_every_picture():
    names = [f"id{number:02d}" for number in range(60)]
    try:
        style.use_style(SimpleNamespace(table=pd.DataFrame({"speaker": names})))
        everywhere = style.speaker_looks(names)
        for shown in (["id07", "id13"], ["id55", "id07", "id01"], ["id07", "somebody else"], names[7:20]):
            looks = style.speaker_looks(shown)
            assert len(set(looks.values())) == len(set(shown))  # by the marker, where the colour is the same
            assert all(looks[name][0] == everywhere[name][0] for name in shown if name in names)
        assert style.speaker_looks(["id07", "me"]) == style.speaker_looks(["me", "id07", "me"])
    finally:
        style.use_style()
    assert style.speaker_looks(["b", "a"])["a"] == (style.SPEAKER_COLOURS[0], style.MARKERS[0])


def test_published_values_are_lines_in_the_picture_where_there_are_any():
    drawn = training.plot_shots_over_training({1: history(), 5: history()}, published={1: 0.761, 10: 0.956}).axes[0]
    dotted = [line for line in drawn.lines if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert [line.get_ydata()[0] for line in dotted] == [76.1]
    assert published_reference(5, 1) == {"published, VoxCeleb1": pytest.approx(0.761)}
    assert published_reference(4, 1) == {}
    line = {"cosine": {1.0: (0.2, 0.1, 0.3), None: (0.1, 0.05, 0.2)}}
    figure = plot_lengths_by_condition({"recorded": line, "changed": line}, published=published_errors("verification"))
    told = [["published" in text.get_text() for text in axis.texts] for axis in figure.axes]
    assert told == [[True], []] and published_errors("identification") == {}


def test_one_call_saves_a_figure_whole_as_a_picture_and_for_print(tmp_path):
    figure, axis = style.new_figure(14, 4)
    axis.plot([1, 2])
    axis.set_title("curve ± 1")
    folder = tmp_path / "a"
    assert style.save_figure(figure, folder / "curve.png") == folder / "curve.png"
    assert sorted(path.name for path in folder.iterdir()) == ["curve.pdf", "curve.png"]
    with Image.open(folder / "curve.png") as picture:
        assert picture.size == (2100, 600)
        assert picture.info["dpi"][0] == pytest.approx(2100 / style.PAPER_WIDTH, rel=1e-3)
    pdf = (folder / "curve.pdf").read_bytes()
    assert re.search(rb"/MediaBox \[ 0 0 504 144 \]", pdf)  # 7 x 2 inches
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # outlines of the fonts themselves
    style.save_figure(figure, folder / "curve.png")
    assert (folder / "curve.pdf").read_bytes() == pdf  # an unchanged figure is no change


def test_a_wide_figure_is_not_cut_off_on_paper(tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "pdf.compression", 0)
    ends = []
    for width in (style.PAPER_WIDTH, 2 * style.PAPER_WIDTH):
        figure, axis = style.new_figure(width, 4)
        axis.plot([0, 1], [0, 1])
        page = style.save_figure(figure, tmp_path / "line.png").with_suffix(".pdf").read_bytes()
        ends.append(max(float(x) for x in re.findall(rb"^([\d.]+) [\d.]+ l$", page, re.M)))
    assert ends[1] > 1.9 * ends[0]  # in points before the whole is made smaller
