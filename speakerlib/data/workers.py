"""Processes that share work on this computer: they start whole, and end with the block that asked for them."""

import logging
import signal
import threading
import warnings
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing import resource_tracker

DASHBOARD = "127.0.0.1:8787"  # seen from this computer alone; another port if this one is taken


@contextmanager
def local_workers(num_workers, second_tries=0, dashboard=None):
    """Yields a distributed.Client of num_workers processes of one thread each, which end with the block.

    They speak over TLS on this computer alone, and write nothing to the terminal: what goes wrong in a task comes back
    as its exception. dashboard: where dask's web pages are shown, such as DASHBOARD; none by default. A task that
    kills its process is given to another one second_tries times, and is then given up: distributed.KilledWorker.
    Raises RuntimeError if they do not start, as in a script without `__main__`.
    """
    with client_of(lambda: _start(num_workers, second_tries, dashboard), dashboard) as client:
        yield client


@contextmanager
def client_of(start, dashboard=None):
    """Yields a distributed.Client of the cluster that start() returns; both end with the block, whole."""
    import dask
    from distributed import Client

    # Of dask's pages only those that show something; some of the others act, for whoever can open them.
    pages = ["distributed.http.scheduler.info", "distributed.http.statics"] if dashboard else []
    log = logging.getLogger("tornado")
    level = log.level
    log.setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stack.callback(log.setLevel, level)
        stack.enter_context(dask.config.set({"distributed.scheduler.http.routes": pages,
                                             "distributed.worker.http.routes": []}))
        try:
            with held_interrupts(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
                cluster = stack.enter_context(start())
                client = stack.enter_context(Client(cluster, set_as_default=False))
            yield client
        finally:
            with held_interrupts():
                stack.close()


def dashboard_link(client):
    """The address of the scheduler's web pages; None if it shows none, as where bokeh is missing."""
    def served(dask_scheduler):  # nested, so that a scheduler without this package can be asked
        server = dask_scheduler.http_server
        return (server.address, server.port) if len(dask_scheduler.http_application.applications) > 0 else None

    try:
        address = client.run_on_scheduler(served)
    except Exception:  # one that executes nothing for its clients
        return client.dashboard_link
    if address is None:
        return None
    host, port = address
    if host in ("0.0.0.0", "::"):
        host = client.scheduler.address.split("://")[-1].rsplit(":", 1)[0]
    return f"http://{host}:{port}/status"


def in_processes(function, jobs, num_workers):
    """Yields (job, function(job)) in any order, from num_workers processes; (job, None) if it killed its process twice.

    As many jobs are under way as there are processes: jobs may be an endless iterator, and each be a batch of small
    ones. Raises what function raises.
    """
    from distributed import KilledWorker, as_completed

    jobs, under_way, died = iter(jobs), {}, set()
    with local_workers(num_workers) as client:
        def submit(job):
            future = client.submit(function, job, pure=False)
            under_way[future.key] = job
            return future

        done = as_completed([submit(job) for job in islice(jobs, num_workers)], loop=client.loop)
        for future in done:
            job, error = under_way.pop(future.key), future.exception()
            if isinstance(error, KilledWorker) and future.key not in died:
                again = submit(job)  # it may have been its neighbour's fault
                died.add(again.key)
                done.add(again)
                continue
            if error is not None and not isinstance(error, KilledWorker):
                raise error
            for following in islice(jobs, 1):
                done.add(submit(following))
            yield job, None if error else future.result()


def _start(num_workers, second_tries, dashboard):
    from distributed import LocalCluster

    scheduler = {"allowed_failures": second_tries, "dashboard": dashboard is not None,
                 "dashboard_address": dashboard or "127.0.0.1:0"}
    try:
        return LocalCluster(n_workers=num_workers, threads_per_worker=1, processes=True, security=True, memory_limit=0,
                            silence_logs=logging.CRITICAL, scheduler_kwargs=scheduler)
    except RuntimeError as error:
        raise RuntimeError(
            f"{num_workers} worker processes did not start ({error}) Each of them reads the script that asks for them "
            'once more: in a file of its own, the call must stand below `if __name__ == "__main__":`; a program that '
            "is read from standard input cannot have workers.") from error


@contextmanager
def held_interrupts():
    """Ctrl-C takes effect after the block, and never in a process that the block's new threads start.

    So workers start whole and end whole, and it is the driver that ends them: a terminal's Ctrl-C goes to all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: held.append(arguments))
    resource_tracker.ensure_running()  # it would lift the block when it starts
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # threads and processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held and callable(handler):
            handler(*held[0])
