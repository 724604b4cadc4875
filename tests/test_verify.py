"""Chapter 07 on noise that has a colour a speaker: what is read, judged, kept and compared."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speakerlib.data.corpora import import_corpus
from speakerlib.data.drawn_trials import load_trials
from speakerlib.data.front_ends import FRONT_ENDS, clip_size, identifier
from speakerlib.data.utterance_features import utterance_front_end
from speakerlib.experiments import encoders_compared, verification_tables, verify
from speakerlib.experiments.checkpoints import save_weights
from speakerlib.experiments.parameters import notebook_parameters as parameters_of
from speakerlib.experiments.records import Run, start_run
from speakerlib.experiments.scoring import SCORINGS
from speakerlib.experiments.speaker_encoders import OverWindows, read_speaker_encoder
from speakerlib.experiments.verification import det_points, equal_error_rate
from speakerlib.models.encoders import build_encoder
from speakerlib.models.resnet import ResNetEncoder

SPLITS = ["train"] * 4 + ["validation"] * 2 + ["test"] * 5
SIX = "06_short_utterance_training"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """11 speakers of 8 utterances of 1.2 to 2.4 s: noise, and a band of the speaker's own that comes and goes."""
    folder = tmp_path_factory.mktemp("data")
    patch = pytest.MonkeyPatch()
    patch.setenv("SPEAKERLIB_DATA", str(folder))
    random, lines = np.random.default_rng(0), ["speaker,split"]
    for number, split in enumerate(SPLITS):
        lines.append(f"s{number:02d},{split}")
        for take in range(8):
            samples = random.standard_normal(round(16000 * random.uniform(1.2, 2.4)))
            gain = np.exp(-0.5 * ((np.fft.rfftfreq(len(samples), 1 / 16000) - 300 - 300 * number) / 150) ** 2)
            band = np.fft.irfft(np.fft.rfft(samples) * gain, len(samples))
            swell = 1 + np.sin(np.arange(len(samples)) / 16000 * 2 * np.pi * 4)
            samples = 0.02 * random.standard_normal(len(samples)) + swell * band
            path = folder / "audio" / f"s{number:02d}" / f"u{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.3 * samples / np.abs(samples).max(), 16000, subtype="PCM_16")
    (folder / "split.csv").write_text("\n".join(lines) + "\n")
    yield import_corpus(folder / "audio", name="tiny", split_file=folder / "split.csv", progress=False)
    patch.undo()


class Means(torch.nn.Module):
    """An encoder that needs no training: how loud each mel is beside its deviation over the clip."""

    dim = 40

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, frames):
        return self.scale * frames[:, 0].std(dim=2)


def parameters(**changed):
    return SimpleNamespace(**{"corpus": "tiny", "init": "untrained", "channel_family": "I", "trials": "drawn",
                              "trials_per_speaker": 12, "nb_class_test": 4, "num_support": 1, "num_query": 2,
                              "enroll_length": 300, "test_tasks": 30, "seed": 0, **changed})


@pytest.fixture(autouse=True)
def notebook(monkeypatch):
    """The parameters of notebook 07, whatever its cell says."""
    monkeypatch.setattr("speakerlib.experiments.records.notebook_parameters",
                        lambda name: vars(parameters()) if name == verify.NOTEBOOK else {"corpus": "tiny"})


@pytest.fixture(scope="module")
def evaluated(corpus, tmp_path_factory):
    """(evaluation, run, rows) of the encoder that needs no training."""
    evaluation = verify.open_evaluation(parameters())
    evaluation = verify.Evaluation(evaluation.settings, corpus, Means(), {**evaluation.facts, "kind": "means"})
    run = Run(tmp_path_factory.mktemp("run"), {"status": "started"})
    return evaluation, run, verify.evaluate(evaluation, run, progress=False)


# What is judged


