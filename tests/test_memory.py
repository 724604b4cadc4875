"""Memory that a network's work takes again and again stays with the process, and is given back at the end.

What the allocator does depends on all that a process did before, so each check has a process of its own.
"""

import platform
import resource
import subprocess
import sys
import tempfile

import pytest
import torch

from speakerlib.experiments import memory
from speakerlib.experiments.memory import kept_memory, spare_memory
from speakerlib.experiments.training import train

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep it")
LARGE = 200 << 20  # bytes; glibc takes such from the system each time
MANY = LARGE / 4096 / 600  # pages, also where they are of 2 MB


@pytest.mark.parametrize("check", ["kept_after_the_first_step_and_given_back_at_the_end", "given_back_after_an_error",
                                   "not_kept_where_memory_is_short", "kept_by_a_training_until_it_ends"])
def test_memory_is(check):
    done = subprocess.run([sys.executable, __file__, check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_spare_memory_is_some_of_the_computers():
    with open("/proc/meminfo", encoding="ascii") as file:
        total = 1024 * int(file.readline().split()[1])
    assert 0 < spare_memory() < total


def kept_after_the_first_step_and_given_back_at_the_end():
    before = held()
    with kept_memory() as keep:
        assert fewest() > MANY
        assert keep()
        assert fewest() < 10
        with kept_memory() as inner:  # an evaluation within a training ends before it
            assert not inner()
        assert fewest() < 10
        assert held() > before + LARGE / 2
    assert held() < before + LARGE / 2


def given_back_after_an_error():
    before = held()
    try:
        with kept_memory() as keep:
            assert keep() and fewest() < 10
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert held() < before + LARGE / 2


def not_kept_where_memory_is_short():
    memory.spare_memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * 3
    with kept_memory(num_processes=2) as keep:
        assert not keep()
        assert fewest() > MANY
    with kept_memory() as keep:
        assert keep()


def kept_by_a_training_until_it_ends():
    taken, before = [], held()

    def compute_loss(model, step):
        taken.append(fewest())
        return model(torch.ones(1, 4)).square().sum(), {}

    with tempfile.TemporaryDirectory() as folder:
        train(torch.nn.Linear(4, 1), compute_loss, folder=folder, num_train_iterations=4, learning_rate=0.1,
              test_interval=4, print_interval=4, progress=False)
    assert taken[0] > MANY and taken[-1] < 10
    assert held() < before + LARGE / 2


def pages_taken():
    """Pages that the system had to give while a large tensor was filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(LARGE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def fewest():
    """Of several times: what is small may lie down in the gap, and then it is too small once."""
    return min(pages_taken() for _ in range(5))


def held():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    memory.spare_memory = lambda: 1 << 50
    globals()[sys.argv[1]]()
