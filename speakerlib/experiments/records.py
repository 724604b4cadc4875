"""Run records: one folder a run, found again by its parameters, read back as one table."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from speakerlib.data.files import check_name, data_folder, project_folder, read_json, write_json
from speakerlib.experiments.parameters import NOT_OF_A_RUN, notebook_parameters

_PACKAGES = ("torch", "torchaudio", "numpy", "pandas", "accelerate", "soundfile", "soxr", "safetensors", "papermill")


class Run:
    """One folder under data/runs: run.json, weights, metrics, figures/ and the executed notebook."""

    def __init__(self, folder, record):
        self.folder, self.record, self._start = Path(folder), record, time.time()

    @classmethod
    def read(cls, folder):
        """The run in a folder, as its record says."""
        return cls(folder, read_json(Path(folder) / "run.json"))

    @property
    def is_complete(self):
        return self.record["status"] == "complete"

    @property
    def figures(self):
        """Folder for the run's pictures."""
        folder = self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, **fields):
        """Adds fields to the record and writes it."""
        self.record.update(fields)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "run.json", self.record)

    def finish(self, result):
        """Marks the run complete: result is a dict, or a list of rows (dicts); no NaN (use None)."""
        if not self.is_complete:
            seconds = self.record.get("wall_seconds", 0) + time.time() - self._start
            self.write(
                status="complete",
                result=result,
                wall_seconds=round(seconds, 1),
                peak_memory_mb=_peak_memory_mb(),
                finished=time.strftime("%Y-%m-%d %H:%M:%S"),
            )
        print(f"run record: {short_path(self.folder / 'run.json')}")

    def pause(self):
        """Keeps the time spent so far; call when a run is interrupted and will go on later."""
        self.write(wall_seconds=round(self.record.get("wall_seconds", 0) + time.time() - self._start, 1))
        self._start = time.time()


def run_id(notebook, parameters, fingerprint):
    """Readable and unique: the corpus, the parameters that differ from the defaults, and a hash of all of them."""
    defaults = notebook_parameters(notebook)
    changed = [
        f"{name}-{value}" for name, value in parameters.items() if name != "corpus" and value != defaults.get(name)
    ]
    key = json.dumps([notebook, sorted(parameters.items()), fingerprint])
    readable = "_".join([str(parameters.get("corpus", "all")), *changed])[:150]  # file systems allow 255 bytes
    name = f"{readable}_{sha256(key.encode()).hexdigest()[:8]}"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def run_folder(notebook, settings, corpus=None):
    """data/runs/<notebook>/<run id>: the same parameters on the same corpus always lead to the same folder."""
    name = run_id(notebook, _parameters(settings, corpus), corpus.fingerprint if corpus else None)
    return data_folder() / "runs" / check_name(notebook, "notebook") / name


def start_run(notebook, settings, corpus=None):
    """Opens the run of these parameters on this corpus: the complete one, the one that was cut short, or a new one.

    settings: the namespace of read_parameters; corpus: a Corpus, or None for a notebook that reads run records only
    (its run starts anew each time, since the records may have changed).
    """
    folder = run_folder(notebook, settings, corpus)
    if corpus is not None and (folder / "run.json").exists():
        run = Run.read(folder)
        if run.is_complete:
            print(f"This run is complete; its numbers are shown again. To repeat it, delete {short_path(folder)}")
        return run
    parameters = _parameters(settings, corpus)
    run = Run(folder, {"notebook": notebook, "run": folder.name, "status": "started", "parameters": parameters})
    run.write(
        corpus=_describe(corpus),
        commit=_commit(),
        versions=_versions(),
        machine=_machine(getattr(settings, "num_processes", 1)),
        started=time.strftime("%Y-%m-%d %H:%M:%S"),
    )
    return run


def read_runs(notebook=None):
    """Every complete run as one row: notebook, run, folder, its parameters, corpus facts, result, time and memory.

    The column `record` holds the whole of run.json.
    """
    import pandas as pd

    rows = []
    for path in sorted((data_folder() / "runs").glob(f"{notebook or '*'}/*/run.json")):
        record = read_json(path)
        if record.get("status") != "complete":
            continue
        facts = {
            key: value for key, value in record.items() if key not in ("parameters", "corpus", "versions", "machine")
        }
        rows.append(
            {
                **_defaults(record["notebook"]),  # parameters that came after the run
                **record["parameters"],
                **facts,
                "folder": path.parent,
                "record": record,
                "synthetic": (record.get("corpus") or {}).get("synthetic"),
                "corpus_fingerprint": (record.get("corpus") or {}).get("fingerprint"),
            }
        )
    return pd.DataFrame(rows)


@lru_cache(maxsize=32)
def _defaults(notebook):
    """A notebook's parameters; none if there is no such notebook any more."""
    try:
        return notebook_parameters(notebook)
    except FileNotFoundError:
        return {}


def read_results(notebook, corpus=None):
    """Every row of every complete run's result, beside the run's parameters (the row's own values win).

    trained_num_way and trained_num_support are the run's, num_way and num_support the row's. FileNotFoundError if
    there is no complete run (on that corpus), with the command that makes one.
    """
    import pandas as pd

    rows = [
        {
            **{key: value for key, value in run.items() if key not in ("result", "record")},
            "trained_num_way": run.get("num_way"),
            "trained_num_support": run.get("num_support"),
            **row,
        }
        for run in read_runs(notebook).to_dict("records")
        if corpus in (None, run["corpus"])
        for row in run["result"]
    ]
    if not rows:
        raise FileNotFoundError(
            f"no complete run of {notebook}"
            + (f" on corpus {corpus!r}" if corpus else "")
            + f". Make one: speakerlib run {notebook}"
            + (f" -p corpus {corpus}" if corpus else "")
        )
    return pd.DataFrame(rows)


def read_histories(results):
    """The training curve of each run in a table of results: run folder -> history."""
    import pandas as pd

    return {folder: pd.read_csv(folder / "metrics.csv") for folder in results["folder"].unique()}


def _parameters(settings, corpus):
    """What a run is known by: the settings by name; a corpus that was named by its folder goes by its own name."""
    known = {name: value for name, value in vars(settings).items() if name not in NOT_OF_A_RUN}
    return {**known, "corpus": corpus.name} if corpus else known


def _describe(corpus):
    if corpus is None:
        return None
    table = corpus.table
    return {
        "name": corpus.name,
        "synthetic": bool(corpus.synthetic),
        "fingerprint": corpus.fingerprint,
        "hours": round(float(table["duration"].sum()) / 3600, 3),
        "skipped": len(corpus.skipped),
        **{
            split: {"speakers": int(part["speaker"].nunique()), "utterances": len(part)}
            for split, part in table.groupby("split", observed=True)
        },
    }


def _commit():
    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=project_folder(), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no", "--", "speakerlib") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _versions():
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _machine(num_processes):
    import torch

    def gpu():
        if not torch.cuda.is_available():
            return None
        if num_processes == 1:
            return torch.cuda.get_device_name()
        from accelerate.utils.environment import get_gpu_info  # which leaves it alone, so that forks can use it

        return get_gpu_info()[0][0].strip()

    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "architecture": platform.machine(),
        "gpu": gpu(),
    }


def _peak_memory_mb():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2))


def short_path(path):
    """Relative to the project where possible: what a person would type."""
    try:
        return path.relative_to(project_folder())
    except ValueError:
        return path
