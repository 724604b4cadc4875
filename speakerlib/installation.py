"""Checks of what the set-up installs: each returns (ok, warn or FAIL; what was seen; what to do about it, or None)."""

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
REINSTALL = 'make -B setup   (or, outside .venv: pip install -c constraints.txt -e ".[demo,onnx,test]")'


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
            f"{python_command()} -m speakerlib.setup_torchaudio")
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
            "install a build of this torch for the driver's CUDA, then: "
            f"{python_command()} -m speakerlib.setup_torchaudio")
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


def python_command():
    """This interpreter, as one would type it."""
    try:
        return str(Path(sys.executable).relative_to(Path.cwd()))
    except ValueError:
        return sys.executable


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
