"""Chapter 10: batches of voices at several speeds through many channels, the training on them, the three tasks."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from speakerlib.data import voice_batches
from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.front_ends import FRONT_ENDS, compute, mel_centres
from speakerlib.data.speeds import SPEEDS, at_speed, samples_at_speed, warp_matrix
from speakerlib.data.voice_batches import VoiceBatches, masked
from speakerlib.experiments import voice, voice_ablation, voice_tasks
from speakerlib.experiments.optimizers import adamw, cosine
from speakerlib.experiments.parameters import check_parameters
from speakerlib.experiments.records import Run
from speakerlib.experiments.scoring import identify
from speakerlib.experiments.speaker_encoders import read_speaker_encoder
from speakerlib.experiments.sweep_files import read_sweep
from speakerlib.experiments.voice import ReadAhead, open_voice, train_voice
from speakerlib.experiments.voice_weights import NOTEBOOK, warped
from speakerlib.models.voice import VoiceEncoder
from speakerlib.views import voice as views

SMALL = {"corpus": "voices", "front_end": "compact", "augment": "both", "num_copies": 1, "speed_perturbation": False,
         "spec_augment": True, "width": 1.0, "pooling": "attentive", "loss_type": "am_softmax", "use_pairs": True,
         "batch_size": 8, "learning_rate": 3e-3, "num_train_iterations": 4, "test_interval": 2, "print_interval": 1,
         "test_tasks": 20, "seed": 0}
SPEAKERS = {"train": 4, "validation": 2, "test": 3}
RATE = 16000


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Each speaker has three tones of its own; 9 utterances of 0.6 to 0.9 s each."""
    folder, draw = tmp_path_factory.mktemp("voices"), np.random.default_rng(0)
    rows = [(f"{split}{number}", split) for split, count in SPEAKERS.items() for number in range(count)]
    for name, _ in rows:
        tones = draw.uniform(200, 6000, 3)
        for take in range(9):
            time = np.arange(int(RATE * draw.uniform(0.6, 0.9))) / RATE
            swell = 1 + np.sin(2 * np.pi * (4 * time[:, None] + draw.random(3)))
            sound = (swell * np.sin(2 * np.pi * tones * time[:, None])).sum(axis=1)
            samples = 0.05 * sound + 0.005 * draw.standard_normal(len(time))
            write_audio(folder / "audio" / name / f"{take}.wav", samples.astype(np.float32))
    (folder / "split.csv").write_text("speaker,split\n" + "\n".join(f"{name},{split}" for name, split in rows) + "\n")
    return folder


@pytest.fixture
def voices(audio, data_folder, monkeypatch):
    """The settings of a run on them: voices(augment="II")."""
    import_corpus(audio / "audio", name="voices", split_file=audio / "split.csv", progress=False)
    monkeypatch.setattr(voice_batches, "SHORTEST", 20)
    monkeypatch.setattr(voice_batches, "LONGEST", 40)
    monkeypatch.setattr(voice_batches, "SHORTEST_SECOND", 10)
    monkeypatch.setattr(voice, "VALIDATION_TASKS", 10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda **changed: SimpleNamespace(**{**SMALL, **changed})
    torch.set_num_threads(threads)


def started(folder, settings=None):
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, {"notebook": NOTEBOOK, "run": folder.name, "status": "started",
                        "parameters": vars(settings) if settings else {}})


# Batches


def test_a_batch_is_a_function_of_the_seed_and_the_step(voices):
    batches, again = open_voice(voices()).batches, open_voice(voices()).batches
    for step in (0, 7, 3):  # whatever was drawn before
        (parts, labels), (others, same) = batches.read(step), again.read(step)
        assert torch.equal(labels, same) and all(map(torch.equal, parts, others))
    one, another = batches.draw(7), batches.draw(3)
    assert one.lengths != another.lengths or (one.starts != another.starts).any()
    other = open_voice(voices(seed=1)).batches
    assert any((batches.draw(step).utterances != other.draw(step).utterances).any() for step in range(3))


