"""Training on synthetic Gaussian speakers with a tiny network: exact to the last bit on one thread."""

import copy
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from speakerlib.data.files import project_folder
from speakerlib.experiments.checkpoints import load_checkpoint
from speakerlib.experiments.optimizers import LOWEST, OPTIMIZERS, Plateau
from speakerlib.experiments.training import load_weights, train
from speakerlib.models.objectives import prototypical_loss

WAY, SUPPORT, QUERY, SIDE = 4, 2, 3, 6
SETTINGS = {"num_train_iterations": 12, "learning_rate": 0.01, "test_interval": 4, "print_interval": 3}
VALIDATION_STEPS = (10_001, 10_002)  # episodes that training never sees


def tiny_encoder(width=8):
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3),
                         nn.Flatten())


def compute_loss(model, step):
    """One task of Gaussian speakers: a function of the step alone."""
    draw = torch.Generator().manual_seed(step)
    speakers = torch.randn(WAY, 1, 1, SIDE, SIDE, generator=draw)
    clips = speakers + 1.5 * torch.randn(WAY, SUPPORT + QUERY, 1, SIDE, SIDE, generator=draw)
    device = next(model.parameters()).device
    embeddings = model(clips.flatten(0, 1).to(device)).reshape(1, WAY, SUPPORT + QUERY, -1)
    support, query = embeddings[:, :, :SUPPORT], embeddings[:, :, SUPPORT:]
    loss, accuracy, support_accuracy = prototypical_loss(support, query)
    return loss, {"training_accuracy": accuracy, "support_accuracy": support_accuracy}


def validate(model):
    results = [compute_loss(model, step) for step in VALIDATION_STEPS]
    return {"validation_loss": np.mean([loss.item() for loss, _ in results]),
            "validation_accuracy": np.mean([scalars["training_accuracy"].item() for _, scalars in results])}


def run(folder, model=None, loss=compute_loss, **changes):
    """train() on the tiny problem."""
    arguments = {**SETTINGS, "validate": validate, "precision": "fp32", **changes}
    return train(tiny_encoder() if model is None else model, loss, folder=folder, **arguments)


def killed_at(step, how):
    """A compute_loss that meets its end in the middle of this step, after the forward pass."""
    def loss(model, now):
        result = compute_loss(model, now)
        if now == step:
            how()
        return result
    return loss


def interrupt():
    signal.raise_signal(signal.SIGINT)


