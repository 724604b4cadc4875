"""`speakerlib doctor`: looks at everything the workbook stands on, and says what to do about what is wrong."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from speakerlib.data import files

OK, WARN, FAIL = "ok", "warn", "FAIL"
MIN_FREE, GOOD_FREE = 1e9, 5e9  # bytes: the demo corpus with its features needs about one gigabyte
REINSTALL = 'make -B setup   (or, outside .venv: pip install -c constraints.txt -e ".[demo,test]")'


def run_doctor():
    """Runs every check and prints a line for each as it ends. Returns the exit status: 1 if something fails."""
    results = []
    for name, check in CHECKS.items():
        status, text, advice = examine(check)
        results.append(status)
        print(f"{status:<5} {name:<11} {text}", flush=True)
        if advice:
            print(f"{'':<17} -> {advice}", flush=True)
    failed, warned = results.count(FAIL), results.count(WARN)
    print(f"\n{len(results)} checks: {failed} failed, {warned} with a remark."
          + (" The workbook runs here." if not failed else " Mend what failed, then run this again."))
    return 1 if failed else 0


def examine(check):
    """(status, text, advice) of a check; one that breaks is a failure of its own, never the end of the doctor."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks still tell something
        return FAIL, f"the check itself stopped: {type(error).__name__}: {error}", REINSTALL


def check_python():
    """The version, and which interpreter this is."""
    text = f"{platform.python_version()} at {sys.executable}"
    version = tuple(int(part) for part in platform.python_version_tuple()[:2])
    if version < (3, 11):
        return FAIL, text, "Python 3.11 or newer is needed: install it, delete .venv, then: make setup"
    if version > (3, 11):
        return WARN, text, "the versions in constraints.txt were tested with Python 3.11"
    return OK, text, None


