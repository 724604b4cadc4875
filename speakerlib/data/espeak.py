"""Speaks text with espeak-ng's synthetic voices, so that the same request gives the same samples every time.

The library keeps hidden state from one call to the next (the phase of its flutter, the noise of its
fricatives) and cannot be told to forget it. So every list of requests is spoken by a fresh process: this very
file, run as a script that needs nothing but the standard library. Threads may speak side by side.
"""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

SAMPLE_RATE = 22050  # of espeak-ng's own voices
_LIMITS = {"rate": (80, 450), "pitch": (0, 99), "pitch_range": (0, 99)}
_INSTALL = 'pip install espeakng-loader   (or this project with its extra: pip install -e ".[demo]")'
_FIELDS = ("text", "voice", "variant", "rate", "pitch", "pitch_range")


def synthesise(text, voice="gmw/en-US", variant="m3", rate=175, pitch=50, pitch_range=50):
    """One text, spoken: (int16 samples (n,), sample rate).

    voice: a file of espeak-ng's lang/ folder ("gmw/en-US", "roa/fr"); variant: one of its voices/!v/ ("f2",
    "Alex"); rate: words a minute, 80 to 450; pitch: 0 to 99, 0.67 to 1.7 times the variant's own, which is
    at 50; pitch_range: 0 (monotone) to 99. Raises what synthesise_all raises.
    """
    values = (text, voice, variant, rate, pitch, pitch_range)
    return synthesise_all([dict(zip(_FIELDS, values, strict=True))])[0], SAMPLE_RATE


def synthesise_all(requests):
    """The texts of a list of requests (dicts of synthesise's arguments), spoken in order by a new process.

    Returns a list of int16 arrays (n,) at 22.05 kHz, which depend on this list alone. Raises ValueError for
    an unknown voice or variant or a setting out of range, RuntimeError if espeak-ng is missing or fails.
    """
    import numpy as np

    library, data = _installation()
    for request in requests:
        _check(request, data)
    output = _ask(library, data, [[request[name] for name in _FIELDS] for request in requests])
    lengths, _, samples = output.partition(b"\n")
    ends = np.cumsum(json.loads(lengths))
    return np.split(np.frombuffer(samples, np.int16), ends[:-1])


def espeak_version():
    """Version of espeak-ng, as text. Raises RuntimeError if it is missing or does not start."""
    return _ask(*_installation(), None).decode().strip()


def _installation():
    """Paths of the shared library and of the espeak-ng-data folder."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise RuntimeError("espeak-ng, which speaks the synthetic voices of the demo corpus, is missing. "
                           f"Install it: {_INSTALL}")
    import espeakng_loader

    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def _ask(library, data, requests):
    """What the fresh process answers. -I -S: nothing of the user's packages or of this folder reaches it."""
    job = {"library": str(library), "data": str(data), "requests": requests}
    done = subprocess.run([sys.executable, "-I", "-S", __file__], input=json.dumps(job).encode(), check=False,
                          capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"espeak-ng failed (exit status {done.returncode}): {said[-1] if said else ''}\n"
                           "Install it again: pip install --force-reinstall espeakng-loader")
    return done.stdout


def _check(request, data):
    """espeak-ng itself falls back in silence on an unknown variant, and clips what is out of range."""
    for name, folder in (("voice", data / "lang"), ("variant", data / "voices" / "!v")):
        if not (folder / request[name]).is_file():
            known = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
            raise ValueError(f"{name} {request[name]!r} is not one of espeak-ng's: {', '.join(known)}.")
    for name, (low, high) in _LIMITS.items():
        if not low <= request[name] <= high:
            raise ValueError(f"{name} is {request[name]}; expected {low} to {high}.")
    if not request["text"].strip():
        raise ValueError("The text to speak is empty; give at least one word.")


def _serve(job):
    """The fresh process: speaks every request of the job, then writes lengths and samples to stdout."""
    # espeak-ng cuts paths longer than 160 characters: name its data relative to the current folder instead.
    os.chdir(os.path.dirname(job["data"]))
    library = ctypes.CDLL(job["library"])
    library.espeak_Info.restype = ctypes.c_char_p
    # 2: synchronous; 1 << 15: return on errors instead of ending the process.
    if library.espeak_Initialize(2, 0, b".", 1 << 15) != SAMPLE_RATE:
        sys.exit(f"espeak_Initialize did not accept the voices in {job['data']}")
    if job["requests"] is None:
        print(library.espeak_Info(None).decode())
        return
    chunks = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, events):
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # otherwise seeded by the clock
    spoken = []
    for text, voice, variant, rate, pitch, pitch_range in job["requests"]:
        if library.espeak_SetVoiceByName(f"{voice}+{variant}".encode()) != 0:
            sys.exit(f"espeak_SetVoiceByName refused {voice}+{variant}")
        for parameter, value in ((1, rate), (2, 60), (3, pitch), (4, pitch_range)):  # 2: volume; 100 clips
            library.espeak_SetParameter(parameter, int(value), 0)
        chunks.clear()
        encoded = text.encode()
        if library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, 1, None, None) != 0:  # 1 at last: UTF-8
            sys.exit(f"espeak_Synth refused {text!r}")
        spoken.append(b"".join(chunks))
    sys.stdout.buffer.write(json.dumps([len(samples) // 2 for samples in spoken]).encode() + b"\n")
    sys.stdout.buffer.write(b"".join(spoken))


if __name__ == "__main__":
    _serve(json.load(sys.stdin.buffer))
