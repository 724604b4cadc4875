"""A sweep as jobs of Slurm, played by four short scripts: what is asked of it, and what becomes of jobs that end early."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from test_sweeps import EXECUTE, STEPS, finish, is_over, people, wait_until, write

from speakerlib import cli
from speakerlib.data.files import data_folder as data_folder_now
from speakerlib.data.workers import DASHBOARD, dashboard_link, local_workers
from speakerlib.experiments import clusters, sweep_files, sweeps
from speakerlib.experiments.clusters import OPTIONS, job_script, job_sizes, read_options

SLURM = {  # command: a script of bash; $0's folder is the queue
    "sbatch": r"""
        if [ "$1" = --test-only ]; then bash -n "$2" && exit 0; exit 1; fi
        [ -e "$here/refuses" ] && { cat "$here/refuses" >&2; exit 1; }
        id=$(( $(ls "$here/queue" | wc -l) + 101 ))
        cp "$1" "$here/queue/$id"
        out=$(sed -n 's/^#SBATCH -o //p' "$1"); out=${out//%j/$id}
        setsid bash "$here/queue/$id" > "$out" 2>&1 < /dev/null &
        echo $! > "$here/pids/$id"
        echo "Submitted batch job $id" """,
    "squeue": r"""cd "$here/pids"; for id in *; do kill -0 -- "-$(cat "$id")" 2> /dev/null && echo "$id"; done; true""",
    "scancel": r"""kill -TERM -- "-$(cat "$here/pids/$1")" """,
}


def options_file(folder, **options):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({"interface": "lo", "cores": 1, "threads": 1, "jobs": 2, **options}))
    return path


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A queue of this computer's processes, on the PATH; yields its folder."""
    here = tmp_path / "slurm"
    for name in ("queue", "pids"):
        (here / name).mkdir(parents=True)
    for name, script in SLURM.items():
        (here / name).write_text(f"#!/usr/bin/env bash\nhere={shlex.quote(str(here))}\n{script}\n")
        (here / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setattr(clusters, "_LOOK_SECONDS", 0.5)
    yield here
    for path in (here / "pids").iterdir():
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def executed_elsewhere(*args):
    """Instead of sweeps.execute, in a job: the same, but for the notebook."""
    sweeps.run_notebook = pretend
    return EXECUTE(*args)


def pretend(notebook, parameters, title, quiet):
    place = data_folder_now()
    with open(place / "executed.txt", "a") as file:
        file.write(f"{title}\n")
    if (place / "job ends").exists() and (place / "job ends").read_text() in title:
        (place / "job ends").unlink()
        os.killpg(os.getpgid(0), signal.SIGKILL)
    finish(notebook, parameters)


@pytest.fixture
def pretended(data_folder, tmp_path, monkeypatch, slurm):
    """A sweep file of nine runs, none of which really runs."""
    monkeypatch.setattr(sweep_files, "find_corpus", people)
    monkeypatch.setattr(sweeps, "execute", executed_elsewhere)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of the jobs
    data_folder.mkdir()
    return write(tmp_path, STEPS)


def sweep(*arguments):
    return cli.main(["sweep", *map(str, arguments), "--cluster", "slurm", "--cluster-options"])


@pytest.mark.slow
def test_jobs_execute_the_sweep_and_one_that_ends_early_is_submitted_again(pretended, data_folder, tmp_path, slurm,
                                                                          capsys):
    (data_folder / "job ends").write_text("masked seed=1")
    options = options_file(tmp_path, cores=2, jobs=1)  # one job, two runs at once
    assert cli.main(["sweep", str(pretended), "--cluster", "slurm", "--cluster-options", str(options)]) == 0
    said = capsys.readouterr().out
    assert "9 done of 9 runs" in said and "1 jobs submitted" in said and "dashboard: http://127.0.0.1:" in said
    names = (data_folder / "executed.txt").read_text().splitlines()
    assert len(set(names)) == 9 and names.count("masked seed=1") == 2
    assert len(list((slurm / "queue").iterdir())) == 2
    wait_until(lambda: not clusters._queued(), seconds=60)
    assert not (data_folder / "sweeps" / "some" / "keys").exists()
