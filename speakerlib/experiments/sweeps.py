"""Executes a sweep: many runs of notebooks, several at once, each as soon as what it needs is there."""

import io
import os
import queue
import re
import shutil
import time
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from uuid import uuid4

from speakerlib.data.files import data_folder
from speakerlib.data.workers import DASHBOARD, dashboard_link, local_workers
from speakerlib.experiments import clusters
from speakerlib.experiments.checkpoints import CHECKPOINT
from speakerlib.experiments.records import short_path
from speakerlib.experiments.sweep_files import read_sweep
from speakerlib.experiments.sweep_progress import Board, estimates, overview, summarise, write_summary
from speakerlib.experiments.workbook import is_done, run_notebook

DONE, FAILED, WAITS, MISSING = "done", "failed", "waits", "missing"
TRIES = 2  # of a run that kills its process, which may have been its neighbour's fault
THREADS = 2  # of a run, unless told otherwise: more make a small network hardly faster
_NO_DASHBOARD = "none (it needs the package bokeh: .venv/bin/pip install -c constraints.txt bokeh)"
_OWN = "SPEAKERLIB_SWEEP"  # tells the kernels of a sweep from those of another on the same worker
_STARTS = "speakerlib-run"  # the topic on which workers say what they begin


def run_sweep(path, corpus=None, overrides=None, only=None, num_workers=None, num_threads=None, dry_run=False,
              scheduler=None, cluster="local", cluster_options=None, dashboard=DASHBOARD):
    """Executes what is missing or failed of a sweep file (see read_sweep). Returns the summary, a row for each run.

    Runs are processes of their own, num_workers at once with num_threads threads each: by default as many of two
    threads as the computer has cores for. only: the name of a step; its runs, and those that they need. A failed run
    is a row with its error, its cell and the notebook as far as it came; what needs it waits, the rest goes on. The
    summary is <data>/sweeps/<sweep>/summary.csv, written after each run; `tensorboard --logdir` of that folder shows
    all curves. dry_run: prints the runs and how long they take, as far as earlier runs tell.
    cluster: "slurm" submits jobs as the file of cluster_options says (see clusters.read_options). scheduler: the
    address of a dask scheduler, such as tcp://host:8786, whose workers are taken. Workers of other computers must see
    the same data folder and have the same code. dashboard: where dask's own web pages are shown.

    Raises what read_sweep and slurm_workers raise; RuntimeError if the same sweep is at work already, ConnectionError
    if no scheduler answers; KeyboardInterrupt with a sentence when interrupted. In every case what is done is kept,
    and a run that was cut short goes on from its last checkpoint when the sweep is run again.
    """
    slurm = _slurm(cluster, cluster_options, scheduler)
    sweep = read_sweep(path, corpus, overrides)
    runs = _only(sweep, only)
    rows = {run.folder: {"status": DONE if is_done(run.notebook, run.folder) else MISSING} for run in runs}
    missing = [run for run in runs if rows[run.folder]["status"] == MISSING]
    folder = data_folder() / "sweeps" / sweep.name
    if slurm:
        _check_sizes(num_workers, num_threads)
        jobs, each, num_threads = clusters.job_sizes(slurm, len(missing), num_workers, num_threads)
        num_workers = max(1, min(jobs * each, len(missing)))
    else:
        num_workers, num_threads = _sizes(len(missing), num_workers, num_threads)
    seconds = estimates(missing)
    print(overview(sweep, runs, missing, seconds, num_workers, num_threads))
    if dry_run:
        for run in runs:
            print(f"  {rows[run.folder]['status']:8}{run.name}")
        if slurm:
            print(f"The script of each of {jobs} jobs:\n\n{clusters.job_script(slurm, folder, each)}")
        return summarise(runs, rows)
    with _alone(folder):
        _link_curves(folder, runs)
        start, board = time.time(), Board(runs, missing, seconds, num_workers)
        try:
            if missing:
                with ExitStack() as stack:
                    tend = None
                    if slurm:
                        client, tend = stack.enter_context(clusters.slurm_workers(slurm, folder, jobs, each, dashboard))
                    elif scheduler:
                        client = stack.enter_context(clusters.scheduler_workers(scheduler))
                        board.num_workers = sum(client.nthreads().values()) or num_workers
                    else:
                        client = stack.enter_context(_workers(num_workers, dashboard))
                    print(f"dashboard: {dashboard_link(client) or _NO_DASHBOARD}")
                    stack.enter_context(board)
                    _execute(client, missing, rows, num_threads, board, folder, runs, tend)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Stopped: {board.num_done} of {len(runs)} runs are done. The same command goes "
                                    "on, from the last checkpoints of those that were cut short.") from None
        finally:
            summary = write_summary(folder, runs, rows)
    board.report(summary, time.time() - start, short_path(folder / "summary.csv"))
    return summary


