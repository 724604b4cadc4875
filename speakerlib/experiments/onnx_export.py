"""The encoder of voices as an ONNX file, for programs without torch: the network alone, frames in, embedding out."""

import io
import json
import logging
import warnings
from pathlib import Path

import torch

from speakerlib.data.files import atomic_path
from speakerlib.data.front_ends import identifier

OPSET = 18
FEWEST_FRAMES = 51  # of half a second


def export_onnx(path, weights):
    """Writes VoiceWeights (see read_voice_weights) as ONNX, atomically. Returns the path.

    Input `frames`: float32 (batch, 1, num_mels, frames), batch and frames of any size, what the front end makes of a
    clip, each mel's mean over the clip removed; output `embedding`: (batch, dim), of unit length. The front end is
    not in the file: its settings are in the metadata, with the facts of the weights. Raises ImportError if onnx and
    onnxscript are not installed, ValueError if the path does not end in .onnx.
    """
    path = Path(path).expanduser()
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: expected a name that ends in .onnx.")
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ImportError(f"the export needs an optional package that is not installed ({error.name}): "
                          'pip install -c constraints.txt -e ".[onnx]"') from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own workings
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        model = _exported(weights.encoder, onnx)
    from dataclasses import asdict

    facts = {**weights.facts, "front_end_settings": json.dumps(asdict(weights.front_end)),
             "front_end_identifier": identifier(weights.front_end), "weights": weights.digest}
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path


def _exported(encoder, onnx):
    example = torch.zeros(2, 1, encoder.num_mels, 2 * FEWEST_FRAMES)
    sizes = {0: torch.export.Dim("batch"), 3: torch.export.Dim("frames", min=FEWEST_FRAMES, max=1_000_000)}
    program = torch.onnx.export(encoder, (example,), dynamo=True, opset_version=OPSET, input_names=["frames"],
                                output_names=["embedding"], dynamic_shapes=(sizes,), verbose=False)
    content = io.BytesIO(program.model_proto.SerializeToString())
    return onnx.load(content)