def test_every_task_condition_length_and_scoring_has_one_row(evaluated):
    _, _, rows = evaluated
    keys = [(row["task"], row["condition"], row["test_length"], row["scoring"]) for row in rows]
    lengths = [("verification", length) for length in (None, 200, 100)]
    lengths += [("identification", length) for length in (50, 100, 200, 300)]
    assert sorted(keys, key=str) == sorted(((task, condition, length, scoring) for task, length in lengths
                                            for condition in ("recorded", "changed") for scoring in SCORINGS), key=str)
    for row in rows:
        values = ["eer", "min_dcf_0.01", "min_dcf_0.001"] if row["task"] == "verification" else ["accuracy"]
        assert all(0 <= row[name] <= 1 for name in values)
        assert set(row["by_speaker"]) <= {f"s{number:02d}" for number in range(6, 11)}  # test speakers alone
    best = {row["condition"]: row["eer"] for row in rows if row["task"] == "verification" and
            row["test_length"] is None and row["scoring"] == "cosine"}
    assert best["recorded"] < 0.1  # their colours are apart


def test_lists_and_scores_are_kept_and_give_the_rows_again(evaluated, corpus):
    evaluation, run, rows = evaluated
    for row in rows:
        if row["task"] != "verification":
            continue
        length = row["test_length"]
        scores, labels = verify.read_scores(run.folder, row["condition"], length, row["scoring"])
        assert equal_error_rate(*det_points(scores, labels)[:2]) == pytest.approx(row["eer"])
        trials = load_trials(run.folder / f"trials_{verify.length_name(length)}.csv", corpus, row["trial_list"])
        pd.testing.assert_frame_equal(trials, evaluation.trials[length], check_dtype=False)
    assert set(run.record["trial_lists"].values()) == {row["trial_list"] for row in rows if "trial_list" in row}


def test_a_speakers_rate_weighs_both_kinds_alike_and_their_mean_is_near_one_less_the_error():
    trials = pd.DataFrame({"label": [1, 1, 1, 0, 1, 0, 0, 0]})
    scores = np.array([.9, .8, .1, .2, .7, .6, .6, .1])
    speakers = np.array(["a"] * 4 + ["b"] * 4)
    rates = verify.rate_by_speaker(scores, trials, speakers, 0.5)
    assert rates == {"a": pytest.approx((2 / 3 + 1) / 2, abs=1e-5), "b": pytest.approx((1 + 1 / 3) / 2, abs=1e-5)}


def test_the_same_seed_gives_the_same_lists_and_another_seed_others(corpus, tmp_path):
    lists = [verify.save_trial_lists(verify.open_evaluation(parameters(seed=seed)), tmp_path / str(number))
             for number, seed in enumerate((3, 3, 4))]
    assert lists[0] == lists[1] and not set(lists[0].values()) & set(lists[2].values())
    tasks = [verify.open_evaluation(parameters(seed=seed)).tasks[100].digest() for seed in (3, 3, 4)]
    assert tasks[0] == tasks[1] != tasks[2]


def test_a_published_list_is_taken_as_it_is(corpus, tmp_path, capsys):
    path = tmp_path / "list.txt"
    lines = ["1 s06/u0.wav s06/u1.wav", "0 s06/u0.wav s07/u2.wav", "1 s00/u3.wav s00/u4.wav", "0 s00/u3.wav s09/u4.wav"]
    path.write_text("\n".join(lines) + "\n")
    evaluation = verify.open_evaluation(parameters(trials=str(path)))
    assert evaluation.trials[None]["label"].tolist() == [1, 0, 1, 0]
    assert (evaluation.trials[100]["test_frames"] == 100).all()
    assert "1 of 4 speakers of the trials are in split 'train' of 'tiny', such as s00" in capsys.readouterr().out
    path.write_text("1 s06/u0.wav s06/u1.wav\n0 s06/u0.wav s01/u2.wav\n")  # on the side of the tests alone
    verify.open_evaluation(parameters(trials=str(path)))
    assert "1 of 2 speakers of the trials are in split 'train' of 'tiny', such as s01" in capsys.readouterr().out
    path.write_text("1 s06/u0.wav s06/u1.wav\n0 s06/u0.wav s99/u2.wav\n")
    with pytest.raises(ValueError, match="lacks 1 of the 3 utterances of the trial list"):
        verify.open_evaluation(parameters(trials=str(path)))