def execute(run, environment, begun, *needed):
    """What a worker does for one run: its row of the summary. Never raises for what is the run's own fault.

    begun: a file that counts how often the run was begun and not ended, because its process was killed; anew when it
    came on meanwhile, as one that outlasts the jobs of a cluster.
    """
    from distributed import get_worker

    if any(row["status"] != DONE for row in needed):
        return {"status": WAITS}
    begun = Path(begun)
    tries = begun.read_text().count("begun") if begun.exists() else 0
    checkpoint = run.folder / CHECKPOINT
    if tries and checkpoint.exists() and checkpoint.stat().st_mtime > begun.stat().st_mtime:
        tries = 0
    if tries >= TRIES and not is_done(run.notebook, run.folder):
        return {"status": FAILED, "error": f"its process was killed {tries} times; was there memory enough? Try fewer "
                                           "workers (--workers)."}
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.write_text("begun\n" * (tries + 1))
    os.environ.update(environment)  # the kernel inherits it
    get_worker().log_event(_STARTS, run.name)
    start = time.time()
    try:
        with redirect_stdout(io.StringIO()):
            run_notebook(run.notebook, run.parameters, title=run.name, quiet=True)
        row = {"status": DONE}
    except Exception as error:
        row = {"status": FAILED, "error": _first_line(error), "cell": getattr(error, "cell", None),
               "executed": str(getattr(error, "notebook", ""))}
    begun.unlink(missing_ok=True)
    return {**row, "seconds": round(time.time() - start, 1)}


def _workers(num_workers, dashboard):
    """A client of this computer's workers; dask counts as a failure what merely waited on a worker that died."""
    return local_workers(num_workers, second_tries=1_000_000, dashboard=dashboard)


def _slurm(cluster, cluster_options, scheduler):
    """The checked options of Slurm's jobs; None if they are not asked for."""
    if cluster not in ("local", "slurm"):
        raise ValueError(f"cluster={cluster!r}: expected 'local' or 'slurm'.")
    if cluster == "slurm" and scheduler:
        raise ValueError("--cluster slurm starts a scheduler of its own. Leave --scheduler out.")
    if cluster != "slurm" and cluster_options:
        raise ValueError("--cluster-options are those of --cluster slurm. Give both, or none.")
    return clusters.read_options(cluster_options) if cluster == "slurm" else None


def _execute(client, missing, rows, num_threads, board, folder, runs, tend=None):
    """Hands the runs to the workers, and their rows to `rows` as they come; dask sees to what waits for what."""
    environment = {_OWN: uuid4().hex, "SPEAKERLIB_DATA": str(data_folder()), "OMP_NUM_THREADS": str(num_threads),
                   "MKL_NUM_THREADS": str(num_threads), "OPENBLAS_NUM_THREADS": str(num_threads)}
    futures, finished, begun = {}, queue.Queue(), folder / ".begun"
    shutil.rmtree(begun, ignore_errors=True)
    client.subscribe_topic(_STARTS, lambda event: board.begin(event[1]))
    for place, run in enumerate(missing):
        needed = [futures[run.needs]] if run.needs in futures else []
        # The key is this sweep's own: dask hands out what it still remembers of a key, such as another sweep's row.
        futures[run.folder] = client.submit(execute, run, environment, str(begun / run.folder.name), *needed,
                                            key=f"{run.folder.name}-{environment[_OWN]}", priority=-place, pure=False)
        futures[run.folder].add_done_callback(lambda future, run=run: finished.put((run, future)))
    try:
        for _ in missing:
            run, rows[run.folder] = _next(finished, rows, board, tend)
            board.end(run, rows[run.folder])
            write_summary(folder, runs, rows)
    except BaseException:
        _end_runs(client, list(futures.values()), environment[_OWN])
        raise
    finally:
        client.unsubscribe_topic(_STARTS)
        shutil.rmtree(begun, ignore_errors=True)


