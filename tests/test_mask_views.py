"""Chapter 03: holes are where the mask is, errors are of the holes, and each slider changes what is seen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from pressed import press, widgets_of

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.features import prepare_features
from speakerlib.data.front_ends import FRONT_ENDS, compute, normalise
from speakerlib.experiments import filling
from speakerlib.experiments.filmstrip import keep_clips, keep_reconstruction
from speakerlib.experiments.records import Run
from speakerlib.models.autoencoder import ConvAutoencoder
from speakerlib.models.objectives import reconstruction_loss
from speakerlib.views import explorer, mask_explorer, masks, style
from speakerlib.views.resynthesis import to_waveform

COMPACT = FRONT_ENDS["compact"]
SIZE = (1, 1, 64, 151)


def tone(hertz, seconds=1.5, rise=0):
    """A tone that rises by `rise` hertz a second."""
    time = np.arange(round(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * (hertz + rise / 2 * time) * time)).astype(np.float32)


@pytest.fixture
def corpus(data_folder, tmp_path):
    """Six speakers of one rising tone each: two utterances of 3.2 s and one that is too short for a segment."""
    for speaker in range(6):
        for utterance, seconds in enumerate((3.2, 3.2, 1.0)):
            path = tmp_path / "audio" / f"s{speaker}" / "a" / f"{utterance}.wav"
            write_audio(path, tone(200 + 90 * speaker, seconds, rise=500))
    return import_corpus(tmp_path / "audio", name="tones", progress=False)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return ConvAutoencoder(64, 151).eval()


FACTS = {"encoder": "conv6", "front_end": "compact", "segment_seconds": 1.5, "num_mels": 64, "num_frames": 151,
         "mask": "boxes", "mask_ratio": 0.75, "step": 300, "corpus": "demo", "synthetic": True}


def titles_of(figure):
    """The titles of a figure's pictures, wherever the style puts them."""
    return [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes if axis.images]


def noise(clips=1, seed=0):
    return torch.randn(clips, *SIZE[1:], generator=torch.Generator().manual_seed(seed))


def test_a_filling_keeps_what_was_left_and_its_error_is_the_loss(autoencoder):
    frames, removed = noise(), filling.mask_of("boxes", SIZE, 0.75, 3)
    filled = filling.fill(autoencoder, frames[0], removed[0])
    holes = removed[0, 0].numpy()
    assert np.array_equal(np.isnan(filled.masked), holes) and np.array_equal(np.isnan(filled.error), ~holes)
    assert np.array_equal(filled.pasted[~holes], frames[0, 0].numpy()[~holes])
    assert np.array_equal(filled.pasted[holes], filled.reconstruction[holes])
    with torch.no_grad():
        loss, _, _ = autoencoder(frames, removed)
    assert filled.errors["autoencoder"] ** 2 == pytest.approx(loss.item(), rel=1e-5)
    zero = reconstruction_loss(torch.zeros_like(frames), frames, removed)
    assert filled.errors["0"] ** 2 == pytest.approx(zero.item(), rel=1e-5)


def test_filling_leaves_the_mode_and_the_threads_as_they_were():
    model, threads = ConvAutoencoder(64, 151).train(), torch.get_num_threads()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    filling.fill(model, noise()[0], filling.mask_of("strips", SIZE, 0.5, 0)[0])
    assert model.training and torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # no statistics either


def test_with_one_seed_a_higher_ratio_removes_more_of_the_same():
    for kind in ("strips", "boxes", "patches"):
        drawn = [filling.mask_of(kind, SIZE, ratio, 5) for ratio in filling.RATIOS]
        for fewer, more in zip(drawn, drawn[1:], strict=False):
            assert more.sum() > fewer.sum() and not (fewer & ~more).any()
    assert not torch.equal(filling.mask_of("boxes", SIZE, 0.75, 5), filling.mask_of("boxes", SIZE, 0.75, 6))


