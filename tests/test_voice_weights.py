"""The file of an encoder of voices: what comes back from it, what is refused, and how a calibration gets in."""

import shutil

import numpy as np
import pytest
import torch
from made_up_voices import CALIBRATION, random_weights
from safetensors.torch import load_file, save_file

from speakerlib.experiments import voice_weights
from speakerlib.experiments.voice_weights import keep_calibration, read_voice_weights, weights_digest


@pytest.fixture
def path(tmp_path):
    random_weights(tmp_path / "voice.safetensors")
    return tmp_path / "voice.safetensors"


def test_an_encoder_comes_back_as_it_was(path):
    frames = torch.randn(2, 1, 64, 70)
    found = read_voice_weights(path)
    assert torch.equal(found.encoder(frames), random_weights(path.with_name("again.safetensors"))(frames))
    assert not found.encoder.training and found.front_end.name == "compact" and found.calibration is None
    assert found.facts["channels"] == "4,4,8,8" and found.facts["corpus"] == "made up"


def test_a_run_is_found_by_folder_and_by_name(path, data_folder):
    run = data_folder / "runs" / "10_voice_training" / "a run"
    run.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no encoder.safetensors"):
        read_voice_weights(run)
    shutil.copy(path, run / "encoder.safetensors")
    digest = read_voice_weights(path).digest
    assert read_voice_weights(run).digest == read_voice_weights("a run").digest == digest
    with pytest.raises(FileNotFoundError, match="called 'another'"):
        read_voice_weights("another")


def test_without_the_model_that_ships_it_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(voice_weights, "SHIPPED_WEIGHTS", tmp_path / "voice.safetensors")
    with pytest.raises(FileNotFoundError, match="speakerlib run 10_voice_training"):
        read_voice_weights()


@pytest.mark.parametrize("facts, said", [
    ({"encoder": "conv6"}, "encoder 'conv6'; expected encoder 'voice'"),
    ({"encoder": None}, "nothing about an encoder"),
    ({"front_end_identifier": "00000000"}, "front end 'compact' .00000000."),
    ({"front_end": "nonsense"}, "front end 'nonsense'"),
    ({"width": "13"}, "another architecture"),
    ({"width": "many"}, "header that cannot be read"),
    ({"calibration": "{"}, "header that cannot be read"),
])
def test_files_of_another_kind_are_refused(tmp_path, facts, said):
    random_weights(tmp_path / "w.safetensors", **facts)
    with pytest.raises(ValueError, match=said):
        read_voice_weights(tmp_path / "w.safetensors")


def test_files_that_are_no_weights_are_refused(path, tmp_path):
    (tmp_path / "text.safetensors").write_text("these are no weights")
    (tmp_path / "torn.safetensors").write_bytes(path.read_bytes()[:-100])
    for name in ("text", "torn"):
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_voice_weights(tmp_path / f"{name}.safetensors")
    encoder = random_weights(tmp_path / "nan.safetensors", seed=1)
    tensors = load_file(tmp_path / "nan.safetensors")
    tensors["embedding.weight"][0, 0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors", voice_weights.voice_header(encoder, "compact"))
    with pytest.raises(ValueError, match="not finite, in embedding.weight"):
        read_voice_weights(tmp_path / "nan.safetensors")


def test_a_calibration_is_kept_with_its_weights_and_no_others(path, tmp_path):
    before = read_voice_weights(path)
    calibration = CALIBRATION | {"weights": before.digest}
    keep_calibration(path, calibration)
    after = read_voice_weights(path)
    assert after.calibration == calibration and after.digest == before.digest and after.facts == before.facts
    random_weights(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ValueError, match="the calibration was found for " + before.digest[:8]):
        keep_calibration(tmp_path / "other.safetensors", calibration)


def test_the_digest_tells_weights_and_front_ends_apart(path):
    found = read_voice_weights(path)
    assert weights_digest(found.encoder, "compact") == found.digest != weights_digest(found.encoder, "log_mel")
    with torch.no_grad():
        found.encoder.encoder.embedding.weight[0, 0] += 1e-3
    assert weights_digest(found.encoder, "compact") != found.digest
