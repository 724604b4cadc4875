"""Several processes (gloo, on CPUs) train as one does: the same numbers, files and resumes; all end together."""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from speakerlib.data.files import project_folder
from speakerlib.experiments import devices
from speakerlib.experiments.checkpoints import load_checkpoint
from speakerlib.experiments.launching import check_launcher, train_in
from speakerlib.models.objectives import prototypical_loss

TASKS, WAY, SUPPORT, QUERY, SIDE = 4, 4, 2, 3, 6
SETTINGS = {"num_train_iterations": 12, "learning_rate": 0.01, "test_interval": 4, "print_interval": 3,
            "precision": "fp32"}


def network():
    """With a norm over (batch, channels, height, width), and one over (batch, channels) that has no weights."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 8),
                         nn.BatchNorm1d(8, affine=False)).double()


def losses(model, step, tasks):
    draw = torch.Generator().manual_seed(step)
    clips = torch.randn(TASKS, WAY, 1, 1, SIDE, SIDE, generator=draw).double()
    clips = clips + 1.5 * torch.randn(TASKS, WAY, SUPPORT + QUERY, 1, SIDE, SIDE, generator=draw)
    embeddings = model(clips[tasks].flatten(0, 2)).reshape(-1, WAY, SUPPORT + QUERY, 8)
    loss, accuracy, _ = prototypical_loss(embeddings[:, :, :SUPPORT], embeddings[:, :, SUPPORT:])
    return loss, {"training_accuracy": accuracy}


def compute_loss(model, step):
    """The share of this process of a step's tasks."""
    return losses(model, step, devices.share(TASKS))


def validate(model):
    loss, scalars = losses(model, 10_001, slice(None))
    return {"validation_loss": loss, "validation_accuracy": scalars["training_accuracy"]}


def run(folder, count, loss=compute_loss, model=None, **changed):
    """train_in() on the tiny problem, in `count` processes."""
    arguments = {**SETTINGS, "validate": validate, **changed}
    return train_in(count, model or network(), loss, folder=Path(folder), **arguments)


def at(step, rank, do):
    """A compute_loss that does something in one process at one step."""
    def loss(model, now):
        if now == step and os.environ.get("RANK", "0") == str(rank):
            do()
        return compute_loss(model, now)
    return loss


def assert_close(found, expected):
    for name in expected:  # accuracies are float32
        pd.testing.assert_series_equal(found[name], expected[name], rtol=1e-6 if "accuracy" in name else 1e-9)


@pytest.mark.parametrize("changed", [{}, {"optimizer": "sgd", "schedule": "plateau", "learning_rate": 0.1}])
def test_two_processes_give_the_losses_of_one(tmp_path, changed):
    """In float64, so that what is the same does not drown in rounding: loss, accuracy, validation, best weights."""
    one, two = run(tmp_path / "1", 1, **changed), run(tmp_path / "2", 2, **changed)
    assert_close(two, one)
    assert one["training_loss"].dropna().nunique() == 4
    for name in ("last", "best"):
        weights, expected = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in "21")
        for key, value in weights.items():  # running statistics too
            torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-9, msg=f"{name}: {key}")
    found, expected = (load_checkpoint(tmp_path / folder) for folder in "21")
    assert found["settings"] == expected["settings"] and found["step"] == expected["step"] == 12
    assert found["best"]["step"] == expected["best"]["step"]


def test_float32_agrees_to_float_tolerance(tmp_path):
    one, two = (run(tmp_path / str(count), count, model=network().float(),
                    loss=lambda model, step: in_float32(model, step, devices.share(TASKS)),
                    validate=None) for count in (1, 2))
    pd.testing.assert_frame_equal(two, one, check_exact=False, rtol=1e-3)


def in_float32(model, step, tasks):
    return losses(lambda clips: model(clips.float()), step, tasks)


