"""Sweeps: what failed is named and waited for, what is done is done once, and a killed sweep leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from speakerlib import cli
from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.files import data_folder as data_folder_now
from speakerlib.data.files import read_json
from speakerlib.experiments import sweep_files, sweeps
from speakerlib.experiments.checkpoints import CHECKPOINT
from speakerlib.experiments.records import Run, start_run
from speakerlib.experiments.sweep_files import read_sweep
from speakerlib.experiments.sweep_progress import _together, estimates
from speakerlib.experiments.sweeps import run_sweep
from speakerlib.experiments.workbook import run_notebook

EXECUTE = sweeps.execute
AUTOENCODER, PROTONET = "04_mae_pretraining", "05_protonet_training"
STEPS = {"masked": {"notebook": AUTOENCODER, "grid": {"seed": [0, 1, 2]}},
         "transfer": {"notebook": PROTONET, "init": "masked", "grid": {"seed": [0, 1, 2], "num_support": [1, 5]}}}


def write(folder, steps, corpus="people"):
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump({"title": "Some runs", "corpus": corpus, "steps": steps}, sort_keys=False))
    return path


# Without notebooks: what a worker does is replaced, so that these take seconds.

def people(name):
    table = pd.DataFrame({"speaker": ["a"], "split": ["train"], "duration": [1.0]})
    return SimpleNamespace(name=name, fingerprint="aaaa", synthetic=False, table=table, skipped=())


def execute_pretended(*args):
    """Instead of sweeps.execute, in a worker: the same, but for the notebook."""
    sweeps.run_notebook = pretend
    return EXECUTE(*args)


def pretend(notebook, parameters, title, quiet):
    """Instead of run_notebook: leaves a record, or fails as the data folder's files say."""
    place = data_folder_now()
    with open(place / "executed.txt", "a") as file:
        file.write(f"{title}\n")
    for kind in ("raises", "dies", "dies once"):
        if (place / kind).exists() and (place / kind).read_text() in title:
            if kind == "raises":
                error = RuntimeError("so it is\nand so on")
                error.cell, error.notebook = 7, "failed.ipynb"
                raise error
            if kind == "dies once":
                (place / kind).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    if (place / "comes on").exists() and (times := int((place / "comes on").read_text())):
        (place / "comes on").write_text(str(times - 1))
        folder = start_run(notebook, SimpleNamespace(**parameters), people(parameters["corpus"])).folder
        (folder / CHECKPOINT).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    finish(notebook, parameters)


def finish(notebook, parameters, seconds=None):
    run = start_run(notebook, SimpleNamespace(**parameters), people(parameters["corpus"]))
    (run.folder / "executed.ipynb").write_text("{}")
    run.finish([])
    if seconds:
        run.write(wall_seconds=seconds)


@pytest.fixture(scope="module")
def workers():
    with sweeps._workers(2, None) as client:
        yield client


@pytest.fixture
def pretended(data_folder, tmp_path, monkeypatch, workers):
    """A sweep file of three autoencoders and six runs from them, none of which really runs."""
    monkeypatch.setattr(sweep_files, "find_corpus", people)
    monkeypatch.setattr(sweeps, "execute", execute_pretended)
    monkeypatch.setattr(sweeps, "_workers", lambda num_workers, dashboard: nullcontext(workers))
    data_folder.mkdir()
    return write(tmp_path, STEPS)


def executed(data_folder):
    return (data_folder / "executed.txt").read_text().splitlines()


