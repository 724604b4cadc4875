"""Every notebook: executed as it stands, with the outputs that it shows."""

import json
import subprocess
import sys

import pytest

from speakerlib.data.files import project_folder
from speakerlib.experiments.parameters import notebook_path
from speakerlib.experiments.workbook import STEPS

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
pytestmark = pytest.mark.slow


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


def test_every_notebook_runs_as_it_stands_with_the_outputs_it_shows(workbook_data, monkeypatch):
    """nbval, in order: 08 reads what the others wrote."""
    monkeypatch.setenv("SPEAKERLIB_DATA", str(workbook_data))
    paths = [str(notebook_path(notebook)) for notebook in NOTEBOOKS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", *paths],
        cwd=project_folder(),
        capture_output=True,
        text=True,
    )
    code_cells = sum(cell["cell_type"] == "code" for notebook in NOTEBOOKS for cell in cells(notebook))
    assert done.returncode == 0 and f"{code_cells} passed" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]
