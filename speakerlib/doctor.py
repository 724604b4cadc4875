"""`speakerlib doctor`: looks at everything the workbook stands on, and says what to do about what is wrong."""

import os
import shutil
import sys
from pathlib import Path

from speakerlib import installation
from speakerlib.data import files
from speakerlib.installation import FAIL, OK, REINSTALL, WARN, python_command

MIN_FREE, GOOD_FREE = 1e9, 5e9  # bytes: the demo corpus with its features needs about one gigabyte


def run_doctor():
    """Runs every check and prints a line for each as it ends. Returns the exit status: 1 if something fails."""
    results = []
    for name, check in CHECKS.items():
        status, text, advice = examine(check)
        results.append(status)
        print(describe_check(status, name, text, advice), flush=True)
    failed, warned = results.count(FAIL), results.count(WARN)
    print(f"\n{len(results)} checks: {failed} failed, {warned} with a remark."
          + (" The workbook runs here." if not failed else " Mend what failed, then run this again."))
    return 1 if failed else 0


def describe_check(status, name, text, advice):
    """A check's result as one line of text, and a second one if there is something to do."""
    line = f"{status:<5} {name:<11} {text}"
    return f"{line}\n{'':<17} -> {advice}" if advice else line


def examine(check):
    """(status, text, advice) of a check; one that breaks is a failure of its own, never the end of the doctor."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks still tell something
        return FAIL, f"the check itself stopped: {type(error).__name__}: {error}", REINSTALL


def check_disk():
    """Room and the right to write where corpora, features and runs go."""
    folder = existing = files.data_folder()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return FAIL, f"{folder} cannot be written to", "set SPEAKERLIB_DATA to a folder that can"
    advice = "free some, or set SPEAKERLIB_DATA to a folder on a larger disk"
    if free < MIN_FREE:
        return FAIL, f"{text}; the demo needs {MIN_FREE / 1e9:.0f} GB", advice
    if free < GOOD_FREE:
        return WARN, f"{text}: enough for the demo, little for speech of your own", advice
    return OK, text, None


def check_corpora():
    """Every imported corpus opens, and its waveform store is whole."""
    from speakerlib.data.corpora import list_corpora, open_corpus

    names, broken = list(list_corpora()), []
    for name in names:
        try:
            open_corpus(name)
        except (OSError, RuntimeError, ValueError) as error:
            broken.append(f"{name}: {error}")
    if not names:
        return WARN, "none yet", "speakerlib demo   (synthetic speech), or: speakerlib import <folder>"
    if broken:
        return FAIL, f"{len(broken)} of {len(names)} do not open: {'; '.join(broken)}", (
            "import the corpus again: speakerlib import <folder> --name <name>, or: speakerlib demo")
    root = files.data_folder() / "corpora"
    return OK, ", ".join(f"{name} ({_size(root / name)})" for name in names), None


def check_features():
    """Every feature folder opens; one that is not finished goes on from where it stopped."""
    from speakerlib.data.features import FeatureStore
    from speakerlib.data.utterance_features import UtteranceFeatures

    root = files.data_folder() / "features"
    folders = sorted(path for path in root.glob("*/*") if path.is_dir())
    broken, unfinished = [], []
    for folder in folders:
        name = folder.relative_to(root).as_posix()
        try:
            (UtteranceFeatures if (folder / "utterances.parquet").exists() else FeatureStore.open)(folder)
        except FileNotFoundError:
            unfinished.append(name)
        except (OSError, RuntimeError, ValueError) as error:
            broken.append(f"{name}: {error}")
    if broken:
        return FAIL, f"{len(broken)} of {len(folders)} do not open: {'; '.join(broken)}", (
            "delete the folder; the notebook that needs it computes it again")
    if unfinished:
        return WARN, f"not finished: {', '.join(unfinished)}", "the notebook that needs it goes on from what is there"
    if not folders:
        return OK, "none yet: the notebooks compute them when they first need them", None
    return OK, f"{len(folders)} folders, {_size(root)}", None


def check_notebooks():
    """The notebooks are there, and the kernel that runs them is this Python."""
    count = len(list((files.project_folder() / "notebooks").glob("*.ipynb")))
    if not count:
        return FAIL, f"no notebook in {files.project_folder() / 'notebooks'}", (
            "install from a clone, editable: " + REINSTALL)
    try:
        import ipykernel  # noqa: F401 - what the kernel consists of
        from jupyter_client.kernelspec import get_kernel_spec

        program = get_kernel_spec("python3").argv[0]
    except (ImportError, KeyError) as error:  # jupyter's NoSuchKernel is a KeyError
        return FAIL, f"{count} notebooks, but no kernel to run them: {error}", REINSTALL
    if os.path.isabs(program) and Path(program).parent != Path(sys.executable).parent:
        return WARN, f"{count} notebooks; Jupyter's kernel 'python3' is another Python: {program}", (
            f"{python_command()} -m ipykernel install --sys-prefix")
    return OK, f"{count} notebooks, kernel 'python3' of this Python", None


CHECKS = {
    "Python": installation.check_python,
    "packages": installation.check_packages,
    "torch": installation.check_torch,
    "torchaudio": installation.check_torchaudio,
    "CPU": installation.check_cpu,
    "GPU": installation.check_gpu,
    "voices": installation.check_voices,
    "decoding": installation.check_decoding,
    "disk": check_disk,
    "corpora": check_corpora,
    "features": check_features,
    "notebooks": check_notebooks,
}


def _size(folder):
    total = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return f"{total / 1e9:.2f} GB" if total >= 1e8 else f"{total / 1e6:.1f} MB"
