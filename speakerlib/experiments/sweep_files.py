"""Sweep files: one YAML file that names many runs of notebooks, expanded and checked before anything runs."""

import difflib
import re
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import yaml

from speakerlib.data.corpora import find_corpus
from speakerlib.data.files import check_name, data_folder, project_folder
from speakerlib.experiments.parameters import check_parameters, notebook_parameters, notebook_path
from speakerlib.experiments.pretrained import DEMO, SCRATCH
from speakerlib.experiments.pretrained import NOTEBOOK as PRETRAINING
from speakerlib.experiments.workbook import place_of

_FILE_KEYS = ("title", "corpus", "steps")
_STEP_KEYS = ("notebook", "with", "grid", "list", "init")
_SAME_CLIPS = ("corpus", "encoder", "front_end", "segment_seconds")  # what weights and those who take them share
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # 1e-3 is text to YAML


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: all that is known of it before anything runs."""

    step: str
    name: str  # of its step, its case and what the grid varies, or more where that is not enough to tell it apart
    notebook: str
    parameters: dict = field(repr=False)  # all of the notebook's
    folder: Path
    case: str = ""
    varied: dict = field(default_factory=dict, repr=False)  # what the sweep varies, that of the run it starts from too
    named: tuple = field(default=(), repr=False)  # those of `varied` that are in the name
    needs: Path | None = None  # the folder of the run whose weights it starts from


@dataclass(frozen=True)
class Sweep:
    """A sweep's name (of its file), title and runs, each after the one it needs."""

    name: str
    title: str
    runs: tuple


