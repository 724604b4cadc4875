"""Chapter 04: the same clips and masks for a seed, an exact resume, an error that falls, and what 05 takes over."""

import shutil
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.demo_corpus import demo_corpus
from speakerlib.data.features import FeatureStore
from speakerlib.experiments import nine_cells, protonet
from speakerlib.experiments.evaluation import paired_interval
from speakerlib.experiments.filmstrip import read_filmstrip
from speakerlib.experiments.parameters import check_parameters, notebook_parameters
from speakerlib.experiments.pretrained import DEMO_WEIGHTS, NOTEBOOK, export_autoencoder, read_autoencoder
from speakerlib.experiments.pretraining import evaluate, open_pretraining, pretrain
from speakerlib.experiments.records import read_results, run_folder, start_run
from speakerlib.experiments.transfer import beside_scratch, scratch_run
from speakerlib.views.training import plot_errors_over_training

PROTONET = "05_protonet_training"
SPLITS = {"train": 5, "validation": 3, "test": 4}


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A data folder with a corpus of noise that comes and goes: 12 speakers, 12 utterances of 1 s each."""
    folder, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    rows = ["speaker,split"]
    for split, count in SPLITS.items():
        for speaker in (f"{split}{number}" for number in range(count)):
            rows.append(f"{speaker},{split}")
            for utterance in range(12):
                loud = np.repeat(draw.choice([0.002, 0.2], 10), 1600)
                samples = (loud * draw.standard_normal(16000)).astype(np.float32)
                write_audio(folder / "audio" / speaker / f"{utterance}.wav", samples)
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    patch = pytest.MonkeyPatch()
    patch.setenv("SPEAKERLIB_DATA", str(folder / "data"))
    import_corpus(folder / "audio", name="noise", split_file=folder / "split.csv", progress=False)
    patch.undo()
    return folder / "data"


@pytest.fixture
def data(noise, tmp_path, monkeypatch):
    """The corpus of noise in a data folder of the test's own, on one thread: then training is exact."""
    shutil.copytree(noise, tmp_path / "data")
    monkeypatch.setenv("SPEAKERLIB_DATA", str(tmp_path / "data"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "data"
    torch.set_num_threads(threads)


def settings(**changed):
    small = {"corpus": "noise", "segment_seconds": 1.0, "batch_size": 4, "mask": "strips", "mask_ratio": 0.5}
    quick = {"num_train_iterations": 6, "test_interval": 2, "print_interval": 1}
    return SimpleNamespace(**{**notebook_parameters(NOTEBOOK), **small, **quick, **changed})


def trained(on_progress=None, **changed):
    """(pretraining, run, autoencoder, history) of a short training that is complete."""
    pretraining = open_pretraining(settings(**changed))
    run = start_run(NOTEBOOK, pretraining.settings, pretraining.corpus)
    model, history = pretrain(pretraining, run, on_progress)
    run.finish(evaluate(pretraining, model, run))
    return pretraining, run, model, history


def few_shot(**changed):
    small = {"corpus": "noise", "segment_seconds": 1.0, "num_way": 3, "num_support": 1, "num_query": 2, "batch_size": 1}
    quick = {"num_train_iterations": 2, "test_interval": 1, "print_interval": 1, "test_tasks": 10}
    return SimpleNamespace(**{**notebook_parameters(PROTONET), **small, **quick, **changed})


def left_in(folder):
    tensors = {f"{name} {key}": value for name in ("best", "last")
               for key, value in load_file(folder / f"{name}.safetensors").items()}
    return tensors, (folder / "metrics.csv").read_text(), read_filmstrip(folder).reconstructions


def test_clips_and_masks_are_a_function_of_seed_and_step(data):
    one = open_pretraining(settings())
    torch.manual_seed(123)
    other = open_pretraining(settings())
    seen = {}
    for step in (0, 1, 2, 700):
        (ids, masks), (same, same_masks) = one.draw(step), other.draw(step)
        assert np.array_equal(ids, same) and torch.equal(masks, same_masks)
        assert len(set(ids)) == 4 and masks.shape == (4, 1, 64, 101)
        assert masks.float().mean() == pytest.approx(0.5, abs=0.02)
        seen[step] = ids.tobytes() + masks.numpy().tobytes()
    ids, masks = open_pretraining(settings(seed=1)).draw(0)
    seen["seed"] = ids.tobytes() + masks.numpy().tobytes()
    assert len(set(seen.values())) == len(seen)
    ids, masks = one.draw(3)
    digest = sha256(ids.astype("<i8").tobytes() + np.packbits(masks.numpy()).tobytes()).hexdigest()[:16]
    assert digest == "44481cc5b53bdf39"  # another numpy or torch must not change what a record names


def test_only_train_clips_train_and_only_checkpoint_clips_check(data, monkeypatch):
    for protocol, split in (("corrected", "validation"), ("as_published", "test")):
        pretraining, asked = open_pretraining(settings(protocol=protocol)), []
        features = pretraining.features
        read = features.read
        monkeypatch.setattr(features, "read", lambda ids, **how: asked.append(np.asarray(ids)) or read(ids, **how))
        run = start_run(NOTEBOOK, pretraining.settings, pretraining.corpus)
        pretrain(pretraining, run)
        splits = [set(pretraining.segments["split"].to_numpy()[ids]) for ids in asked]
        assert all(found in ({"train"}, {split}) for found in splits) and {"train"} in splits and {split} in splits
        assert run.record["checkpoint_split"] == split


@pytest.mark.parametrize("encoder", ["conv6", "transformer"])
def test_training_on_bytes_is_training_on_their_numbers(data, monkeypatch, encoder):
    _, run, _, history = trained(front_end="boccio", encoder=encoder)
    expected = left_in(run.folder)
    shutil.rmtree(run.folder)
    read = FeatureStore.read
    monkeypatch.setattr(FeatureStore, "read", lambda store, ids, keep_bytes=False: read(store, ids))
    _, run, _, again = trained(front_end="boccio", encoder=encoder)
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    tensors, metrics, _ = left_in(run.folder)
    assert metrics == expected[1] and all(torch.equal(value, tensors[name]) for name, value in expected[0].items())


def test_a_resumed_training_equals_one_that_was_not_interrupted(data):
    _, run, model, history = trained()
    expected = left_in(run.folder)
    shutil.rmtree(run.folder)

    def stop(history):
        if len(history) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(stop)
    with pytest.raises(ValueError, match="cut short. Run it again"):
        read_autoencoder(run.folder.name)
    (run.folder / "filmstrip" / "step-000002.npy").write_bytes(b"torn")  # is written again only if the step is
    (run.folder / "filmstrip" / "step-000002.npy").unlink()
    _, run, resumed, again = trained()
    tensors, metrics, film = left_in(run.folder)
    pd.testing.assert_frame_equal(history, again)
    assert metrics == expected[1]
    assert all(torch.equal(value, tensors[name]) for name, value in expected[0].items())
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert np.array_equal(film[-2:], expected[2][-2:])


def test_the_published_loss_is_reported_beside_an_error_that_ratios_share(data):
    for mask_ratio in (0.3, 0.8):
        _, run, _, history = trained(protocol="as_published", mask_ratio=mask_ratio)
        for part in ("training", "validation"):
            loss, error = (history[f"{part}_{name}"].dropna() for name in ("loss", "error"))
            np.testing.assert_allclose(loss, error * mask_ratio, rtol=0.02)
        assert run.record["result"][1]["error"] == pytest.approx(history["validation_error"].min(), rel=1e-3)
    _, _, _, history = trained()
    np.testing.assert_array_equal(history["validation_loss"].dropna(), history["validation_error"].dropna())


def test_the_record_says_what_the_weights_are_and_how_good(data):
    pretraining, run, model, history = trained()
    facts, rows = run.record["autoencoder"], run.record["result"]
    best = history.dropna(subset="validation_loss").set_index("step")["validation_loss"]
    assert facts["step"] == best.idxmin() and (facts["corpus"], facts["synthetic"]) == ("noise", False)
    assert [row["split"] for row in rows] == ["validation", "test"] and [row["clips"] for row in rows] == [36, 48]
    assert all(row["low"] <= row["error"] <= row["high"] for row in rows)
    assert rows[0]["error"] == pytest.approx(best.min(), rel=1e-3)
    ids, masks = pretraining.fixed("validation")
    frames = pretraining.features.read(ids)
    assert rows[0]["error_0"] == pytest.approx(frames[masks].square().mean().item(), rel=1e-5)
    with torch.no_grad():
        assert rows[0]["error"] == pytest.approx(model(frames, masks)[0].item(), rel=1e-3)
    assert {"mask", "mask_ratio", "error", "digest"} <= set(read_results(NOTEBOOK))
    film = read_filmstrip(run.folder)
    assert list(film.steps) == [0, 2, 4, 6] and film.reconstructions.shape == (4, 3, 64, 101) and film.masks.any()
    again = start_run(NOTEBOOK, pretraining.settings, pretraining.corpus)
    assert again.is_complete and evaluate(pretraining, None, again) == rows


def test_what_cannot_work_is_refused_before_features_are_made(data):
    with pytest.raises(ValueError, match="batch_size=61.* has 60 segments .*at least 61.*smaller batch_size"):
        open_pretraining(settings(batch_size=61))
    with pytest.raises(ValueError, match="mask_ratio=0.01: a clip has 10 strips"):
        open_pretraining(settings(mask_ratio=0.01))
    with pytest.raises(ValueError, match="at least 64 mels and 64 frames"):
        open_pretraining(settings(segment_seconds=0.5))
    known = notebook_parameters(NOTEBOOK)
    for name, value in (("mask_ratio", 1.0), ("mask_ratio", 0), ("mask", "box"), ("init", "")):
        with pytest.raises(ValueError, match="expected|no parameter"):
            check_parameters({name: value}, known, NOTEBOOK)
    assert not (data / "features").exists()


def test_the_encoder_reaches_chapter_05s_first_step_bit_for_bit(data, monkeypatch):
    _, run, model, _ = trained()
    experiment = protonet.open_experiment(few_shot(init=run.folder.name))
    other = start_run(PROTONET, experiment.settings, experiment.corpus)
    seen = []

    def first_step(num_processes, encoder, compute_loss, **rest):
        seen.append(({name: value.clone() for name, value in encoder.state_dict().items()}, rest["data"]))
        raise RuntimeError("seen")

    monkeypatch.setattr(protonet, "train_in", first_step)
    with pytest.raises(RuntimeError, match="seen"):
        protonet.train_protonet(experiment, other)
    weights, of = seen[0]
    assert all(torch.equal(value, weights[name]) for name, value in model.encoder.state_dict().items())
    assert set(weights) == set(model.encoder.state_dict())
    written = other.record["init_weights"]
    assert written["run"] == run.folder.name and len(written["sha256"]) == 64
    assert written["sha256"] == of["init_weights"]
    assert other.record["parameters"]["init"] == run.folder.name
    assert other.folder != run_folder(PROTONET, few_shot(), experiment.corpus)


def test_chapter_05_is_compared_with_its_run_from_scratch_on_the_same_tasks(data, capsys):
    _, run, _, _ = trained()
    experiment = protonet.open_experiment(few_shot(init=run.folder.name))
    pretrained = start_run(PROTONET, experiment.settings, experiment.corpus)
    encoder, _ = protonet.train_protonet(experiment, pretrained)
    pretrained.finish(nine_cells.nine_cells(experiment, encoder, pretrained, progress=False))
    capsys.readouterr()
    assert scratch_run(experiment) is None and beside_scratch(experiment, encoder, pretrained, None).empty
    said = capsys.readouterr().out
    assert "speakerlib run 05_protonet_training -p corpus noise -p segment_seconds 1.0" in said
    assert "-p init" not in said
    plain = protonet.open_experiment(few_shot())
    assert scratch_run(plain) is None and "random weights" in capsys.readouterr().out
    scratch = start_run(PROTONET, plain.settings, plain.corpus)
    other, _ = protonet.train_protonet(plain, scratch)
    scratch.finish(nine_cells.nine_cells(plain, other, scratch, progress=False))
    table = beside_scratch(experiment, encoder, pretrained, scratch_run(experiment), progress=False)
    for name, its in (("pretrained", pretrained), ("scratch", scratch)):
        cells = [row["accuracy"] for row in its.record["result"] if row["accuracy"] is not None]
        np.testing.assert_allclose(table[name], cells, atol=1e-6)
    np.testing.assert_allclose(table["difference"], table["pretrained"] - table["scratch"], atol=1e-6)
    assert (table["low"] <= table["difference"] + 1e-9).all() and (table["difference"] <= table["high"] + 1e-9).all()
    again = start_run(PROTONET, experiment.settings, experiment.corpus)  # read back, not computed anew
    pd.testing.assert_frame_equal(beside_scratch(experiment, None, again, scratch_run(experiment)), table)


def test_a_paired_interval_is_of_the_difference_and_needs_the_same_tasks():
    draw = np.random.default_rng(0)
    speakers = draw.integers(8, size=(200, 5))
    difficulty = draw.uniform(0.2, 0.8, 8)[speakers]
    difference, low, high = paired_interval(difficulty + 0.05, difficulty, speakers)
    assert difference == pytest.approx(0.05) and low == pytest.approx(0.05) and high == pytest.approx(0.05)
    noisy = difficulty + np.where(draw.random(speakers.shape) < 0.5, 0.2, -0.2)
    _, low, high = paired_interval(noisy, difficulty, speakers)
    assert low < 0 < high
    with pytest.raises(ValueError, match="one list of episodes"):
        paired_interval(difficulty[:10], difficulty, speakers)


def test_a_checkpoint_that_does_not_fit_says_why(data, tmp_path):
    _, run, model, _ = trained()
    name, exported = run.folder.name, tmp_path / "mine.safetensors"
    export_autoencoder(name, exported)
    facts, shipped = read_autoencoder(exported)[1], read_autoencoder(run.folder)[1]
    assert {**facts, "sha256": 0} == {**shipped, "sha256": 0}
    assert all(torch.equal(value, read_autoencoder(exported)[0].state_dict()[key])
               for key, value in model.state_dict().items())

    def refused(init, message, error=ValueError):
        with pytest.raises(error, match=message):
            read_autoencoder(init)

    content = exported.read_bytes()
    for number, part in enumerate((content[:-1], content[: len(content) // 2], content[:5], b"", b"PK\x03\x04" * 99)):
        path = tmp_path / f"torn{number}.safetensors"
        path.write_bytes(part)
        refused(path, "not a whole safetensors file")
    refused(run.folder / "best.safetensors", "does not say of what it is the autoencoder")
    refused(name[:-1], f"did you mean '{name}'", FileNotFoundError)
    refused(tmp_path / "absent", "no such run", FileNotFoundError)
    refused(tmp_path, "is no run")
    with pytest.raises(ValueError, match="front_end='compact', segment_seconds=1.0; .*'compact', segment_seconds=1.1"):
        protonet.open_experiment(few_shot(init=name, segment_seconds=1.1))
    experiment = protonet.open_experiment(few_shot(init=str(exported)))
    other = start_run(PROTONET, experiment.settings, experiment.corpus)
    refused(other.folder, "trains no autoencoder")
    protonet.train_protonet(experiment, other)
    trained(seed=1)
    export_autoencoder(next(p for p in run.folder.parent.iterdir() if p != run.folder), exported)  # under the same name
    with pytest.raises(ValueError, match="other settings: data="):
        protonet.train_protonet(protonet.open_experiment(experiment.settings), other)
    other.record["notebook"] = NOTEBOOK  # the weights of a few-shot encoder in an autoencoder's run
    other.write(status="complete", autoencoder=run.record["autoencoder"])
    refused(other.folder, "another architecture: encoder.blocks.0.conv.weight: nothing there")
    other.write(autoencoder={**run.record["autoencoder"], "front_end_identifier": "00000000"})
    refused(other.folder, "front end 'compact' .00000000., which is another one in this version")


def test_the_shipped_autoencoder_is_small_and_says_that_it_heard_synthetic_speech():
    model, facts = read_autoencoder("demo")
    assert DEMO_WEIGHTS.stat().st_size < 1.5e6 and not model.training
    assert (facts["corpus"], facts["synthetic"], facts["front_end"], facts["segment_seconds"]) == (
        "demo", True, "compact", 1.5)
    assert (facts["mask"], facts["mask_ratio"]) == ("boxes", 0.75)


def test_a_folder_without_a_filmstrip_says_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="speakerlib run 04_mae_pretraining"):
        read_filmstrip(tmp_path)


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("share", [1, 0.75])
def test_the_curve_stays_in_the_picture_whatever_its_height(scale, share):
    error = scale * np.array([9.0, 4.0, 3.0, 2.9])
    history = pd.DataFrame({"step": range(1, 5), "training_error": error, "validation_error": error})
    history = history.assign(training_loss=share * error, validation_loss=share * error)
    figure = plot_errors_over_training(history, reference={"guessing 0": 2.0 * scale, "another": 50.0 * scale})
    low, high = figure.axes[0].get_ylim()
    assert low < 2.0 * scale and error[-1] < high < error[0]
    assert len(figure.axes) == (1 if share == 1 else 2)
    assert len(plot_errors_over_training(history.head(0)).axes) == 1


def test_the_marked_step_is_the_one_that_was_kept():
    history = pd.DataFrame({"step": [1, 2], "training_error": [5.0, 4.0], "validation_error": [4.0, 5.0],
                            "training_loss": [3.0, 2.0], "validation_loss": [3.0, 2.0],
                            "training_agreement": [1.0, 0.5]})
    figure = plot_errors_over_training(history)
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert list(star.get_xdata()) == [2]
    assert "Loss, with agreement" in [figure.axes[1].get_title(where) for where in ("left", "center")]


def test_agreement_is_weighed_against_filling_in_and_resumes(data):
    """The same numbers after an interruption, channels and partners drawn by the step."""
    options = {"agreement": 0.25, "num_train_iterations": 4}
    _, _, whole, history = trained(**options)
    mixed = 0.75 * history["training_error"] + 0.25 * history["training_agreement"]
    assert np.allclose(history["training_loss"], mixed)
    validated = history.dropna(subset="validation_loss")
    mixed = 0.75 * validated["validation_error"] + 0.25 * validated["validation_agreement"]
    assert np.allclose(validated["validation_loss"], mixed)
    shutil.rmtree(data / "runs")

    def stop(history):
        if history["step"].iloc[-1] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(stop, **options)
    _, run, resumed, again = trained(**options)
    assert np.allclose(history.to_numpy(float), again.to_numpy(float), equal_nan=True)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert read_autoencoder(run.folder)[1]["agreement"] == 0.25


def error_falls(**changed):
    """Trains for some seconds; the validation error ends below what predicting 0 gives."""
    steps = {"num_train_iterations": 240, "test_interval": 120, "print_interval": 60}
    _, run, _, history = trained(segment_seconds=1.5, batch_size=4, **steps, **changed)
    tested, row = history.dropna(subset="validation_error")["validation_error"], run.record["result"][0]
    assert tested.iloc[-1] < tested.iloc[0] and row["error"] < 0.98 * row["error_0"]
    films = read_filmstrip(run.folder)
    errors = [np.square(film - films.originals)[films.masks].mean() for film in films.reconstructions]
    assert errors[-1] < errors[0]


@pytest.mark.slow
def test_the_error_falls_on_the_demo_corpus(data_folder):
    demo_corpus(num_speakers=12, progress=False)
    error_falls(corpus="demo")


@pytest.mark.slow
def test_the_error_falls_on_real_speech(data_folder, so762, tmp_path):
    for speaker in sorted((so762 / "speech").iterdir())[:16]:
        shutil.copytree(speaker, tmp_path / "speech" / speaker.name)
    import_corpus(tmp_path / "speech", name="real", progress=False)
    error_falls(corpus="real")
