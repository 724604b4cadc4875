"""The file of an encoder of voices: its weights, in its header what a reader has to know, and how it was calibrated."""

import inspect
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from speakerlib.data.files import data_folder, project_folder
from speakerlib.data.front_ends import FRONT_ENDS, FrontEnd, front_end, identifier
from speakerlib.data.speeds import warp_matrix
from speakerlib.experiments.checkpoints import check_weights, save_weights
from speakerlib.models.voice import WARPS, VoiceEncoder, WarpedEncoder

NOTEBOOK = "10_voice_training"
SHIPPED_WEIGHTS = project_folder() / "speakerlib" / "weights" / "voice.safetensors"


@dataclass(frozen=True)
class VoiceWeights:
    """What a file holds: the encoder in eval mode, its front end, and the facts of the header as text.

    calibration: the constants that `calibrate` found, or None; digest: of all that an embedding depends on, so that a
    new calibration leaves it as it is.
    """

    path: Path
    encoder: WarpedEncoder
    front_end: FrontEnd
    facts: dict
    calibration: dict | None
    digest: str


def read_voice_weights(weights=None):
    """VoiceWeights of a file, of a complete run of chapter 10 (its id or folder), or of the model that ships.

    Raises FileNotFoundError if there is none; ValueError for a file that is no safetensors file, is of another kind of
    encoder or another architecture, or whose front end has changed since.
    """
    path = _find(weights)
    facts, tensors = _read(path)
    if facts.get("encoder") != "voice":
        seen = f"encoder {facts['encoder']!r}" if "encoder" in facts else "nothing about an encoder in its header"
        raise ValueError(f"{path} holds no encoder of voices: {seen}; expected encoder 'voice'. Give a file or a run "
                         f"of chapter 10: speakerlib run {NOTEBOOK}")
    front = _front_end(path, facts)
    try:
        encoder = build_encoder(facts)
        calibration = json.loads(facts.pop("calibration", "null"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has a header that cannot be read: {error}. Train or export it again.") from error
    check_weights(encoder.encoder, tensors, path)
    if wrong := [name for name, values in tensors.items() if not torch.isfinite(values).all()]:
        raise ValueError(f"{path} holds weights that are not finite, in {wrong[0]}. Did the training diverge?")
    encoder.encoder.load_state_dict(tensors)
    encoder.eval().requires_grad_(False)
    return VoiceWeights(path, encoder, front, facts, calibration, weights_digest(encoder, front))


def build_encoder(facts):
    """A new WarpedEncoder by the texts of a header. ValueError for one that cannot be built."""
    return warped(VoiceEncoder(**_arguments(facts)), FRONT_ENDS[facts["front_end"]], _warps(facts))


def warped(encoder, front_end, warps=WARPS):
    """WarpedEncoder of an encoder of frames of this FrontEnd, in its mode: how an encoder of voices is asked."""
    matrices = np.stack([warp_matrix(front_end, factor) for factor in warps])
    asked = WarpedEncoder(encoder, warps, matrices).train(encoder.training)
    return asked.to(memory_format=torch.channels_last)  # half as fast again on a processor


def voice_header(encoder, front, **facts):
    """The header of a file of this WarpedEncoder, names to texts: all that builds it, its front end, further facts."""
    front = front_end(front)
    arguments = {name: getattr(encoder.encoder, name) for name in inspect.signature(VoiceEncoder).parameters}
    known = {"encoder": "voice", **arguments, "warps": encoder.warps, "front_end": front.name,
             "front_end_identifier": identifier(front)}
    return {name: _text(value) for name, value in {**facts, **known}.items()}


def weights_digest(encoder, front):
    """Hexadecimal digits that change with any weight, and with the front end."""
    digest = sha256(identifier(front_end(front)).encode())
    for name, values in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def keep_calibration(path, calibration, output=None):
    """Writes a calibration into the file of an encoder, in place or as `output`; the weights and other facts stay.

    Raises ValueError if the calibration was found for other weights.
    """
    found = read_voice_weights(path)
    if calibration["weights"] != found.digest:
        raise ValueError(f"{path} has the weights {found.digest[:8]}, and the calibration was found for "
                         f"{calibration['weights'][:8]}. Calibrate these: calibrate(read_voice_weights(path), corpus)")
    save_weights(found.encoder.encoder.state_dict(), output or found.path,
                 {**found.facts, "calibration": json.dumps(calibration, sort_keys=True)})


def _find(weights):
    """The file that `weights` means."""
    if weights is None:
        if not SHIPPED_WEIGHTS.is_file():
            raise FileNotFoundError(f"there is no {SHIPPED_WEIGHTS}. Train one: speakerlib run {NOTEBOOK}; then name "
                                    "its run or file: SpeakerIdentifier.load(...)")
        return SHIPPED_WEIGHTS
    given = Path(weights).expanduser()
    for place in (given, data_folder() / "runs" / NOTEBOOK / given):
        if place.is_dir():
            if not (place / "encoder.safetensors").is_file():
                raise FileNotFoundError(f"{place} holds no encoder.safetensors: it is no run of {NOTEBOOK}, or was cut "
                                        "short. Run it again with the same parameters; it goes on.")
            return place / "encoder.safetensors"
        if place.is_file():
            return place
    raise FileNotFoundError(f"there is no file, folder or run of {NOTEBOOK} called {str(weights)!r}. Give a "
                            ".safetensors file or a run, or nothing: then it is the model that ships.")


def _read(path):
    """(header, tensors) of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
        return facts, load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}). Expected the weights of an encoder of "
                         f"voices, such as {SHIPPED_WEIGHTS.name}.") from error


def _front_end(path, facts):
    name, then = facts.get("front_end"), facts.get("front_end_identifier")
    if name not in FRONT_ENDS or identifier(FRONT_ENDS[name]) != then:
        now = identifier(FRONT_ENDS[name]) if name in FRONT_ENDS else "unknown"
        raise ValueError(f"{path} was trained on front end {name!r} ({then}), which is another one in this version "
                         f"({now}). Train it again: speakerlib run {NOTEBOOK} --force")
    return FRONT_ENDS[name]


def _arguments(facts):
    """The encoder's arguments from their texts; one that a file does not name has its default."""
    arguments = {}
    for name, parameter in inspect.signature(VoiceEncoder).parameters.items():
        if name in facts:
            kind, text = type(parameter.default), facts[name]
            arguments[name] = (tuple(int(part) for part in text.split(",")) if kind is tuple else
                               text == "True" if kind is bool else kind(text))
    return arguments


def _warps(facts):
    warps = tuple(float(text) for text in facts.get("warps", "1").split(","))
    if len(warps) % 2 == 0 or warps[len(warps) // 2] != 1 or not all(0.5 <= warp <= 2 for warp in warps):
        raise ValueError(f"warps={facts['warps']!r}; expected an odd number of factors from 0.5 to 2, 1 in the middle")
    return warps


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
