"""How much of a sweep's time is its runs' own work, and where the rest goes; writes figures/sweeps.md.

    python tests/benchmarks/sweep_overhead.py                  eight short trainings of chapter 05, two at once
    python tests/benchmarks/sweep_overhead.py --runs 4 --workers 2 --threads 1 --data /tmp/benchmark

A training takes a few steps only, so that what every run costs is seen well: in a longer one it is the same seconds.
The demo corpus is made first, and not counted; the first run's features are made by a run that is not counted either.
The computer should have nothing else to do.
"""

import argparse
import os
import platform
import tempfile
import time
from datetime import datetime
from pathlib import Path

import nbformat
import pandas as pd

from speakerlib.data.demo_corpus import demo_corpus
from speakerlib.data.files import project_folder
from speakerlib.experiments.sweeps import run_sweep
from speakerlib.experiments.workbook import run_notebook

_OPENING = "imports, corpus and features opened"
NOTEBOOK = "05_protonet_training"
SHORT = {"num_support": 1, "num_train_iterations": 40, "test_interval": 20, "print_interval": 20, "test_tasks": 50}


def main(arguments=None):
    """Runs the sweep, prints the report and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="a data folder to keep; a temporary one by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEAKERLIB_DATA"] = str(options.data or folder)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        demo_corpus()
        run_notebook(NOTEBOOK, {**SHORT, "num_train_iterations": 2, "test_interval": 1, "seed": 999})
        lines = measure(options, Path(folder) / "overhead.yaml")
    text = "\n".join([f"# {__doc__.partition(';')[0]}", "", *lines, ""])
    (project_folder() / "figures" / "sweeps.md").write_text(text, encoding="utf-8")
    print(text)


def measure(options, path):
    """Executes the sweep; the lines of the report."""
    first = int(time.time())  # seeds of its own, so that nothing is done already
    path.write_text(f"corpus: demo\nsteps: {{train: {{notebook: {NOTEBOOK}, with: {SHORT}, "
                    f"grid: {{seed: {list(range(first, first + options.runs))}}}}}}}\n")
    start = time.time()
    summary = run_sweep(path, num_workers=options.workers, num_threads=options.threads)
    end = time.time()
    if not (summary["status"] == "done").all():
        raise SystemExit("not all runs are done: nothing is reported.")
    runs = [parts(Path(folder) / "executed.ipynb", seconds)
            for folder, seconds in zip(summary["folder"], summary["seconds"], strict=True)]
    busy = os.getloadavg()[0] - options.workers
    wall, spent = end - start, summary["seconds"].sum()
    room = wall * options.workers
    begun, ended = min(run["begun"] for run in runs), max(run["ended"] for run in runs)
    kernels = sum(run["ended"] - run["begun"] for run in runs)
    rows = pd.DataFrame([run["parts"] for run in runs]).fillna(0.0).mean()
    fixed = rows[["papermill, before and after", "the kernel starts", _OPENING]].sum()
    lost = {"workers start, and import what the first run needs": (begun - start) * options.workers,
            "between two runs, and when the last ones leave a worker idle": (ended - begun) * options.workers
            - kernels,
            "summary written, workers end": (end - ended) * options.workers}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    size = ", ".join(f"{name} {value}" for name, value in SHORT.items())
    return [
        f"`python tests/benchmarks/sweep_overhead.py`, {cores} cores, {platform.machine()}, Python "
        f"{platform.python_version()}; besides the sweep, {max(0, busy):.0f} other processes were at work at its end. "
        f"{options.runs} runs of chapter 05 on the demo corpus (synthetic speech; {size}), {options.workers} at once "
        f"with {options.threads} threads each.",
        "",
        f"**Efficiency: {spent / room:.0%}**, {spent:.0f} s of runs in {wall:.0f} s x {options.workers} workers. Of a "
        f"run of {spent / len(runs):.0f} s, {fixed:.1f} s are what every run costs, however long it is: "
        f"{fixed / 3600:.2%} of a run of an hour.",
        "",
        "| where a run's time goes, mean | seconds |", "| --- | ---: |",
        *(f"| {name} | {seconds:.1f} |" for name, seconds in rows.items()),
        "",
        "| lost to the sweep, all workers together | seconds | of their time |", "| --- | ---: | ---: |",
        *(f"| {name} | {seconds:.1f} | {seconds / room:.1%} |" for name, seconds in lost.items()),
    ]


def parts(path, seconds):
    """When the kernel of an executed notebook began and ended, and the seconds of its parts, by its own headings."""
    notebook = nbformat.read(path, as_version=4)
    whole, heading = notebook.metadata.papermill, _OPENING
    begun, found, first = stamp(whole.start_time), {}, None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next((line[3:] for line in cell.source.splitlines() if line.startswith("## ")), heading)
        elif cell.cell_type == "code" and (told := cell.metadata.get("papermill", {})).get("duration"):
            first = first or stamp(told["start_time"])
            found[heading] = found.get(heading, 0.0) + told["duration"]
    inside = whole.duration - (first - begun) - sum(found.values())
    return {"begun": begun, "ended": stamp(whole.end_time), "parts": {
        "papermill, before and after": max(0.0, seconds - whole.duration) + inside,
        "the kernel starts": first - begun, **found}}


def stamp(text):
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    main()
