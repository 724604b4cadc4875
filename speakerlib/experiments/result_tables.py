"""Every table of both works by name, from run records: as DataFrame, text, Markdown and LaTeX, with what is missing."""

import difflib
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from speakerlib.data.files import atomic_path, read_json
from speakerlib.experiments import (
    comparison,
    error_tables,
    mask_table,
    nine_cell_table,
    objective_table,
    voice_ablation,
    voice_table,
)
from speakerlib.experiments.latex import HEAD, latex
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.pretrained import NOTEBOOK as PRETRAINING
from speakerlib.experiments.records import read_results, read_runs
from speakerlib.experiments.sweep_files import sweep_path
from speakerlib.experiments.tables import markdown
from speakerlib.experiments.transfer import NOTEBOOK as PROTONET
from speakerlib.experiments.verify import NOTEBOOK as VERIFICATION
from speakerlib.experiments.voice_tasks import CONDITIONS, TASKS
from speakerlib.experiments.voice_weights import NOTEBOOK as VOICE


@dataclass(frozen=True)
class ResultTable:
    """One table: its name, caption and strings, what a picture of it needs, and what is missing with the command."""

    name: str
    caption: str
    table: pd.DataFrame = field(repr=False)
    missing: str = ""
    facts: dict = field(default_factory=dict, repr=False)  # cells (numbers) and what they share

    @property
    def markdown(self):
        return f"**{self.caption}**\n\n{markdown(self.table)}\n" + f"\n{self.missing}\n" * bool(self.missing)

    @property
    def text(self):
        return f"{self.caption}\n\n{self.table.to_string()}\n" + f"\n{self.missing}\n" * bool(self.missing)

    def latex(self, number=1):
        """A LaTeX table environment; number: of this table among those of its name, for its label."""
        tail = "".join(f"\n% {line}" for line in self.missing.splitlines())
        return latex(self.caption, self.table, f"{self.name}-{number}") + tail + "\n"


def result_tables(name, corpus=None, **only):
    """All tables of that name: a list of ResultTable, at least one, if only to say what has to be run.

    name: of TABLES. corpus: its runs alone; only: column -> value (parameters of the runs, condition, commit): runs
    that differ are left out. Runs that cannot be compared (other corpora, front ends, lengths, protocols, budgets,
    trial lists) are in tables of their own; conditions are columns; a caption names the commits behind its table.
    ValueError for an unknown name or column, or a value that no run has.
    """
    if name not in TABLES:
        near = difflib.get_close_matches(str(name), TABLES, n=1, cutoff=0.4)
        raise ValueError(f"there is no table {name!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
                         + f" They are: {', '.join(TABLES)}.")
    return TABLES[name][2](corpus, only)


def one_table(name, corpus=None, **only):
    """The one table of that name; ValueError, naming what differs, if the runs fill several."""
    found = result_tables(name, corpus, **only)
    if len(found) > 1:
        captions = "\n".join(f"  {table.caption}" for table in found)
        raise ValueError(f"runs of {len(found)} tables {name!r}, which cannot be mixed:\n{captions}\nChoose one by "
                         "what it differs in, such as corpus='so762', front_end='compact', protocol='corrected', "
                         "num_train_iterations=400 (on the command line: --corpus so762 -p front_end compact).")
    return found[0]


def list_tables():
    """A DataFrame: each table's name, what it shows, and the complete runs that there are for it, by corpus."""
    lines, runs = [], read_runs()
    for name, (title, notebook, _) in TABLES.items():
        own = runs[runs["notebook"] == notebook] if len(runs) else runs
        counts = own["corpus"].value_counts() if len(own) else {}
        told = ", ".join(f"{corpus}: {count}" for corpus, count in counts.items())
        lines.append({"table": name, "shows": title, "runs": told or f"none yet of {notebook}"})
    return pd.DataFrame(lines).set_index("table")


