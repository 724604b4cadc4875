"""Chapter 06: objectives for short utterances, trained on made-up voices: tones that come and go."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from speakerlib.data.audio import write_audio
from speakerlib.data.clips import take_clips
from speakerlib.data.corpora import import_corpus
from speakerlib.data.utterance_episodes import Crops
from speakerlib.experiments import query_lengths, short_utterance
from speakerlib.experiments.parameters import check_parameters
from speakerlib.experiments.query_lengths import accuracy_by_length, beside_others, lines_by_length, objective_name
from speakerlib.experiments.records import Run
from speakerlib.experiments.scoring import embed_clips, identify
from speakerlib.experiments.short_utterance import (
    build_short_utterance_encoder,
    open_short_utterances,
    read_crops,
    train_short_utterances,
)
from speakerlib.models.short_utterance_objectives import LOSS_TYPES
from speakerlib.views import short_utterances as views

SMALL = {"corpus": "tones", "front_end": "kye", "encoder": "resnet18", "width": 1 / 16, "loss_type": "prototypical",
         "use_global_classification": True, "use_variable_length": True, "logits": "normalised_prototype",
         "nb_class_train": 4, "num_support": 1, "num_query": 2, "enroll_length": 48, "test_length": 24,
         "nb_class_test": 3, "test_tasks": 20, "learning_rate": 0.1, "num_train_iterations": 4, "test_interval": 2,
         "print_interval": 1, "augment": "none", "seed": 0}
SPEAKERS = {"train": 5, "validation": 2, "test": 3}
RATE = 16000


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Each speaker has three tones of its own; 7 utterances of 0.6 to 0.9 s each."""
    folder, draw = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    rows = [(f"{split}{number}", split) for split, count in SPEAKERS.items() for number in range(count)]
    for name, _ in rows:
        tones = draw.uniform(200, 6000, 3)
        for take in range(7):
            time = np.arange(int(RATE * draw.uniform(0.6, 0.9))) / RATE
            swell = 1 + np.sin(2 * np.pi * (4 * time[:, None] + draw.random(3)))
            voice = (swell * np.sin(2 * np.pi * tones * time[:, None])).sum(axis=1)
            samples = 0.05 * voice + 0.005 * draw.standard_normal(len(time))
            write_audio(folder / "audio" / name / f"{take}.wav", samples.astype(np.float32))
    (folder / "split.csv").write_text("speaker,split\n" + "\n".join(f"{name},{split}" for name, split in rows) + "\n")
    return folder


@pytest.fixture
def tones(audio, data_folder, monkeypatch):
    """The settings of a run on them: tones(loss_type="softmax")."""
    import_corpus(audio / "audio", name="tones", split_file=audio / "split.csv", progress=False)
    monkeypatch.setattr(short_utterance, "VALIDATION_LENGTHS", (16, 32))
    monkeypatch.setattr(query_lengths, "ENROLMENT", {"num_support": 1, "enroll_length": 60})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda **changed: SimpleNamespace(**{**SMALL, **changed})
    torch.set_num_threads(threads)


def started(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, {"notebook": short_utterance.NOTEBOOK, "run": folder.name, "status": "started"})


def left_in(folder):
    return {f"{file} {name}": value for file in ("last", "best", "encoder")
            for name, value in load_file(folder / f"{file}.safetensors").items()}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_objective_learns_the_voices_it_hears(tones, tmp_path, loss_type):
    experiment = open_short_utterances(tones(loss_type=loss_type, num_train_iterations=30, test_interval=15,
                                             print_interval=5))
    run = started(tmp_path / "run")
    before = experiment.new_network().state_dict()
    encoder, history = train_short_utterances(experiment, run)
    losses = history["training_loss"].dropna()
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]
    assert ("episodic_loss" in history) == (loss_type in ("prototypical", "angular_prototypical"))
    assert history["global_accuracy"].dropna().iloc[-1] > 1.5 / SPEAKERS["train"]
    after = load_file(run.folder / "last.safetensors")
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved >= {name for name, _ in experiment.new_network().named_parameters()}  # the objective's as well
    assert history["learning_rate"].dropna().tolist() == [0.1, 0.1]
    assert not encoder.training and run.record["segments_per_step"] == 12