@pytest.mark.parametrize("speeds", [False, True])
def test_a_pair_is_two_utterances_of_one_voice_and_fits_at_its_speed(voices, speeds):
    experiment = open_voice(voices(speed_perturbation=speeds, augment="I"))
    batches, table = experiment.batches, experiment.utterances
    assert batches.num_voices == SPEAKERS["train"] * (len(SPEEDS) if speeds else 1)
    seen, copies, shorter = set(), set(), set()
    for step in range(40):
        batch = batches.draw(step)
        first, second = batch.utterances.reshape(2, -1)
        assert (first != second).all() and (batch.voices[:4] == batch.voices[4:]).all()
        speakers = table["speaker"].to_numpy()[batch.utterances]
        assert (speakers == batches.speakers[batch.voices % SPEAKERS["train"]]).all()
        assert (batch.voices // SPEAKERS["train"] == batch.speeds).all()
        assert set(table["split"].to_numpy()[batch.utterances]) == {"train"}
        assert len(set(batch.voices[:4])) == 4
        length, other = batch.lengths
        assert length in (20, 30, 40) and other in (10, 20, 30, 40) and other <= length
        shorter.add(other < length)
        lengths = np.array([batches.stores[speed][0].lengths[row]
                            for speed, row in zip(batch.speeds, batch.utterances)])
        assert (batch.starts + np.minimum(np.repeat(batch.lengths, 4), lengths) <= lengths).all()
        seen |= set(batch.voices.tolist())
        copies |= set(batch.copies.tolist())
    assert seen == set(range(batches.num_voices)) and copies == {0, 1} and shorter == {True, False}


def test_a_clip_is_cut_from_the_copy_and_speed_that_were_drawn(voices):
    experiment = open_voice(voices(augment="I", speed_perturbation=True, spec_augment=False))
    batches = experiment.batches
    batch, (frames, labels) = batches.draw(5), batches.read(5)
    assert labels.tolist() == batch.voices.tolist()
    clips = [clip for part in frames for clip in part]
    assert [part.shape for part in frames] == [(4, 1, 64, length) for length in batch.lengths]
    for place in range(len(batch.voices)):
        store = experiment.features(*experiment.copies[batch.copies[place]], split="train",
                                    speed=SPEEDS[batch.speeds[place]])
        expected = store.segments(batch.utterances[place], batch.starts[place], batch.lengths[place // 4])
        assert torch.equal(clips[place], expected[0])
    assert all(part.mean(dim=-1).abs().max() < 1e-4 for part in frames)  # of each mel


@pytest.mark.parametrize("augment, families", [("none", ""), ("I", ["I"]), ("II", ["II"]), ("both", ["I", "II"])])
def test_copies_are_of_the_families_that_are_asked_for_and_of_no_channel_of_the_tests(voices, augment, families):
    experiment = open_voice(voices(augment=augment, num_copies=3))
    recorded, *changed = experiment.copies
    assert recorded[0] == "recorded"
    assert changed == [("changed", family, seed) for family in families for seed in (1, 2, 3)]
    whole = sum(voice.FAMILY_WEIGHTS[family] for family in families)
    changed = [0.7 * voice.FAMILY_WEIGHTS[family] / whole / 3 for family in families for _ in range(3)]
    assert np.allclose(experiment.shares, [0.3, *changed] if families else [1])


def test_clips_are_of_each_copy_as_often_as_its_share_says(voices):
    batches = open_voice(voices(augment="both")).batches
    drawn = np.concatenate([batches.draw(step).copies for step in range(400)])  # 3,200 clips; three deviations: 0.025
    assert np.allclose(np.bincount(drawn) / len(drawn), batches.shares, atol=0.025)


def test_without_pairs_a_batch_is_clips_of_any_voices(voices):
    batches = open_voice(voices(use_pairs=False, augment="none", batch_size=3)).batches
    assert len(set(batches.draw(0).voices)) == 3 and [part.shape[:3] for part in batches.read(0)[0]] == [(3, 1, 64)]


def test_masks_hide_one_band_and_one_stretch_and_leave_the_rest():
    frames = torch.randn(200, 1, 64, 120, generator=torch.Generator().manual_seed(0))
    found = masked(frames, np.random.default_rng(0))
    hidden = (found != frames).squeeze(1)
    assert torch.equal(found, masked(frames, np.random.default_rng(0)))
    bands, stretches = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert bands.max() == voice_batches.MASKED_MELS and stretches.max() == voice_batches.MASKED_FRAMES
    assert bands.min() == stretches.min() == 0
    for clip, (mels, times) in enumerate(zip(hidden.all(dim=2), hidden.all(dim=1))):
        assert torch.equal(hidden[clip], mels[:, None] | times[None])
        for places in (mels.nonzero().flatten(), times.nonzero().flatten()):
            assert len(places) == 0 or places[-1] - places[0] == len(places) - 1


def test_a_speaker_of_one_utterance_has_no_pair():
    table = pd.DataFrame({"utterance": [0, 1, 2], "speaker": ["a", "a", "b"], "split": "train"})
    store = SimpleNamespace(utterances=table, lengths=np.array([50, 50, 50]), num_mels=64)
    with pytest.raises(ValueError, match="two utterances of each training speaker; .*'b'.* has one"):
        VoiceBatches([[store]], "train", 4, 0)
    assert VoiceBatches([[store]], "train", 4, 0, pairs=False).num_voices == 2
    for size, pairs in ((1, False), (5, True)):
        with pytest.raises(ValueError, match=f"batch_size={size}"):
            VoiceBatches([[store]], "train", size, 0, pairs=pairs)


# Speeds


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_tone_at_another_speed_is_higher_and_shorter_by_that_much(speed):
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)
    played = at_speed(tone, speed)
    assert len(played) == samples_at_speed(RATE, speed) == pytest.approx(RATE / speed, abs=2)
    middle = played[1000:-1000] * np.hanning(len(played) - 2000)
    peak = np.abs(np.fft.rfft(middle)).argmax() * RATE / len(middle)
    assert peak == pytest.approx(500 * speed, abs=2)
    assert np.abs(played[1000:-1000]).max() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("speed", [0, 0.4, 2.5, float("nan"), "1"])
def test_a_speed_that_no_voice_has_is_refused(speed):
    with pytest.raises(ValueError, match="expected a number from 0.5 to 2"):
        at_speed(np.zeros(100, np.float32), speed)


# Training


@pytest.mark.parametrize("changed", [{}, {"loss_type": "softmax", "use_pairs": False, "pooling": "mean"}])
def test_it_learns_the_voices_it_hears(voices, tmp_path, changed):
    settings = voices(num_train_iterations=30, test_interval=15, print_interval=5, augment="I", **changed)
    run = started(tmp_path / "run")
    experiment = open_voice(settings)
    before = experiment.new_encoder().state_dict()
    encoder, history = train_voice(experiment, run)
    known = history.dropna(subset="training_accuracy")
    assert known["training_accuracy"].iloc[-1] > 1.5 / SPEAKERS["train"]
    assert known["global_loss"].iloc[-1] < known["global_loss"].iloc[0]
    assert ("pair_loss" in history) == settings.use_pairs
    after = load_file(run.folder / "last.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[f"encoder.{name}"])}
    assert moved >= {name for name, _ in experiment.new_encoder().named_parameters()}
    assert run.record["num_voices"] == SPEAKERS["train"] and 0 <= run.record["waited"] < 1
    tested = history.dropna(subset="validation_accuracy")
    each = tested[[f"validation_accuracy_{name}" for name in ("recorded", "changed_I", "changed_II")]]
    assert each.mean(axis=1).to_numpy() == pytest.approx(tested["validation_accuracy"].to_numpy())
    assert not encoder.training


def test_cut_short_then_resumed_is_the_same_to_the_last_bit(voices, tmp_path):
    settings = voices(num_train_iterations=5)
    _, whole = train_voice(open_voice(settings), started(tmp_path / "whole"))

    def stop(history):
        if history["step"].iloc[-1] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="go on from step 2"):
        train_voice(open_voice(settings), started(tmp_path / "cut"), on_progress=stop)
    assert "wall_seconds" in json.loads((tmp_path / "cut" / "run.json").read_text())
    _, resumed = train_voice(open_voice(settings), started(tmp_path / "cut"))
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    for file in ("last", "best", "encoder"):
        expected, found = (load_file(tmp_path / name / f"{file}.safetensors") for name in ("whole", "cut"))
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_goes_on_with_its_own_recipe_only(voices, tmp_path):
    train_voice(open_voice(voices(augment="none")), started(tmp_path / "run"))
    with pytest.raises(ValueError, match="other settings: data="):
        train_voice(open_voice(voices(augment="none", use_pairs=False)), started(tmp_path / "run"))
    with pytest.raises(ValueError, match="num_train_iterations"):  # the schedule is another one
        train_voice(open_voice(voices(augment="none", num_train_iterations=6)), started(tmp_path / "run"))


@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_the_encoder_is_left_alone_with_all_that_builds_it_again(voices, tmp_path, pooling):
    settings = voices(augment="none", pooling=pooling)
    experiment, run = open_voice(settings), started(tmp_path / "run", settings)
    encoder, history = train_voice(experiment, run)
    path = run.folder / "encoder.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header == {name: str(value) for name, value in run.record["speaker_encoder"].items()}
    assert header["encoder"] == "voice" and header["corpus"] == "voices" and header["augment"] == "none"
    built = VoiceEncoder(int(header["num_mels"]), tuple(map(int, header["channels"].split(","))), int(header["width"]),
                         int(header["dim"]), header["pooling"])
    built.load_state_dict(load_file(path))
    built = warped(built, FRONT_ENDS["compact"], [float(factor) for factor in header["warps"].split(",")])
    frames = torch.randn(2, 1, 64, 77)
    assert torch.allclose(built.eval()(frames), encoder(frames), rtol=1e-3, atol=1e-3)  # of another memory layout
    tested = history.dropna(subset="validation_accuracy").set_index("step")["validation_accuracy"]
    assert tested[int(header["step"])] == tested.max()
    with pytest.raises(ValueError, match="was cut short"):
        read_speaker_encoder(str(run.folder))
    run.finish([])
    found, facts = read_speaker_encoder(str(run.folder))  # as chapter 07 does
    assert torch.equal(found(frames), built(frames)) and facts["kind"] == NOTEBOOK and facts["dim"] == 3 * 128


def test_a_clip_is_heard_as_it_is_and_as_people_of_another_size():
    encoder = warped(VoiceEncoder().eval(), FRONT_ENDS["compact"], (0.9, 1.0, 1.11)).eval()
    frames = torch.randn(2, 1, 64, 150)
    embedded = encoder(frames)
    assert embedded.shape == (2, encoder.dim) == (2, 384)
    assert torch.allclose(embedded.norm(dim=1), torch.ones(2), atol=1e-5)
    alone = torch.nn.functional.normalize(encoder.encoder(frames), dim=1)
    assert torch.allclose(3 ** 0.5 * encoder.once(embedded), alone, atol=1e-5)
    with pytest.raises(ValueError, match="front end"):
        encoder(torch.randn(2, 1, 40, 100))


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.0, 1.11, 1.25])
def test_a_warp_moves_a_tone_to_where_that_tone_lies(factor):
    front, time = FRONT_ENDS["compact"], np.arange(RATE) / RATE
    tone, moved = (compute(front, torch.from_numpy(np.sin(2 * np.pi * hertz * time)).float()[None])[0].float()
                   for hertz in (1500, 1500 * factor))
    matrix = torch.from_numpy(warp_matrix(front, factor))
    assert torch.allclose(matrix.sum(dim=1), torch.ones(64), atol=1e-6)  # what is alike in all mels stays
    centres = torch.from_numpy(mel_centres(front))
    powers = (part[:, 20:80].exp().mean(dim=1).double() for part in (matrix @ tone, moved))
    where, wanted = ((power * centres).sum() / power.sum() for power in powers)
    assert float(where) == pytest.approx(float(wanted), rel=0.02)
    assert factor != 1 or torch.equal(matrix, torch.eye(64))