def _next(finished, rows, board, tend):
    """The next (run, row) that is finished; the board moves meanwhile, and tend() sees to the workers."""
    while True:
        try:
            run, future = finished.get(timeout=1.0)
            try:
                return run, _row(run, future, rows)
            except TimeoutError:  # its worker died with the row, which another one is to find again
                finished.put((run, future))
        except queue.Empty:
            pass
        board.refresh()
        if tend:
            tend()


def _row(run, future, rows):
    """The row of a finished future, or of one that was lost. TimeoutError if it does not come now."""
    if future.status not in ("error", "cancelled"):
        return future.result(timeout=2.0)
    if run.needs in rows and rows[run.needs]["status"] != DONE:
        return {"status": WAITS}
    error = future.exception() if future.status == "error" else "its worker is gone"
    return {"status": FAILED, "error": _first_line(error)}


def _end_runs(client, futures, own):
    """Ends what the workers are executing for this sweep, so that they are free at once; checkpoints stay."""
    try:
        client.cancel(futures, force=True)
        client.run(end_kernels, own, wait=False)
        time.sleep(0.5)
    except Exception:  # the workers are gone: their kernels end with them
        return


def end_kernels(own):
    """In a worker: ends the kernels that it started for the sweep of this name."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            if child.environ().get(_OWN) == own:
                child.kill()
        except psutil.Error:
            continue


def _only(sweep, step):
    """The runs of a step with those they need, and what those need in turn; all of them without one."""
    if step is None:
        return list(sweep.runs)
    steps = list(dict.fromkeys(run.step for run in sweep.runs))
    if step not in steps:
        raise ValueError(f"sweep {sweep.name!r} has no step {step!r}; it has {', '.join(steps)}.")
    kept = set()
    for run in reversed(sweep.runs):  # each comes after the one it needs
        if run.step == step or run.folder in kept:
            kept |= {run.folder, run.needs}
    return [run for run in sweep.runs if run.folder in kept]


def _check_sizes(num_workers, num_threads):
    for name, value in (("workers", num_workers), ("threads", num_threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: expected at least 1.")


def _sizes(num_runs, num_workers, num_threads):
    """(runs at once, threads of each) for this computer's cores, unless told otherwise."""
    from dask.system import CPU_COUNT

    _check_sizes(num_workers, num_threads)
    if num_workers is None:
        num_workers = max(1, CPU_COUNT // (num_threads or THREADS))
    if num_threads is None:
        num_threads = max(1, CPU_COUNT // num_workers)
    return max(1, min(num_workers, num_runs)), num_threads


def _link_curves(folder, runs):
    """Makes <folder>/tensorboard, where TensorBoard finds the runs' curves under readable names."""
    place = folder / "tensorboard"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for run in runs:
        (place / re.sub(r"[^\w.=-]+", "_", run.name)).symlink_to(run.folder / "tensorboard")


@contextmanager
def _alone(folder):
    """Holds the sweep's folder; RuntimeError if another process does."""
    from filelock import FileLock, Timeout

    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"this sweep is at work already, in another process ({folder}). Wait for it, or stop it: "
                           "the same command then goes on from what is done.") from None
    try:
        yield
    finally:
        lock.release()


def _first_line(error):
    """What went wrong, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
