"""The chapters by papermill with changed parameters, and one starting from another."""

import subprocess
import sys

import pytest
from clean_outputs import unclean
from quick_parameters import QUICK, QUICK_JUDGEMENT, QUICK_TRAINING

from speakerlib.data.demo_corpus import demo_corpus
from speakerlib.data.files import read_json
from speakerlib.experiments.parameters import notebook_path
from speakerlib.experiments.workbook import run_notebook

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A data folder with the demo corpus, shared by the tests of this module."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SPEAKERLIB_DATA", str(tmp_path_factory.mktemp("runs") / "data"))
    yield demo_corpus(progress=False)
    patch.undo()


def test_a_changed_parameter_reaches_the_notebook_and_a_second_run_finds_it_done(demo, capsys):
    folder, ran = run_notebook("05_protonet_training", {"num_support": 1, "num_way": 3, **QUICK})
    record = read_json(folder / "run.json")
    assert ran and record["status"] == "complete" and record["parameters"]["num_way"] == 3
    assert (
        len(record["result"]) == 18 and (folder / "executed.ipynb").exists() and (folder / "best.safetensors").exists()
    )
    assert run_notebook("05_protonet_training", {"num_support": 1, "num_way": 3, **QUICK}) == (folder, False)
    for notebook, parameters in (
        ("00_start_here", {"seed": 1}),
        ("01_data_scraping", {"num_workers": 1}),
        ("02_spectrogram_exploration", {"seed": 1}),
        ("03_mae_mask_visualisation", {"mask": "strips"}),
    ):
        folder, ran = run_notebook(notebook, parameters)
        assert ran and read_json(folder / "run.json")["status"] == "complete"
        assert unclean(folder / "executed.ipynb") == []
    folder, _ = run_notebook("08_result_tables", {"corpus": "demo"})
    assert unclean(folder / "executed.ipynb") == []
    assert "3-way 1-shot" in (folder / "tables.md").read_text(encoding="utf-8")


def test_an_autoencoder_of_chapter_04_is_where_chapter_05_starts(demo):
    pretrained, _ = run_notebook("04_mae_pretraining", QUICK_TRAINING)
    folder, _ = run_notebook("05_protonet_training", {"num_support": 1, "init": pretrained.name, **QUICK})
    assert unclean(pretrained / "executed.ipynb") + unclean(folder / "executed.ipynb") == []
    record = read_json(folder / "run.json")
    assert record["status"] == "complete" and record["parameters"]["init"] == pretrained.name
    assert folder != run_notebook("05_protonet_training", {"num_support": 1, **QUICK})[0]


def test_an_encoder_of_chapter_06_is_what_chapter_07_judges(demo):
    trained, _ = run_notebook("06_short_utterance_training", {"loss_type": "softmax", **QUICK})
    assert (trained / "encoder.safetensors").exists()
    folder, _ = run_notebook("07_verification_and_identification", {**QUICK_JUDGEMENT, "init": trained.name})
    assert unclean(trained / "executed.ipynb") + unclean(folder / "executed.ipynb") == []
    record = read_json(folder / "run.json")
    assert record["status"] == "complete" and record["speaker_encoder"]["run"] == trained.name
    assert {row["task"] for row in record["result"]} == {"verification", "identification"}


def test_as_published_is_labelled_and_meets_fewer_tasks(demo):
    folder, _ = run_notebook("05_protonet_training", {"protocol": "as_published", **QUICK, "test_tasks": 8})
    rows = read_json(folder / "run.json")["result"]
    assert {row["episode_rule"] for row in rows} == {"segment"} and all(row["interval_as_published"] for row in rows)


def test_plain_papermill_refuses_an_unknown_parameter_too(demo, tmp_path):
    done = subprocess.run([sys.executable, "-m", "papermill", str(notebook_path("05_protonet_training")),
                           str(tmp_path / "out.ipynb"), "-k", "python3", "-p", "num_wey", "3"],
                          capture_output=True, text=True)
    assert done.returncode != 0 and "did you mean 'num_way'" in done.stderr


def test_a_failing_notebook_names_its_cell_and_leaves_what_it_did(demo):
    with pytest.raises(RuntimeError, match=r"stopped in cell \d+: ValueError: .*num_way=70 needs 70 speakers"):
        run_notebook("05_protonet_training", {"num_way": 70, **QUICK})