def test_an_encoder_takes_any_length_and_tells_what_it_cannot_take():
    encoder = VoiceEncoder().eval()
    assert [tuple(encoder(torch.randn(2, 1, 64, frames)).shape) for frames in (1, 50, 333)] == [(2, 128)] * 3
    assert sum(each.numel() for each in encoder.parameters()) <= 134_688
    with pytest.raises(ValueError, match="front end"):
        encoder(torch.randn(2, 1, 40, 100))
    with pytest.raises(ValueError, match="pooling='max'"):
        VoiceEncoder(pooling="max")


@pytest.mark.parametrize("changed, message", [
    ({"batch_size": 7}, "batch_size=7: with use_pairs"),
    ({"pooling": "max"}, "pooling='max': expected one of attentive, mean"),
    ({"front_end": "boccio"}, "scales each clip by its own range"),
])
def test_what_cannot_work_is_refused_before_copies_are_made(voices, data_folder, changed, message):
    with pytest.raises(ValueError, match=message):
        open_voice(voices(**changed))
    assert not (data_folder / "features").exists()


def test_a_corpus_of_one_validation_speaker_is_refused(voices, audio, tmp_path):
    rows = (audio / "split.csv").read_text().replace("validation0,validation", "validation0,train")
    (tmp_path / "split.csv").write_text(rows)
    import_corpus(audio / "audio", name="one", split_file=tmp_path / "split.csv", progress=False)
    with pytest.raises(ValueError, match="split 'validation', has 1 speakers"):
        open_voice(voices(corpus="one"))