def test_tests_that_repeat_a_short_utterance_are_counted(evaluated, capsys):
    evaluation = evaluated[0]  # of utterances of 1.2 to 2.4 s
    trials = evaluation.trials[200]
    short = (evaluation.corpus.table["duration"].to_numpy()[trials["test_row"]] < 2).sum()
    verify.print_repeats(evaluation)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"cut to 2 s: {short} of {len(trials)} tests are of an utterance shorter than that, which is " \
                      "repeated to fill it"
    assert said[1:] == [f"cut to 1 s: none of {len(trials)} tests is of an utterance shorter than that"]


def test_too_many_speakers_a_task_are_refused_by_the_name_of_the_parameter(corpus):
    with pytest.raises(ValueError, match=r"'tiny', split 'test': num_way=9 needs .* num_way is nb_class_test here"):
        verify.open_evaluation(parameters(nb_class_test=9))


# Which encoder


def short_utterance_run(corpus, seed=0, **changed):
    """A complete run of chapter 06 that trained nothing."""
    torch.manual_seed(seed)
    encoder = ResNetEncoder("resnet18", 40, 0.125)
    trained_by = {"loss_type": "softmax", "use_global_classification": True, "use_variable_length": True,
                  "logits": "normalised_prototype", "num_train_iterations": 10, "seed": seed, "corpus": "tiny",
                  **changed}
    run = start_run(SIX, SimpleNamespace(**trained_by), corpus)
    save_weights(encoder.state_dict(), run.folder / "encoder.safetensors")
    facts = {"front_end": "kye", "front_end_identifier": identifier(utterance_front_end("kye")), "encoder": "resnet18",
             "width": 0.125, **{key: trained_by[key] for key in trained_by if key != "num_train_iterations"}}
    run.write(speaker_encoder=facts)
    run.finish([])
    return run, encoder


def test_an_encoder_of_chapter_06_is_read_bit_for_bit(corpus):
    run, encoder = short_utterance_run(corpus)
    for init in (run.folder.name, str(run.folder)):
        found, facts = read_speaker_encoder(init)
        assert facts["kind"] == SIX and facts["run"] == run.folder.name and not found.training
        assert all(torch.equal(value, found.state_dict()[name]) for name, value in encoder.state_dict().items())
    run.write(speaker_encoder={**run.record["speaker_encoder"], "front_end_identifier": "0" * 8})
    with pytest.raises(ValueError, match="was trained on front end 'kye' .* another one in this version"):
        read_speaker_encoder(run.folder.name)
    run.write(status="started")
    with pytest.raises(ValueError, match="was cut short"):
        read_speaker_encoder(run.folder.name)


def test_the_name_of_a_notebook_is_its_default_run_on_the_corpus_as_it_is(corpus):
    name = "05_protonet_training"
    settings = SimpleNamespace(**{**parameters_of(name), "corpus": "tiny"})
    with pytest.raises(FileNotFoundError, match=f"speakerlib run {name} -p corpus tiny"):
        read_speaker_encoder(name, corpus)
    run = start_run(name, settings, corpus)
    save_weights(build_encoder("conv6", *clip_size(FRONT_ENDS["compact"], 1.5)).state_dict(),
                 run.folder / "best.safetensors")
    run.finish([])
    assert read_speaker_encoder(name, corpus)[1]["run"] == run.folder.name
    with pytest.raises(FileNotFoundError, match="there is no such run of .*did you mean|The newest runs are"):
        read_speaker_encoder("tiny_nothing")


