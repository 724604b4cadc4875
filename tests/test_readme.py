"""The README shows what was measured: every table comes from committed run records, every picture exists."""

import re
import shutil
from itertools import product

import nbformat
import numpy as np
import pytest

from speakerlib.cli import build_parser
from speakerlib.data.files import project_folder, read_json
from speakerlib.experiments import comparison, mask_table, tables
from speakerlib.experiments.parameters import notebook_path
from speakerlib.experiments.publication import shown
from speakerlib.experiments.records import read_results, read_runs
from speakerlib.experiments.result_tables import result_tables
from speakerlib.experiments.voice_tasks import ONCE, TRANSDUCTIVE, WARPED

README = (project_folder() / "README.md").read_text(encoding="utf-8")
FINDINGS = (project_folder() / "figures" / "findings.md").read_text(encoding="utf-8")  # the same at length
RECORDS = sorted((project_folder() / "figures").glob("*/records/*.json"))


@pytest.fixture
def committed(data_folder):
    """A data folder with the committed records as its runs."""
    assert RECORDS
    for path in RECORDS:
        record = read_json(path)
        folder = data_folder / "runs" / record["notebook"] / record["run"]
        folder.mkdir(parents=True)
        shutil.copy(path, folder / "run.json")
    return data_folder


def section(text, heading):
    """What stands under a heading, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    return re.split(rf"\n#{{1,{level}}} ", text.partition(f"\n{heading}\n")[2])[0]


def intervals(text):
    """Differences with their intervals, as text."""
    return re.findall(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)", text)


def of_objectives():
    """The differences of the published table of objectives."""
    return intervals((project_folder() / "figures" / "so762" / "short_utterances.md").read_text(encoding="utf-8"))


def test_tables_are_those_of_the_committed_records(committed, tmp_path):
    made = tables.nine_cell_tables(read_results("05_protonet_training", "so762"))
    tables.write_markdown(tmp_path / "tables.md", made)
    assert (tmp_path / "tables.md").read_text() == (project_folder() / "figures" / "so762" / "tables.md").read_text()
    shown = [table for caption, table in made if f"{caption}:" in README]
    assert shown
    for table in shown:
        for row in tables.markdown(table).splitlines()[2:]:
            assert row in README


@pytest.mark.slow
def test_what_pretraining_brings_is_that_of_the_committed_records(committed, tmp_path):
    results, pretraining = read_results("05_protonet_training", "so762"), read_runs("04_mae_pretraining")
    made = mask_table.mae_tables(results, pretraining)
    for lines in (comparison.comparisons(results, pretraining)[0], comparison.against_longer(results, pretraining)):
        made += comparison.help_tables(lines)
    tables.write_markdown(tmp_path / "pretraining.md", made)
    published = (project_folder() / "figures" / "so762" / "pretraining.md").read_text()
    assert (tmp_path / "pretraining.md").read_text() == published
    for part, least_rows, least_told in ((section(FINDINGS, "## Does pretraining help?"), 7, 9),
                                         (section(README, "### Does pretraining help?"), 6, 9),
                                         (section(README, "## What it found"), 0, 1)):
        rows = [line for line in part.splitlines() if line.startswith("| ")]
        assert len(rows) >= least_rows and all(row in published for row in rows)
        told = [each for each in intervals(part) if each not in of_objectives()]
        assert len(told) >= least_told and all(difference in published for difference in told)


def test_what_objectives_bring_is_that_of_the_committed_records(committed, tmp_path):
    made = result_tables("objectives", "so762")
    tables.write_markdown(tmp_path / "so762.md", [(each.caption, each.table) for each in made])
    published = (project_folder() / "figures" / "so762" / "short_utterances.md").read_text()
    assert (tmp_path / "so762.md").read_text() == published
    of_demo = "\n".join(each.markdown for each in result_tables("objectives", "demo"))
    assert of_demo == (project_folder() / "figures" / "demo" / "objectives.md").read_text()
    for part, least_rows in ((section(FINDINGS, "## Who is it, from one second?"), 7),
                             (section(README, "### Who is it, from one second?"), 7)):
        rows = [line for line in part.splitlines() if line.startswith("| ")]
        assert len(rows) >= least_rows and all(row in published for row in rows)
        told = re.findall(r"[+-]?\d+\.\d \([+-]?\d+\.\d to [+-]?\d+\.\d\)", part)
        assert len(told) > 8 and all(value in published + of_demo for value in told)


def test_what_voices_reach_is_that_of_the_committed_records(committed, tmp_path):
    made = [each for name in ("voice", "voice_steps") for each in result_tables(name, "so762")]
    tables.write_markdown(tmp_path / "voice.md", [(each.caption, each.table) for each in made if len(each.table)])
    published = (project_folder() / "figures" / "so762" / "voice.md").read_text(encoding="utf-8")
    assert (tmp_path / "voice.md").read_text(encoding="utf-8") == published
    shown = README.partition("### The voice, not the microphone")[2].partition("\n## ")[0]
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) > 3 and all(row in published for row in rows)
    assert intervals(shown) and all(difference in published for difference in intervals(shown))
    runs = read_runs("10_voice_training").query("corpus == 'so762' and augment == 'both'")
    runs = runs[runs["num_train_iterations"] == runs.groupby("width")["num_train_iterations"].transform("max")]
    for width, heard, asked in [*product((1,), ("recorded", "changed I"), (ONCE, TRANSDUCTIVE)),
                                *product((2, 4), ("recorded", "changed I"), (WARPED,))]:
        values = [[row["accuracy"] for row in result if (row["heard"], row["asked"]) == (heard, asked)]
                  for result in runs[runs["width"] == width]["result"]]
        assert len(values) == {4: 1}.get(width, 3)
        assert "{:.1f} / {:.1f} / {:.1f} %".format(*(100 * np.mean(values, axis=0))) in shown


def test_how_the_shipped_model_errs_is_that_of_its_record(committed):
    runs = read_runs("09_who_is_speaking")
    (run,) = runs[(runs["corpus"] == "so762") & (runs["init"] == "shipped")].to_dict("records")
    shown = README.partition("### The voice, not the microphone")[2].partition("\n## ")[0]
    rows = {row["condition"]: row for row in run["result"]["rows"] if row["table"] == "errors"}
    for row in rows.values():
        for name in ("false_acceptance", "correct"):
            values = (100 * row[name + end] for end in ("", "_low", "_high"))
            assert "{:.1f} ({:.1f} to {:.1f})".format(*values) in shown
    assert f"{run['result']['times_real_time']:.0f} times" in shown


def test_the_time_to_the_first_picture_is_that_of_its_table():
    table = (project_folder() / "figures" / "lab" / "first_picture.md").read_text(encoding="utf-8")
    seconds = float(re.search(r"\| together \| ([\d.]+) \|", table)[1])
    assert f"{seconds:.0f} s after `make lab`" in README and seconds < 60


def test_the_trap_of_the_learning_rate_is_told_by_the_committed_records(committed):
    notebook = "06_short_utterance_training"
    text = "".join(cell["source"] for cell in nbformat.read(notebook_path(notebook), 4).cells)
    runs = read_runs(notebook).query("corpus == 'so762' and nb_class_train == 5").sort_values("seed")
    assert set(runs["learning_rate"]) == {0.1, 0.03}
    for _, rows in runs.groupby("learning_rate"):
        values = [100 * row["accuracy"] for result in rows["result"] for row in result
                  if (row["condition"], row["test_length"], row["num_way"]) == ("recorded", 200, 20)]
        told = "{:.1f}, {:.1f} and {:.1f} %".format(*values)
        assert told in FINDINGS and told in text


def test_the_numbers_in_the_text_are_those_of_the_committed_records(committed):
    rows, runs = [], read_runs()
    for run in [run for _, part in runs.groupby("corpus") for run in shown(part).values()]:
        record = run["record"]
        if record["notebook"].startswith("00"):
            rows += [record["result"][condition] for condition in ("recorded", "changed")]
        elif record["notebook"].startswith("05") and record["parameters"]["num_way"] == 5:
            shots = record["parameters"]["num_support"]
            rows += [row for row in record["result"] if (row["num_way"], row["num_support"]) == (5, shots) == (5, 5)]
            for row in record.get("beside_scratch", {"rows": ()})["rows"]:
                if (row["num_way"], row["num_support"]) == (5, shots):
                    difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
                    assert f"{difference:.1f} ({low:.1f} to {high:.1f})" in README + FINDINGS
        elif record["notebook"].startswith("04"):
            (test,) = [row for row in record["result"] if row["split"] == "test"]
            told = f"is {test['error']:.1f} ({test['low']:.1f} to {test['high']:.1f} over speakers)"
            assert told in README and f"gives {test['error_0']:.1f}" in README
        elif record["notebook"].startswith("01"):
            for outcome in ("done", "gone", "blocked", "failed"):
                assert f"{record['result'][outcome]} {outcome}" in README
    assert len(rows) == 2 * 5  # average spectra, compact under both protocols and pretrained, boccio
    for row in rows:
        assert f"{100 * row['accuracy']:.1f} ± {100 * row['interval']:.1f}" in README


def test_every_record_is_of_a_named_commit_and_both_conditions():
    for path in RECORDS:
        record = read_json(path)
        assert re.fullmatch(r"[0-9a-f]{12}", record["commit"]), f"{path.name}: {record['commit']}"
        if record["notebook"].startswith("05"):
            assert {row["condition"] for row in record["result"]} == {"recorded", "changed"}


def test_every_speed_is_one_that_was_measured():
    section = README.partition("## How fast, how large")[2].partition("\n## ")[0]
    measured = (project_folder() / "figures" / "benchmarks.md").read_text(encoding="utf-8")
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    told = re.findall(r"(?<![\d.,])\d+(?:[.,]\d+)*(?! of)", re.sub(r"\(target [\d.]+", "", " ".join(rows)))
    assert len(rows) >= 9 and len(told) >= 25
    seen = [re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d]|[.,]\d)", measured) for number in told]
    assert [number for number, found in zip(told, seen, strict=True) if not found] == []


@pytest.mark.parametrize("page, pictures", [("README.md", 4), ("figures/findings.md", 4), ("figures/README.md", 0)])
def test_pictures_and_links_exist(page, pictures):
    path = project_folder() / page
    links = re.findall(r"(!?)\[([^\]]*)\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert sum(bang == "!" for bang, _, _ in links) >= pictures
    for bang, text, target in links:
        file, _, heading = target.partition("#")
        place = path.parent / file if file else path
        assert place.exists(), target
        assert not heading or heading in headings(place), target
        assert bang != "!" or len(text) > 20, f"{target} needs a text for those who cannot see it"


def headings(path):
    """Its headings as GitHub names them in an address."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_what_it_found_is_told_before_anything_else_and_is_in_the_tables():
    first = README.partition("## Two commands")[0]
    assert len(first.splitlines()) < 25 and re.findall(r"^## (.+)$", first, re.M) == ["What it found"]
    shown, rest = section(README, "## What it found"), README.partition("## Two commands")[2]
    told = re.findall(r"\d+\.\d ± \d+\.\d", shown) + intervals(shown)
    assert len(told) >= 5 and all(each in rest or each in of_objectives() for each in told)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"speakerlib (\w+)", README))))
def test_the_commands_exist(command):
    (commands,) = [action.choices for action in build_parser()._actions if hasattr(action.choices, "items")]
    assert command in commands
