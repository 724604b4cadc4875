"""Weights and checkpoints as files: written whole or not at all, read without unpickling anything."""

import io
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from speakerlib.data.files import atomic_path

CHECKPOINT = "checkpoint.pt"


def save_weights(weights, path, metadata=None):
    """Writes a model's state_dict (name -> tensor) as safetensors, atomically. OSError on a full disk.

    metadata: name -> text, for the file's header.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    _write(path, safetensors_bytes(weights, metadata))


def load_weights(model, path):
    """Reads safetensors weights into the model, in place, and returns it.

    FileNotFoundError if absent; ValueError if the file is no safetensors file or is of another architecture
    (the message names the tensors that differ).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No weights at {path}. Train the model first, or check the path.")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}). Expected weights saved by a "
                         "run, such as best.safetensors.") from error
    check_weights(model, weights, path)
    model.load_state_dict(weights)
    return model


def check_weights(model, weights, path):
    """ValueError, naming what differs, unless the weights have the model's names and shapes."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    differences = [f"{name}: {found.get(name, 'nothing')} there, {expected.get(name, 'nothing')} in the model"
                   for name in expected | found if expected.get(name) != found.get(name)]
    if differences:
        more = f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise ValueError(f"{path} holds weights of another architecture: {'; '.join(differences[:4])}{more}. "
                         "Build the model as it was when they were saved, or choose another file.")


def save_checkpoint(state, folder):
    """Writes all that training needs to go on: a dict of numbers, strings, lists, dicts and tensors."""
    buffer = io.BytesIO()  # a full disk is then an OSError like any other
    torch.save(state, buffer)
    _write(Path(folder) / CHECKPOINT, buffer.getbuffer())


def load_checkpoint(folder):
    """What save_checkpoint wrote, on the CPU; None if there is nothing; RuntimeError if it is damaged."""
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        return None
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
        missing = {"settings", "step", "weights", "optimizer", "history"} - set(state)
    except Exception as error:  # torch.load raises many kinds on a damaged or foreign file
        raise RuntimeError(_damaged(path, type(error).__name__)) from error
    if missing:
        raise RuntimeError(_damaged(path, f"no {', '.join(sorted(missing))}"))
    return state


def check_settings(found, asked, path):
    """ValueError, naming what differs, unless a run is continued with the settings it began with."""
    differences = [f"{name}={asked.get(name)!r} asked, {found.get(name)!r} there"
                   for name in found | asked if found.get(name) != asked.get(name)]
    if differences:
        raise ValueError(f"{path} is of a training with other settings: {'; '.join(differences)}. "
                         "Use the same settings to go on, or another folder to start anew.")


def _damaged(path, why):
    return (f"{path} is damaged or not a checkpoint of this project ({why}). "
            "Delete it to start this training from the beginning.")


def _write(path, content):
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        message = (f"{path} ({len(content) / 1e6:.1f} MB) could not be written: {error.strerror}. What was "
                   "there before is intact: free some space and run again to go on from it")
        raise OSError(error.errno, message) from error
