"""Run records and the tables made from them: found again by parameters, never mixed."""

from types import SimpleNamespace

import pandas as pd
import pytest

from speakerlib.data.files import read_json
from speakerlib.experiments import tables
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.records import read_results, read_runs, run_folder, start_run

PROTONET = "05_protonet_training"


def fake_corpus(fingerprint="aaaa"):
    table = pd.DataFrame(
        {
            "speaker": ["a", "a", "b", "c"],
            "split": ["train", "train", "validation", "test"],
            "duration": [1800.0, 600.0, 600.0, 600.0],
        }
    )
    return SimpleNamespace(name="demo", fingerprint=fingerprint, synthetic=True, table=table, skipped=pd.DataFrame())


def settings(**changed):
    return SimpleNamespace(**{**notebook_parameters(PROTONET), **changed})


def cells(accuracy):
    return [
        {
            "condition": condition,
            "num_way": way,
            "num_support": shot,
            "episode_rule": "session",
            "accuracy": accuracy,
            "interval": 0.01,
            "low": accuracy - 0.02,
            "high": accuracy + 0.02,
            "tasks": 100,
            "speakers": 20,
            "reason": None,
        }
        for condition in ("recorded", "changed")
        for way in (3, 5, 10)
        for shot in (1, 5, 10)
    ]


def finished(accuracy, **changed):
    run = start_run(PROTONET, settings(**changed), fake_corpus())
    run.finish([{**row, "tasks": changed.get("test_tasks", 1000)} for row in cells(accuracy)])
    return run


def test_a_run_is_found_again_by_its_parameters_and_corpus(data_folder):
    folder = run_folder(PROTONET, settings(), fake_corpus())
    assert folder.parent == data_folder / "runs" / PROTONET
    assert run_folder(PROTONET, settings(), fake_corpus()) == folder
    others = {
        run_folder(PROTONET, settings(seed=1), fake_corpus()),
        run_folder(PROTONET, settings(num_way=3), fake_corpus()),
        run_folder(PROTONET, settings(), fake_corpus("bbbb")),
    }
    assert len(others | {folder}) == 4
    assert "num_way-3" in run_folder(PROTONET, settings(num_way=3), fake_corpus()).name
    # how many processes compute a run does not make it another one, and runs of before there were any keep their name
    assert run_folder(PROTONET, settings(num_processes=4), fake_corpus()) == folder


def test_a_record_says_what_was_run_on_what(data_folder):
    run = finished(0.9)
    record = read_json(run.folder / "run.json")
    known = {name: value for name, value in vars(settings()).items() if name != "num_processes"}
    assert record["status"] == "complete" and record["parameters"] == known
    assert record["corpus"]["test"] == {"speakers": 1, "utterances": 1} and record["corpus"]["hours"] == 1.0
    assert record["corpus"]["synthetic"] is True
    assert {"commit", "versions", "machine", "wall_seconds", "peak_memory_mb"} <= set(record)
    assert record["versions"]["torch"].startswith("2.13")


def test_a_complete_run_keeps_its_numbers_and_an_incomplete_one_is_not_read(data_folder):
    run = finished(0.9)
    again = start_run(PROTONET, settings(), fake_corpus())
    assert again.is_complete and again.record["result"] == run.record["result"]
    again.finish(cells(0.1))
    assert read_json(run.folder / "run.json")["result"][0]["accuracy"] == 0.9
    start_run(PROTONET, settings(seed=3), fake_corpus())
    assert len(read_runs(PROTONET)) == 1


def test_time_of_an_interrupted_run_adds_up(data_folder):
    run = start_run(PROTONET, settings(), fake_corpus())
    run._start -= 100
    run.pause()
    again = start_run(PROTONET, settings(), fake_corpus())
    again._start -= 50
    again.finish(cells(0.9))
    assert 150 <= read_json(again.folder / "run.json")["wall_seconds"] < 160


def test_no_run_says_which_command_makes_one(data_folder):
    with pytest.raises(FileNotFoundError, match="speakerlib run 05_protonet_training -p corpus other"):
        finished(0.9)
        read_results(PROTONET, "other")


def test_a_torn_record_is_named(data_folder):
    run = finished(0.9)
    (run.folder / "run.json").write_text('{"notebook": ')
    with pytest.raises(ValueError, match="run.json is not"):
        read_runs(PROTONET)


