"""Starts the processes of a training on several devices: from a notebook, or from a terminal without one."""

import builtins
import gc
import io
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from speakerlib.data.files import atomic_path, read_json
from speakerlib.experiments import devices
from speakerlib.experiments.checkpoints import load_checkpoint
from speakerlib.experiments.training import train

TRAINED = ("05_protonet_training",)  # notebooks whose training is shared among processes
_CAUGHT = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # by torch's launcher, which does not let go of them
_OWN = "SPEAKERLIB_PROCESS"  # marks the processes that train_in started


def train_in(num_processes, model, compute_loss, *, folder, num_train_iterations, on_progress=None, **settings):
    """training.train(), its steps shared among num_processes processes: those of a launcher, or new ones.

    compute_loss computes the share of its process (see devices.share). New processes are forks of this one, so the
    model and what compute_loss reads are there without being sent; on CPUs, each computes in one thread. They leave
    what train() leaves, this process reads it, and the model ends with the last weights in either case.

    Raises what train() raises, in any of the processes; RuntimeError where forks cannot work (they need GPUs that
    nothing has touched), or if one is killed; ValueError for more processes than GPUs.
    """
    arguments = {"folder": folder, "num_train_iterations": num_train_iterations, **settings}
    check_launcher()
    if num_processes > 1 and devices.num_processes() == 1:
        state = load_checkpoint(folder)
        if state is None or state["step"] < num_train_iterations:
            _launch(partial(train, model, compute_loss, progress=False, **arguments), num_processes, Path(folder),
                    num_train_iterations, on_progress)
        on_progress = None  # all was shown
    return train(model, compute_loss, on_progress=on_progress, **arguments)


def check_launcher():
    """RuntimeError where a launcher's processes cannot train together."""
    from IPython import get_ipython

    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise RuntimeError("`accelerate launch` started one process, not several: on CPUs they have to be asked "
                           "for by --multi_gpu in place of --cpu (no GPU is needed). Or without a launcher: "
                           "speakerlib train ... -p num_processes 2")
    if devices.num_processes() > 1 and hasattr(get_ipython(), "kernel") and _OWN not in os.environ:
        raise RuntimeError(f"A launcher started {devices.num_processes()} processes, and each runs a notebook. Launch "
                           "`-m speakerlib train NOTEBOOK`, which trains without it, then run the notebook alone.")


def train_notebook(notebook, parameters):
    """Trains what a notebook with these parameters trains, without the notebook: in this process, or a launcher's.

    Returns the run's folder. The notebook, with the same parameters, then finds the training done. ValueError for a
    notebook other than those TRAINED, and for parameters that it refuses.
    """
    from speakerlib.experiments.protonet import open_experiment, train_protonet
    from speakerlib.experiments.records import Run, start_run
    from speakerlib.experiments.workbook import place_of

    check_launcher()
    leader = devices.is_leader()
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if leader else nowhere):
        notebook, parameters, folder = place_of(notebook, parameters)
        if notebook not in TRAINED:
            raise ValueError(f"{notebook} is not trained without its notebook; {', '.join(TRAINED)} is. "
                             f"Run it: speakerlib run {notebook}")
        if devices.num_processes() > 1:
            parameters["num_processes"] = devices.num_processes()
        settings = SimpleNamespace(**parameters)
        experiment = open_experiment(settings)
        if leader:
            train_protonet(experiment, start_run(notebook, settings, experiment.corpus))
        else:
            train_protonet(experiment, Run(folder, {"status": "another process writes it"}))
    if devices.num_processes() > 1:
        torch.distributed.destroy_process_group()
    return folder


def _launch(function, count, folder, total, on_progress):
    """Calls function() in each of `count` forks; shows what the first of them writes to folder/metrics.csv."""
    from accelerate import notebook_launcher
    from accelerate.state import AcceleratorState
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _check_forks(count)
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training, in this process alone
    gc.collect()  # what an earlier training left behind ends here: in a fork, it would wait for threads that are not
    folder.mkdir(parents=True, exist_ok=True)
    stdout = sys.stdout
    with tempfile.TemporaryDirectory(prefix="speakerlib-") as notes, _watched(folder, total, count, on_progress):
        try:
            with (_handlers_kept(), _quiet("torch.distributed.elastic"), redirect_stdout(io.StringIO()),
                  _meeting_place() as port):
                notebook_launcher(_in_fork, (function, notes, stdout), count, use_port=str(port))
        except SignalException:
            said = _note_of(notes, "KeyboardInterrupt")  # none if it had not begun
            raise KeyboardInterrupt(said or f"Stopped. Run the same again to go on from what is in {folder}.") from None
        except ChildFailedError as error:
            _raise_first(notes, count, folder, error.failures)
            raise RuntimeError(f"{count} processes could not train together: {error}") from None