def test_the_encoder_is_left_alone_with_its_facts(tones, tmp_path):
    experiment, run = open_short_utterances(tones()), started(tmp_path / "run")
    encoder, history = train_short_utterances(experiment, run)
    best = load_file(run.folder / "best.safetensors")
    alone = load_file(run.folder / "encoder.safetensors")
    assert {f"encoder.{name}" for name in alone} | {"objective.weight"} == set(best)
    built = build_short_utterance_encoder(experiment.settings)
    built.load_state_dict(alone)
    frames = torch.randn(2, 1, 40, 40)
    assert torch.allclose(built.eval()(frames), encoder(frames), rtol=1e-4, atol=1e-3)  # of another memory layout
    with safe_open(run.folder / "encoder.safetensors", "pt") as file:
        facts = file.metadata()
    recorded = json.loads((run.folder / "run.json").read_text())["speaker_encoder"]
    assert facts == {name: str(value) for name, value in recorded.items()}
    assert recorded["dim"] == 16 and recorded["loss_type"] == "prototypical" and recorded["front_end"] == "kye"
    tested = history.dropna(subset="validation_accuracy").set_index("step")["validation_accuracy"]
    assert tested[recorded["step"]] == tested.max()


@pytest.mark.parametrize("loss_type", ["prototypical", "softmax"])
def test_cut_short_then_resumed_is_the_same_to_the_last_bit(tones, tmp_path, monkeypatch, loss_type):
    experiment = open_short_utterances(tones(loss_type=loss_type, num_train_iterations=5, augment="I"))
    monkeypatch.setattr(short_utterance, "COPIES", 2)
    _, whole = train_short_utterances(experiment, started(tmp_path / "whole"))

    def stop(history):
        if history["step"].iloc[-1] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="go on from step 2"):
        train_short_utterances(experiment, started(tmp_path / "cut"), on_progress=stop)
    assert "wall_seconds" in json.loads((tmp_path / "cut" / "run.json").read_text())
    again = open_short_utterances(experiment.settings)
    _, resumed = train_short_utterances(again, started(tmp_path / "cut"))
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    expected, found = left_in(tmp_path / "whole"), left_in(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_goes_on_with_its_own_objective_only(tones, tmp_path):
    train_short_utterances(open_short_utterances(tones()), started(tmp_path / "run"))
    other = open_short_utterances(tones(logits="cosine", num_train_iterations=8))
    with pytest.raises(ValueError, match="other settings: data="):
        train_short_utterances(other, started(tmp_path / "run"))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("variable", [True, False])
def test_a_step_reads_as_many_segments_whatever_the_objective(tones, loss_type, variable):
    experiment = open_short_utterances(tones(loss_type=loss_type, use_variable_length=variable))
    lengths, train_rows = set(), set(experiment.split("train").index)
    for step in range(30):
        episode = experiment.draws.draw(step)
        parts = [part for part in (episode.support, episode.query) if part is not None]
        assert sum(part.utterances.size for part in parts) == 12
        assert set(np.concatenate([part.utterances.ravel() for part in parts])) <= train_rows
        assert episode.support.length == 48
        lengths |= {part.length for part in parts[1:]}
    if experiment.new_network().objective.episodic:
        assert lengths <= set(range(24, 48)) and len(lengths) > 5 if variable else lengths == {48}
    else:
        assert not lengths


@pytest.mark.parametrize(("changed", "message"), [
    ({"nb_class_train": 6}, "nb_class_train=6: corpus 'tones', split 'train', has 5 speakers. Use at most so many"),
    ({"test_length": 49}, "test_length=49 .the shortest query. is more than enroll_length=48"),
    ({"nb_class_test": 4}, "split 'test': num_way=4 needs 4 speakers .* there are 3 .* nb_class_test"),
    ({"num_support": 6, "num_query": 2}, "nb_class_train|num_support"),
    ({"encoder": "conv6"}, "encoder='conv6': expected one of resnet18"),
    ({"width": 0.01}, "width=0.01: expected 1/32"),
    ({"front_end": "boccio"}, "scales each clip by its own range"),
    ({"loss_type": "triplet"}, "loss_type='triplet': expected one of softmax"),
])
def test_what_cannot_work_is_refused_before_features_are_made(tones, data_folder, changed, message):
    with pytest.raises(ValueError, match=message):
        open_short_utterances(tones(**changed))
    assert not (data_folder / "features").exists()


def test_a_corpus_without_validation_speakers_is_refused(tones, audio, tmp_path):
    rows = (audio / "split.csv").read_text().replace("validation0,validation", "validation0,train")
    (tmp_path / "split.csv").write_text(rows)
    import_corpus(audio / "audio", name="one", split_file=tmp_path / "split.csv", progress=False)
    with pytest.raises(ValueError, match="split 'validation': num_way=2"):
        open_short_utterances(tones(corpus="one"))


def test_the_notebook_takes_residual_networks_and_front_ends_of_utterances():
    known = {"encoder": "resnet34", "front_end": "kye", "enroll_length": 200, "width": 0.25}
    assert check_parameters({"encoder": "resnet18"}, known, short_utterance.NOTEBOOK)["encoder"] == "resnet18"
    for name, value in (("encoder", "conv6"), ("front_end", "boccio"), ("enroll_length", 7), ("width", 0.03)):
        with pytest.raises(ValueError, match=f"{name}={value!r}: expected"):
            check_parameters({name: value}, known, short_utterance.NOTEBOOK)
    for name, value in (("encoder", "resnet34"), ("front_end", "kye")):  # chapter 05 cannot do with them
        with pytest.raises(ValueError, match=f"{name}={value!r}: expected"):
            check_parameters({name: value}, {"encoder": "conv6", "front_end": "compact"}, "05_protonet_training")


class Store:
    """Frames that tell where they come from: 1000 * store + utterance."""

    num_mels = 4

    def __init__(self, number):
        self.number = number

    def segments(self, utterances, starts, length):
        values = torch.from_numpy(1000.0 * self.number + np.asarray(utterances)).float()
        return values[:, None, None, None].expand(-1, 1, self.num_mels, length)


def test_each_segment_comes_from_a_copy_of_its_own_drawn_by_seed_and_step():
    crops = Crops(np.arange(40).reshape(20, 2), np.zeros((20, 2), int), 8)
    stores = [Store(number) for number in range(3)]
    found = read_crops(crops, stores, np.random.default_rng((0, 7)))[:, 0, 0, 0].numpy()
    assert found.shape == (40,) and (found % 1000 == np.arange(40)).all()
    assert set(found // 1000) == {0, 1, 2}
    assert (found == read_crops(crops, stores, np.random.default_rng((0, 7)))[:, 0, 0, 0].numpy()).all()
    assert (found != read_crops(crops, stores, np.random.default_rng((0, 8)))[:, 0, 0, 0].numpy()).any()


def test_tests_by_length_are_of_the_same_tasks_in_both_conditions(tones, tmp_path, monkeypatch):
    monkeypatch.setattr(query_lengths, "QUERY_LENGTHS", (16, 32))
    monkeypatch.setattr(query_lengths.draw_tasks, "__defaults__", ((16, 32),))
    experiment, run = open_short_utterances(tones()), started(tmp_path / "run")
    encoder, _ = train_short_utterances(experiment, run)
    rows = query_lengths.evaluate_by_length(experiment, encoder, run, progress=False)
    assert [(row["condition"], row["test_length"]) for row in rows] == [
        ("recorded", 16), ("recorded", 32), ("changed", 16), ("changed", 32)]
    digests = [row["episodes"] for row in rows]
    assert digests[:2] == digests[2:] and digests[0] != digests[1]
    for row in rows:
        assert row["num_way"] == row["speakers"] == 3 and row["tasks"] == 20 and row["low"] <= row["accuracy"]
        assert np.mean(list(row["by_speaker"].values())) == pytest.approx(row["accuracy"], abs=1e-4)  # all in each task
    run.finish(rows)
    assert query_lengths.evaluate_by_length(experiment, None, run) == rows  # of a complete run: not made again
    lines = lines_by_length({"ours": rows}, "changed")["ours"]
    assert list(lines) == [0.16, 0.32] and lines[0.32] == (rows[3]["accuracy"], rows[3]["low"], rows[3]["high"])


def test_enrolments_are_embedded_once_and_serve_every_length(tones):
    experiment = open_short_utterances(tones())
    tasks, features = experiment.validation_tasks(), experiment.features("recorded")
    short, long = tasks.values()
    first = np.arange(short.num_enrolments)
    assert take_clips(short.clips, first).digest() == take_clips(long.clips, first).digest()
    assert (short.episodes.support == long.episodes.support).all()
    assert set(short.clips.frames[short.num_enrolments:]) == {16} and set(long.clips.frames[:3]) == {60}
    encoder = build_short_utterance_encoder(experiment.settings)
    found = accuracy_by_length(encoder, features, tasks)
    for length, each in tasks.items():
        whole = identify(embed_clips(encoder, features, each.clips, progress=False), each.episodes)
        assert (found[length] == whole).all()


def record_of(data_folder, name, settings, rows, fingerprint):
    folder = data_folder / "runs" / short_utterance.NOTEBOOK / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({
        "notebook": short_utterance.NOTEBOOK, "run": name, "status": "complete", "parameters": vars(settings),
        "corpus": {"fingerprint": fingerprint}, "result": rows}))


def test_a_run_stands_beside_those_of_its_recipe_alone(tones, data_folder):
    experiment = open_short_utterances(tones())
    same = experiment.corpus.fingerprint
    for name, changed, fingerprint in (("a", {"loss_type": "softmax"}, same), ("b", {}, same),
                                       ("c", {"loss_type": "softmax", "seed": 1}, same),
                                       ("d", {"loss_type": "am_softmax", "learning_rate": 0.2}, same),
                                       ("e", {"loss_type": "am_softmax"}, "another corpus"),
                                       ("f", {"use_global_classification": False}, same)):
        record_of(data_folder, name, tones(**changed), [{"run": name}], fingerprint)
    found = beside_others(experiment, [{"run": "ours"}], short_utterance.NOTEBOOK)
    assert {name: rows[0]["run"] for name, rows in found.items()} == {
        "prototypical + global": "ours", "softmax": "a", "prototypical": "f"}


def test_objectives_have_names_of_their_own(tones):
    names = {objective_name(vars(tones(loss_type=each, use_global_classification=both, use_variable_length=length)))
             for each in LOSS_TYPES for both in (True, False) for length in (True, False)}
    assert len(names) == 2 + 2 * 4 and "prototypical + global, fixed length" in names


def made_up_rows(shift):
    return [{"condition": condition, "num_way": 20, "test_length": length, "accuracy": value, "low": value - 0.1,
             "high": value + 0.1} for condition, less in (("recorded", 0), ("changed", 0.3))
            for length, value in ((100, 0.5 + shift - less), (200, 0.6 + shift - less))]


def test_the_picture_by_query_length_has_a_line_an_objective_and_a_panel_a_condition():
    figure = views.plot_query_lengths({"softmax": made_up_rows(0), "prototypical + global": made_up_rows(0.05)})
    assert [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes] == ["recorded", "changed"]
    for axis, less in zip(figure.axes, (0, 30)):
        lines = axis.get_legend_handles_labels()
        assert lines[1] == ["softmax", "prototypical + global"]
        assert list(lines[0][1][0].get_ydata()) == pytest.approx([55 - less, 65 - less])
        assert axis.get_ylim()[0] < 5 and axis.get_ylim()[1] > 75  # chance, and the highest interval
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1 s", "2 s"]


@pytest.mark.parametrize("episodic", [True, False])
def test_the_picture_of_training_shows_what_there_is_and_where_the_rate_fell(episodic):
    history = pd.DataFrame({"step": [10, 20, 30, 40], "training_loss": [6, 5, 4, 3.5], "global_loss": [4, 3, 2, 2.0],
                            "global_accuracy": [0.1, 0.2, 0.3, 0.4], "learning_rate": [np.nan, 0.1, np.nan, 0.01],
                            "validation_accuracy": [np.nan, 0.7, np.nan, 0.6],
                            "validation_accuracy_1s": [np.nan, 0.6, np.nan, 0.5],
                            "validation_accuracy_2s": [np.nan, 0.8, np.nan, 0.7]})
    if episodic:
        history = history.assign(episodic_loss=[2, 2, 2, 1.5], training_accuracy=[0.2, 0.3, 0.4, 0.5])
    loss, accuracy = views.plot_objective(history, reference={"chance": 0.1}).axes
    assert len(loss.get_legend_handles_labels()[1]) == 1 + episodic
    assert [text.get_text().strip() for text in loss.texts] == ["rate 0.01"] and loss.texts[0].xy[0] == 20
    labels = accuracy.get_legend_handles_labels()[1]
    assert {"validation, 1 s", "validation, 2 s", "best: 70.0 % at step 20", "chance (10.0 %)"} <= set(labels)
    assert ("training, in the episode" in labels) == episodic
    assert views.plot_objective(history.loc[:0, ["step", "training_loss"]])  # the first report of a live curve


def test_the_picture_of_lengths_is_in_seconds(tones):
    experiment = open_short_utterances(tones())
    episodes = [experiment.draws.draw(step) for step in range(3)]
    (axis,) = views.plot_lengths(episodes).axes
    support, queries = ([bar.get_width() for bar in bars] for bars in axis.containers)
    assert support == [0.48] * 3 and queries == [episode.query.length / 100 for episode in episodes]
    batches = open_short_utterances(tones(loss_type="softmax")).draws
    (axis,) = views.plot_lengths([batches.draw(0)]).axes
    assert len(axis.containers) == 1