def test_without_the_joint_statistics_the_losses_would_differ(tmp_path, monkeypatch):
    """The test above can fail: BatchNorm over a process's own clips is another network."""
    one = run(tmp_path / "1", 1, num_train_iterations=3)
    monkeypatch.setattr(devices, "joined_statistics", lambda model: torch.enable_grad())
    apart = run(tmp_path / "2", 2, num_train_iterations=3)
    assert (apart["training_loss"] - one["training_loss"]).abs().max() > 1e-3


def test_the_model_ends_with_the_last_weights_and_its_own_forward(tmp_path):
    model = network()
    run(tmp_path, 2, model=model)
    for name, value in load_file(tmp_path / "last.safetensors").items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.training and not any("forward" in vars(part) for part in model.modules())


def test_one_process_goes_on_where_two_stopped_and_the_other_way_round(tmp_path):
    whole = run(tmp_path / "whole", 1)
    for first, second in ((1, 2), (2, 1), (4, 2)):
        folder = tmp_path / f"{first}{second}"
        run(folder, first, num_train_iterations=7)
        history = run(folder, second)
        assert list(history["step"]) == [3, 4, 6, 7, 8, 9, 12]  # the end of the first leaves a row of its own
        rows = whole.set_index("step").loc[[3, 4, 6, 8, 12]]
        found = history.set_index("step").loc[[3, 4, 6, 8, 12]]
        assert_close(found, rows)


def test_ctrl_c_ends_all_at_one_step_and_the_rest_is_the_same(tmp_path):
    """Told to one process only, and not to the first: both stop after the same step, and the first one saves."""
    whole = run(tmp_path / "whole", 2)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 6 of 12.* from step 6"):
        run(tmp_path / "cut", 2, loss=at(5, 1, lambda: signal.raise_signal(signal.SIGINT)))
    assert load_checkpoint(tmp_path / "cut")["step"] == 6
    assert_close(run(tmp_path / "cut", 2), whole)


@pytest.mark.parametrize("once", ["metrics.csv", "checkpoint.pt"])  # before the first step, and after some
def test_ctrl_c_of_the_parent_ends_all_and_its_handler_is_its_own_again(tmp_path, once):
    before, folder = signal.signal(signal.SIGINT, signal.default_int_handler), tmp_path / "run"
    stopped = threading.Event()
    try:
        def press():
            while not (folder / once).exists():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)
            while not stopped.wait(20):  # torch's launcher may lose one while it logs; a person presses again
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(KeyboardInterrupt, match="go on from"):
            run(folder, 2, num_train_iterations=100_000, print_interval=1)
        stopped.set()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        stopped.set()
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()
    step = (load_checkpoint(folder) or {"step": 0})["step"]
    assert step < 100_000 and (step or once == "metrics.csv")
    assert list(run(folder, 2, num_train_iterations=step + 3, print_interval=1)["step"]) == [*range(1, step + 4)]


