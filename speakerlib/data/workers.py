"""Processes that share work on this computer: they start whole, and end with the block that asked for them."""

import logging
import signal
import threading
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing import resource_tracker


@contextmanager
def local_workers(num_workers, second_tries=0):
    """Yields a distributed.Client of num_workers processes of one thread each, which end with the block.

    They speak over TLS on this computer alone, have no web pages, and write nothing to the terminal: what goes wrong
    in a task comes back as its exception. A task that kills its process is given to another one second_tries times,
    and is then given up: distributed.KilledWorker. Raises RuntimeError if they do not start, as in a script without
    `__main__`.
    """
    import dask
    from distributed import Client

    log = logging.getLogger("tornado")
    level = log.level
    log.setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stack.callback(log.setLevel, level)
        stack.enter_context(dask.config.set({"distributed.scheduler.http.routes": [],
                                             "distributed.worker.http.routes": []}))
        try:
            with held_interrupts():
                cluster = stack.enter_context(_start(num_workers, second_tries))
                client = stack.enter_context(Client(cluster, set_as_default=False))
            yield client
        finally:
            with held_interrupts():
                stack.close()


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


def _start(num_workers, second_tries):
    from distributed import LocalCluster

    try:
        return LocalCluster(n_workers=num_workers, threads_per_worker=1, processes=True, dashboard_address=None,
                            security=True, memory_limit=0, silence_logs=logging.CRITICAL,
                            scheduler_kwargs={"allowed_failures": second_tries, "dashboard_address": "127.0.0.1:0"})
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