def write_tables(tables, folder):
    """Writes <name>.md, <name>.tex and the numbers as <name>_<number>.csv to a folder; returns the paths."""
    folder, name = Path(folder).expanduser(), tables[0].name
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / f"{name}.md": "\n".join(table.markdown for table in tables),
             folder / f"{name}.tex": "\n".join([HEAD, *(table.latex(n) for n, table in enumerate(tables, 1))])}
    for number, table in enumerate(tables, 1):
        if len(table.facts.get("cells", ())):
            texts[folder / f"{name}_{number}.csv"] = table.facts["cells"].drop(
                columns=["shares", "pairs"], errors="ignore").to_csv(index=False)
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


def sweep_command(sweep, step, corpus, parameters):
    """The command of a sweep whose step runs a notebook with these parameters, but for what the step varies."""
    settings = yaml.safe_load(sweep_path(sweep).read_text(encoding="utf-8"))["steps"][step]
    cases = {name for case in settings.get("list", ()) for name in case}
    varied = {"corpus", "print_interval", "num_processes", *settings.get("grid", {}), *cases}
    usual = {**notebook_parameters(settings["notebook"]), **settings.get("with", {})}
    given = [f" -p {name} {shlex.quote(str(parameters[name]))}" for name, value in usual.items()
             if name not in varied and parameters.get(name, value) != value]
    return f"speakerlib sweep {sweep} --corpus {shlex.quote(str(corpus))}{''.join(given)}"


def _nine_cells(kind, step):
    def make(corpus, only):
        results, pretraining = _chosen(PROTONET, corpus, only)
        name = next(name for name, entry in TABLES.items() if entry[2] is make)
        several, any_at_all = ([grid for grid in nine_cell_table.nine_cell_grids(results, pretraining, least)
                                if grid[0] == kind] for least in (2, 1))
        made = []
        for grid in several or any_at_all:
            _, recipe, cells, rows = grid
            parameters = read_json(rows["folder"].iloc[0] / "run.json")["parameters"]
            missing = _fill_nine(nine_cell_table.missing_cells(rows), step, recipe["corpus"], parameters)
            made.append(ResultTable(name, nine_cell_table.nine_cell_caption(*grid),
                                    nine_cell_table.nine_cell_table(cells), missing,
                                    {"kind": kind, "recipe": recipe, "cells": cells}))
        if made:
            return made
        empty = pd.DataFrame(columns=[*nine_cell_table.NAMES, "accuracy", "interval", "low", "high", "seeds"])
        return [ResultTable(name, f"{kind}: no runs yet", nine_cell_table.nine_cell_table(empty),
                            _fill_nine([], step, corpus or "demo", {}, True))]
    return make


def _fill_nine(missing, step, corpus, parameters, none=False):
    if not missing and not none:
        return ""
    command = sweep_command("protonet_table", step, corpus, parameters) + f" --only {step}"
    if none:
        return f"No runs yet. All of them: {command}"
    told = ", ".join(f"{way}-way {shot}-shot" for way, shot, _ in missing)
    way, shot, seed = missing[0]
    known = {name: value for name, value in parameters.items() if name not in ("num_processes", "print_interval")
             and value != notebook_parameters(PROTONET).get(name)}
    one = "".join(f" -p {name} {shlex.quote(str(value))}" for name, value in
                  {**known, "corpus": corpus, "num_way": way, "num_support": shot, "seed": seed}.items())
    return f"Missing, or of fewer seeds: {told}. All of them: {command}\nOne: speakerlib run {PROTONET}{one}"


def _masks(corpus, only):
    results, pretraining = _chosen(PROTONET, corpus, only)
    made = []
    for recipe, cells in mask_table.mask_grids(results, pretraining):
        table = mask_table.mask_table(cells)
        missing = mask_table.how_to_fill(recipe["corpus"]) if (table == "not run").any(axis=None) else ""
        made.append(ResultTable("masks", f"{mask_table.caption(recipe, cells)}; {recipe['cost']}", table, missing,
                                {"recipe": recipe, "cells": cells}))
    empty = pd.DataFrame(columns=["mask", "mask_ratio", "condition", "accuracy", "interval", "seeds"])
    return made or [ResultTable("masks", "5-way 5-shot from an autoencoder's encoder, by mask and ratio: no runs yet",
                                mask_table.mask_table(empty), mask_table.how_to_fill(corpus or "demo"))]