def test_the_notebook_takes_what_its_training_does():
    known = {"augment": "both", "front_end": "compact", "loss_type": "am_softmax", "pooling": "mean", "num_copies": 1}
    for name, value in (("augment", "III"), ("front_end", "kye"), ("loss_type", "prototypical"), ("pooling", "max"),
                        ("num_copies", 0)):
        with pytest.raises(ValueError, match=f"{name}={value!r}: expected"):
            check_parameters({name: value}, known, NOTEBOOK)
    assert check_parameters({"augment": "II"}, known, NOTEBOOK)["augment"] == "II"


def test_steps_are_read_ahead_one_by_one_and_what_goes_wrong_there_comes_out():
    def read(step):
        if step == 6:
            raise OSError("the disk is gone")
        return step

    with ReadAhead(read, 10) as ahead:
        assert [ahead(step) for step in (0, 1, 2, 5)] == [0, 1, 2, 5]  # 5: as after a resume
        with pytest.raises(OSError, match="the disk is gone"):
            ahead(6)
    with ReadAhead(read, 3) as ahead:
        assert [ahead(step) for step in range(3)] == [0, 1, 2] and not ahead.coming


def test_the_rate_rises_in_a_line_then_falls_to_nothing():
    rates = [cosine(0.003, step, 200) for step in range(201)]
    assert rates[0] == pytest.approx(0.003 / 20) and rates[9] == pytest.approx(0.0015)
    assert max(rates) == rates[19] == rates[20] == pytest.approx(0.003)
    assert rates[110] == pytest.approx(0.0015) and rates[200] == pytest.approx(0, abs=1e-12)
    assert (np.diff(rates[20:]) < 0).all() and all(rate > 0 for rate in rates[:200])
    assert cosine(0.003, 0, 1) == pytest.approx(0.003)


