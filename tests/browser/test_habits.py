"""What readers do with a chapter: interrupt a training and go on, reload the page, watch a job, enrol people."""

import json

import numpy as np
import pytest
from lab_pages import LONGEST, WAIT

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import find_corpus
from speakerlib.data.files import data_folder

pytestmark = pytest.mark.slow


def test_an_interrupted_training_goes_on_and_its_figures_outlive_a_reload(notebook, workbook_data, monkeypatch):
    monkeypatch.setenv("SPEAKERLIB_DATA", str(workbook_data))
    opened = notebook("05_protonet_training")
    opened.set_parameters(num_train_iterations=60, test_interval=10, print_interval=2, test_tasks=20, seed=77)
    page = opened.page
    opened.run_all(wait=False)
    cell = opened.show(opened.find("train_protonet(experiment"))
    cell.locator(".jp-OutputArea img").first.wait_for(timeout=LONGEST)  # the training curve has begun
    opened.command("notebook:interrupt-kernel")
    opened.finished()
    assert [output["ename"] for _, output in opened.outputs() if output["output_type"] == "error"] == [
        "KeyboardInterrupt"]
    (folder,) = (data_folder() / "runs" / "05_protonet_training").glob("*seed-77*")
    assert json.loads((folder / "run.json").read_text())["status"] != "complete"
    reached = len((folder / "metrics.csv").read_text().splitlines())
    opened.run_all()
    assert not [output for _, output in opened.outputs() if output["output_type"] == "error"]
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "complete" and len((folder / "metrics.csv").read_text().splitlines()) > reached
    opened.save()
    pictures = sum("image/png" in output.get("data", {}) for _, output in opened.outputs())
    page.reload()
    opened.ready()
    assert sum("image/png" in output.get("data", {}) for _, output in opened.outputs()) == pictures > 0
    opened.show(opened.find("embeddings_for_map(experiment"))
    page.locator(".jp-OutputArea img").first.wait_for(timeout=WAIT)
    assert page.locator(".jp-OutputArea img").first.evaluate("(each) => each.naturalWidth") > 400


def test_a_scrape_is_seen_to_move(notebook, tmp_path):
    opened = notebook("01_data_scraping")
    opened.set_parameters(output=str(tmp_path / "scraped"), corpus="watched")
    opened.run_all(wait=False)
    cell = opened.show(opened.find("result = scrape("))
    progress = cell.locator(".jp-OutputArea-output").first
    progress.wait_for(timeout=LONGEST)
    early = progress.inner_text()
    opened.page.wait_for_function("([area, before]) => area.isConnected ? area.innerText !== before : true",
                                  arg=[progress.element_handle(), early], timeout=LONGEST)
    assert progress.inner_text() != early
    opened.finished()
    assert not [output for _, output in opened.outputs() if output["output_type"] == "error"]
    assert "12 done" in opened.show(opened.find("result.counts.items()")).inner_text()


def test_two_people_enrol_from_files_and_a_third_clip_is_named(notebook, workbook_data, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEAKERLIB_DATA", str(workbook_data))
    corpus = find_corpus("demo")
    test = corpus.table[corpus.table["split"] == "test"].reset_index()
    for name, speaker in zip(("Ann", "Bo"), test["speaker"].unique()):
        (tmp_path / name).mkdir()
        for take, row in enumerate(test.index[test["speaker"] == speaker][:3]):
            samples = corpus.waveforms.read(int(test["index"][row]))
            write_audio(tmp_path / name / f"{take}.wav", samples / np.float32(32768))
    opened = notebook("09_who_is_speaking")
    opened.set_parameters(people_folder=str(tmp_path), test_tasks=50, test_clips=4)
    opened.run_all()
    assert not [output for _, output in opened.outputs() if output["output_type"] == "error"]
    answers = opened.show(opened.find("answers_table"))
    rows = [row.split("\t") for row in answers.locator("tbody tr").all_inner_texts()]
    assert len(rows) == 2 and all(name in " ".join(row) for name, row in zip(("Ann", "Bo"), rows)), rows