def _ideas(corpus, only):
    results, pretraining = _chosen(PROTONET, corpus, only)
    made, waiting = [], pd.DataFrame()
    for find in (comparison.comparisons, comparison.against_longer) if len(results) else ():
        for name in results["corpus"].unique():
            found = find(results[results["corpus"] == name], pretraining)
            lines, waiting = found if isinstance(found, tuple) else (found, waiting)
            tables = comparison.help_tables(lines) if len(lines) else []
            made += [ResultTable("pretraining", caption, table, "",
                                 {"cells": lines} if number == 0 and "control_steps" not in lines else {})
                     for number, (caption, table) in enumerate(tables)]
    missing = comparison.what_is_missing(pd.DataFrame(), pd.DataFrame(), corpus or "demo")
    return made or [ResultTable("pretraining", "Does pretraining help? No comparisons yet", pd.DataFrame(
        columns=["recorded 1-shot", "changed 1-shot"]).rename_axis("start"), missing)]


def _errors(task):
    def make(corpus, only):
        runs, made = _of_corpus(read_runs(VERIFICATION), corpus, only), []
        for recipe, cells, rows in error_tables.error_grids(runs, task):
            absent = error_tables.missing_methods(cells)
            command = _fill_errors(recipe)
            missing = f"Missing: {', '.join(absent)}. Fill them: {command}" if absent else ""
            made.append(ResultTable(task, error_tables.error_caption(task, recipe, cells, rows),
                                    error_tables.error_table(task, cells), missing,
                                    {"task": task, "recipe": recipe, "cells": cells}))
        command = sweep_command("short_utterances", "train", corpus or "demo", {})
        return made or [ResultTable(task, f"{task.capitalize()}: no runs yet",
                                    error_tables.error_table(task, error_tables.no_cells()),
                                    f"No runs yet. Make them: {command}; one: speakerlib run {VERIFICATION}"
                                    f" -p corpus {corpus or 'demo'}")]
    return make


def _objectives(corpus, only):
    made = []
    for recipe, lines, rows in objective_table.objective_grids(_of_corpus(read_runs(VERIFICATION), corpus, only)):
        absent = error_tables.missing_methods(lines)
        missing = f"Missing: {', '.join(absent)}. Fill them: {_fill_errors(recipe)}" if absent else ""
        made.append(ResultTable("objectives", objective_table.objective_caption(recipe, lines, rows),
                                objective_table.value_table(lines), missing, {"recipe": recipe, "cells": lines}))
        differences = objective_table.difference_table(lines)
        if len(differences):
            made.append(ResultTable("objectives", f"Differences in points, {recipe['training']}", differences))
    command = sweep_command("short_utterances", "train", corpus or "demo", {})
    return made or [ResultTable("objectives", "Objectives for short utterances: no runs yet", pd.DataFrame(
        columns=["accuracy, 1 s", "EER, 1 s"]).rename_axis("objective"), f"No runs yet. Make them: {command}")]


def _voices(corpus, only):
    results, made = _results(VOICE, corpus, only), []
    for recipe, lines, rows in voice_table.voice_grids(results):
        absent = [name for augment, name in voice_table.TRAINED.items() if augment not in set(lines["augment"])]
        command = sweep_command("voice", "ships", recipe["corpus"], recipe)
        table = voice_table.voice_table(lines, reference=not made)
        made.append(ResultTable("voice", voice_table.voice_caption(recipe, rows), table,
                                f"Missing: trained through {', '.join(absent)}. Fill them: {command}" if absent else "",
                                {"cells": lines, "recipe": recipe, "place": len(made) + 1}))
    return made or [ResultTable("voice", "The voice, not the microphone: no runs yet", pd.DataFrame(
        columns=["seeds", *TASKS]).rename_axis("trained through: heard"),
        f"No runs yet. Make them: speakerlib sweep voice --corpus {shlex.quote(corpus or 'demo')}")]