def test_only_matrices_and_filters_decay():
    encoder = VoiceEncoder()
    decayed, others = adamw(encoder.parameters(), lr=0.1).param_groups
    assert decayed["weight_decay"] == 0.01 and others["weight_decay"] == 0
    assert {each.ndim > 1 for each in decayed["params"]} == {True} and {each.ndim for each in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(encoder.parameters()))


# The three tasks


def test_tasks_never_share_an_utterance_and_are_the_same_for_every_training(voices):
    experiment, other = open_voice(voices()), open_voice(voices(seed=5, augment="none"))
    for split, table in ((split, experiment.split(split)) for split in ("validation", "test")):
        tasks, again = experiment.tasks(split), other.tasks(split)
        assert list(tasks) == list(voice_tasks.TASKS)
        for name, task in tasks.items():
            assert task.digest() == again[name].digest()
            assert task.episodes.speakers.shape[1] == min(SPEAKERS[split], voice_tasks.TASKS[name]["num_way"])
            assert set(task.clips.row) <= set(table.index)
            frames = task.clips.frames
            assert set(frames[:task.num_enrolments]) == {300} and set(frames[task.num_enrolments:]) == {
                voice_tasks.TASKS[name]["test_length"]}
            rows = [set(task.clips.row[task.clips.clip == clip]) for clip in range(len(task.clips))]
            for support, query in zip(task.episodes.support, task.episodes.query):
                enrolled = set().union(*(rows[clip] for clip in support.ravel()))
                assert not enrolled & set().union(*(rows[clip] for clip in query.ravel()))