def test_published_stands_beside_measured(data_folder):
    finished(0.917)
    finished(0.85, num_way=3)
    both = dict(tables.nine_cell_tables(read_results(PROTONET, "demo")))
    one = next(table for caption, table in both.items() if caption.startswith("One network, trained 5-way 5-shot"))
    each = next(table for caption, table in both.items() if caption.startswith("One network a cell"))
    assert len(both) == 2 and list(one.index) == list(each.index) and len(one) == 9
    assert one.loc["3-way 1-shot", "published (VoxCeleb1)"] == "89.4 ± 0.4"
    assert one.loc["10-way 10-shot", "recorded"] == "91.7 ± 1.0"
    assert one.loc["10-way 10-shot", "changed, over speakers"] == "89.7 to 93.7"
    assert each.loc["5-way 5-shot", "recorded"] == "91.7 ± 1.0 ★" and each.loc["3-way 1-shot", "recorded"] == "not run"
    assert each.loc["3-way 5-shot", "recorded"] == "85.0 ± 1.0"
    assert all("synthetic speech" in caption for caption in both)


def test_protocols_and_lengths_are_never_in_one_table(data_folder):
    finished(0.9)
    finished(0.8, protocol="as_published")
    finished(0.7, segment_seconds=3.0)
    finished(0.6, num_support=1)
    results = read_results(PROTONET, "demo")
    assert len(tables.recipes(results)) == 3
    captions = [caption for caption, _ in tables.nine_cell_tables(results)]
    assert len(captions) == len(set(captions)) == 4  # the third recipe alone has networks of two cells


def test_a_cell_that_the_split_cannot_fill_says_so(data_folder):
    run = start_run(PROTONET, settings(), fake_corpus())
    rows = cells(0.9)
    rows[-1] = {**rows[-1], "accuracy": None, "reason": "num_way=10 needs 10 speakers"}
    run.finish(rows)
    table = dict(tables.nine_cell_tables(read_results(PROTONET)))
    one = next(table for caption, table in table.items() if "all nine" in caption)
    assert one.loc["10-way 10-shot", "changed"] == "split too small"


def test_markdown_has_every_row(data_folder, tmp_path):
    finished(0.9)
    tables.write_markdown(tmp_path / "tables.md", tables.nine_cell_tables(read_results(PROTONET)))
    text = (tmp_path / "tables.md").read_text()
    assert text.count("| 5-way 5-shot | 91.7 ± 0.2 | 90.0 ± 1.0 | 88.0 to 92.0 |") == 1
    assert text.count("-way") == 10  # nine cells and the caption


def test_every_published_figure_has_a_source():
    boccio, kye = tables.published("boccio"), tables.published("kye")
    assert (boccio["table"] == "nine cells").sum() == 9 and (boccio["table"] == "pretrained").sum() == 10
    assert boccio["source"].notna().all() and kye["source"].notna().all()


def test_a_corpus_named_by_its_folder_goes_by_its_name(data_folder):
    by_folder = run_folder(PROTONET, settings(corpus="/somewhere/demo"), fake_corpus())
    assert by_folder == run_folder(PROTONET, settings(corpus="demo"), fake_corpus())


def test_runs_that_differ_in_the_number_of_test_tasks_are_two_tables(data_folder):
    finished(0.9)
    finished(0.8, test_tasks=50)
    captions = [caption for caption, _ in tables.nine_cell_tables(read_results(PROTONET))]
    assert len(captions) == len(set(captions)) == 2


def test_one_network_is_no_table_of_networks_a_cell_and_ideas_have_tables_of_their_own(data_folder):
    finished(0.9)
    finished(0.8, labelled_speakers=10)
    finished(0.7, augment="I")
    finished(0.6, init="some autoencoder")
    finished(0.8, seed=1)
    results = read_results(PROTONET)
    ((caption, table),) = tables.nine_cell_tables(results)
    assert caption.startswith("One network, trained 5-way 5-shot")
    assert table.loc["3-way 1-shot", "recorded"] == "85.0 ± 63.5" and "over seeds" in caption  # two seeds say little
    assert [line.split("%")[0].strip() for line in tables.headline(results)[1:]] == [
        "5-way 5-shot, recorded: 90.0", "5-way 5-shot, changed: 90.0"]


def test_long_values_make_no_folder_name_that_a_file_system_refuses(data_folder):
    names = {run_folder("01_data_scraping", SimpleNamespace(corpus="own", url_directory="/long" * 60 + end)).name
             for end in "ab"}
    assert len(names) == 2 and max(map(len, names)) < 200