def _voice_steps(corpus, only):
    results, made = _results(VOICE, corpus, only), []
    for _, group in results.groupby("corpus", sort=False) if len(results) else ():
        lines = voice_ablation.ablation_lines(group)
        made += [ResultTable("voice_steps", voice_ablation.ablation_caption(lines, group, task),
                             voice_ablation.ablation_table(lines, task), "", {"cells": lines, "task": task})
                 for task in dict.fromkeys(lines["task"])]
    return made or [ResultTable("voice_steps", "What each step against the microphone brings: no runs yet",
                                pd.DataFrame(columns=list(CONDITIONS)).rename_axis("step"), "No runs yet. Make them: "
                                f"speakerlib sweep voice_ablation --corpus {shlex.quote(corpus or 'demo')}")]


def _fill_errors(recipe):
    """The sweep that trains by this recipe and judges so: -p gives every step of a sweep the same value."""
    trained = {name: value for name, value in recipe["parameters"].items() if name != "test_tasks"}
    command = sweep_command("short_utterances", "train", recipe["corpus"], trained)
    told = {name: recipe[name] for name in ("channel_family", "trials", "trials_per_speaker", "test_tasks")}
    return command + sweep_command("short_utterances", "judge", "", told).partition("--corpus ''")[2]


def _chosen(notebook, corpus, only):
    """(rows of read_results, runs of chapter 04), of one corpus and with these values; empty if there are none."""
    return _results(notebook, corpus, only), read_runs(PRETRAINING)


def _results(notebook, corpus, only):
    """Rows of read_results, of one corpus and with these values; empty if there are none."""
    try:
        return _of_corpus(read_results(notebook, corpus), None, only)
    except FileNotFoundError:
        return pd.DataFrame()


def _of_corpus(rows, corpus, only):
    rows = rows[rows["corpus"] == corpus] if corpus and len(rows) else rows
    for name, value in only.items() if len(rows) else ():
        if name not in rows:
            near = difflib.get_close_matches(name, map(str, rows), n=1, cutoff=0.5)
            raise ValueError(f"no run has {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
        seen = rows[name].astype(str)
        rows = rows[(rows[name] == value) | (seen == str(value))]
        if rows.empty:
            raise ValueError(f"no run has {name}={value!r}. There are: {', '.join(sorted(seen.unique())[:8])}.")
    return rows


TABLES = {  # name: (what it shows, the notebook whose runs fill it, function)
    "nine_cells": ("Work A: 3, 5, 10-way x 1, 5, 10-shot, one network trained for each cell", PROTONET,
                   _nine_cells(nine_cell_table.A_CELL, "a_cell")),
    "one_network": ("Work A's nine cells with one network, trained 5-way 5-shot", PROTONET,
                    _nine_cells(nine_cell_table.ONE_NETWORK, "one_network")),
    "masks": ("Work A: 5-way 5-shot from an autoencoder's encoder, two masks x five ratios", PROTONET, _masks),
    "pretraining": ("What each idea of pretraining brings against its control from scratch, paired", PROTONET, _ideas),
    "verification": ("Work B: equal error rates, whole and short tests", VERIFICATION, _errors("verification")),
    "identification": ("Work B: identification of unseen speakers by the length of the query", VERIFICATION,
                       _errors("identification")),
    "objectives": ("Work B's claim: its objectives on short queries, paired over speakers and seeds", VERIFICATION,
                   _objectives),
    "voice": ("The voice, not the microphone: three tasks, by the channels that training heard", VOICE, _voices),
    "voice_steps": ("What each step of chapter 10's recipe brings, paired", VOICE, _voice_steps),
}