def test_an_encoder_of_one_length_is_averaged_over_windows(corpus):
    torch.manual_seed(0)
    size = clip_size(FRONT_ENDS["compact"], 1.5)
    inner = build_encoder("conv6", *size).eval()
    settings = {"encoder": "conv6", "front_end": "compact", "segment_seconds": 1.5, "init": "scratch", "corpus": "tiny"}
    run = start_run("05_protonet_training", SimpleNamespace(**settings), corpus)
    save_weights(inner.state_dict(), run.folder / "best.safetensors")
    run.finish([])
    encoder, facts = read_speaker_encoder(run.folder.name)
    assert isinstance(encoder, OverWindows) and facts["front_end"] == "compact"
    frames = torch.randn(2, 1, *size)
    with torch.no_grad():
        plain = inner(frames - frames.mean(dim=-1, keepdim=True))
        torch.testing.assert_close(encoder(frames), plain)
        short = frames[..., :60]
        around = torch.cat([short, short, short], dim=-1)[..., :size[1]]
        torch.testing.assert_close(encoder(short), inner(around - around.mean(dim=-1, keepdim=True)))
        long = torch.randn(1, 1, size[0], 2 * size[1])
        middle = round(size[1] / 2)
        windows = [long[..., start:start + size[1]] for start in (0, middle, size[1])]
        expected = torch.stack([inner(each - each.mean(dim=-1, keepdim=True)) for each in windows]).mean(dim=0)
        torch.testing.assert_close(encoder(long), expected, rtol=1e-3, atol=1e-3)


def test_a_front_end_without_whole_utterances_is_refused(corpus):
    settings = {"encoder": "conv6", "front_end": "boccio", "segment_seconds": 3.0, "init": "scratch", "corpus": "tiny"}
    run = start_run("05_protonet_training", SimpleNamespace(**settings), corpus)
    run.finish([])
    with pytest.raises(ValueError, match="has no frames of whole utterances"):
        read_speaker_encoder(run.folder.name)


# Compared


def judged(evaluation, facts, init, better):
    """A complete run of chapter 07 whose target scores are higher by `better`, and whose accuracies are, too."""
    run = start_run(verify.NOTEBOOK, SimpleNamespace(**{**vars(evaluation.settings), "init": init}), evaluation.corpus)
    digests, scores, rows = verify.save_trial_lists(evaluation, run.folder), {}, []
    for condition in ("recorded", "changed"):
        for length, trials in evaluation.trials.items():
            random = np.random.default_rng((facts["seed"], length or 0))
            labels = trials["label"].to_numpy()
            values = random.standard_normal(len(trials)) + (1 + better) * labels
            scores[f"{condition}/{verify.length_name(length)}/cosine"] = torch.from_numpy(values)
            rows.append({"task": "verification", "condition": condition, "scoring": "cosine", "test_length": length,
                         "eer": equal_error_rate(*det_points(values, labels)[:2]),
                         "trial_list": digests[f"trials_{verify.length_name(length)}.csv"]})
        each = {f"s{number:02d}": 0.5 + better / 10 + 0.01 * number + 0.01 * facts["seed"] for number in range(6, 11)}
        rows.append({"task": "identification", "condition": condition, "scoring": "cosine", "test_length": 100,
                     "accuracy": float(np.mean(list(each.values()))), "episodes": "same", "by_speaker": each})
    save_weights(scores, run.folder / "scores.safetensors")
    run.write(speaker_encoder=facts)
    run.finish(rows)
    return run, rows


def trained(seed, loss_type="softmax", steps=100):
    return {"kind": SIX, "loss_type": loss_type, "use_global_classification": True, "use_variable_length": True,
            "logits": "normalised_prototype", "seed": seed, "sha256": f"{loss_type}{seed}{steps}",
            "parameters": {"num_train_iterations": steps, "corpus": "tiny", "loss_type": loss_type, "seed": seed}}


@pytest.fixture(scope="module")
def three_seeds(evaluated):
    """Runs of two objectives, three seeds each; one that was trained for longer; what the last of them is."""
    patch = pytest.MonkeyPatch()
    patch.setattr("speakerlib.experiments.records.notebook_parameters", lambda name: vars(parameters()))
    evaluation = evaluated[0]
    judged(evaluation, trained(0, steps=900), "longer", 9)
    for seed in range(3):
        judged(evaluation, trained(seed), f"softmax{seed}", 0)
        facts = trained(seed, "prototypical")
        run, rows = judged(evaluation, facts, f"prototypical{seed}", 1)
    patch.undo()
    return encoders_compared.alike(verify.Evaluation(evaluation.settings, evaluation.corpus, None, facts), run, rows)


