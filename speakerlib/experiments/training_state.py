"""What a training keeps from step to step: sums since the last row, history and best weights, and their files."""

import math

import pandas as pd
import torch

from speakerlib.data.files import write_table
from speakerlib.experiments.checkpoints import check_settings, check_weights, save_checkpoint, save_weights
from speakerlib.experiments.devices import average_scalars


def check_state(state, settings, model, total, path):
    """ValueError unless the checkpoint `state` of the file `path` is of this training, and of no later step."""
    check_settings(state["settings"], settings, path)
    check_weights(model, state["weights"], path)
    if state["step"] > total:
        raise ValueError(f"num_train_iterations={total}, but {path} is of step {state['step']} already. "
                         "Ask for at least as many, or use another folder.")


def add(state, scalars):
    """Adds to the sums since the last row; they stay on the device, which is not waited for."""
    state["count"] += 1
    for name, value in scalars.items():
        value = value.detach().double() if torch.is_tensor(value) else float(value)
        state["totals"][name] = state["totals"].get(name, 0.0) + value


def settle(state, folder, saved_step, device):
    """Makes plain numbers of the sums, of all processes that train; RuntimeError if the loss is not finite."""
    totals = [float(value) for value in state["totals"].values()]
    state["totals"] = dict(zip(state["totals"], average_scalars(totals, device)))
    if "plateau" in state:
        state["plateau"]["total"], = average_scalars([state["plateau"]["total"]], device)
    loss = state["totals"]["training_loss"]
    if not math.isfinite(loss):
        raise RuntimeError(
            f"The training loss became {loss} in the {state['count']} steps up to step {state['step']}, with "
            f"learning_rate={state['settings']['learning_rate']:g}. Use a lower learning_rate and another "
            f"folder, or look for NaN in the features. What {folder} keeps is of step {saved_step}.")


def take_means(state):
    """The means since the last row; the sums begin anew."""
    means = {name: total / state["count"] for name, total in state["totals"].items()}
    state["totals"], state["count"] = {}, 0
    return means


def save(model, optimizer, state, folder):
    """Writes the checkpoint and the files that repeat it."""
    state["weights"], state["optimizer"] = model.state_dict(), optimizer.state_dict()
    save_checkpoint(state, folder)
    write_derived(state, folder)


def write_derived(state, folder):
    """Writes the files that repeat a part of the checkpoint for others to read."""
    if "weights" in state:
        save_weights(state["weights"], folder / "last.safetensors")
    if state["best"]:
        save_weights(state["best"]["weights"], folder / "best.safetensors")
    write_metrics(state, folder)


def write_metrics(state, folder):
    """Writes the history as metrics.csv."""
    write_table(folder / "metrics.csv", history(state))


def history(state):
    """The history so far, a DataFrame."""
    return pd.DataFrame(state["history"]) if state["history"] else pd.DataFrame(columns=["step"])
