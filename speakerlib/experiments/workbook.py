"""Runs notebooks headlessly through papermill: one of them, or the whole workbook in order."""

import logging
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from traitlets.config import Config

from speakerlib.data.corpora import find_corpus
from speakerlib.data.files import data_folder, folder_lock
from speakerlib.experiments.parameters import check_parameters, notebook_parameters, notebook_path
from speakerlib.experiments.records import Run, read_results, run_folder, short_path
from speakerlib.experiments.tables import headline

STEPS = (  # the notebooks in order, with the parameters of each execution
    ("00_start_here", {}),
    ("01_data_scraping", {"corpus": "practice"}),
    ("02_spectrogram_exploration", {}),
    ("03_mae_mask_visualisation", {}),
    ("04_mae_pretraining", {}),
    ("05_protonet_training", {"num_support": 1}),
    ("05_protonet_training", {"num_support": 5}),
    ("05_protonet_training", {"num_support": 10}),
    ("06_short_utterance_training", {}),
    ("07_verification_and_identification", {"init": "06_short_utterance_training"}),
    ("09_who_is_speaking", {}),
    ("10_voice_training", {}),
    ("08_result_tables", {}),
)
READS_RECORDS_ONLY = ("08_result_tables",)
MAKES_ITS_CORPUS = ("01_data_scraping",)
FILES = ("trials", "init", "url_directory", "people_folder", "recording")  # that may name a file or folder
START_SECONDS = 300  # a kernel may take so long to start where many start at once


def run_workbook(corpus="demo", force=False):
    """Executes all notebooks not yet done on a corpus (a name, or a folder of audio); says where the results are."""
    corpus = find_corpus(corpus)
    minutes = 10 + 0.6 * corpus.table["duration"].sum() / 3600  # five trainings; features by the hour of speech
    print(f"{len(STEPS)} notebook runs on {corpus.name}: about {minutes:.0f} minutes on two cores, less what is done")
    folders = []
    for number, (notebook, parameters) in enumerate(STEPS, start=1):
        title = f"[{number}/{len(STEPS)}] {_title(notebook, parameters)}"
        folder, _ = run_notebook(notebook, {"corpus": corpus.name, **parameters}, force, title)
        folders.append(folder)
    tables = folders[-1]
    results = read_results("05_protonet_training", corpus.name).query("corpus_fingerprint == @corpus.fingerprint")
    print(f"\ntables:\n  {short_path(tables / 'tables.md')}\nfigures:")
    for folder in dict.fromkeys(folders):
        if (folder / "figures").is_dir():
            print(f"  {short_path(folder / 'figures')}")
    print("\n".join(headline(results)))


def run_notebook(notebook, parameters, force=False, title=None, quiet=False):
    """Executes one notebook with changed parameters; a run that is complete is not run again unless forced.

    Names and values are checked before anything starts. The executed notebook is <run folder>/executed.ipynb.
    Returns (run folder, whether it was executed). RuntimeError if a cell fails: it names the cell and the notebook,
    and has them as attributes, `cell` and `notebook`. quiet: no progress bar.
    """
    notebook, parameters, folder = place_of(notebook, parameters)
    title = title or notebook
    if not force and is_done(notebook, folder):
        print(f"{title}: done already, in {short_path(folder)}")
        return folder, False
    if force:
        _forget(folder)
    with folder_lock(folder, title):
        if not force and is_done(notebook, folder):  # by another process, while this one waited
            return folder, False
        _execute(notebook, parameters, folder, title, quiet)
    return folder, True


def place_of(notebook, parameters, find=find_corpus):
    """(name, all parameters, run folder) of a notebook with changed parameters, which are checked; nothing is run."""
    notebook = notebook_path(notebook).stem
    parameters = check_parameters(parameters, notebook_parameters(notebook), notebook)
    for name in FILES:
        path = Path(str(parameters.get(name, ""))).expanduser()
        if (path.suffix or len(path.parts) > 1) and path.exists():  # `demo` is a name, whatever lies here
            parameters[name] = str(path.resolve())  # notebooks run in a folder of their own
    corpus = None
    if notebook not in READS_RECORDS_ONLY + MAKES_ITS_CORPUS and "corpus" in parameters:
        corpus = find(parameters["corpus"])
        parameters["corpus"] = corpus.name
    return notebook, parameters, run_folder(notebook, SimpleNamespace(**parameters), corpus)