def test_guesses_by_hand():
    frames = torch.tensor([[[[1.0, 9.0, 9.0, 4.0, 9.0], [9.0, 9.0, 9.0, 9.0, 9.0]]]])
    removed = torch.tensor([[[[False, True, True, False, True], [True] * 5]]])
    assert filling.guess("0", frames, removed).abs().sum() == 0
    means = filling.guess("visible mean", frames, removed)[0, 0]
    assert means[0].tolist() == [2.5] * 5 and means[1].tolist() == [2.5] * 5  # nothing left of the second: the clip's
    lines = filling.guess("interpolation", frames, removed)[0, 0]
    assert lines[0].tolist() == [1, 2, 3, 4, 4] and lines[1].tolist() == [2.5] * 5
    with pytest.raises(ValueError, match="expected one of 0, visible mean, interpolation"):
        filling.guess("median", frames, removed)


def test_no_guess_looks_into_the_holes():
    frames, removed = noise(3), filling.mask_of("patches", (3, *SIZE[1:]), 0.75, 0)
    other = torch.where(removed, frames + 100, frames)
    for name in filling.GUESSES:
        assert torch.equal(filling.guess(name, frames, removed)[removed], filling.guess(name, other, removed)[removed])


def test_errors_by_ratio_are_those_of_the_same_masks(autoencoder):
    frames = noise(4)
    table = filling.error_by_ratio(autoencoder, frames, seed=2, ratios=(0.55, 0.95))
    assert len(table) == 2 * 2 * 4 and set(table["clips"]) == {4}
    row = table[(table["mask"] == "boxes") & (table["mask_ratio"] == 0.95) & (table["method"] == "visible mean")]
    removed = filling.mask_of("boxes", frames.shape, 0.95, 2)
    error = (filling.guess("visible mean", frames, removed) - frames)[removed].square().mean().sqrt()
    assert row["rms_error"].item() == pytest.approx(error.item(), rel=1e-5)
    figure = masks.plot_error_by_ratio(table, COMPACT)
    drawn = [line for line in figure.axes[1].lines if line.get_label() == "the autoencoder"][0]
    expected = table[(table["mask"] == "boxes") & (table["method"] == "autoencoder")]["rms_error"]
    assert drawn.get_ydata() == pytest.approx(10 / np.log(10) * expected.to_numpy())  # in dB


