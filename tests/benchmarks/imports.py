"""Seconds to import the package, its command line and what each chapter imports, each in a fresh interpreter.

    python tests/benchmarks/imports.py

Files are in the page cache and compiled: it is a second start that is measured. A chapter's imports are the import
statements of its cells. torch alone is what the chapters that use it cannot go below.
"""

import ast
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
from side_by_side import options, write
from tqdm.auto import tqdm

from speakerlib.data.files import project_folder

HEAVY = ("torch", "torchaudio", "pandas", "numpy", "pyarrow", "librosa", "soundfile", "av", "matplotlib", "IPython",
         "ipywidgets", "distributed", "dask", "yt_dlp", "accelerate", "tensorboard", "sklearn", "scipy", "requests")
ENTRIES = {"speakerlib": "import speakerlib", "speakerlib.cli": "import speakerlib.cli",
           "speakerlib.data.corpora": "import speakerlib.data.corpora",
           "speakerlib.models.encoders": "import speakerlib.models.encoders"}
LIMIT = {"torch alone": "import torch", "pandas alone": "import pandas"}
TARGET = 0.5
_MEASURE = """
import sys, time
started = time.perf_counter()
exec(sys.argv[1])
print(time.perf_counter() - started, *(name for name in sys.argv[2:] if name in sys.modules))
"""


def main(arguments=None):
    """Writes the section, and returns the table."""
    quick = options(__doc__, arguments).quick
    statements = {**ENTRIES, **LIMIT, **chapters()}
    if quick:
        statements = {name: statements[name] for name in ("speakerlib", "speakerlib.cli")}
    seconds, loaded = {name: [] for name in statements}, {}
    for count in tqdm(range(1 if quick else 6), "rounds", leave=False):
        for name, statement in statements.items():
            spent, loaded[name] = measure(statement)
            if quick or count:
                seconds[name].append(spent)
    rows = {name: {"seconds": float(np.median(spent)),
                   "quartiles": "{:.3f} to {:.3f}".format(*np.quantile(spent, [0.25, 0.75])),
                   "heavy packages that it loads": ", ".join(loaded[name]) or "none"}
            for name, spent in seconds.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("what is imported")
    without = {name: row["seconds"] for name, row in rows.items() if "torch" not in loaded[name]}
    slow = {name: value for name, value in without.items() if value >= TARGET}
    write("Imports", (
        f"`imports.py`: a fresh interpreter each, its own start (about 0.02 s) not counted. `import speakerlib` takes "
        f"**{rows['speakerlib']['seconds'] * 1000:.1f} ms**, the command line {rows['speakerlib.cli']['seconds']:.3f} "
        f"s. Of what does not use torch, {'nothing' if not slow else ', '.join(slow)} takes {TARGET} s or more "
        f"(target: nothing{'' if not slow else '; **missed**'})."), table, quick)
    return table


def chapters():
    """{name: the import statements of the notebook's cells}."""
    found = {}
    for path in sorted((project_folder() / "notebooks").glob("[0-9]*.ipynb")):
        lines = []
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and not cell.source.lstrip().startswith(("%", "!")):
                lines += [ast.unparse(node) for node in ast.parse(cell.source).body
                          if isinstance(node, (ast.Import, ast.ImportFrom))]
        found[f"chapter {path.stem}"] = "\n".join(dict.fromkeys(lines))
    return found


def measure(statement):
    """(seconds, names in HEAVY that are loaded) of import statements in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", _MEASURE, statement, *HEAVY], capture_output=True, text=True,
                          check=True)
    seconds, *names = done.stdout.split()
    return float(seconds), names


if __name__ == "__main__":
    main()
