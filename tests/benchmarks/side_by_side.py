"""Times sides of a question in alternation, in one process, and keeps the answers in figures/benchmarks.md.

    times = alternate({"theirs": theirs, "ours": ours})
    write("What is faster", "Ours.", table(times, "theirs", items=100, unit="clips"))
"""

import argparse
import gc
import os
import platform
import re
import subprocess
import time
from datetime import date

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from speakerlib.data.files import atomic_path, project_folder

CORES = 2
_LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")  # before anything is measured
_HEAD = """# Speed, measured

Each section is written by one script of `tests/benchmarks/`; `make bench` runs them all (`scale.py`, tables as large
as VoxCeleb2's, `eer.py`, memory, and `sweep_overhead.py` are run by themselves). The sides of a table were
timed one after the other, in alternation, on the same cores. `seconds` is the median of the rounds, `ratio` how many
times as fast a side is as the yardstick (the median of the ratios of each round), with the lowest and the highest.
"""


def options(description, arguments=None):
    """The arguments of a benchmark's command line: quick. Keeps this process and its children on CORES cores."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true",
                        help="tiny sizes, nothing written: shows that the script runs, and measures nothing")
    chosen = parser.parse_args(arguments)
    keep_to(CORES)
    return chosen


def keep_to(cores):
    """This process and those it starts stay on so many cores (the first of those allowed), with as many threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    threadpool_limits(cores)
    os.environ["OMP_NUM_THREADS"] = str(cores)


def alternate(sides, repeats=5, warm_up=1):
    """{name: [seconds of each round]} of {name: function of no arguments}, called in turn; warm_up rounds first."""
    times = {name: [] for name in sides}
    gc.freeze()  # what is there already needs no look at it between two sides
    for count in tqdm(range(warm_up + repeats), "rounds", leave=False):
        for name, function in sides.items():
            gc.collect()
            started = time.perf_counter()
            function()
            if count >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times


def faster(times, side, than):
    """How many times as fast a side is as another: (median of the rounds' ratios, lowest, highest)."""
    ratios = np.divide(times[than], times[side])
    return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def table(times, yardstick, items=None, unit="items"):
    """A line a side: median seconds, quartiles, items a second (if items is given), ratio to the yardstick, its range.

    times: as alternate returns them; all sides did the same items.
    """
    rows = {}
    for name, seconds in times.items():
        low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        ratio, lowest, highest = faster(times, name, yardstick)
        rows[name] = {"seconds": median, "quartiles": f"{_digits(low)} to {_digits(high)}",
                      **({f"{unit}/s": items / median} if items else {}), "ratio": ratio,
                      "lowest to highest": "" if name == yardstick else f"{_digits(lowest)} to {_digits(highest)}"}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"yardstick: {yardstick}")


def write(question, text, tables=(), quick=False):
    """Prints the section of a question, and puts it into figures/benchmarks.md in place of the one of that name.

    tables: DataFrames (or one), their index the first column. quick: printed alone.
    """
    tables = [tables] if isinstance(tables, pd.DataFrame) else tables
    section = "\n\n".join([f"## {question}", text.strip(), *map(markdown, tables), f"*{machine()}*"]) + "\n"
    print(section)
    if quick:
        return
    path = project_folder() / "figures" / "benchmarks.md"
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = {part.partition("\n")[0]: f"## {part.strip()}\n" for part in re.split(r"^## ", there, flags=re.M)[1:]}
    kept[question] = section
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([_HEAD, *(kept[name] for name in sorted(kept))]), encoding="utf-8")


def markdown(frame):
    """A DataFrame as a table of Markdown, numbers with three digits."""
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    lines = [[frame.index.name or "", *map(str, frame.columns)]]
    lines += [["---", *("---:" if one else "---" for one in numeric)]]
    lines += [[str(name), *map(_digits, row)]
              for name, row in zip(frame.index, frame.itertuples(index=False), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine():
    """Where this was measured: threads, processor, memory, versions, commit, day; nothing that names the machine."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    units = torch.cpu.get_capabilities()
    units = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if units.get(name)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=project_folder(), capture_output=True, text=True)
    busy = f"{_LOAD:.1f}" if _LOAD == _LOAD else "unknown"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (f"{torch.get_num_threads()} threads on {cores} of {os.cpu_count()} cores, {model} "
            f"({', '.join(units) or 'no vector units known'}), {memory:.0f} GB; Python {platform.python_version()}, "
            f"torch {torch.__version__}; commit {git.stdout.strip() or 'unknown'}, {date.today()}; the computer's load "
            f"at the start: {busy}.")


def _digits(value):
    """Three significant digits, never fewer than the whole ones; text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:#.3g}".rstrip(".")
