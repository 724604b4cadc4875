"""Where a sweep's runs are executed when not on this computer: a dask scheduler's workers, or jobs of Slurm."""

import difflib
import getpass
import logging
import math
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import yaml

from speakerlib.data.files import project_folder
from speakerlib.data.workers import DASHBOARD, client_of
from speakerlib.experiments.sweep_files import StrictLoader

_TRIES = 3  # jobs that may end without a worker, one after another, before the sweep gives up
_LOOK_SECONDS = 30.0  # between two looks at Slurm's queue
_NAME = re.compile(r"(?!-)[\w.@+,-]+")  # names that a job script can carry as they are, and none is an option
_PATH = re.compile(r"[\w./@+,:=-]+")
_WALLTIME = re.compile(r"(?=.*[1-9])([0-9]+-)?[0-9]{1,3}(:[0-5]?[0-9]){0,2}")  # to Slurm, 0 is no limit
_MEMORY = re.compile(r"([1-9][0-9]*) ?([KMGT])i?B?")  # to Slurm, 0 is a node's whole memory


def _whole(most):
    return f"a whole number from 1 to {most}", lambda v: isinstance(v, int) and v is not True and 1 <= v <= most


def _lines(expected, accepts):
    return f"a list of {expected}", lambda v: isinstance(v, list) and all(
        isinstance(line, str) and line.isprintable() and accepts(line) for line in v)


def _text(expected, pattern, optional=True):
    return expected + (", or null" if optional else ""), lambda v: (v is None and optional) or (
        isinstance(v, str) and pattern.fullmatch(v) is not None)


OPTIONS = {  # name: (default, what is expected, check)
    "queue": (None, *_text("a partition's name", _NAME)),
    "account": (None, *_text("an account's name", _NAME)),
    "jobs": (8, *_whole(10_000)),
    "cores": (4, *_whole(1024)),
    "threads": (2, *_whole(1024)),
    "memory": ("16 GB", *_text("a whole number above 0 and its unit, such as 16 GB", _MEMORY, optional=False)),
    "walltime": ("08:00:00", *_text('above 0, in quotes: "08:00:00" or "2-00:00:00"', _WALLTIME, optional=False)),
    "interface": (None, *_text("a network interface's name", _NAME)),
    "worker_interface": (None, *_text("a network interface's name", _NAME)),
    "python": (None, *_text("a path", re.compile(r"[^\x00-\x1f]+"))),
    "setup": ([], *_lines("shell lines", bool)),
    "directives": ([], *_lines("options of sbatch, such as --gres=gpu:1", lambda line: line.startswith("-"))),
}


def read_options(path=None):
    """The options of a file (by default notebooks/clusters/slurm.yaml), checked, as a namespace of all of OPTIONS.

    ValueError names the option, its value and what was expected, or the nearest name; FileNotFoundError.
    """
    path = Path(path).expanduser() if path else project_folder() / "notebooks" / "clusters" / "slurm.yaml"
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {str(path)!r} of cluster options. Copy "
                                "notebooks/clusters/slurm.yaml and fill it in.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected a mapping with {', '.join(OPTIONS)}; it holds {given!r:.60}.")
    for name, value in given.items():
        if name not in OPTIONS:
            close = difflib.get_close_matches(str(name), OPTIONS, n=1, cutoff=0.5)
            raise ValueError(f"{path.name} has an unknown option {name!r}"
                             f"{f'; did you mean {close[0]!r}?' if close else '.'} Expected {', '.join(OPTIONS)}.")
        _, expected, accepts = OPTIONS[name]
        if value is not None and not accepts(value):
            raise ValueError(f"{path.name}: {name}={value!r}: expected {expected}.")
    options = SimpleNamespace(**{name: default for name, (default, _, _) in OPTIONS.items()})
    options.__dict__.update({name: value for name, value in given.items() if value is not None})
    if options.threads > options.cores:
        raise ValueError(f"{path.name}: threads={options.threads} of a run, but cores={options.cores} of a job. "
                         "Give a job at least as many cores.")
    return options


