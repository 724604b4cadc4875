"""Copies what the README shows of a corpus into figures/: pictures, tables, and the run records behind them."""

import shutil

from speakerlib.data.files import atomic_path, check_name, project_folder, write_json
from speakerlib.experiments.pretrained import SCRATCH
from speakerlib.experiments.records import read_runs


def publish(corpus):
    """Fills figures/<corpus>/ from the complete runs on that corpus; returns the folder.

    Pictures of chapter 05 are those of the 5-way 5-shot runs. records/ holds the run.json and the training curve of
    every run, so that each number can be traced. FileNotFoundError if no run on the corpus is complete.
    """
    runs = read_runs()
    runs = runs[runs["corpus"] == corpus] if len(runs) else runs
    if len(runs) == 0:
        raise FileNotFoundError(f"no complete run on corpus {corpus!r} yet. Make them: make run CORPUS={corpus}")
    folder = project_folder() / "figures" / check_name(corpus, "corpus")
    shutil.rmtree(folder, ignore_errors=True)
    for run in runs.to_dict("records"):
        record = folder / "records" / f"{run['notebook']}_{run['run']}.json"
        write_json(record, run["record"])
        if (run["folder"] / "metrics.csv").exists():  # the training curve
            _copy(run["folder"] / "metrics.csv", record.with_suffix(".csv"))
        if run["notebook"].startswith("05") and (run["num_way"], run["num_support"]) != (5, 5):
            continue
        prefix = run["notebook"][:2]
        if prefix == "05":
            pretrained = isinstance(run.get("init"), str) and run["init"] != SCRATCH  # NaN: of before autoencoders
            prefix += f"_{run['front_end']}_{run['segment_seconds']:g}s_{run['protocol']}" + "_pretrained" * pretrained
        for picture in sorted((run["folder"] / "figures").glob("*.png")):
            _copy(picture, folder / f"{prefix}_{picture.name}")
        if (run["folder"] / "tables.md").exists():
            _copy(run["folder"] / "tables.md", folder / "tables.md")
    return folder


def _copy(source, target):
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