def _in_fork(function, notes, stdout):
    """What each fork does. An error is left as a note: the launcher would make a long text of it."""
    gc.freeze()  # what was there before the fork is the parent's to end
    sys.stdout = stdout
    for name in _CAUGHT:  # here they end the process, until train() waits for the step to end
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.environ[_OWN] = os.environ["RANK"]
    if not torch.cuda.is_available():
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)  # those that the parent had are not in its fork, and waiting for them never ends
    try:
        function()
        torch.distributed.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins").__name__
        with atomic_path(Path(notes, f"{os.environ['RANK']}.json")) as path:
            path.write_text(json.dumps({"kind": kind, "text": str(error) or kind}))
        sys.exit(1)


def _raise_first(notes, count, folder, failed):
    """Raises what a fork left a note of; of those that only saw another one go, what became of that one.

    failed: the ranks that the launcher saw fail; the others it ends itself, perhaps before they leave a note.
    """
    paths = sorted(Path(notes).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for note in map(read_json, paths):
        if note["kind"] != "ConnectionError":
            raise getattr(builtins, note["kind"])(note["text"])
    gone = set(map(str, range(count))) - {path.stem for path in paths}
    gone = sorted(gone & set(map(str, failed)) or gone)
    if gone:
        raise RuntimeError(f"Process {', '.join(gone)} of {count} (the first is 0) was killed; was there memory "
                           "enough? Try fewer processes. The same again goes on from the last checkpoint in "
                           f"{folder}.")


def _note_of(notes, kind):
    """The text of the first note of a kind of error; None if there is none."""
    found = [read_json(path) for path in Path(notes).glob("*.json")]
    return next((note["text"] for note in found if note["kind"] == kind), None)


def _check_forks(count):
    gpus = torch.cuda.device_count()
    if gpus and count > gpus:
        raise ValueError(f"num_processes={count}, and {gpus} GPUs can be seen: expected one for each process. Use "
                         f"num_processes={gpus}, or hide them (CUDA_VISIBLE_DEVICES='') to train on CPUs.")
    if torch.cuda.is_initialized():
        raise RuntimeError("This process has used a GPU, and its forks could not. Restart the kernel and run all cells "
                           "with num_processes as it is; or train from a terminal, then run the notebook: accelerate "
                           f"launch --multi_gpu --num_processes {count} -m speakerlib train {TRAINED[0]} -p ...")


@contextmanager
def _watched(folder, total, count, on_progress):
    """Meanwhile, draws the bar and calls on_progress with the history as the forks write it."""
    import pandas as pd
    from tqdm.auto import tqdm

    metrics, finished = folder / "metrics.csv", threading.Event()
    written = metrics.stat().st_mtime_ns if metrics.exists() else 0

    def look():
        nonlocal written
        if metrics.exists() and metrics.stat().st_mtime_ns != written:
            written = metrics.stat().st_mtime_ns
            try:
                history = pd.read_csv(metrics)
            except pd.errors.EmptyDataError:
                return
            if len(history):
                bar.update(int(history["step"].iloc[-1]) - bar.n)
                if on_progress is not None:
                    on_progress(history)

    def watch():
        while not finished.wait(0.5):
            look()

    with tqdm(total=total, desc=f"training in {count} processes", unit="step") as bar:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            look()


@contextmanager
def _handlers_kept():
    """Gives signals their handlers back."""
    main = threading.current_thread() is threading.main_thread()
    before = {name: signal.getsignal(getattr(signal, name)) for name in _CAUGHT} if main else {}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler if handler is not None else signal.SIG_DFL)


@contextmanager
def _quiet(name):
    """A package's log is not shown: what matters of it is in the error that is raised."""
    loggers = [logging.getLogger(key) for key in (name, *logging.root.manager.loggerDict) if key.startswith(name)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _meeting_place():
    """Yields the port where the forks find each other, on this computer alone; torch's own is open to the network.

    The launcher asks for a store of several tenants, and so is given the one that this process has at that port.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, multi_tenant=True,
                                           wait_for_workers=False, master_listen_fd=listening.detach())
    yield port
    del store