def job_sizes(options, num_runs, num_workers=None, num_threads=None):
    """(jobs, runs at once in each, threads of a run): no more jobs than there are runs for.

    num_workers: runs at once in all; num_threads: instead of the options' threads.
    """
    threads = num_threads or options.threads
    each = max(1, options.cores // threads)
    most = options.jobs if num_workers is None else math.ceil(num_workers / each)
    return max(1, min(most, math.ceil(num_runs / each))), each, threads


def job_script(options, folder, num_each, scheduler="tls://LOGIN-NODE:PORT"):
    """The text of one job: what sbatch is told, then a dask worker that executes num_each runs at once."""
    from dask_jobqueue.slurm import SLURMJob

    return SLURMJob(scheduler, name="NAME", **_job(options, folder, num_each)).job_script()


@contextmanager
def slurm_workers(options, folder, num_jobs, num_each, dashboard=DASHBOARD):
    """Yields (client, tend): a distributed.Client of Slurm jobs that are submitted now, and end with the block.

    tend: to be called now and then; it submits again what ended early, such as at its walltime. folder: of the sweep,
    which the jobs must see as well; the jobs' output is in its `jobs`. They and this process speak over TLS, with
    keys made for the occasion. Raises RuntimeError if this computer has no Slurm, or Slurm refuses the job, and from
    tend if jobs end again and again before their worker starts; ValueError if no network interface is named.
    """
    from dask_jobqueue import SLURMCluster

    for command in ("sbatch", "squeue", "scancel"):
        if not shutil.which(command):
            raise RuntimeError(f"there is no `{command}` on this computer, so it cannot submit to Slurm. Run the sweep "
                               "on the cluster's login node; or leave --cluster out, for this computer's own cores.")
    _check_interface(options.interface)
    job = _job(options, folder, num_each)
    keys, output = folder / "keys", folder / "jobs"
    shutil.rmtree(keys, ignore_errors=True)  # of a sweep that was killed
    keys.mkdir(parents=True, mode=0o700)
    output.mkdir(exist_ok=True)
    try:
        _write_keys(keys)
        _try(job_script(options, folder, num_each))
        scheduler = {"interface": options.interface, "dashboard": True, "dashboard_address": dashboard,
                     "allowed_failures": 1_000_000}  # what is lost with a job is not to blame for it

        def start():
            return SLURMCluster(name="speakerlib", silence_logs=logging.CRITICAL, scheduler_options=scheduler, **job)

        with client_of(start, dashboard) as client:
            client.cluster.scale(jobs=num_jobs)
            print(f"{num_jobs} jobs submitted to Slurm; what they say is in {output}")
            yield client, _tender(client.cluster, num_jobs, output)
    finally:
        shutil.rmtree(keys, ignore_errors=True)


@contextmanager
def scheduler_workers(address):
    """Yields a client of a dask scheduler that somebody else started; ConnectionError if none answers."""
    from distributed import Client

    try:
        client = Client(address, set_as_default=False, timeout=20)
    except (OSError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConnectionError(f"no dask scheduler answers at {address!r} ({said}). Start one with `dask scheduler "
                              "--host 127.0.0.1`, and workers with `dask worker ADDRESS --nthreads 1`.") from None
    with client:
        print(f"{len(client.nthreads())} workers at {address}")
        yield client


def _job(options, folder, num_each):
    """What dask-jobqueue's SLURMJob takes. Only `setup` is shell; every other value is one word of the script."""
    from distributed import Security

    if not _PATH.fullmatch(str(folder)):
        raise ValueError(f"a job script cannot name the folder {str(folder)!r}. Set SPEAKERLIB_DATA to one whose path "
                         "has only letters, digits and ./_@+,:=-")
    keys = folder / "keys"
    own = {f"tls_{role}_{kind}": str(keys / f"{kind}.pem") for role in ("scheduler", "worker", "client")
           for kind in ("cert", "key")}
    amount, unit = _MEMORY.fullmatch(options.memory).groups()
    arguments = ["--no-dashboard"]
    if options.worker_interface:
        arguments += ["--interface", options.worker_interface]
    return {
        "queue": options.queue, "account": options.account, "walltime": options.walltime,
        "memory": f"{amount}{unit}iB", "job_mem": f"{amount}{unit}", "job_cpu": options.cores,
        "cores": num_each, "processes": num_each,  # a worker process executes one run at a time, on several cores
        "job_name": "speakerlib", "death_timeout": 120, "protocol": "tls://", "interface": None,
        "security": Security(require_encryption=True, tls_ca_file=str(keys / "ca.pem"), **own),
        "python": shlex.quote(options.python or sys.executable), "worker_extra_args": arguments,
        "job_script_prologue": ["export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'  # no web pages", *options.setup],
        "job_extra_directives": [f"-o {folder}/jobs/%j.txt", *options.directives],
    }


def _check_interface(name):
    import psutil

    known = sorted(psutil.net_if_addrs())
    if name not in known:
        raise ValueError(f"interface={name!r}: expected the network interface by which the jobs reach this computer, "
                         f"one of {', '.join(known)}. Set it in the file of --cluster-options.")


def _write_keys(folder):
    """One certificate for the scheduler and its workers: who has no copy of its key can neither listen nor speak."""
    from distributed import Security

    made = Security.temporary()
    for name, text in (("ca", made.tls_ca_file), ("cert", made.tls_worker_cert), ("key", made.tls_worker_key)):
        (folder / f"{name}.pem").touch(mode=0o600)
        (folder / f"{name}.pem").write_text(text)


def _try(script):
    """Asks Slurm what it thinks of a job, without submitting it."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        answer = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"Slurm refuses the job: {' '.join(answer.stderr.split())[:500]} Mend the file of "
                           "--cluster-options; --dry-run prints the job script.")


def _tender(cluster, num_jobs, output):
    """A function that sees to the jobs: those that are gone from the queue are submitted again."""
    state = SimpleNamespace(workers=set(), looked=time.time(), in_vain=0)

    def tend():
        state.workers |= {str(worker.name) for worker in list(cluster.scheduler.workers.values())}
        if time.time() - state.looked < _LOOK_SECONDS:
            return
        jobs = {name: job.job_id for name, job in list(cluster.workers.items())}
        state.looked, queued = time.time(), _queued()
        if queued is None:
            return
        gone = {name: number for name, number in jobs.items() if number not in queued}
        for name, number in gone.items():
            started = {worker for worker in state.workers if worker == name or worker.startswith(f"{name}-")}
            state.workers -= started
            state.in_vain = 0 if started else state.in_vain + 1
            if state.in_vain >= _TRIES:
                raise RuntimeError(f"{_TRIES} jobs ended before their worker started, one after another. The last one "
                                   f"said: {_last_line(output / f'{number}.txt')}")
        if gone:
            cluster.sync(cluster.scale_down, list(gone))
        cluster.scale(jobs=num_jobs)

    return tend


def _queued():
    """The ids of this user's jobs that wait or run; None if Slurm does not answer, as happens."""
    command = ["squeue", f"--user={getpass.getuser()}", "--noheader", "--format=%i"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return None if answer.returncode else set(answer.stdout.split())


def _last_line(path):
    lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
    return f"{([line for line in lines if line.strip()] or ['nothing'])[-1][:300]} ({path})"