def is_done(notebook, folder):
    """Whether a run is complete; one that reads the records of others, only if none of them is newer."""
    executed = folder / "executed.ipynb"
    if not executed.exists() or not Run.read(folder).is_complete:
        return False
    return notebook not in READS_RECORDS_ONLY or _newest_record() < executed.stat().st_mtime


def _execute(notebook, parameters, folder, title, quiet):
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from tqdm import tqdm

    logging.getLogger("papermill").setLevel(logging.ERROR)
    source = notebook_path(notebook)
    code_cells = [cell for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
    output = folder / ".executing.ipynb"
    folder.mkdir(parents=True, exist_ok=True)
    finished = threading.Event()
    seconds = 1.0 if sys.stderr.isatty() else 15.0  # a log file gets a line now and then
    steps = parameters.get("num_train_iterations")
    with tqdm(
        total=len(code_cells) + 1,  # papermill adds one
        desc=title,
        mininterval=seconds,
        disable=quiet,
        bar_format="{l_bar}{bar:20}| {n_fmt}/{total_fmt} cells [{elapsed}{postfix}]",
    ) as bar:
        watcher = threading.Thread(target=_watch_training, args=(bar, folder, steps, seconds, finished), daemon=True)
        watcher.start()
        try:
            with _kernel_sockets() as config:
                papermill.execute_notebook(
                    source,
                    output,
                    parameters=parameters,
                    kernel_name="python3",
                    cwd=source.parent,
                    progress_bar=False,
                    start_timeout=START_SECONDS,
                    config=config,
                    on_cell_executed=lambda **_: bar.update(),
                )
        except PapermillExecutionError as error:
            failed = output.replace(folder / "failed.ipynb")
            stopped = RuntimeError(
                f"{notebook} stopped in cell {error.cell_index}: {error.ename}: {error.evalue}\n"
                f"As far as it came: {failed}. What was done is kept: once the cause is mended, run the same again."
            )
            stopped.cell, stopped.notebook = error.cell_index, failed
            raise stopped from None
        finally:
            finished.set()
            watcher.join()
    (folder / "failed.ipynb").unlink(missing_ok=True)
    output.replace(folder / "executed.ipynb")


@contextmanager
def _kernel_sockets():
    """Yields the configuration of a kernel that is reached by files of this user and execution, not by open ports."""
    with tempfile.TemporaryDirectory(prefix="speakerlib-") as folder:
        quiet = ["--IPKernelApp.log_level=CRITICAL"]  # or an interruption prints the kernel's own traceback
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        yield Config({"KernelManager": sockets, "NotebookClient": {"extra_arguments": quiet}})


def _watch_training(bar, folder, steps, seconds, finished):
    """Shows the last step that a training notebook wrote to its metrics."""
    metrics, started = folder / "metrics.csv", time.time()
    while not finished.wait(seconds):
        if metrics.exists() and metrics.stat().st_mtime > started:
            step = metrics.read_text().splitlines()[-1].split(",")[0]
            if step.isdigit():  # and not the header alone
                bar.set_postfix_str(f"step {step} of {steps}", refresh=False)
        bar.refresh()


def _newest_record():
    """When a run of a notebook that is read by others was last written."""
    records = (data_folder() / "runs").glob("*/*/run.json")
    return max((path.stat().st_mtime for path in records if path.parts[-3] not in READS_RECORDS_ONLY), default=0.0)


def _forget(folder):
    """Deletes one run's folder (only ever below data/runs)."""
    import shutil

    if data_folder() / "runs" in Path(folder).parents and folder.exists():
        shutil.rmtree(folder)


def _title(notebook, parameters):
    return " ".join([notebook, *(f"{name}={value}" for name, value in parameters.items())])