def test_a_row_for_each_condition_task_and_way_of_asking_tells_what_was_met(voices):
    experiment, ways = open_voice(voices()), (voice_tasks.ONCE, voice_tasks.WARPED, voice_tasks.TRANSDUCTIVE)
    encoder, tasks = warped(experiment.new_encoder(), FRONT_ENDS["compact"]), experiment.tasks("test")
    rows = voice_tasks.voice_rows(encoder, experiment.features, tasks, False)
    assert [(row["heard"], row["task"], row["asked"]) for row in rows] == [
        (heard, task, way) for heard in ("recorded", "changed I", "changed II") for task in voice_tasks.TASKS
        for way in ways]
    assert [row["channel_family"] for row in rows[::9]] == [None, "I", "II"]
    alone = voice_tasks.voice_accuracy(encoder.encoder, experiment.features("recorded"), tasks)
    for row in rows[:9:3]:  # asked once is the encoder alone
        assert row["accuracy"] == pytest.approx(alone[row["task"]].mean())
    for row in rows:
        assert row["episodes"] == next(each["episodes"] for each in rows if each["task"] == row["task"])
        assert row["num_way"] == row["speakers"] == 3 and row["tasks"] == 20
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert np.mean(list(row["by_speaker"].values())) == pytest.approx(row["accuracy"], abs=1e-4)


def test_queries_that_lie_together_pull_a_prototype_to_them():
    """Two people on a circle: the enrolment of the second lies nearer to the first one's queries."""
    degrees = np.radians([0, 50, 30, 32, 34, 100, 102, 104])
    episodes = SimpleNamespace(support=np.array([[[0], [1]]]), query=np.array([[[2, 3, 4], [5, 6, 7]]]))
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    assert identify(torch.from_numpy(embeddings), episodes).tolist() == [[0, 1]]
    assert voice_tasks.identify_transductively(embeddings, episodes).tolist() == [[1, 1]]
    assert voice_tasks.identify_transductively(embeddings, episodes, rounds=0).tolist() == [[0, 1]]


# What each step brought


def test_the_sweep_trains_the_very_steps_of_the_table(voices):
    runs = read_sweep("voice_ablation", corpus="voices").runs
    results = pd.DataFrame([{**run.parameters, "corpus_fingerprint": "f", "heard": "recorded", "task": "5-way",
                             "asked": way, "episodes": "e", "by_speaker": {"a": 0.5}} for run in runs
                            for way in (voice_tasks.ONCE, voice_tasks.WARPED, voice_tasks.TRANSDUCTIVE)])
    lines = voice_ablation.ablation_lines(results)
    assert set(lines["step"]) == {*voice_ablation.STEPS, voice_ablation.LONGER, voice_ablation.SEVERAL,
                                  voice_ablation.TOGETHER, voice_ablation.MASKS}
    trained = lines[~lines["step"].isin([voice_ablation.SEVERAL, voice_ablation.TOGETHER])]
    assert trained["seeds"].sum() == len(runs)


def test_one_clip_is_shown_three_ways_and_at_three_speeds(voices):
    experiment = open_voice(voices())
    row = experiment.split("train").index[0]
    ways = views.three_ways(experiment.corpus, row)
    assert list(ways) == ["recorded", "changed I", "changed II"]
    assert len({len(waveform) for waveform in ways.values()}) == 1
    assert all(np.abs(ways["recorded"] - ways[name]).max() > 0.01 for name in ("changed I", "changed II"))
    pictures = [axis for axis in views.plot_ways(ways, means_removed=True).axes if axis.images]
    assert len(pictures) == 6
    below = np.asarray(pictures[-1].images[0].get_array())
    assert np.abs(below.mean(axis=1)).max() < 1e-2  # each mel's mean
    speeds = views.three_speeds(experiment.corpus, row)
    assert [len(each) for each in speeds.values()] == sorted((len(each) for each in speeds.values()), reverse=True)
    assert [axis.get_title(loc="left") or axis.get_title() for axis in views.plot_ways(speeds).axes[:3]] == list(speeds)
