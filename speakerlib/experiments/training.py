"""The training loop: any model and loss, with validation, checkpoints and an exact resume."""

import math
import signal
import threading
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path

import torch

from speakerlib.experiments import devices
from speakerlib.experiments import training_state as kept
from speakerlib.experiments.checkpoints import CHECKPOINT, load_checkpoint, load_weights
from speakerlib.experiments.memory import kept_memory
from speakerlib.experiments.optimizers import OPTIMIZERS, SCHEDULES, Plateau, cosine

__all__ = ["train", "machine_precision", "load_weights", "OPTIMIZERS"]
PRECISIONS = ("auto", "bf16", "fp32")


def train(model, compute_loss, *, folder, num_train_iterations, learning_rate, test_interval, print_interval,
          validate=None, watch="validation_accuracy", best="max", optimizer="adam", precision="auto",
          on_progress=None, data=None, parameter_groups=None, schedule="constant", clip=None, progress=True):
    """Trains the model in place, or goes on from the checkpoint in folder; returns the history (a DataFrame).

    compute_loss(model, step) -> (loss, dict of scalars), step = 0, 1, ...; its data must come from the step
    (and a seed) alone, on the device of the model's parameters: then a training that was cut short and run
    again ends with the numbers of one that was not. validate(model) -> dict of scalars, called in eval mode
    without gradients each test_interval steps and at the end; the weights with the highest (best="max") or
    lowest ("min") value of `watch` are kept, the earliest on a tie.

    history: one row each print_interval steps (`step` = steps done, `training_loss` and the scalars of
    compute_loss, means since the last such row) and each test_interval steps (the scalars of validate); NaN
    where a row has no value. on_progress(history) is called after each row.

    precision: "bf16" runs the model's forward in bfloat16 where that is safe and returns float32, so that
    losses are computed in float32; "fp32" forces float32; "auto" takes bf16 where the machine has units for
    it (or what the checkpoint was begun with).

    data: a dict that names what the model is trained on; a checkpoint of other data is refused.
    parameter_groups(model) -> what the optimizer is given in place of model.parameters(): groups with their own "lr".
    schedule: "plateau" lowers the learning rate where the training loss, meant over test_interval steps, no longer
    falls (see Plateau); the history then has a column learning_rate. "cosine" warms up and falls to 0 at the last step
    (see cosine), so a checkpoint goes on with the same num_train_iterations alone. clip: the gradients' greatest norm.

    In a process of several (see devices) compute_loss computes the process's share of a step; gradients, the statistics
    of BatchNorm and the history are those of all, as if one process had computed the step. The first process alone
    validates, shows progress and writes files, which all must see; so it has the whole history. progress: a bar.

    Leaves in folder: checkpoint.pt (each test_interval steps, at an interruption, at the end), metrics.csv,
    last.safetensors, best.safetensors (with validate), tensorboard/. Leaves the model with the last weights,
    in eval mode. Hold a lock on folder if several processes may train there.

    Raises ValueError for settings out of range or other than the checkpoint's, RuntimeError when the loss
    stops being finite, KeyboardInterrupt (after writing the checkpoint) when interrupted.
    """
    _check_arguments(num_train_iterations, learning_rate, test_interval, print_interval,
                     optimizer=optimizer, precision=precision, best=best, schedule=schedule)
    folder, total = Path(folder), int(num_train_iterations)
    state = load_checkpoint(folder)
    if precision == "auto":
        precision = state["settings"].get("precision") if state else machine_precision()
    settings = {"learning_rate": float(learning_rate), "optimizer": optimizer, "precision": precision,
                "test_interval": int(test_interval), "print_interval": int(print_interval),
                "watch": watch, "best": best,
                "data": data or {},
                **({} if schedule == "constant" else {"schedule": schedule}),  # as checkpoints of before have it
                **({"num_train_iterations": total} if schedule == "cosine" else {}),
                **({} if clip is None else {"clip": float(clip)})}
    leader, several = devices.is_leader(), devices.num_processes() > 1
    if state:
        kept.check_state(state, settings, model, total, folder / CHECKPOINT)
        model.load_state_dict(state["weights"])
    else:
        state = {"settings": settings, "step": 0, "history": [], "totals": {}, "count": 0, "best": None}
    saved_step = state["step"]
    if leader:
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_derived(state, folder)  # a killed process may have left them older or newer than its checkpoint
    if saved_step == total:
        model.eval()
        return kept.history(state)
    try:
        with (_accelerated(model, settings, state, parameter_groups) as (accelerator, stepper),
              _display(folder, saved_step, total, watch, leader, progress) as show,
              _interrupt_deferred() as interrupted, kept_memory(devices.num_processes()) as keep):
            plateau = Plateau(stepper, state.setdefault("plateau", {})) if schedule == "plateau" else None
            model.train()
            for step in range(saved_step, total):
                with devices.joined_statistics(model):
                    loss, scalars = compute_loss(model, step)
                accelerator.backward(loss)
                told = devices.average_gradients(model.parameters(), stop=bool(interrupted))
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                if schedule == "cosine":
                    for group in stepper.param_groups:
                        group["lr"] = cosine(learning_rate, step, total)
                stepper.step()
                stepper.zero_grad()
                keep()
                state["step"] = step + 1
                kept.add(state, {"training_loss": loss, **scalars})
                if plateau:
                    plateau.add(loss)
                printing = step + 1 == total or (step + 1) % print_interval == 0
                testing = step + 1 == total or (step + 1) % test_interval == 0
                stopping, row = (told if several else bool(interrupted)), {}
                if printing or testing or stopping:
                    kept.settle(state, folder, saved_step, accelerator.device)
                if printing:
                    row.update(kept.take_means(state))
                if testing and validate is not None and leader:
                    row.update(_validate(model, validate, state))
                if plateau and (step + 1) % test_interval == 0:  # the last step of all may cut an interval short
                    row["learning_rate"] = plateau.step()
                if row:
                    state["history"].append({"step": step + 1, **row})
                show(step + 1, row, flush=testing)
                if testing or stopping:
                    if leader:
                        kept.save(model, stepper, state, folder)
                    saved_step = step + 1
                elif row and leader:
                    kept.write_metrics(state, folder)
                if row and on_progress is not None:
                    on_progress(kept.history(state))
                if stopping:
                    break
            devices.wait_for_all()
            if interrupted or stopping:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Training stopped at step {state['step']} of {total}. Run the same again to "
                                f"go on from step {saved_step}, kept in {folder}.") from None
    finally:
        model.eval()
    return kept.history(state)