def raise_interrupt():
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """As on a terminal, even where the tests were started in the background, which ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def left_in(folder):
    """All that a training leaves, to be compared exactly."""
    state = load_checkpoint(folder)
    tensors = {f"{file} {name}": value for file in ("last", "best")
               for name, value in load_file(folder / f"{file}.safetensors").items()}
    for number, moments in state["optimizer"]["state"].items():
        tensors.update((f"optimizer {number} {name}", value) for name, value in moments.items())
    return {"metrics": (folder / "metrics.csv").read_text(), "history": state["history"],
            "best": (state["best"]["step"], state["best"]["value"]), "tensors": tensors}


def assert_same(found, expected):
    for key in ("metrics", "history", "best"):
        assert found[key] == expected[key]
    assert found["tensors"].keys() == expected["tensors"].keys()
    for name, value in found["tensors"].items():
        assert torch.equal(value, expected["tensors"][name]), name


def test_training_learns_and_keeps_the_best_weights(tmp_path):
    model, seen = tiny_encoder(), []
    before = validate(model.eval())
    history = run(tmp_path, model, num_train_iterations=60, test_interval=10, print_interval=15,
                  on_progress=lambda history: seen.append(len(history)))
    assert list(history["step"]) == [10, 15, 20, 30, 40, 45, 50, 60]
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    printed, tested = history.dropna(subset="training_loss"), history.dropna(subset="validation_accuracy")
    assert list(printed["step"]) == [15, 30, 45, 60] and list(tested["step"]) == [10, 20, 30, 40, 50, 60]
    assert printed["training_loss"].iloc[-1] < printed["training_loss"].iloc[0]
    assert tested["validation_loss"].iloc[-1] < before["validation_loss"]
    assert printed["training_accuracy"].iloc[-1] > 2 / WAY
    assert printed["support_accuracy"].iloc[-1] > 2 / WAY
    assert not model.training

    best = load_weights(tiny_encoder(), tmp_path / "best.safetensors").eval()
    with torch.no_grad():
        assert validate(best)["validation_accuracy"] == tested["validation_accuracy"].max()
    pd.testing.assert_frame_equal(history, pd.read_csv(tmp_path / "metrics.csv"))


def test_a_row_is_the_mean_since_the_row_before(tmp_path):
    losses = []

    def loss(model, step):
        loss, scalars = compute_loss(model, step)
        losses.append(loss.item())
        return loss, scalars

    history = run(tmp_path, loss=loss, num_train_iterations=8, validate=None)
    assert list(history["step"]) == [3, 6, 8]  # the last row closes a shorter interval
    assert list(history["training_loss"]) == pytest.approx(
        [np.mean(losses[0:3]), np.mean(losses[3:6]), np.mean(losses[6:8])], rel=1e-12)
    assert not (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("how", "kept"), [(interrupt, 6), (raise_interrupt, 4)])
def test_interrupted_then_resumed_is_the_same_to_the_last_bit(tmp_path, one_thread, how, kept, precision):
    """Ctrl-C waits for its step to end; an exception inside a step falls back to the checkpoint before."""
    whole = run(tmp_path / "whole", precision=precision)
    with pytest.raises(KeyboardInterrupt, match=rf"go on from step {kept}"):
        run(tmp_path / "cut", loss=killed_at(5, how), precision=precision)
    assert load_checkpoint(tmp_path / "cut")["step"] == kept
    steps = []

    def noting(model, step):
        steps.append(step)
        return compute_loss(model, step)

    resumed = run(tmp_path / "cut", loss=noting, precision="auto")
    assert steps == list(range(kept, 12))
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    assert_same(left_in(tmp_path / "cut"), left_in(tmp_path / "whole"))


def test_killed_then_resumed_is_the_same_to_the_last_bit(tmp_path, one_thread):
    run(tmp_path / "whole")
    done = subprocess.run([sys.executable, __file__, str(tmp_path / "cut")], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(project_folder())})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_checkpoint(tmp_path / "cut")["step"] == 8
    assert "\n9," in (tmp_path / "cut" / "metrics.csv").read_text()  # a row newer than the checkpoint
    run(tmp_path / "cut")
    assert_same(left_in(tmp_path / "cut"), left_in(tmp_path / "whole"))


def level(losses):
    """A compute_loss of the model's loss, moved so that its value is losses[step]."""
    def loss(model, step):
        loss, scalars = compute_loss(model, step)
        return loss - loss.detach() + losses[step], scalars
    return loss


def test_a_plateau_lowers_the_learning_rate_after_four_intervals_without_a_fall(tmp_path):
    falling, flat = np.linspace(9, 8, 12), np.full(40, 8.0)
    history = run(tmp_path, loss=level([*falling, *flat]), num_train_iterations=52, learning_rate=0.1,
                  optimizer="sgd", schedule="plateau")
    rates = history.dropna(subset="learning_rate").set_index("step")["learning_rate"]
    assert list(rates.index) == list(range(4, 53, 4))
    # The third interval ends the fall, the fourth is the lowest; four more bring nothing: lowered after step 32.
    assert rates.loc[:32].tolist() == pytest.approx([0.1] * 8)
    assert rates.loc[36:48].tolist() == pytest.approx([0.01] * 4) and rates.loc[52] == pytest.approx(0.001)