@pytest.mark.parametrize("condition", ["recorded", "changed"])
def test_a_clip_is_the_segment_that_the_feature_store_holds(corpus, condition):
    features = prepare_features(corpus, "compact", 1.5, condition, progress=False)
    number = 3
    line = features.segments.loc[number]
    clip = filling.read_clip(corpus, COMPACT, 1.5, line["utterance"], line["start"] // 24000, condition)
    assert clip.frames.numpy() == pytest.approx(features.read([number])[0].numpy(), abs=0.02)  # half floats
    stored = compute(COMPACT, torch.from_numpy(clip.waveform)[None])[0].float()
    assert (clip.frames[0] + clip.means[:, None]).numpy() == pytest.approx(stored.numpy(), abs=1e-2)
    with pytest.raises(ValueError, match=r"segment 2 of 1.5 s: .* has 2 of them, counted from 0"):
        filling.read_clip(corpus, COMPACT, 1.5, line["utterance"], 2)


def test_the_picture_shows_holes_in_their_own_colour_and_one_scale(autoencoder):
    filled = filling.fill(autoencoder, noise()[0], filling.mask_of("strips", SIZE, 0.5, 0)[0])
    figure = masks.FillingPicture(filled, COMPACT).figure
    axes = [axis for axis in figure.axes if axis.images]
    four, error = axes[:4], axes[4]
    assert len({axis.images[0].get_clim() for axis in four}) == 1
    shown = [np.ma.filled(axis.images[0].get_array(), np.nan) for axis in four]
    assert np.array_equal(np.isnan(shown[1]), filled.removed) and not any(np.isnan(shown[i]).any() for i in (0, 2, 3))
    assert np.isnan(np.ma.filled(error.images[0].get_array(), np.nan)).sum() == (~filled.removed).sum()
    low, high = error.images[0].get_clim()
    assert low == -high  # white is no error
    scale = {tuple(np.round(colour[:3], 2)) for colour in axes[0].images[0].cmap(np.linspace(0, 1, 256))}
    holes = np.array(four[1].get_facecolor()[:3])
    assert min(np.abs(holes - colour).max() for colour in scale) > 0.2


def test_the_picture_says_what_0_is_in_bytes_and_in_levels(autoencoder):
    filled = filling.fill(autoencoder, noise()[0], filling.mask_of("strips", SIZE, 0.5, 0)[0])
    for name, meaning in (("compact", "0: the mel's mean, holes included"), ("boccio", "0: the quietest")):
        figure, axis = style.new_figure()
        masks.plot_errors(filled.errors, FRONT_ENDS[name], axis)
        written = [text.get_text().strip() for text in axis.texts]
        assert meaning in written and f"{masks.in_unit(filled.errors['0'], FRONT_ENDS[name]):.1f}" in written


def test_an_update_is_what_drawing_anew_would_be(autoencoder):
    first, second = (filling.fill(autoencoder, noise(seed=seed)[0], filling.mask_of("boxes", SIZE, 0.75, seed)[0])
                     for seed in (0, 1))
    picture = masks.FillingPicture(first, COMPACT)
    once, other, again = picture.update(first), picture.update(second), picture.update(first)
    assert once == again != other
    assert masks.FillingPicture(second, COMPACT).update(second) == other


def test_the_galleries_have_a_panel_for_each(autoencoder, tmp_path):
    original = noise()[0]
    drawn = {kind: filling.mask_of(kind, SIZE, 0.75, 0)[0, 0].numpy() for kind in ("strips", "boxes", "mixed")}
    figure = masks.plot_masks(original[0].numpy(), drawn, COMPACT)
    assert titles_of(figure) == ["original", "strips", "boxes", "mixed"]
    fillings = {f"ratio {ratio}": filling.fill(autoencoder, original, filling.mask_of("boxes", SIZE, ratio, 0)[0])
                for ratio in (0.55, 0.95)}
    figure = masks.plot_fillings(fillings, COMPACT)
    errors = [10 / np.log(10) * filled.errors["autoencoder"] for filled in fillings.values()]
    assert titles_of(figure) == ["ratio 0.55", "ratio 0.95", *(f"off by {error:.1f} dB" for error in errors)]


def test_the_filmstrip_is_of_the_newest_run_on_this_corpus_or_begins_untrained(corpus, autoencoder):
    frames, removed = noise(2), filling.mask_of("boxes", (2, *SIZE[1:]), 0.75, 0)
    film, told = filling.filmstrip_for(corpus, autoencoder, FACTS, frames, removed)
    assert film.steps.tolist() == [0, 300] and "speakerlib run 04_mae_pretraining -p corpus tones" in told
    assert np.array_equal(film.reconstructions[1], filling.reconstruct(autoencoder, frames, removed)[:, 0].numpy())
    made = (("old", corpus.fingerprint, 1.5, 1), ("new", corpus.fingerprint, 1.5, 2),
            ("other corpus", "0", 1.5, 3), ("longer clips", corpus.fingerprint, 3.0, 4))
    for name, fingerprint, seconds, finished in made:
        folder = corpus.folder.parents[1] / "runs" / "04_mae_pretraining" / name
        parameters = {"front_end": "compact", "segment_seconds": seconds}
        record = {"notebook": "04_mae_pretraining", "run": name, "status": "complete", "parameters": parameters}
        Run(folder, record).write(corpus={"fingerprint": fingerprint}, finished=f"2026-01-0{finished}", result=[])
        keep_clips(folder, frames, removed)
        for step in range(0, 70, 10):
            keep_reconstruction(folder, step + finished, frames)
    film, told = filling.filmstrip_for(corpus, autoencoder, FACTS, frames, removed)
    assert film.steps.tolist() == list(range(2, 72, 10)) and "run new" in told
    figure = masks.plot_filmstrip(film, COMPACT, most=3)
    assert titles_of(figure) == ["what is left", "step 2", "step 32", "step 62", "original", *[""] * 5]  # two clips


def test_a_spectrogram_of_a_tone_sounds_like_the_tone():
    for name, hertz in (("compact", 500), ("compact", 2000), ("boccio", 1000)):
        front_end, waveform = FRONT_ENDS[name], torch.from_numpy(tone(hertz))
        stored = compute(front_end, waveform[None])
        frames = normalise(front_end, stored)[0]
        sound = to_waveform(frames, front_end, (stored[0].float() - frames).mean(dim=1))
        assert torch.equal(sound, to_waveform(frames, front_end, (stored[0].float() - frames).mean(dim=1)))
        assert sound.shape == waveform.shape and sound.isfinite().all()
        assert torch.fft.rfft(sound).abs().argmax().item() / 1.5 == pytest.approx(hertz, rel=0.06)
        if front_end.scaling == "log":
            assert sound.square().mean().item() == pytest.approx(waveform.square().mean().item(), rel=0.3)
    with pytest.raises(ValueError, match=r"expected \(64, frames\)"):
        to_waveform(torch.zeros(256, 151), COMPACT)


def test_every_control_changes_the_picture_and_reset_brings_it_back(corpus, autoencoder, monkeypatch):
    row = mask_explorer.example_row(corpus, COMPACT, 1.5)
    shown = mask_explorer.MaskExplorer(corpus, autoencoder, FACTS, row)
    first, speakers = shown.png, [speaker for _, speaker in shown.controls["speaker"].options]
    begun = {name: control.value for name, control in shown.controls.items()}
    assert shown.message == "75 % removed: 15 of 20 boxes, each of 16 mels x 30 frames (300 ms)"
    changes = {"seed": 1, "mask_ratio": 0.5, "mels": 8, "frames": 15, "segment": 1, "condition": "changed",
               "speaker": next(name for name in speakers if name != shown.controls["speaker"].value), "mask": "strips"}
    for name, value in changes.items():
        before = shown.png
        shown.controls[name].value = value
        assert shown.png != before, name
    assert corpus.table.loc[shown.controls["row"].value, "speaker"] == changes["speaker"]
    assert shown.controls["frames"].value == 10 and shown.controls["mels"].disabled  # strips are over all mels
    assert shown.message.endswith("8 of 15 strips, each of 64 mels x 10 frames (100 ms)")
    press(shown, "Reset", monkeypatch)
    assert shown.png == first and shown.controls["row"].value == row and not shown.controls["mels"].disabled
    assert {name: control.value for name, control in shown.controls.items()} == begun


def test_every_control_has_a_label_of_its_own_and_a_keyboard_reaches_it(corpus, autoencoder, monkeypatch):
    row = mask_explorer.example_row(corpus, COMPACT, 1.5)
    for shown in (mask_explorer.MaskExplorer(corpus, autoencoder, FACTS, row),
                  explorer.SpectrogramExplorer(corpus, row, row)):
        seen = widgets_of(shown, monkeypatch)
        labels = [widget.description for widget in seen if hasattr(widget, "description")]
        assert all(labels) and len(set(labels)) == len(labels) >= len(shown.controls)
        assert set(shown.controls.values()) <= set(seen)
        kinds = {type(widget).__name__ for widget in seen} - {"OwnKeys"}  # tab, arrows and space work on these
        assert kinds <= {"HBox", "VBox", "Button", "Dropdown", "IntSlider", "FloatSlider"}


def test_a_mask_that_cannot_be_drawn_leaves_the_picture_and_says_why(corpus, autoencoder):
    shown = mask_explorer.MaskExplorer(corpus, autoencoder, FACTS, mask_explorer.example_row(corpus, COMPACT, 1.5))
    shown.controls["mels"].value = 64
    shown.controls["mask_ratio"].value = 0.95
    before, filled = shown.png, shown.filling
    shown.controls["frames"].value = 151
    assert shown.png == before and shown.filling is filled
    assert shown.message.startswith("The picture is as it was: mask_ratio=0.95: a clip has 1 boxes")
    shown.controls["mask_ratio"].value = 0.5
    shown.controls["frames"].value = 30
    assert shown.png != before and shown.message.startswith("40 % removed: 2 of 5 boxes")  # goes on


def test_test_speakers_and_utterances_shorter_than_a_clip_are_not_offered(corpus, autoencoder):
    row = mask_explorer.example_row(corpus, COMPACT, 1.5, seed=4)
    shown = mask_explorer.MaskExplorer(corpus, autoencoder, FACTS, row)
    split = corpus.table.groupby("speaker")["split"].first()
    assert split[corpus.table.loc[row, "speaker"]] == "validation"
    offered = [speaker for _, speaker in shown.controls["speaker"].options]
    assert set(offered) == set(split.index[split != "test"]) and split[offered[0]] == "validation"
    for speaker in offered:
        shown.controls["speaker"].value = speaker
        assert len(shown.controls["row"].options) == 2
    with pytest.raises(ValueError, match="no utterance of 9.0 s outside its test speakers"):
        mask_explorer.example_row(corpus, COMPACT, 9.0)


def test_players_come_when_asked_for_and_go_when_the_picture_changes(corpus, autoencoder, monkeypatch):
    class Handle:
        def __init__(self, shown):
            self.shown = shown

        def update(self, shown):
            self.shown = shown

    handles = []

    def display(shown, display_id=None):
        handles.append(Handle(shown))
        return handles[-1]

    monkeypatch.setattr("IPython.display.display", display)
    shown = mask_explorer.MaskExplorer(corpus, autoencoder, FACTS, mask_explorer.example_row(corpus, COMPACT, 1.5))
    shown.display()
    message, picture, heard = handles[1:]
    assert picture.shown.data == shown.png and "<audio" not in heard.shown.data
    shown.listen()
    assert heard.shown.data.count("<audio") == 4 and "holes filled in" in heard.shown.data
    shown.controls["seed"].value = 9
    assert picture.shown.data == shown.png and "<audio" not in heard.shown.data  # of the other holes
    shown.controls["mask"].value = "patches"
    assert "patches" in message.shown.data


def test_the_benchmark_measures_every_control(capsys, data_folder, monkeypatch):
    path = Path(__file__).parent / "benchmarks" / "mask_explorer.py"
    spec = importlib.util.spec_from_file_location("mask_explorer_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "MOVES", {"seed": [1, 2], "mask": ["strips"]})
    medians = benchmark.main([])
    assert set(medians) == {"seed", "mask"} and min(medians.values()) > 0
    assert "median ms" in capsys.readouterr().out


def test_a_description_warns_of_speech_of_another_kind(corpus):
    told = filling.describe(FACTS, corpus)
    assert "300 steps on 'demo' (synthetic speech)" in told and "-p corpus tones" in told
    assert "\n" not in filling.describe({**FACTS, "synthetic": False}, corpus)


def test_a_saved_picture_does_not_depend_on_what_was_shown_before(autoencoder, tmp_path):
    filled = filling.fill(autoencoder, noise()[0], filling.mask_of("boxes", SIZE, 0.75, 0)[0])
    paths = [style.save_figure(masks.FillingPicture(filled, COMPACT).figure, tmp_path / f"{i}.png") for i in (0, 1)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
