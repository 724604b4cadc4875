"""The benchmarks run to their end, and keep what they found where it belongs. No time is asserted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "benchmarks"
ROOT = FOLDER.parents[1]
LISTED = re.search(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M).group(1).split()
SHARED = {"side_by_side", "material", "speech"}
APART = {"eer", "scale", "sweep_overhead", "mask_explorer", "gpu_training"}  # not part of make bench


@pytest.fixture
def harness(monkeypatch, tmp_path):
    """The module side_by_side, which writes below tmp_path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import side_by_side

    monkeypatch.setattr(side_by_side, "project_folder", lambda: tmp_path)
    return side_by_side


def test_make_bench_runs_every_script_or_says_why_not():
    there = {path.stem for path in FOLDER.glob("*.py")}
    assert set(LISTED) == there - SHARED - APART
    assert len(LISTED) == len(set(LISTED)) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_a_quick_run_prints_its_section_and_writes_nothing(name, tmp_path):
    kept = ROOT / "figures" / "benchmarks.md"
    before = kept.read_bytes() if kept.exists() else None
    environment = {**os.environ, "SPEAKERLIB_DATA": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), "--quick"], env=environment, cwd=tmp_path,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^## \w", done.stdout, re.M)
    assert re.search(r"^\| .+\|$", done.stdout, re.M)
    assert (kept.read_bytes() if kept.exists() else None) == before
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("torch")]


def test_sides_take_turns_and_warming_up_is_not_counted(harness):
    called = []
    times = harness.alternate({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3, 2)
    assert "".join(called) == "ab" * 5
    assert [len(seconds) for seconds in times.values()] == [3, 3]


def test_a_ratio_is_the_median_of_each_round_s(harness):
    table = harness.table({"slow": [2.0, 4.0, 30.0], "fast": [1.0, 1.0, 2.0]}, "slow", items=10, unit="clips")
    assert table.loc["fast", "ratio"] == 4.0
    assert table.loc["slow", "ratio"] == 1.0
    assert table.loc["fast", "clips/s"] == 10.0
    assert table.loc["fast", "lowest to highest"] == "2.00 to 15.0"


def test_a_section_replaces_its_own_and_leaves_the_others(harness, tmp_path, capsys):
    table = harness.table({"one side": [0.0125], "other": [1500.0]}, "one side")
    harness.write("Second", "It was so.", table)
    harness.write("First", "Short.")
    harness.write("Second", "It is so.", [table, table])
    harness.write("Third", "Not kept.", quick=True)
    text = (tmp_path / "figures" / "benchmarks.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == ["First", "Second"]
    assert "It is so." in text and "It was so." not in text
    assert text.count("| one side | 0.0125 |") == 2 and text.count("| other | 1,500 |") == 2
    assert "Not kept." in capsys.readouterr().out
    assert text.count("torch ") == 2  # each section names its machine


def test_the_machine_is_described_and_not_named(harness):
    import platform

    text = harness.machine()
    assert "cores" in text and "GB" in text
    assert platform.node() not in text.split() and str(ROOT) not in text
