"""The benchmark of large tables runs to its end, each step of it."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "benchmarks" / "scale.py"


def test_every_step_is_measured_and_the_data_folder_is_left_alone(tmp_path):
    environment = {**os.environ, "SPEAKERLIB_DATA": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SCRIPT), "--small"], env=environment, cwd=SCRIPT.parents[2],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    steps = lines[lines.index(next(line for line in lines if line.endswith("peak MB"))) + 1:]
    assert all(float(line.split()[-2]) >= 0 and float(line.split()[-1]) > 20 for line in steps)  # seconds, megabytes
    for name in ("open the corpus", "splits drawn by seed", "segments of 3 s", "5-way 5-shot 15-query", "ledger read"):
        assert any(name in line for line in steps)
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_the_figure_is_left_when_the_table_is_written(tmp_path):
    page = tmp_path / "scale.md"
    page.write_text("# Seconds of old\n\n## From few to many\n\n| kept |\n")
    environment = {**os.environ, "SPEAKERLIB_DATA": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SCRIPT), "--small", "--only", "imports", "--output", str(page)],
                          env=environment, cwd=SCRIPT.parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| imports alone |" in page.read_text() and "## From few to many\n\n| kept |" in page.read_text()