def test_a_plateau_looks_at_the_mean_of_all_steps_and_never_goes_below_the_lowest_rate():
    optimizer = OPTIMIZERS["sgd"]([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    assert optimizer.defaults["nesterov"] and optimizer.defaults["weight_decay"] == 1e-4
    plateau = Plateau(optimizer, {})
    held = []
    for interval in range(16):
        for loss in (1.0, 9.0 - interval / 100 * (interval < 3), 3.0):  # each ends alike: one loss tells nothing
            plateau.add(torch.tensor(loss))
        held.append(plateau.step())
    assert held[:7] == [1e-3] * 7 and held[7] == pytest.approx(1e-4)
    assert held[-1] == pytest.approx(LOWEST) and optimizer.param_groups[0]["lr"] == pytest.approx(LOWEST)


@pytest.mark.parametrize(("how", "stop"), [(interrupt, 5), (interrupt, 21), (raise_interrupt, 22)])
def test_a_plateau_goes_on_as_if_it_had_never_stopped(tmp_path, one_thread, how, stop):
    losses = [*np.linspace(3, 2, 6), *np.full(42, 2.0)]
    asked = {"num_train_iterations": 48, "learning_rate": 0.1, "optimizer": "sgd", "schedule": "plateau"}
    whole = run(tmp_path / "whole", loss=level(losses), **asked)
    assert whole["learning_rate"].dropna().nunique() == 3

    def cut(model, step):
        result = level(losses)(model, step)
        if step == stop:
            how()
        return result

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", loss=cut, **asked)
    resumed = run(tmp_path / "cut", loss=level(losses), **asked)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    assert_same(left_in(tmp_path / "cut"), left_in(tmp_path / "whole"))


def test_a_checkpoint_without_a_schedule_is_what_it_always_was(tmp_path):
    run(tmp_path)
    state = load_checkpoint(tmp_path)
    assert set(state) == {"settings", "step", "history", "totals", "count", "best", "weights", "optimizer"}
    assert set(state["settings"]) == {"learning_rate", "optimizer", "precision", "test_interval", "print_interval",
                                      "watch", "best", "data"}
    with pytest.raises(ValueError, match="schedule='plateau' asked, None there"):
        run(tmp_path, schedule="plateau", num_train_iterations=24)


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=killed_at(10, raise_interrupt))
    history = run(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("training_loss", "validation_accuracy"):
        expected = history.dropna(subset=name)
        assert [event.step for event in events.Scalars(name)] == list(expected["step"])
        assert [event.value for event in events.Scalars(name)] == pytest.approx(list(expected[name]))


def test_a_complete_training_is_not_run_again_but_can_be_made_longer(tmp_path, one_thread):
    model = tiny_encoder()
    history = run(tmp_path / "twice", model)
    again = tiny_encoder()
    pd.testing.assert_frame_equal(run(tmp_path / "twice", again, loss=None), history, check_exact=True)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    longer = run(tmp_path / "twice", num_train_iterations=24)
    pd.testing.assert_frame_equal(longer, run(tmp_path / "once", num_train_iterations=24), check_exact=True)


def test_files_that_repeat_the_checkpoint_are_made_again(tmp_path):
    """A process killed just after its checkpoint leaves them old or absent."""
    run(tmp_path)
    expected = left_in(tmp_path)
    (tmp_path / "last.safetensors").unlink()
    (tmp_path / "best.safetensors").unlink()
    (tmp_path / "metrics.csv").write_text("step\n")
    run(tmp_path)
    assert_same(left_in(tmp_path), expected)


@pytest.mark.parametrize(("changes", "message"), [
    ({"learning_rate": 0.02}, r"learning_rate=0.02 asked, 0.01 there"),
    ({"test_interval": 6}, r"test_interval=6 asked, 4 there"),
    ({"precision": "bf16"}, r"precision='bf16' asked, 'fp32' there"),
    ({"num_train_iterations": 11}, r"num_train_iterations=11, but .* is of step 12 already"),
    ({"model": tiny_encoder(width=4)}, r"architecture: 0.weight: \(8, 1, 3, 3\) there, \(4, 1, 3, 3\) in"),
])
def test_other_settings_do_not_go_on_from_a_checkpoint(tmp_path, changes, message):
    run(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **changes)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(("name", "value"), [
    ("num_train_iterations", 0), ("num_train_iterations", 2.5), ("test_interval", -1),
    ("print_interval", "often"),
    ("learning_rate", 0), ("learning_rate", float("nan")), ("learning_rate", "0.1"), ("learning_rate", True),
    ("optimizer", "adamm"), ("schedule", "cosinus"), ("precision", "fp16"), ("best", "highest"),
])
def test_settings_out_of_range_are_refused_before_anything_is_written(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: expected"):
        run(tmp_path / "run", **{name: value})
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_numbers(tmp_path):
    run(tmp_path, **{name: np.array(value)[()] for name, value in SETTINGS.items()})
    assert load_checkpoint(tmp_path)["step"] == 12


def test_precisions_alternate_in_one_process_and_leave_the_model_clean(tmp_path):
    clips = torch.randn(2, 1, SIDE, SIDE)
    for number, precision in enumerate(("bf16", "fp32", "bf16")):
        model, inside = tiny_encoder(), []
        model[0].register_forward_hook(lambda module, args, out, inside=inside: inside.append(out.dtype))
        run(tmp_path / str(number), model, precision=precision, num_train_iterations=1)
        expected = torch.bfloat16 if precision == "bf16" else torch.float32
        assert inside == [expected] * 3  # a training step and two validation tasks
        model(clips)
        assert inside[3:] == [torch.float32]  # its own forward again
        assert torch.equal(copy.deepcopy(model)(clips), model(clips))


def test_embeddings_and_loss_are_float32_under_bf16(tmp_path):
    dtypes = []

    def loss(model, step):
        embeddings = model(torch.randn(4, 1, SIDE, SIDE))
        distances = embeddings @ embeddings.T
        dtypes.append((embeddings.dtype, distances.dtype))
        return distances.square().mean(), {}

    run(tmp_path, loss=loss, precision="bf16", validate=None, num_train_iterations=1)
    assert dtypes == [(torch.float32, torch.float32)]


def test_validation_is_in_eval_mode_and_training_goes_on_in_train_mode(tmp_path):
    modes = []

    def note(kind, function):
        def noting(model, *arguments):
            modes.append((kind, model.training, torch.is_grad_enabled()))
            return function(model, *arguments)
        return noting

    run(tmp_path, tiny_encoder().eval(), note("train", compute_loss), validate=note("validate", validate),
        test_interval=1, num_train_iterations=2)
    assert modes == [("train", True, True), ("validate", False, False)] * 2


def test_the_best_may_be_the_lowest_of_another_scalar(tmp_path):
    losses = iter([0.5, 0.2, 0.2, 0.9])
    run(tmp_path, test_interval=3, validate=lambda model: {"error": next(losses)}, watch="error", best="min")
    best = load_checkpoint(tmp_path)["best"]
    assert (best["value"], best["step"]) == (0.2, 6)  # the earlier of two
    with pytest.raises(ValueError, match="returned error; expected 'validation_accuracy'"):
        run(tmp_path / "other", validate=lambda model: {"error": 0.1})


def test_a_loss_that_is_not_finite_stops_training_and_spares_the_checkpoint(tmp_path):
    def loss(model, step):
        loss, scalars = compute_loss(model, step)
        return loss * (float("nan") if step == 6 else 1), scalars

    with pytest.raises(RuntimeError, match=r"became nan .* learning_rate=0.01.*is of step 4"):
        run(tmp_path, loss=loss)
    weights = load_checkpoint(tmp_path)["weights"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_training_runs_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert load_checkpoint(tmp_path)["step"] == 12


def test_ctrl_c_works_as_before_once_training_is_over(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    def loss(model, step):
        if step == 6:
            monkeypatch.setattr("speakerlib.data.files.os.fsync", full)
        return compute_loss(model, step)

    with pytest.raises(OSError, match="No space left on device"):
        run(tmp_path, loss=loss, print_interval=100)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["step"] == 4
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]
    run(tmp_path, print_interval=100)
    assert load_checkpoint(tmp_path)["step"] == 12


def test_a_torn_checkpoint_is_named(tmp_path):
    run(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RuntimeError, match="checkpoint.pt is damaged.*Delete it"):
        run(tmp_path)


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def test_a_checkpoint_is_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"settings": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RuntimeError, match="damaged or not a checkpoint"):
        run(tmp_path)
    assert not Path("sprung").exists()
    torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert Path("sprung").exists()  # the trap would have worked


def test_weights_that_do_not_fit_are_refused_with_the_difference(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"0.bias: \(8,\) there, \(4,\) in the model; .* and 4 more"):
        load_weights(tiny_encoder(width=4), tmp_path / "last.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_weights(tiny_encoder(), tmp_path / "checkpoint.pt")
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        load_weights(tiny_encoder(), tmp_path / "none.safetensors")


if __name__ == "__main__":  # the process that test_killed_then_resumed kills
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), loss=killed_at(9, lambda: os.kill(os.getpid(), signal.SIGKILL)))
