"""Every notebook: executed as it stands, with its checked outputs, and by papermill with a changed parameter."""

import json
import subprocess
import sys

import pytest
from clean_outputs import unclean

from speakerlib.data.demo_corpus import demo_corpus
from speakerlib.data.files import project_folder, read_json
from speakerlib.experiments.parameters import notebook_path
from speakerlib.experiments.workbook import STEPS, place_of, run_notebook, run_workbook

NOTEBOOKS = (
    "00_start_here",
    "01_data_scraping",
    "02_spectrogram_exploration",
    "03_mae_mask_visualisation",
    "04_mae_pretraining",
    "05_protonet_training",
    "06_short_utterance_training",
    "07_verification_and_identification",
    "08_result_tables",
    "09_who_is_speaking",
    "10_voice_training",
)
QUICK_TRAINING = {"num_train_iterations": 4, "test_interval": 2, "print_interval": 1}
QUICK = {**QUICK_TRAINING, "test_tasks": 20}
QUICK_JUDGEMENT = {"init": "untrained", "trials_per_speaker": 4, "test_tasks": 20}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(workbook_data):
    """A data folder with the demo corpus as it ships, shared by the tests of this module."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SPEAKERLIB_DATA", str(workbook_data))
    yield demo_corpus(progress=False)
    patch.undo()


def cells(notebook):
    return json.loads(notebook_path(notebook).read_text(encoding="utf-8"))["cells"]


def test_the_notebooks_are_these_and_the_workbook_runs_all_of_them():
    found = sorted(path.stem for path in (project_folder() / "notebooks").glob("*.ipynb"))
    assert found == sorted(NOTEBOOKS)
    assert {notebook for notebook, _ in STEPS} == set(NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_only_checked_cells_keep_their_output_and_no_cell_hides_a_function(notebook):
    for cell in cells(notebook):
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 30
        if cell["cell_type"] == "code":
            checked = source.startswith("# NBVAL_CHECK_OUTPUT")
            assert bool(cell["outputs"]) == checked and (cell["execution_count"] is not None) == checked
            assert "def " not in source


def test_every_notebook_runs_as_it_stands_with_the_outputs_it_shows(demo):
    """nbval, in order: 08 reads what the others wrote."""
    paths = [str(notebook_path(notebook)) for notebook in NOTEBOOKS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", *paths],
        cwd=project_folder(),
        capture_output=True,
        text=True,
    )
    code_cells = sum(cell["cell_type"] == "code" for notebook in NOTEBOOKS for cell in cells(notebook))
    assert done.returncode == 0 and f"{code_cells} passed" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]


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
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            str(notebook_path("05_protonet_training")),
            str(tmp_path / "out.ipynb"),
            "-k",
            "python3",
            "-p",
            "num_wey",
            "3",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "did you mean 'num_way'" in done.stderr


def test_a_failing_notebook_names_its_cell_and_leaves_what_it_did(demo):
    with pytest.raises(RuntimeError, match=r"stopped in cell \d+: ValueError: .*num_way=70 needs 70 speakers"):
        run_notebook("05_protonet_training", {"num_way": 70, **QUICK})


def test_the_workbook_runs_on_real_speech_and_then_finds_it_done(so762, demo, monkeypatch, capsys):
    shorter = {"04_mae_pretraining": QUICK_TRAINING, "05_protonet_training": QUICK,
               "06_short_utterance_training": QUICK, "07_verification_and_identification": QUICK_JUDGEMENT,
               "09_who_is_speaking": {"test_tasks": 20}, "10_voice_training": {"augment": "none", **QUICK}}
    quick = tuple((name, {**parameters, **shorter.get(name, {})}) for name, parameters in STEPS)
    monkeypatch.setattr("speakerlib.experiments.workbook.STEPS", quick)
    run_workbook(str(so762))
    first = capsys.readouterr().out
    assert "5-way 5-shot, recorded:" in first and "real speech" in first
    run_workbook("so762")
    assert capsys.readouterr().out.count("done already") == len(STEPS)
    folders = [place_of(name, {"corpus": "so762", **parameters})[2] for name, parameters in quick]
    assert {folder.parent.name for folder in folders} == set(NOTEBOOKS)
    assert [found for folder in folders for found in unclean(folder / "executed.ipynb")] == []