def test_a_failed_run_is_a_row_what_needs_it_waits_and_the_rest_goes_on(pretended, data_folder, capsys):
    (data_folder / "raises").write_text("masked seed=1")
    assert cli.main(["sweep", str(pretended), "--workers", "2"]) == 1
    said = capsys.readouterr().out
    assert said.count("failed: masked seed=1 (cell 7): so it is\n") == 2  # when it happened, and at the end
    assert "failed.ipynb" in said and "same command" in said
    summary = pd.read_csv(data_folder / "sweeps" / "some" / "summary.csv").set_index("name")
    assert summary["status"].value_counts().to_dict() == {"done": 6, "waits": 2, "failed": 1}
    assert summary.loc["masked seed=1", ["status", "cell"]].tolist() == ["failed", 7]
    assert set(summary.query("status == 'waits'")["error"]) == {"waits for masked seed=1"}
    assert set(summary.query("status == 'waits'")["seed"]) == {1}


def test_run_again_only_what_is_missing_or_failed_is_executed(pretended, data_folder):
    (data_folder / "raises").write_text("masked seed=1")
    run_sweep(pretended)
    (data_folder / "raises").unlink()
    first = executed(data_folder)
    assert (run_sweep(pretended)["status"] == "done").all()
    again = executed(data_folder)[len(first):]
    assert len(first) == 7 and sorted(again) == ["masked seed=1", "transfer num_support=1 seed=1",
                                                 "transfer num_support=5 seed=1"]
    assert (run_sweep(pretended)["status"] == "done").all() and len(executed(data_folder)) == 10


def test_nothing_runs_before_what_it_needs(pretended, data_folder):
    run_sweep(pretended)
    order = executed(data_folder)
    assert len(order) == len(set(order)) == 9
    for seed in range(3):
        assert all(order.index(f"masked seed={seed}") < order.index(f"transfer num_support={shots} seed={seed}")
                   for shots in (1, 5))


def test_a_worker_that_dies_is_tried_again_once(pretended, data_folder):
    (data_folder / "dies once").write_text("masked seed=0")
    assert (run_sweep(pretended)["status"] == "done").all()
    assert executed(data_folder).count("masked seed=0") == 2


def test_a_run_that_always_kills_its_worker_fails_and_the_rest_goes_on(pretended, data_folder, capsys):
    (data_folder / "dies").write_text("masked seed=2")
    summary = run_sweep(pretended).set_index("name")
    assert "killed 2 times" in summary.loc["masked seed=2", "error"] and "nan" not in capsys.readouterr().out
    assert summary["status"].value_counts().to_dict() == {"done": 6, "waits": 2, "failed": 1}


@pytest.mark.slow
def test_a_run_that_comes_on_is_begun_as_often_as_it_takes(pretended, data_folder):
    """Such as one that outlasts a cluster's walltime."""
    (data_folder / "comes on").write_text("2")
    summary = run_sweep(pretended, only="masked", overrides={"seed": 5})
    assert summary["status"].tolist() == ["done"] and len(executed(data_folder)) == 3


