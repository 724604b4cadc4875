"""Spreads many small jobs over processes that end with their parent; one that crashes costs one job."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from speakerlib.data.files import project_folder

READY = "ready\n"


def in_processes(command, jobs, num_workers):
    """Yields (job, answer) in any order. Each process runs `command`, a program that calls serve().

    jobs and answers are what JSON can hold; the answer is None for a job on which its process died, such as by a
    fault in a decoder. Raises OSError with the words of a job that failed so, RuntimeError if no process starts.
    multiprocessing is not used because its processes run the caller's script again, and outlive a killed parent.
    """
    jobs, lock, results, stop = iter(jobs), threading.Lock(), SimpleQueue(), threading.Event()

    def drive():
        worker = None
        try:
            while not stop.is_set():
                with lock:
                    job = next(jobs, stop)
                if job is stop:
                    break
                worker = worker or _start(command)
                answer = _ask(worker, job)
                if answer is None:
                    worker = _end(worker)
                elif "error" in answer:
                    raise OSError(answer["error"])
                results.put((job, answer and answer["answer"]))
        except Exception as error:
            results.put(error)
        finally:
            if worker:
                _end(worker)
            results.put(stop)

    with ThreadPoolExecutor(num_workers) as executor:
        for _ in range(num_workers):
            executor.submit(drive)
        try:
            running = num_workers
            while running:
                result = results.get()
                if isinstance(result, Exception):
                    raise result
                if result is stop:
                    running -= 1
                else:
                    yield result
        finally:
            stop.set()


def serve(function):
    """What a process does: function(job) for each line of standard input, until the parent closes it or dies."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    answers.write(READY)
    answers.flush()
    for line in sys.stdin:
        try:
            answer = {"answer": function(json.loads(line))}
        except OSError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _start(command):
    paths = os.pathsep.join(filter(None, [str(project_folder()), os.environ.get("PYTHONPATH")]))
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": paths},
                              start_new_session=True)  # Ctrl-C is for the parent
    if worker.stdout.readline() != READY:
        _end(worker)
        raise RuntimeError(f"a worker process could not start (exit status {worker.returncode}): see what it said "
                           "above. With one worker, none is needed.")
    return worker


def _ask(worker, job):
    try:
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None
    except BrokenPipeError:
        return None


def _end(worker):
    try:
        worker.stdin.close()
    except BrokenPipeError:
        pass
    worker.wait()
    worker.stdout.close()
