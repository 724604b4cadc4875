"""The exported encoder computes what torch does, for any number of clips and frames."""

import json
import sys

import numpy as np
import pytest
import torch
from made_up_voices import random_weights

from speakerlib.data.front_ends import front_end
from speakerlib.experiments.onnx_export import export_onnx
from speakerlib.experiments.voice_weights import read_voice_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "voice.safetensors"
    random_weights(path)
    return read_voice_weights(path)


@pytest.mark.slow
def test_the_exported_network_is_the_same_at_every_length(weights, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f'the extra is not installed ({package}): pip install -e ".[onnx]"')
    import onnxruntime

    path = export_onnx(tmp_path / "voice.onnx", weights)
    assert list(tmp_path.iterdir()) == [path]  # one file, weights inside
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, frames in ((1, 51), (3, 151), (2, 332), (1, 3001), (7, 100)):
        values = torch.randn(batch, 1, 64, frames)
        (found,) = session.run(["embedding"], {"frames": values.numpy()})
        expected = weights.encoder(values).numpy()
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4, (batch, frames)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["weights"] == weights.digest and facts["encoder"] == "voice"
    assert json.loads(facts["front_end_settings"])["num_mels"] == front_end("compact").num_mels


def test_without_the_extra_it_says_what_to_install(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"\.\[onnx\]"):
        export_onnx(tmp_path / "voice.onnx", weights)
    with pytest.raises(ValueError, match="ends in .onnx"):
        export_onnx(tmp_path / "voice.pt", weights)
