"""Leaves an importable torchaudio: its wheel is built for CUDA, and beside a CPU-only torch the import fails.

Run as `python -m speakerlib.setup_torchaudio` after an install. All that the workbook uses of torchaudio is plain
Python, and torchaudio skips its compiled extension when the file is absent; so where the import fails, and only
there, the extension is renamed.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

SET_ASIDE = ".set-aside"


def mend_torchaudio(folder=None):
    """Makes `import torchaudio` work in this Python, changing as little as possible.

    folder: torchaudio's package folder; found without importing it when None.
    Returns a sentence that says what was done. Raises RuntimeError, with everything as it was, if the import fails
    for a reason that the extension has no part in; FileNotFoundError if torchaudio is not installed.
    """
    folder = Path(folder or torchaudio_folder())
    error = import_error(folder)
    if error is None:
        aside = [path.name for path in (folder / "lib").glob(f"*{SET_ASIDE}")]
        return f"torchaudio imports{', its compiled extension set aside' if aside else ''}; nothing to do."
    extension = _extension_files(folder)
    for path in extension:
        os.replace(path, _aside(path))
    remaining = import_error(folder) if extension else error
    if remaining is not None:
        for path in extension:
            os.replace(_aside(path), path)
        raise RuntimeError(f"torchaudio cannot be imported: {remaining}\nIts compiled extension is not the reason. "
                           "Check that torch imports, and that both have the versions of constraints.txt: "
                           "pip install -c constraints.txt torch torchaudio")
    return (f"torchaudio did not import ({error}): its wheel is built for another torch, most often one with CUDA.\n"
            f"It does now, without its compiled extension, which is not used here. Renamed in {folder / 'lib'}: "
            f"{', '.join(f'{path.name} to {_aside(path).name}' for path in extension)}.")


def import_error(folder):
    """The first error that `import torchaudio` meets in a fresh interpreter, as text, or None when it works."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import torchaudio"
    result = subprocess.run([sys.executable, "-P", "-c", code, str(Path(folder).parent)],
                            check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    errors = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", result.stderr, re.MULTILINE)
    return errors[0] if errors else f"the interpreter ended with status {result.returncode}"


def torchaudio_folder():
    """Where torchaudio is installed; FileNotFoundError if it is not."""
    found = importlib.util.find_spec("torchaudio")
    if found is None or not found.origin:
        raise FileNotFoundError("torchaudio is not installed in this Python; run: "
                                "pip install -c constraints.txt torch torchaudio")
    return Path(found.origin).parent


def _extension_files(folder):
    """The files that torchaudio's loader looks for; the other libraries of the folder are loaded by this one."""
    return [path for path in sorted((folder / "lib").glob("_torchaudio*")) if path.suffix in (".so", ".pyd")]


def _aside(path):
    return path.with_name(path.name + SET_ASIDE)


def main():
    try:
        print(mend_torchaudio())
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
