"""Memory of a network's work on a CPU: kept between steps and given back at the end, not asked for layer by layer.

A layer's output is hundreds of megabytes. glibc takes such memory from the system anew each time, which fills every
page with zeros first: half the time of a step. What is allocated and freed stays the same; so do all numbers.
"""

import ctypes
import platform
from contextlib import contextmanager
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_LARGEST = 32 << 20  # glibc's own upper limit of what it takes from its heap by default
_keeping = False


@contextmanager
def kept_memory(num_processes=1):
    """Yields keep(), to call after each step, or batch: from the first call on, freed memory stays with the process.

    Kept memory has gaps: up to twice what the steps need. So keep() does nothing, and returns False, unless the
    computer has twice the most that this process has held, times num_processes, to spare. It is given back at the end.
    Does nothing where the C library is not glibc, nor inside another kept_memory.
    """
    global _keeping
    if _keeping or platform.libc_ver()[0] != "glibc":
        yield lambda: False
        return
    libc, asked = ctypes.CDLL(None), []

    def keep():
        global _keeping
        if not asked:
            asked.append(2 * num_processes * _most_held() <= spare_memory())
            if asked[0]:
                _keeping = True
                libc.mallopt(_MMAP_MAX, 0)
                libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        return asked[0]

    try:
        yield keep
    finally:
        if _keeping and asked:
            _keeping = False
            libc.mallopt(_MMAP_MAX, 65_536)
            libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
            libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
            libc.malloc_trim(0)


def spare_memory():
    """Bytes that this process could still take: of the computer, and of what a container allows; 0 if unknown."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        spare = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes",
                                                           "memory/memory.usage_in_bytes")):
        try:
            allowed, held = (int(Path("/sys/fs/cgroup", name).read_text()) for name in (limit, used))
            spare = min(spare, allowed - held)
        except (OSError, ValueError):  # no such control group, or one without a limit ("max")
            continue
    return spare


def _most_held():
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