def test_only_runs_of_one_recipe_stand_side_by_side(three_seeds):
    assert sorted(zip(three_seeds["method"], three_seeds["trained_seed"])) == [
        (name, seed) for name in ("prototypical + global", "softmax") for seed in range(3)]


def test_a_better_method_is_apart_from_its_control_and_not_from_itself(three_seeds):
    lines = encoders_compared.paired(three_seeds, "prototypical + global", "softmax")
    assert len(lines) == 8 and (lines["seeds"] == 3).all()
    for line in lines.to_dict("records"):
        better = -1 if line["task"] == "verification" else 1
        assert better * line["difference"] > 0 and better * line["low"] > 0 and better * line["high"] > 0
        assert line["low"] - 1e-9 <= line["difference"] <= line["high"] + 1e-9
        assert line["difference"] == pytest.approx(line["method_value"] - line["control_value"])
    same = encoders_compared.paired(three_seeds, "softmax", "softmax")
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)
    table = encoders_compared.paired_table(encoders_compared.against_others(three_seeds, "softmax"))
    assert table.columns.tolist() == ["EER, whole", "EER, 2 s", "EER, 1 s", "accuracy, 1 s"] and len(table) == 2
    assert "+" in table.iloc[0]["EER, whole"]  # softmax errs more


def test_lines_are_means_over_seeds_within_their_intervals(three_seeds):
    for task, name in (("verification", "eer"), ("identification", "accuracy")):
        lines = encoders_compared.by_length(three_seeds, task, "changed")
        for method, line in lines.items():
            for seconds, (value, low, high) in line.items():
                found = [row[name] for rows in three_seeds.loc[three_seeds["method"] == method, "result"]
                         for row in rows if (row["task"], row["condition"]) == (task, "changed")
                         and row["test_length"] == (seconds and seconds * 100)]
                assert len(found) == 3 and value == pytest.approx(np.mean(found)) and low < value < high


def test_other_trials_and_other_seeds_are_not_compared(three_seeds):
    runs = three_seeds.copy()
    runs["result"] = [[{**row, "episodes": method} for row in rows] for method, rows in zip(runs["method"],
                                                                                              runs["result"])]
    with pytest.raises(ValueError, match="identification, 1 s: the runs met different trials or tasks"):
        encoders_compared.paired(runs, "prototypical + global", "softmax")
    runs = three_seeds[(three_seeds["trained_seed"] == 0) == (three_seeds["method"] == "softmax")]
    with pytest.raises(ValueError, match=r"trained with seeds \[1, 2\], 'softmax' with \[0\]"):
        encoders_compared.paired(runs, "prototypical + global", "softmax")
    assert encoders_compared.against_others(runs, "softmax").empty
    assert encoders_compared.paired_table(encoders_compared.against_others(runs, "softmax")).empty


# Tables


def test_tables_hold_the_numbers_of_the_rows(evaluated):
    _, _, rows = evaluated
    table = verification_tables.errors_table(rows)
    assert len(table) == 18
    for row in rows:
        if row["task"] == "verification":
            key = row["condition"], verification_tables.spoken(row["test_length"]), row["scoring"]
            eer, low, high = (f"{100 * row[name]:.1f}" for name in ("eer", "eer_low", "eer_high"))
            assert table.loc[key, "EER %"] == f"{eer} ({low} to {high})"
    lines = verification_tables.lines_by_length(rows, "verification", "changed")
    assert set(lines) == set(SCORINGS) and set(lines["cosine"]) == {None, 2.0, 1.0}


@pytest.mark.parametrize(("num_trials", "measured"), [(37720, True), (60, False)])
def test_a_published_error_stands_beside_ours_only_on_its_own_list(evaluated, num_trials, measured):
    _, _, rows = evaluated
    table = verification_tables.beside_published(rows, "tiny", num_trials)
    first, others = table.iloc[0], table.iloc[2:]
    eer = next(row["eer"] for row in rows if row["task"] == "verification")
    assert first["published"] == "2.08"
    assert first["here, on tiny"] == (f"{100 * eer:.2f}" if measured else "other trials")
    assert (others["published"] == "not transcribed").all() and len(others) == 7