def check_packages():
    """Whether what is installed is what constraints.txt pins."""
    path = files.project_folder() / "constraints.txt"
    if not path.is_file():
        return WARN, f"no {path}: the versions cannot be compared", None
    pins = [line.split("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
    installed = {name: _installed_version(name) for name, _ in pins}
    missing = [name for name, version in installed.items() if version is None]
    other = [f"{name} {installed[name]}, not {pin}" for name, pin in pins if installed[name] not in (None, pin)]
    if missing or other:
        return WARN, f"{len(pins)} pinned: {_some(missing, 'missing')}; {_some(other, 'different')}", REINSTALL
    return OK, f"{len(pins)} packages, all as in constraints.txt", None


def check_torch():
    """torch imports and computes."""
    try:
        import torch

        torch.ones(2).sum().item()
    except (ImportError, OSError, RuntimeError) as error:
        return FAIL, f"torch cannot be used: {error}", REINSTALL
    return OK, f"{torch.__version__}, {torch.get_num_threads()} threads", None


def check_torchaudio():
    """torchaudio imports; its wheel needs CUDA's libraries, which a CPU-only torch does not bring."""
    try:
        import torchaudio
    except ImportError as error:
        return FAIL, f"torchaudio cannot be imported: {error}", REINSTALL
    except (OSError, RuntimeError) as error:
        error = error.__cause__ or error  # torch wraps what the loader said
        cause = "its compiled extension is built for another torch"
        if "libc10_cuda" in str(error):
            cause = "its wheel is linked against CUDA, and this torch is without"
        return FAIL, f"torchaudio is installed but does not import: {cause} ({error})", (
            f"{_python()} -m speakerlib.setup_torchaudio")
    return OK, torchaudio.__version__, None


def check_cpu():
    """Cores, and the units that make bf16 training about twice as fast."""
    import torch

    features = torch.cpu.get_capabilities()
    units = [name for name in ("amx_bf16", "avx512_bf16") if features.get(name)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    speed = f"bf16 units: {', '.join(units)}" if units else "no bf16 units: training on the CPU runs in fp32"
    return OK, f"{cores} cores, {speed}", None


def check_gpu():
    """What torch can use; none is no fault, a GPU that torch cannot see is."""
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return OK, ", ".join(f"{card.name} ({card.total_memory / 1e9:.0f} GB)" for card in cards), None
    if torch.backends.mps.is_available():
        return OK, "Apple GPU (MPS)", None
    if cards := _nvidia_cards():
        reason = "is built without CUDA" if torch.version.cuda is None else f"(CUDA {torch.version.cuda}) cannot use it"
        return WARN, f"{cards} is there, but torch {torch.__version__} {reason}", (
            f"install a build of this torch for the driver's CUDA, then: {_python()} -m speakerlib.setup_torchaudio")
    return OK, "none: the demo and short trainings run on the CPU; full-size training wants a GPU", None


def check_voices():
    """espeak-ng, the voices of the synthetic demo corpus, says a word (in a process of its own)."""
    advice = 'needed for the demo corpus alone: pip install -c constraints.txt -e ".[demo]"'
    try:
        from speakerlib.data.espeak import espeak_version, synthesise

        version = espeak_version()
        samples, rate = synthesise("one two three")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return FAIL, f"the voices of the demo corpus do not speak: {error}", advice
    if not len(samples) or not samples.any():
        return FAIL, f"espeak-ng {version} loads but says nothing: its data is incomplete", advice
    return OK, f"espeak-ng {version}: spoke {len(samples) / rate:.1f} s", None


def check_decoding():
    """Every kind of audio file that an import reads: written to a temporary folder and read back."""
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".wav", ".flac", ".ogg", ".opus", ".m4a", ".webm", ".mp3"):
            try:
                _round_trip(Path(folder) / f"tone{suffix}")
            except (ImportError, OSError, RuntimeError, ValueError) as error:
                broken.append(f"{suffix} ({error})")
    if broken:
        return FAIL, f"cannot read {', '.join(broken)}", (
            "pip install --force-reinstall --no-deps -c constraints.txt soundfile av soxr")
    return OK, "wav, flac, ogg, opus by soundfile; m4a, webm, mp3 by PyAV's FFmpeg", None


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

    root = files.data_folder() / "features"
    folders = sorted(path for path in root.glob("*/*") if path.is_dir())
    broken, unfinished = [], []
    for folder in folders:
        name = folder.relative_to(root).as_posix()
        try:
            FeatureStore.open(folder)
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
            f"{_python()} -m ipykernel install --sys-prefix")
    return OK, f"{count} notebooks, kernel 'python3' of this Python", None


CHECKS = {
    "Python": check_python,
    "packages": check_packages,
    "torch": check_torch,
    "torchaudio": check_torchaudio,
    "CPU": check_cpu,
    "GPU": check_gpu,
    "voices": check_voices,
    "decoding": check_decoding,
    "disk": check_disk,
    "corpora": check_corpora,
    "features": check_features,
    "notebooks": check_notebooks,
}


def _installed_version(name):
    try:
        return importlib.metadata.version(name).split("+")[0]  # 2.13.0+cpu is 2.13.0
    except importlib.metadata.PackageNotFoundError:
        return None


def _some(things, what, most=3):
    listed = f" ({', '.join(things[:most])}{', ...' if len(things) > most else ''})" if things else ""
    return f"{len(things)} {what}{listed}"


def _nvidia_cards():
    """What nvidia-smi names, or an empty text."""
    if shutil.which("nvidia-smi") is None:
        return ""
    done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                          check=False, capture_output=True, text=True)
    return ", ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


def _round_trip(path):
    """Writes half a second of tone by the suffix, reads it back; RuntimeError if much of it is lost."""
    import numpy as np

    from speakerlib.data.audio import SAMPLE_RATE, read_audio, write_audio

    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE).astype(np.float32)
    encoder = {".m4a": ("aac", SAMPLE_RATE), ".webm": ("libopus", 48000), ".mp3": ("mp3", SAMPLE_RATE)}
    if path.suffix in encoder:
        _encode(path, tone, *encoder[path.suffix])
    else:
        write_audio(path, tone)
    seconds = len(read_audio(path)) / SAMPLE_RATE
    if not 0.4 < seconds < 0.7:
        raise RuntimeError(f"{seconds:.2f} of 0.50 s came back")


def _encode(path, samples, codec, rate):
    import av

    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = 16000
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size)
        for block in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))


def _size(folder):
    total = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return f"{total / 1e9:.2f} GB" if total >= 1e8 else f"{total / 1e6:.1f} MB"


def _python():
    """This interpreter, as one would type it."""
    try:
        return str(Path(sys.executable).relative_to(Path.cwd()))
    except ValueError:
        return sys.executable