def test_an_error_of_any_process_is_raised_here_and_ends_the_others(tmp_path):
    def fail():
        raise ValueError("no clip 12")

    with pytest.raises(ValueError, match="^no clip 12$"):
        run(tmp_path / "raised", 2, loss=at(6, 1, fail))
    assert load_checkpoint(tmp_path / "raised")["step"] == 4
    with pytest.raises(RuntimeError, match=r"Process 1 of 2 .* was killed; was there memory enough"):
        run(tmp_path / "killed", 2, loss=at(6, 1, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert_close(run(tmp_path / "killed", 2), run(tmp_path / "whole", 1))


def test_a_loss_that_is_not_finite_in_one_process_stops_all(tmp_path):
    def loss(model, step):
        loss, scalars = compute_loss(model, step)
        return loss * (float("nan") if step == 6 and os.environ.get("RANK") == "1" else 1), scalars

    with pytest.raises(RuntimeError, match="training loss became nan .* is of step 4"):
        run(tmp_path, 2, loss=loss)


def test_forks_of_a_process_whose_torch_had_threads_do_not_wait_for_them(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (torch.randn(1500, 1500) @ torch.randn(1500, 1500)).sum()
        assert len(run(tmp_path, 2, num_train_iterations=2)) == 1
    finally:
        torch.set_num_threads(before)


def test_a_fork_does_not_end_what_its_parent_had(tmp_path):
    """What torch leaves of an earlier training waits, when it ends, for threads that a fork does not have."""
    class Inherited:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            (tmp_path / f"ended by {os.getpid()}").touch()

    def drop():  # seen by no collection before the fork
        kept.clear()
        gc.collect()

    gc.collect()
    Inherited()
    kept = [Inherited()]
    run(tmp_path / "run", 2, loss=at(5, 0, drop))
    assert [path.name for path in tmp_path.glob("ended*")] == [f"ended by {os.getpid()}"]


def test_progress_is_reported_where_the_training_was_asked_for(tmp_path):
    seen = []
    history = run(tmp_path, 2, on_progress=lambda history: seen.append((os.getpid(), len(history))))
    assert seen and seen[-1] == (os.getpid(), len(history))


def test_what_is_complete_starts_no_process(tmp_path, monkeypatch):
    history = run(tmp_path, 1)
    monkeypatch.setattr("speakerlib.experiments.launching._launch", None)
    pd.testing.assert_frame_equal(run(tmp_path, 2), history)
    with pytest.raises(ValueError, match="learning_rate=0.02 asked"):
        run(tmp_path, 2, learning_rate=0.02)


def test_only_the_first_process_writes(tmp_path):
    run(tmp_path, 2)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint.pt", "metrics.csv", "last.safetensors", "best.safetensors", "tensorboard"}


def test_processes_of_one_computer_listen_on_loopback_alone(tmp_path):
    psutil = pytest.importorskip("psutil")

    def look():
        found = [connection.laddr.ip for connection in psutil.Process().net_connections()
                 if connection.status == psutil.CONN_LISTEN]
        (tmp_path / "listening.json").write_text(json.dumps(found))

    run(tmp_path / "run", 2, loss=at(5, 1, look))
    listening = json.loads((tmp_path / "listening.json").read_text())
    assert listening and set(listening) == {"127.0.0.1"}


def test_shares_are_the_whole_in_order_and_uneven_ones_are_refused():
    for count in (1, 2, 3, 6):
        assert [task for rank in range(count) for task in list(range(6))[devices.share(6, count, rank)]] == [*range(6)]
    with pytest.raises(ValueError, match=r"batch_size=6 in num_processes=4.*batch_size=4 or 8, or num_processes=3"):
        devices.check_share("batch_size", 6, 4)
    with pytest.raises(ValueError, match=r"batch_size=2 in num_processes=3.*batch_size=3, or num_processes=2"):
        devices.check_share("batch_size", 2, 3)


def test_gpus_that_were_used_cannot_be_forked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="num_processes=4, and 2 GPUs"):
        run(tmp_path, 4)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="Restart the kernel .* accelerate launch"):
        run(tmp_path, 2)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_launchers_that_start_one_process_or_many_notebooks_are_named(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # what `accelerate launch --cpu --num_processes 2` leaves
    with pytest.raises(RuntimeError, match="--multi_gpu in place of --cpu"):
        check_launcher()
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launcher()
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=None))
    with pytest.raises(RuntimeError, match="2 processes, and each runs a notebook"):
        check_launcher()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_a_launcher_of_the_terminal_trains_as_one_process_does(tmp_path, launcher):
    options = {"accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                              "--main_process_port", "0"],
               "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]}[launcher]
    environment = {**os.environ, "PYTHONPATH": str(project_folder()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *options, __file__, str(tmp_path / "2")], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_close(pd.read_csv(tmp_path / "2" / "metrics.csv"), run(tmp_path / "1", 1))
    assert json.loads((tmp_path / "2" / "ranks.json").read_text()) == 2


if __name__ == "__main__":  # what the launchers start
    run(sys.argv[1], 1)
    if devices.is_leader():
        Path(sys.argv[1], "ranks.json").write_text(json.dumps(devices.num_processes()))