def test_a_dry_run_starts_nothing_and_says_what_is_done(pretended, data_folder, capsys):
    run = read_sweep(pretended).runs[1]
    finish(run.notebook, run.parameters, seconds=120.0)
    assert cli.main(["sweep", str(pretended), "--dry-run", "--workers", "2", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "9 runs, 1 done already. 8 to do, 2 at once with 1 threads each" in said and "about 8 min" in said
    lines = [line.split(None, 1) for line in said.splitlines() if line.startswith("  ")]
    assert [status for status, name in lines if name == "masked seed=1"] == ["done"] and len(lines) == 9
    assert not (data_folder / "executed.txt").exists() and not (data_folder / "sweeps").exists()


def test_one_step_is_executed_with_what_it_needs(pretended, data_folder):
    assert len(run_sweep(pretended, only="masked")) == 3
    assert len(run_sweep(pretended, only="transfer")) == 9
    with pytest.raises(ValueError, match="no step 'transfers'; it has masked, transfer"):
        run_sweep(pretended, only="transfers")


def test_workers_that_remember_a_run_of_another_sweep_execute_it_again(pretended, data_folder, workers, monkeypatch):
    submit, remembered = workers.submit, []
    monkeypatch.setattr(workers, "submit", lambda *args, **options: remembered.append(submit(*args, **options)) or
                        remembered[-1])
    for times in (1, 2):
        assert (run_sweep(pretended, only="masked")["status"] == "done").all()
        assert len(executed(data_folder)) == 3 * times
        shutil.rmtree(data_folder / "runs")


def test_what_a_step_needs_is_kept_to_the_root(pretended, tmp_path):
    judge = {"notebook": "07_verification_and_identification", "init": "transfer"}
    kept = sweeps._only(read_sweep(write(tmp_path, {**STEPS, "judge": judge})), "judge")
    assert [run.step for run in kept] == ["masked", "transfer", "transfer", "judge", "judge"]
    assert kept[0].parameters["seed"] == 0  # the other seeds' are not needed


def test_threads_are_shared_out_so_that_runs_do_not_fight(pretended, data_folder, monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    assert sweeps._sizes(20, None, None) == (4, 2) and sweeps._sizes(20, 2, None) == (2, 4)
    assert sweeps._sizes(20, None, 1) == (8, 1) and sweeps._sizes(3, None, None) == (3, 2)
    assert sweeps._sizes(20, 16, None) == (16, 1)
    with pytest.raises(ValueError, match="workers=0"):
        sweeps._sizes(20, 0, None)


def test_time_is_learnt_from_the_nearest_run_of_the_kind_in_proportion_to_its_size(pretended, data_folder):
    (masked, *_), size = read_sweep(pretended).runs, "num_train_iterations"
    for iterations, seconds in ((100, 20.0), (1000, 100.0)):
        finish(AUTOENCODER, {**masked.parameters, size: iterations, "seed": 9}, seconds)

    def guess(**changed):
        run = SimpleNamespace(notebook=AUTOENCODER, folder="here", parameters={**masked.parameters, **changed})
        return estimates([run])["here"]

    assert guess(num_train_iterations=2000) == 200.0 and guess(num_train_iterations=100) == 20.0
    assert guess(segment_seconds=3.0) is None


def test_time_follows_the_encoders_width_and_the_speakers_of_an_episode(pretended, tmp_path):
    training = "06_short_utterance_training"
    steps = {"train": {"notebook": training, "with": {"width": 0.25, "nb_class_train": 20, "num_support": 1,
                                                      "num_query": 2}}}
    own = read_sweep(write(tmp_path, steps)).runs[0].parameters
    finish(training, {**own, "seed": 9}, 100.0)

    def guess(**changed):
        run = SimpleNamespace(notebook=training, folder="here", parameters={**own, **changed})
        return estimates([run])["here"]

    assert guess() == 100.0 and guess(nb_class_train=100) == 500.0 and guess(num_support=4) == 200.0
    assert guess(width=1.0) is None and guess(encoder="resnet18") is None


def test_time_to_judge_is_learnt_from_as_many_tasks_and_trials(pretended, tmp_path):
    judging = "07_verification_and_identification"
    own = read_sweep(write(tmp_path, {"judge": {"notebook": judging}})).runs[0].parameters
    finish(judging, {**own, "seed": 9}, 100.0)

    def guess(**changed):
        return estimates([SimpleNamespace(notebook=judging, folder="here", parameters={**own, **changed})])["here"]

    assert guess() == 100.0 and guess(test_tasks=1000) is None and guess(trials_per_speaker=100) is None


def test_an_estimate_is_no_less_than_the_longest_chain_of_runs(pretended, data_folder):
    runs = read_sweep(pretended).runs
    seconds = {run.folder: 100.0 if run.step == "masked" else 10.0 for run in runs}
    assert _together(runs, seconds, 40.0, 2) == 180.0 and _together(runs, seconds, 40.0, 9) == 110.0
    assert _together(runs, dict.fromkeys(seconds), 40.0, 100) == 80.0


def test_the_same_sweep_cannot_be_at_work_twice(pretended, data_folder):
    with sweeps._alone(data_folder / "sweeps" / "some"), pytest.raises(RuntimeError, match="at work already"):
        run_sweep(pretended)


def test_runs_of_other_commits_count_and_are_told(pretended, data_folder, capsys):
    run = read_sweep(pretended).runs[0]
    finish(run.notebook, run.parameters)
    Run.read(run.folder).write(commit="0123456789ab")
    run_sweep(pretended)
    assert "masked seed=0" not in executed(data_folder)
    assert "made with 2 versions of the code" in capsys.readouterr().out


# With notebooks.

@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A corpus of noise that comes and goes: 12 speakers, 12 utterances of a second each."""
    folder, draw, rows = tmp_path_factory.mktemp("noise"), np.random.default_rng(0), ["speaker,split"]
    for split, count in (("train", 5), ("validation", 3), ("test", 4)):
        for speaker in (f"{split}{number}" for number in range(count)):
            rows.append(f"{speaker},{split}")
            for utterance in range(12):
                loud = np.repeat(draw.choice([0.002, 0.2], 10), 1600)
                samples = (loud * draw.standard_normal(16000)).astype(np.float32)
                write_audio(folder / "audio" / speaker / f"{utterance}.wav", samples)
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def speech(noise, data_folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import_corpus(noise / "audio", name="noise", split_file=noise / "split.csv", progress=False)
    return data_folder


TRAINING = {"segment_seconds": 0.9, "num_train_iterations": 500, "test_interval": 50, "print_interval": 50,
            "batch_size": 4}


def interruptible():
    """Ctrl-C reaches the process even where the tests run in the background, which hands on that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start():
    """Starts the command as a process in a group of its own, as a terminal does."""
    processes = []

    def function(path, *options):
        command = [sys.executable, "-m", "speakerlib", "sweep", str(path), "--workers", "2", "--threads", "1", *options]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                          process_group=0, preexec_fn=interruptible))
        return processes[-1]

    yield function
    for process in processes:
        process.kill()
        process.wait()


def wait_until(condition, seconds=300, process=None):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "this takes too long"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


def steps_done(sweep):
    """The number of rows in the runs' training curves."""
    return sum(len((run.folder / "metrics.csv").read_text().splitlines()) - 1 for run in sweep.runs
               if (run.folder / "metrics.csv").exists())


def is_over(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_leaves_no_process_and_goes_on_where_it_was(speech, tmp_path, start, number):
    path = write(tmp_path, {"masked": {"notebook": AUTOENCODER, "with": TRAINING, "grid": {"seed": [0, 1]}}}, "noise")
    sweep = read_sweep(path)
    process = start(path)
    wait_until(lambda: steps_done(sweep) >= 3, process=process)
    left = descendants(process)
    assert sum("ipykernel" in " ".join(child.cmdline()) for child in left) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 130 and "Stopped: 0 of 2 runs are done. The same command goes on" in said
    else:
        process.kill()
        process.wait()
    wait_until(lambda: all(map(is_over, left)), seconds=60)
    assert steps_done(sweep) < 20
    again = start(path)
    said = again.communicate(timeout=900)[0]
    assert again.returncode == 0 and "2 done of 2 runs" in said
    for run in sweep.runs:
        assert read_json(run.folder / "run.json")["status"] == "complete"
        assert pd.read_csv(run.folder / "metrics.csv")["step"].tolist() == list(range(50, 501, 50))
    whole, _ = run_notebook(AUTOENCODER, {**sweep.runs[0].parameters, "seed": 0, "print_interval": 10})
    curve = pd.read_csv(whole / "metrics.csv").set_index("step")["validation_loss"].dropna()
    resumed = pd.read_csv(sweep.runs[0].folder / "metrics.csv").set_index("step")["validation_loss"]
    np.testing.assert_allclose(resumed, curve, rtol=1e-4)


@pytest.fixture
def elsewhere(tmp_path):
    """A scheduler and two workers that are processes of their own; yields (address, the workers)."""
    place, own = tmp_path / "scheduler.json", ["--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler.json")]

    def begin(kind, *options):
        return subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, *own], cwd=tmp_path,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    processes = [begin("scheduler", "--host", "127.0.0.1", "--port", "0")]
    try:
        wait_until(place.exists, process=processes[0])
        processes += [begin("worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny") for _ in range(2)]
        yield read_json(place)["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_worker_elsewhere_is_killed_and_its_run_goes_on_at_another(speech, tmp_path, start, elsewhere):
    address, workers = elsewhere
    step = {"notebook": AUTOENCODER, "with": TRAINING, "grid": {"seed": [0, 1, 2]}}
    path = write(tmp_path, {"masked": step}, "noise")
    sweep = read_sweep(path)
    process = start(path, "--scheduler", address)
    wait_until(lambda: steps_done(sweep) >= 4 and all(descendants(worker) for worker in workers), process=process)
    kernels = descendants(workers[0])
    workers[0].kill()
    workers[0].wait()
    wait_until(lambda: all(map(is_over, kernels)), seconds=60)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0 and "3 done of 3 runs" in said
    for run in sweep.runs:
        assert pd.read_csv(run.folder / "metrics.csv")["step"].tolist() == list(range(50, 501, 50))


def test_a_scheduler_that_is_not_there_is_named(pretended, capsys):
    assert cli.main(["sweep", str(pretended), "--scheduler", "nonsense://x"]) == 2
    assert "no dask scheduler answers at 'nonsense://x'" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_reach_the_run_that_needs_them_and_a_failure_has_its_cell_and_notebook(speech, tmp_path):
    quick = {**TRAINING, "num_train_iterations": 2, "test_interval": 1, "print_interval": 1, "batch_size": 2}
    few = {**quick, "num_support": 1, "num_query": 2, "test_tasks": 4}
    path = write(tmp_path, {
        "masked": {"notebook": AUTOENCODER, "with": quick},
        "transfer": {"notebook": PROTONET, "with": few, "init": "masked", "grid": {"num_way": [3, 40]}}}, "noise")
    summary = run_sweep(path, num_workers=2, num_threads=1).set_index("name")
    assert summary["status"].tolist() == ["done", "done", "failed"]
    failed = summary.loc["transfer num_way=40"]
    assert failed["cell"] > 0 and "num_way=40 needs 40 speakers" in failed["error"]
    assert failed["executed"].endswith("failed.ipynb") and os.path.exists(failed["executed"])
    record = read_json(read_sweep(path).runs[1].folder / "run.json")
    assert record["init_weights"]["run"] == read_sweep(path).runs[0].folder.name
    assert record["machine"]["threads"] == 1
    curves = EventMultiplexer().AddRunsFromDirectory(str(speech / "sweeps" / "some")).Reload().Runs()
    assert {"tensorboard/masked", "tensorboard/transfer_num_way=3"} <= set(curves)


@pytest.mark.slow
def test_the_full_size_table_begins_with_its_own_settings(speech):
    """Its first steps, on seconds of noise: a pretraining, and the training that starts from it."""
    few = {"num_train_iterations": 2, "test_interval": 1, "batch_size": 2, "num_way": 3, "num_support": 1,
           "num_query": 1, "test_tasks": 4, "segment_seconds": 0.9}
    sweep = read_sweep("mae_table_full_size", "noise", few)
    runs = [next(run for run in sweep.runs if run.step == step and run.varied.get("mask") == "boxes")
            for step in ("pretrain", "transfer")]
    for run in runs:
        folder, executed = run_notebook(run.notebook, run.parameters, quiet=True)
        assert executed and folder == run.folder
    record = read_json(runs[1].folder / "run.json")
    assert record["status"] == "complete" and record["parameters"]["front_end"] == "boccio"
    assert record["init_weights"]["num_mels"] == 256 and record["init_weights"]["run"] == runs[0].folder.name
