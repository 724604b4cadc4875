"""Chapter 05 on small corpora: refused before anything is trained, or played with what there is."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.features import FeatureStore
from speakerlib.data.files import read_json
from speakerlib.experiments.nine_cells import nine_cells
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.protonet import open_experiment, train_protonet
from speakerlib.experiments.records import start_run


def experiment_of(data_folder, tmp_path, splits, **changed):
    """Noise of 3 s, 12 utterances a speaker; splits: {split: number of speakers}."""
    draw = np.random.default_rng(0)
    names = [(f"{split}{number}", split) for split, count in splits.items() for number in range(count)]
    for name, _ in names:
        for utterance in range(12):
            path = tmp_path / "audio" / name / f"{utterance}.wav"
            write_audio(path, (0.1 * draw.standard_normal(32000)).astype(np.float32))
    rows = "\n".join(f"{name},{split}" for name, split in names)
    (tmp_path / "split.csv").write_text(f"speaker,split\n{rows}\n")
    import_corpus(tmp_path / "audio", name="noise", split_file=tmp_path / "split.csv", progress=False)
    small = {"corpus": "noise", "num_way": 3, "num_support": 1, "num_query": 2, "batch_size": 1}
    quick = {"num_train_iterations": 2, "test_interval": 1, "print_interval": 1, "test_tasks": 10}
    settings = SimpleNamespace(**{**notebook_parameters("05_protonet_training"), **small, **quick, **changed})
    return settings


def test_a_small_corpus_plays_with_the_speakers_it_has(data_folder, tmp_path, capsys):
    settings = experiment_of(data_folder, tmp_path, {"train": 4, "validation": 2, "test": 3})
    experiment = open_experiment(settings)
    assert experiment.checkpoint_num_way == 2 and "chosen on 2-way tasks" in capsys.readouterr().out
    run = start_run("05_protonet_training", settings, experiment.corpus)
    encoder, history = train_protonet(experiment, run)
    rows = nine_cells(experiment, encoder, run, progress=False)
    run.finish(rows)
    assert len(history) == 2 and run.record["checkpoint_num_way"] == 2
    filled = [row for row in rows if row["accuracy"] is not None]
    assert {row["num_way"] for row in filled} == {3}
    assert all("num_way=" in row["reason"] for row in rows if row["accuracy"] is None)
    assert {row["condition"]: row["channel_family"] for row in rows} == {"recorded": None, "changed": "I"}
    by_cell = {(row["condition"], row["num_support"]): row["episodes"] for row in filled}
    assert by_cell["recorded", 1] == by_cell["changed", 1] != by_cell["recorded", 5]  # conditions are paired


def test_training_on_bytes_is_training_on_their_numbers(data_folder, tmp_path, monkeypatch):
    """To the last bit: all rows, and each weight."""
    settings = experiment_of(data_folder, tmp_path, {"train": 4, "validation": 3, "test": 3}, front_end="boccio",
                             segment_seconds=1.0)
    threads, read, left = torch.get_num_threads(), FeatureStore.read, []
    torch.set_num_threads(1)
    try:
        for keeps in (True, False):
            kinds = set()

            def noting(store, ids, keep_bytes=False, keeps=keeps, kinds=kinds):
                frames = read(store, ids, keep_bytes=keep_bytes and keeps)
                kinds.add(frames.dtype)
                return frames

            monkeypatch.setattr(FeatureStore, "read", noting)
            experiment = open_experiment(settings)
            run = start_run("05_protonet_training", settings, experiment.corpus)
            encoder, history = train_protonet(experiment, run)
            assert kinds == {torch.uint8 if keeps else torch.float32}
            left.append((history, encoder.state_dict()))
            shutil.rmtree(run.folder)
    finally:
        torch.set_num_threads(threads)
    (history, weights), (expected, expected_weights) = left
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


def test_what_cannot_work_is_refused_before_features_are_made(data_folder, tmp_path):
    settings = experiment_of(data_folder, tmp_path, {"train": 4, "validation": 2, "test": 3}, num_way=5)
    with pytest.raises(ValueError, match="num_way=5 needs 5 speakers .* split 'train'"):
        open_experiment(settings)
    with pytest.raises(ValueError, match="64"):
        open_experiment(SimpleNamespace(**{**vars(settings), "num_way": 3, "segment_seconds": 0.3}))
    assert not (data_folder / "features").exists()


def test_a_corpus_without_test_speakers_is_refused_before_training(data_folder, tmp_path):
    settings = experiment_of(data_folder, tmp_path, {"train": 4, "validation": 3})
    with pytest.raises(ValueError, match="split 'test'"):
        open_experiment(settings)


def test_a_checkpoint_of_another_front_end_is_refused(data_folder, tmp_path):
    settings = experiment_of(data_folder, tmp_path, {"train": 4, "validation": 3, "test": 3}, segment_seconds=1.0)
    experiment = open_experiment(settings)
    run = start_run("05_protonet_training", settings, experiment.corpus)
    train_protonet(experiment, run)
    other = open_experiment(SimpleNamespace(**{**vars(settings), "segment_seconds": 1.01}))
    with pytest.raises(ValueError, match="other settings: data="):
        train_protonet(other, run)


@pytest.mark.slow
@pytest.mark.parametrize("changed", [
    {}, {"augment": "I", "protocol": "as_published"}, {"norm_statistics": "unlabelled", "episode_rule": "segment"}])
def test_two_processes_train_what_one_does(data_folder, tmp_path, monkeypatch, changed):
    """The same tasks, channels of clips, losses, checkpoint and record; the second of two runs is not another run."""
    settings = experiment_of(data_folder, tmp_path, {"train": 4, "validation": 3, "test": 3}, batch_size=2,
                             num_train_iterations=6, test_interval=3, learning_rate=1e-6, **changed)
    for module in ("protonet", "training"):  # bfloat16 would round too much away to compare
        monkeypatch.setattr(f"speakerlib.experiments.{module}.machine_precision", lambda: "fp32")
    histories, records = [], []
    for count in (1, 2):
        asked = SimpleNamespace(**{**vars(settings), "num_processes": count})
        experiment = open_experiment(asked)
        run = start_run("05_protonet_training", asked, experiment.corpus)
        histories.append(train_protonet(experiment, run)[1])
        records.append(read_json(run.folder / "run.json"))
        shutil.rmtree(run.folder)
    # Adam makes whole steps of gradients that are nothing but rounding, which differs by processor: steps are small.
    losses = [history.filter(like="loss") for history in histories]
    pd.testing.assert_frame_equal(*losses, rtol=1e-4)
    pd.testing.assert_frame_equal(*histories, rtol=0, atol=0.02)  # a query on the edge may fall on either side
    assert records[1].pop("num_processes") == 2 and "num_processes" not in records[1]["parameters"]
    for name in ("run", "parameters", "precision", "checkpoint_num_way", "init_weights", "machine"):
        assert records[0][name] == records[1][name], name
    assert set(records[0]) == set(records[1])


def test_tasks_that_cannot_be_shared_equally_are_refused_before_training(data_folder, tmp_path):
    settings = experiment_of(data_folder, tmp_path, {"train": 4, "validation": 2, "test": 3}, batch_size=3,
                             num_processes=2)
    with pytest.raises(ValueError, match="batch_size=3 in num_processes=2.*batch_size=2 or 4, or num_processes=1"):
        open_experiment(settings)
