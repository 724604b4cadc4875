"""Copies what the README shows of a corpus into figures/: pictures, tables, and the run records behind them."""

import json
import re
import shutil

import pandas as pd

from speakerlib.data.files import atomic_path, check_name, project_folder
from speakerlib.experiments.ideas import PLAIN_AUTOENCODER, PLAIN_START, plain
from speakerlib.experiments.objective_table import SCORING
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.pretrained import NOTEBOOK as PRETRAINING
from speakerlib.experiments.pretrained import SCRATCH
from speakerlib.experiments.query_lengths import OBJECTIVE
from speakerlib.experiments.records import read_runs
from speakerlib.experiments.short_utterance import NOTEBOOK as SHORT_UTTERANCES
from speakerlib.experiments.trial_errors import as_record, errors_by_pair
from speakerlib.experiments.verify import NOTEBOOK as VERIFICATION
from speakerlib.experiments.voice_weights import NOTEBOOK as VOICE

PROTONET = "05_protonet_training"
TABLES = ("tables.md", "pretraining.md", "short_utterances.md", "voice.md")  # what chapter 08 writes
_DEFAULT_OBJECTIVE = (*OBJECTIVE, "encoder", "width", "front_end", "seed")  # of chapter 06's pictures
_BESIDE = ("query_lengths.png", "objectives_identification.png", "objectives_verification.png", "ablation.png")
DIGITS = 9  # of the numbers in published records and curves: fewer would round a printed one the other way


def publish(corpus):
    """Fills figures/<corpus>/ from the complete runs on that corpus; returns the folder.

    Pictures of chapter 04 are those of its default autoencoder, of chapter 05 those of the plain 5-way 5-shot runs (see
    ideas.plain), of chapter 06 those of its default objective, as recorded and through channels, of chapter 07 those of
    these encoders, of chapter 10 the encoder's of the default width and seed that heard both families: where several
    are alike, of the one that trained on most tasks. Pictures of chapters 06, 07 and 10 that show a run beside others
    (_BESIDE) hold what was there then, and stay behind: chapter 08 shows all. records/ holds the record of every run,
    its numbers to nine digits; and the training curves that a picture shows: of work A's autoencoders with any mask,
    and of the plain runs of chapter 05. Records of chapter 07 tell of single speakers for the one scoring that tables
    compare, of its errors by pairs of them.

    FileNotFoundError if no run on the corpus is complete.
    """
    runs = read_runs()
    runs = runs[runs["corpus"] == corpus] if len(runs) else runs
    if len(runs) == 0:
        raise FileNotFoundError(f"no complete run on corpus {corpus!r} yet. Make them: make run CORPUS={corpus}")
    folder = project_folder() / "figures" / check_name(corpus, "corpus")
    shutil.rmtree(folder, ignore_errors=True)
    pictured, curves = shown(runs), _with_shown_curves(runs)
    for run in runs.to_dict("records"):
        record = folder / "records" / f"{run['notebook']}_{run['run']}.json"
        _write_record(record, _told(run))
        if run["run"] in curves and (run["folder"] / "metrics.csv").exists():
            with atomic_path(record.with_suffix(".csv")) as temporary:
                pd.read_csv(run["folder"] / "metrics.csv").to_csv(temporary, index=False, float_format=f"%.{DIGITS}g")
        for name in TABLES:
            if (run["folder"] / name).exists():
                _copy(run["folder"] / name, folder / name)
    for prefix, run in pictured.items():
        for picture in sorted((run["folder"] / "figures").glob("*.png")):
            if picture.name not in _BESIDE:
                _copy(picture, folder / f"{prefix}_{picture.name}")
    return folder


def shown(runs):
    """File name prefix -> the run (a dict) whose pictures have it, of the rows of read_runs()."""
    plain_runs, chosen, default = _plain(runs), {}, notebook_parameters(SHORT_UTTERANCES)
    for run in runs.to_dict("records"):
        prefix = run["notebook"][:2]
        if run.get("front_end") == "log_mel":  # tried as an idea only
            continue
        if run["notebook"] == PRETRAINING:
            if run["seed"] or any(run[name] != value for name, value in PLAIN_START.items()):
                continue
            if (run["front_end"], run["segment_seconds"], run["protocol"]) != ("compact", 1.5, "corrected"):
                prefix += f"_{run['front_end']}_{run['segment_seconds']:g}s_{run['protocol']}"
        elif run["notebook"] == PROTONET:
            if run["run"] not in plain_runs or (run["num_way"], run["num_support"]) != (5, 5):
                continue
            prefix += f"_{run['front_end']}_{run['segment_seconds']:g}s_{run['protocol']}"
            prefix += "_pretrained" * (run["init"] != SCRATCH)
        elif run["notebook"] in (SHORT_UTTERANCES, VERIFICATION):
            trained = run if run["notebook"] == SHORT_UTTERANCES else _judged(run)
            if not trained or any(trained[name] != default[name] for name in _DEFAULT_OBJECTIVE):
                continue
            prefix += f"_through_channels_{trained['augment']}" * (trained["augment"] != "none")
        elif run["notebook"] == VOICE and (run["augment"], run["width"], run["seed"]) != ("both", 1, 0):
            continue
        if prefix not in chosen or _rank(run) > _rank(chosen[prefix]):
            chosen[prefix] = run
    return chosen


def _judged(run):
    """The parameters that the encoder of a run of chapter 07 was trained with, if that was chapter 06."""
    facts = run["record"].get("speaker_encoder") or {}
    return facts.get("parameters") if facts.get("kind") == SHORT_UTTERANCES else None


def _plain(runs):
    rows = runs[runs["notebook"] == PROTONET]
    return set(plain(rows, runs[runs["notebook"] == PRETRAINING])["run"]) if len(rows) else set()


def _with_shown_curves(runs):
    """The runs whose training curve a picture of chapter 08 shows."""
    rows = runs[runs["notebook"] == PRETRAINING]
    for name, value in PLAIN_AUTOENCODER.items():
        rows = rows[rows[name] == value] if len(rows) else rows
    return _plain(runs) | set(rows["run"])


def _rank(run):
    """The longest training; else the last that was made."""
    trained = (_judged(run) or {}) if run["notebook"] == VERIFICATION else run
    tasks = trained["num_train_iterations"] * (trained.get("batch_size") or 1) if (
        run["notebook"] in (PRETRAINING, PROTONET, SHORT_UTTERANCES, VERIFICATION, VOICE)) else 0
    return tasks, run.get("finished") or "", run["run"]


def _write_record(path, record):
    text = json.dumps(_rounded(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    with atomic_path(path) as temporary:
        temporary.write_text(re.sub(r'\},(?=\{"(condition|task)")', "},\n", text) + "\n", encoding="utf-8")


def _told(run):
    """The record, that of chapter 07 with `pairs` (errors_by_pair) beside the cosine's errors and no other detail."""
    if run["notebook"] != VERIFICATION:
        return run["record"]
    rows = []
    for row in run["record"]["result"]:
        if row.get("scoring") != SCORING:
            row = {name: value for name, value in row.items() if name != "by_speaker"}
        elif row["task"] == "verification":
            pairs = errors_by_pair(row, run["folder"])
            row = {**row, **({"pairs": as_record(pairs)} if pairs else {})}
        rows.append(row)
    return {**run["record"], "result": rows}


def _rounded(value):
    """The same, each float with so many digits; parameters are short already."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _copy(source, target):
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
