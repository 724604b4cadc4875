"""Milliseconds from a moved control of chapter 03's explorer to the bytes of its new picture, in the kernel.

    python tests/benchmarks/mask_explorer.py                on synthetic tones, with untrained weights: no corpus needed
    python tests/benchmarks/mask_explorer.py --corpus demo  on a corpus that is there

The time does not depend on the weights. Run it on an idle computer; `taskset -c 0,1` leaves it two cores.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import find_corpus, import_corpus
from speakerlib.data.front_ends import FRONT_ENDS, num_frames
from speakerlib.models.autoencoder import ConvAutoencoder
from speakerlib.views.mask_explorer import MaskExplorer, example_row
from speakerlib.views.style import use_style

MOVES = {  # control: the values that it takes in turn
    "seed": range(1, 21),
    "mask_ratio": np.linspace(0.25, 0.9, 14).round(2).tolist(),
    "mels": range(8, 28),
    "frames": range(10, 40, 2),
    "mask": ["strips", "boxes", "patches", "mixed"] * 3,
    "condition": ["changed", "recorded"] * 5,
    "segment": [1, 0] * 5,
}


def main(arguments=None):
    """Prints the median and the slowest time of each control, and returns the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", help="a corpus that is there; without it, tones")
    parser.add_argument("--front-end", default="compact", choices=list(FRONT_ENDS))
    options = parser.parse_args(arguments)
    use_style()
    if options.corpus:
        return measure(find_corpus(options.corpus), options.front_end)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEAKERLIB_DATA"] = folder
        return measure(tones(Path(folder)), options.front_end)


def measure(corpus, name):
    """{control: median milliseconds} of an explorer of that corpus."""
    front_end, seconds = FRONT_ENDS[name], 1.5
    size = front_end.num_mels, num_frames(front_end, round(seconds * front_end.sample_rate))
    facts = {"front_end": name, "segment_seconds": seconds, "num_mels": size[0], "num_frames": size[1]}
    explorer = MaskExplorer(corpus, ConvAutoencoder(*size), facts, example_row(corpus, front_end, seconds))
    print(f"{size[0]} x {size[1]} values, {torch.get_num_threads()} threads, {len(os.sched_getaffinity(0))} cores")
    print(f"{'control':12}{'median ms':>12}{'slowest ms':>12}{'moves':>8}")
    medians = {}
    for control, values in MOVES.items():
        explorer.reset()
        spent = [move(explorer.controls[control], value) for value in values]
        medians[control] = float(np.median(spent))
        print(f"{control:12}{medians[control]:12.0f}{max(spent):12.0f}{len(spent):8}")
    started = time.perf_counter()
    explorer.listen()
    print(f"{'Listen':12}{1000 * (time.perf_counter() - started):12.0f}")
    return medians


def move(control, value):
    """Milliseconds that the redrawing takes; a control's event is over when the picture is there."""
    started = time.perf_counter()
    control.value = value
    return 1000 * (time.perf_counter() - started)


def tones(folder):
    """A corpus of five speakers, one tone each."""
    samples = np.arange(round(16000 * 3.2)) / 16000
    for speaker in range(5):
        for utterance in range(2):
            tone = (0.3 * np.sin(2 * np.pi * (200 + 150 * speaker) * samples)).astype(np.float32)
            write_audio(folder / "tones" / f"s{speaker}" / "a" / f"{utterance}.wav", tone)
    return import_corpus(folder / "tones", name="tones", progress=False)


if __name__ == "__main__":
    main()
