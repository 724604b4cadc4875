"""The doctor: each thing that can be wrong is found, named, and comes with what to do."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from speakerlib import doctor, installation
from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.features import prepare_features
from speakerlib.data.utterance_features import prepare_utterance_features
from speakerlib.doctor import FAIL, OK, WARN


def raises(error):
    def function(*args, **kwargs):
        raise error
    return function


def test_the_machine_that_runs_the_tests_is_well():
    """What `make setup` promises: these must never fail after it."""
    for name in ("Python", "torch", "torchaudio", "CPU", "GPU", "voices", "decoding"):
        status, text, _ = doctor.examine(doctor.CHECKS[name])
        assert status != FAIL, f"{name}: {text}"


def test_the_status_and_a_line_a_check(monkeypatch, capsys):
    checks = {"a": lambda: (OK, "fine", None), "b": lambda: (WARN, "so so", "try this")}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert doctor.run_doctor() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["ok", "a", "fine"]
    assert said[1].split() == ["warn", "b", "so", "so"] and said[2].strip() == "-> try this"
    assert "0 failed, 1 with a remark" in said[-1]

    checks["c"] = lambda: 1 / 0  # a check with a fault of its own is reported, and the rest still run
    checks["d"] = lambda: (OK, "reached", None)
    assert doctor.run_doctor() == 1
    said = capsys.readouterr().out
    assert "ZeroDivisionError" in said and "reached" in said


@pytest.mark.parametrize(("version", "status"), [("3.10.4", FAIL), ("3.11.7", OK), ("3.13.0", WARN)])
def test_python_version(monkeypatch, version, status):
    monkeypatch.setattr(installation.platform, "python_version_tuple", lambda: version.split("."))
    assert installation.check_python()[0] == status


def test_other_versions_than_the_pins_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.files, "project_folder", lambda: tmp_path)
    (tmp_path / "constraints.txt").write_text("# pins\npytest==0.0.1\nno-such-package==1.0\n")
    status, text, advice = installation.check_packages()
    assert status == WARN and "0.0.1" in text and "no-such-package" in text and "constraints.txt" in advice
    (tmp_path / "constraints.txt").write_text(f"pytest=={pytest.__version__}\n")
    assert installation.check_packages()[0] == OK


def test_torch_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, text, advice = installation.check_torch()
    assert status == FAIL and "torch" in text and "constraints.txt" in advice


def test_torchaudio_linked_against_cuda_is_named_with_the_command_that_mends_it(monkeypatch, tmp_path):
    (tmp_path / "torchaudio.py").write_text(
        "try: raise OSError('libc10_cuda.so: cannot open shared object file')\n"
        "except OSError as error: raise OSError('Could not load this library') from error\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    status, text, advice = installation.check_torchaudio()
    assert status == FAIL and "libc10_cuda.so" in text and "CUDA" in text
    assert advice.endswith("-m speakerlib.setup_torchaudio")


def test_torchaudio_that_is_missing_is_another_case(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    status, _, advice = installation.check_torchaudio()
    assert status == FAIL and advice == installation.REINSTALL


def test_a_gpu_that_torch_cannot_use(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(installation, "_nvidia_cards", lambda: "Pretended 9000")
    status, text, _ = installation.check_gpu()
    assert status == WARN and "Pretended 9000" in text
    monkeypatch.setattr(installation, "_nvidia_cards", str)
    assert installation.check_gpu()[0] == OK  # no GPU at all is no fault


def test_voices_that_are_missing_or_dumb(pretend):
    import numpy as np

    pretend("speakerlib.data.espeak", espeak_version=raises(RuntimeError("not installed")), synthesise=None)
    status, text, advice = installation.check_voices()
    assert status == FAIL and "not installed" in text and "[demo]" in advice
    pretend("speakerlib.data.espeak", espeak_version=lambda: "1", synthesise=lambda text: (np.zeros(9, np.int16), 9))
    assert installation.check_voices()[0] == FAIL


def test_a_format_that_cannot_be_decoded_is_named(monkeypatch):
    import av

    monkeypatch.setattr(av, "open", raises(OSError("no FFmpeg")))
    status, text, advice = installation.check_decoding()
    assert status == FAIL and ".m4a (no FFmpeg)" in text and ".flac" not in text and "av" in advice


@pytest.mark.parametrize(("free", "status"), [(0.5e9, FAIL), (2e9, WARN), (50e9, OK)])
def test_disk(monkeypatch, data_folder, free, status):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    found, text, advice = doctor.check_disk()
    assert found == status and str(data_folder) in text
    assert (advice is None) == (status == OK)


def test_a_data_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPEAKERLIB_DATA", str(tmp_path / "file"))
    status, _, advice = doctor.check_disk()
    assert status == FAIL and "SPEAKERLIB_DATA" in advice


def test_corpora(pretend, data_folder):
    def open_corpus(name):
        if name == "torn":
            raise RuntimeError("shard-00003 is torn")

    pretend("speakerlib.data.corpora", list_corpora=list, open_corpus=open_corpus)
    status, _, advice = doctor.check_corpora()
    assert status == WARN and "speakerlib demo" in advice

    (data_folder / "corpora" / "whole").mkdir(parents=True)
    (data_folder / "corpora" / "whole" / "shard").write_bytes(bytes(2_500_000))
    pretend("speakerlib.data.corpora", list_corpora=lambda: ["whole"], open_corpus=open_corpus)
    assert doctor.check_corpora() == (OK, "whole (2.5 MB)", None)

    pretend("speakerlib.data.corpora", list_corpora=lambda: ["torn", "whole"], open_corpus=open_corpus)
    status, text, advice = doctor.check_corpora()
    assert status == FAIL and "torn: shard-00003" in text and "speakerlib import" in advice


def test_features(data_folder):
    folder = data_folder / "features" / "demo" / "compact-recorded-01234567"
    assert doctor.check_features()[0] == OK
    folder.mkdir(parents=True)
    status, text, _ = doctor.check_features()
    assert status == WARN and "demo/compact-recorded-01234567" in text  # begun, not finished
    (folder / "index.json").write_text("{")
    status, text, advice = doctor.check_features()
    assert status == FAIL and "demo/compact-recorded-01234567" in text and "delete" in advice


def test_features_of_segments_and_of_whole_utterances_open(data_folder, tmp_path):
    for speaker in range(3):
        noise = np.random.default_rng(speaker).normal(scale=0.1, size=32000).astype(np.float32)
        write_audio(tmp_path / "audio" / f"s{speaker}" / "1.wav", noise)
    corpus = import_corpus(tmp_path / "audio", name="noises", progress=False)
    prepare_features(corpus, progress=False)
    whole = prepare_utterance_features(corpus, progress=False)
    assert doctor.check_features()[:2] == (OK, f"2 folders, {doctor._size(data_folder / 'features')}")
    (whole.folder / "utterances.parquet").write_bytes(b"torn")
    status, text, _ = doctor.check_features()
    assert status == FAIL and whole.folder.name in text


def test_notebooks_and_the_kernel_that_runs_them(monkeypatch, tmp_path):
    from jupyter_client import kernelspec

    monkeypatch.setattr(doctor.files, "project_folder", lambda: tmp_path)
    assert doctor.check_notebooks()[0] == FAIL  # an installed package without its notebooks
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00.ipynb").write_text("{}")
    assert doctor.check_notebooks()[:2] == (OK, "1 notebooks, kernel 'python3' of this Python")
    monkeypatch.setattr(kernelspec, "get_kernel_spec", lambda name: SimpleNamespace(argv=["/elsewhere/bin/python"]))
    status, text, _ = doctor.check_notebooks()
    assert status == WARN and "/elsewhere/bin/python" in text
    monkeypatch.setattr(kernelspec, "get_kernel_spec", raises(kernelspec.NoSuchKernel("python3")))
    assert doctor.check_notebooks()[0] == FAIL