class StrictLoader(yaml.SafeLoader):
    """safe_load, but a name that stands twice in a mapping is an error and not silently the last one."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def sweep_path(name):
    """The file that a person means: a path, or the name of one in notebooks/sweeps."""
    folder = project_folder() / "notebooks" / "sweeps"
    for path in (Path(name).expanduser(), folder / str(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    raise FileNotFoundError(f"there is no sweep file {str(name)!r}{_nearest(Path(name).stem, known)} "
                            f"Those of the workbook are: {', '.join(known)}.")


def read_sweep(path, corpus=None, overrides=None):
    """Reads a sweep file, expands it to runs and checks every one of them. Returns a Sweep.

    corpus takes the place of the file's; overrides (parameter -> value) that of the values of every step whose
    notebook has the parameter, as for a trial with few iterations; the sweep is then one of another name.

    A file has `title`, `corpus` and `steps`. A step has `notebook`; `with`: parameters of all its runs; `grid`:
    parameter -> list of values, every combination of which is a run; `list`: cases, each a few parameters and maybe a
    `name`, crossed with the grid. `init: <an earlier step>` (of the step or of a case) takes the weights of that
    step's runs: of those that agree with this one on the seed, on the kind of clip, and on whatever both steps vary;
    what only the earlier step varies is crossed. `init: {step: <step>, mask: boxes}` takes some of them;
    `init: {step: <step>, name: <case>}` those of a case, which then need only agree on the seed and the kind of clip.
    Two steps may name the same run: it is run once.

    Raises ValueError that names the step and the value, FileNotFoundError for a file, notebook or corpus that is not
    there.
    """
    path, overrides = sweep_path(path), dict(overrides or {})
    content = _load(path)
    _only_known(content, _FILE_KEYS, path.name, required=("steps",))
    if not isinstance(content["steps"], dict) or not content["steps"]:
        raise ValueError(f"{path.name}: steps={content['steps']!r}: expected a mapping of names to steps.")
    corpora, runs, unused = {}, {}, set(overrides)

    def find(name):
        if name not in corpora:
            corpora[name] = find_corpus(name)
        return corpora[name]

    for step, settings in content["steps"].items():
        where = f"{path.name}, step {step!r}"
        try:
            notebook, grid, entries = _entries(step, settings, content["steps"])
            known = notebook_parameters(notebook)
            fixed = {"corpus": corpus or content.get("corpus")} if "corpus" in known else {}
            fixed = {name: value for name, value in fixed.items() if value is not None}
            override = {name: value for name, value in overrides.items() if name in known}
            unused -= set(override)
            made = []
            for case, given, varied in entries:
                given = _plain({**fixed, **given, **(fixed if corpus else {}), **override}, known)
                for init, source in _starts(given, varied, content["steps"], step, runs, known):
                    values = {**given, **({"init": init} if init is not None else {})}
                    made.append(_planned(step, notebook, case, values, varied, grid, source, find))
            runs[step] = made
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}: {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from error
    if unused:
        raise ValueError(f"{path.name}: no step has a parameter {sorted(unused)[0]!r}.")
    once = {run.folder: run for step in reversed(runs.values()) for run in reversed(step)}  # the first of each folder
    ordered = [run for step in runs.values() for run in step if once[run.folder] is run]
    name = "_".join([path.stem, *([corpus] if corpus else []), *(f"{k}-{v}" for k, v in sorted(overrides.items()))])
    return Sweep(check_name(re.sub(r"[^\w.-]", "-", name), "sweep"), str(content.get("title", path.stem)),
                 tuple(_distinct(ordered)))


def _load(path):
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping with {', '.join(_FILE_KEYS)}; it holds {content!r:.60}.")
    return content


def _entries(step, settings, steps):
    """(notebook, names in the grid, [(case, given parameters, varied names)]): the grid crossed with the cases."""
    if step in (SCRATCH, DEMO):
        raise ValueError(f"a step cannot be called so: as a value of init, {step!r} means something else.")
    check_name(step, "step")
    _only_known(settings, _STEP_KEYS, "a step", required=("notebook",))
    notebook = notebook_path(settings["notebook"]).stem
    fixed, grid, cases = (settings.get(key) or empty for key, empty in (("with", {}), ("grid", {}), ("list", [{}])))
    if not isinstance(fixed, dict) or not isinstance(grid, dict) or not isinstance(cases, list):
        raise ValueError("expected `with` and `grid` to be mappings, `list` a list of mappings.")
    if "init" in settings:
        fixed = {**fixed, "init": settings["init"]}
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid: {name}={values!r}: expected a list of at least one value.")
        if any(values.count(value) > 1 for value in values):
            raise ValueError(f"grid: {name}={values!r} has a value twice.")
        if name in fixed:
            raise ValueError(f"{name!r} has one value for all runs, and a list of values in `grid`. Keep one.")
    varied = set(grid)
    for case in cases:
        if not isinstance(case, dict):
            raise ValueError(f"list: {case!r}: expected a mapping of parameters, such as {{name: wide, num_way: 10}}.")
        if twice := sorted(set(case) & set(grid)):
            raise ValueError(f"{twice[0]!r} is in `grid` and in a case of `list`. Keep one.")
        varied |= set(case) - {"name", "init"}
    entries = []
    for case in cases:
        own = {name: value for name, value in case.items() if name != "name"}
        for values in product(*grid.values()):
            given = {**fixed, **own, **dict(zip(grid, values, strict=True))}
            entries.append((str(case.get("name", "")), given, varied - {"init"}))
    return notebook, tuple(grid), entries


def _starts(given, varied, steps, step, runs, known):
    """[(value of init, the PlannedRun it names or None)]: the weights that a run with these parameters starts from."""
    init = given.get("init")
    chosen = dict(init) if isinstance(init, dict) else {"step": init}
    source = chosen.pop("step", None)
    if not isinstance(init, dict) and source not in steps:
        if "init" in known and init not in (None, known["init"]):
            _check_init(init, runs)
        return [(None, None)]
    if source not in runs:
        raise ValueError(f"init={init!r}: expected an earlier step ({', '.join(runs) or 'there is none'}).")
    candidates = runs[source]
    for name in chosen:
        if name != "name" and candidates and name not in candidates[0].parameters:
            raise ValueError(f"init={init!r}: {candidates[0].notebook} has no parameter {name!r}.")
    own = {**known, **given}
    there = set().union(*(run.varied for run in candidates))
    shared = {"seed", *_SAME_CLIPS} | (set() if "name" in chosen else varied)  # a named case is told apart by its name
    agree = [name for name in sorted(there & shared) if name in own and name not in chosen]
    found = [run for run in candidates
             if all(run.parameters[name] == own[name] for name in agree)
             and all(_among(run.case if name == "name" else run.parameters[name], value)
                     for name, value in chosen.items())]
    if not found:
        asked = ", ".join(f"{name}={value!r}" for name, value in ({n: own[n] for n in agree} | chosen).items())
        raise ValueError(f"init={init!r}: no run of step {source!r} has {asked}.")
    for run in found:
        for name in _SAME_CLIPS[1:]:
            if name in own and name in run.parameters and run.parameters[name] != own[name]:
                raise ValueError(f"{name}={own[name]!r}, but step {source!r}, whose weights it takes, has "
                                 f"{run.parameters[name]!r}. Give both the same.")
    return [(run.folder.name, run) for run in found]


def _check_init(init, runs):
    """ValueError for a text that names neither weights nor a step."""
    if init in (SCRATCH, DEMO) or not isinstance(init, str):
        return
    if not (data_folder() / "runs" / PRETRAINING / init).exists() and not Path(init).expanduser().exists():
        near = _nearest(init, [SCRATCH, DEMO, *runs])
        raise ValueError(f"init={init!r} is no earlier step, no run of {PRETRAINING} and no file{near}")


def _planned(step, notebook, case, values, varied, grid, source, find):
    """The PlannedRun of these values, checked."""
    unchecked = {name: value for name, value in values.items() if not (name == "init" and source)}
    check_parameters(unchecked, notebook_parameters(notebook), notebook)
    notebook, parameters, folder = place_of(notebook, values, find)
    own = {name: parameters[name] for name in parameters if name in varied}
    inherited = {name: value for name, value in (source.varied if source else {}).items() if name not in own}
    named = [*(source.named if source else ()), *(grid if case else own)]
    start = f"from {source.case}" if source and source.case not in ("", case) else ""
    run = PlannedRun(step, "", notebook, parameters, folder, case, {**inherited, **own}, tuple(dict.fromkeys(named)),
                     source.folder if source else None)
    return replace(run, name=" ".join(filter(None, [step, case, start, *_words(run, run.named)])))


def _words(run, names):
    return [f"{name}={value}" for name, value in run.varied.items() if name in names]


def _plain(given, known):
    """The values as a notebook has them: 1e-3 a number, and 3 as 3.0 where the notebook's own is a float."""
    plain = {}
    for name, value in given.items():
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        if isinstance(known.get(name), float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        plain[name] = value
    return plain


def _distinct(runs):
    """The runs, those with the same name told apart by all that varies, or by their folders' hashes."""
    for more in (lambda run: _words(run, set(run.varied) - set(run.named)), lambda run: [run.folder.name[-8:]]):
        names = [run.name for run in runs]
        runs = [replace(run, name=" ".join([run.name, *more(run)])) if names.count(run.name) > 1 else run
                for run in runs]
    return runs


def _only_known(content, keys, where, required=()):
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a mapping with {', '.join(keys)}; it holds {content!r}.")
    for name in content:
        if name not in keys:
            raise ValueError(f"{where} has no {name!r}{_nearest(str(name), keys)} Expected {', '.join(keys)}.")
    for name in required:
        if name not in content:
            raise ValueError(f"{where} lacks {name!r}.")


def _among(value, wanted):
    return value in wanted if isinstance(wanted, list) else value == wanted


def _nearest(name, known):
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