def machine_precision():
    """"bf16" where the processor that would train has units for it, else "fp32"."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    units = torch.cpu.get_capabilities()
    return "bf16" if units.get("avx512_bf16") or units.get("amx_bf16") else "fp32"


@contextmanager
def _display(folder, first_step, total, watch, leader, progress):
    """Yields show(step, row, flush): moves the progress bar and writes the row's scalars for TensorBoard.

    The bar tells the loss and the score that chooses the weights: more would not fit into a notebook.
    """
    if not leader:
        yield lambda step, row, flush: None
        return
    from torch.utils.tensorboard import SummaryWriter
    from tqdm.auto import tqdm

    with (SummaryWriter(folder / "tensorboard", purge_step=first_step + 1) as board,
          tqdm(total=total, initial=first_step, desc="training", unit="step", dynamic_ncols=True,
               disable=not progress) as bar):
        labels, shown = {"training_loss": "loss", watch: "validation"}, {}

        def show(step, row, flush):
            for name, value in row.items():
                board.add_scalar(name, value, step)
            if flush:
                board.flush()
            shown.update((label, f"{label} {row[name]:.3f}") for name, label in labels.items() if name in row)
            bar.set_postfix_str(", ".join(shown.values()), refresh=False)
            bar.update()

        yield show


@contextmanager
def _accelerated(model, settings, state, parameter_groups):
    """Yields (accelerator, optimizer), the model placed and wrapped for its precision; unwraps it after."""
    accelerator = devices.open_accelerator(settings["precision"])
    model.to(accelerator.device, memory_format=torch.channels_last)
    parameters = parameter_groups(model) if parameter_groups else model.parameters()
    optimizer = OPTIMIZERS[settings["optimizer"]](parameters, lr=settings["learning_rate"])
    # without accelerate's wrapper of several processes, which hides all of a model but its forward
    model = accelerator.prepare_model(model, evaluation_mode=accelerator.num_processes > 1)
    optimizer = accelerator.prepare_optimizer(optimizer)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    try:
        yield accelerator, optimizer
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)


@contextmanager
def _interrupt_deferred():
    """Yields a list that Ctrl-C fills, so that a step is never cut in the middle; a second Ctrl-C does so."""
    asked = []
    in_main = threading.current_thread() is threading.main_thread()  # no other may handle signals
    if not in_main or signal.getsignal(signal.SIGINT) in (None, signal.SIG_IGN):
        yield asked
        return

    def remember(number, frame):
        if asked and devices.num_processes() == 1:  # else the terminal and the launcher may both say it
            raise KeyboardInterrupt
        asked.append(number)

    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)


def _validate(model, validate, state):
    """The scalars of validate; keeps the weights if they are the best so far."""
    model.eval()
    with torch.no_grad():
        scalars = {name: float(value) for name, value in validate(model).items()}
    model.train()
    watch, best = state["settings"]["watch"], state["best"]
    if watch not in scalars:
        raise ValueError(f"validate returned {', '.join(scalars) or 'nothing'}; expected {watch!r}, "
                         "which chooses the best weights. Return it, or name another with watch=.")
    sign = 1 if state["settings"]["best"] == "max" else -1
    if best is None or sign * scalars[watch] > sign * best["value"] or math.isnan(best["value"]):
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        state["best"] = {"value": scalars[watch], "step": state["step"], "weights": weights}
    return scalars


def _check_arguments(num_train_iterations, learning_rate, test_interval, print_interval, **named):
    for name, value in (("num_train_iterations", num_train_iterations), ("test_interval", test_interval),
                        ("print_interval", print_interval)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1.")
    number = isinstance(learning_rate, Real) and not isinstance(learning_rate, bool)
    if not number or not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate={learning_rate!r}: expected a number above 0, such as 0.001.")
    choices = {"optimizer": OPTIMIZERS, "precision": PRECISIONS, "best": ("max", "min"),
               "schedule": SCHEDULES}
    for name, value in named.items():
        if value not in choices[name]:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(choices[name])}.")
