"""Files to a waveform store, and the store to features, by one dask worker and by two: how much two share the work.

    python tests/benchmarks/extraction.py     writes its section, and figures/voxceleb2.md, which extrapolates from it

The speech is cut into small corpora, and a worker takes one after the other: what import_corpus and prepare_features
do with it, checksums and all. A worker is a process of one thread on a core of its own. Real speech (so762): noise
compresses, and decodes, in another way.
"""

import contextlib
import os
import shutil
import tempfile
import time
from io import StringIO
from pathlib import Path

import dask
import numpy as np
import pandas as pd
from extrapolation import write_page
from side_by_side import alternate, faster, keep_to, machine, options, write
from speech import REAL, make_speech
from tqdm.auto import tqdm

from speakerlib.data.audio import SAMPLE_RATE, read_audio
from speakerlib.data.corpora import import_corpus, open_corpus
from speakerlib.data.features import prepare_features
from speakerlib.data.files import project_folder
from speakerlib.data.workers import local_workers

PIECES, UTTERANCES = 8, 60  # small corpora, and files in each
SUFFIXES = (".wav", ".flac", ".opus", ".m4a")
LENGTHS = {"compact": 1.5, "boccio": 3.0}  # seconds of a segment
CONDITIONS = {"recorded": ("recorded", "I"), "changed, family I": ("changed", "I"),
              "changed, family II": ("changed", "II")}
DECODED = ".wav"  # what features are computed from


def main(arguments=None):
    """Writes the section and the page; returns {step: its rates}, or None where there is no real speech."""
    quick = options(__doc__, arguments).quick
    if not quick and not REAL.is_dir():
        print("Not measured: it needs the real speech of so762, which is not here (see data/README.md).")
        return None
    pieces, utterances = (4, 3) if quick else (PIECES, UTTERANCES)
    with (tempfile.TemporaryDirectory() as folder, dask.config.set({"temporary-directory": folder}),
          local_workers(1) as one, local_workers(2) as two):
        folder = Path(folder)
        what = prepare(folder, pieces, utterances)
        cores = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else [None, None]
        rates, rows = {}, {}
        for name, step in tqdm(steps().items(), "steps"):
            sides = {workers: Run(client, cores, step, folder, pieces)
                     for workers, client in (("one worker", one), ("two workers", two))}
            for side in sides.values():
                side.warm_up()
            times = alternate(sides, 1 if quick else 3, warm_up=0)
            rates[name], rows[name] = rate(times, sides["one worker"].done, utterances * pieces)
    efficiency = float(np.median([each["efficiency"] for each in rates.values()]))
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")
    write("Extraction on one and two workers", f"""
`python tests/benchmarks/extraction.py`. {what}, in {pieces} corpora of {utterances} files, which dask hands to one
worker or two, in alternation: processes of one thread, each kept to a core of its own, started before. Efficiency is
the time on one over twice that on two; all steps together have a median of **{efficiency:.0%}**. `x real time` is
seconds of speech a second on one worker; features are computed from the store, and count the speech in whole segments
({", ".join(f"{name} of {seconds:g} s" for name, seconds in LENGTHS.items())}). `CPU` is the share of one worker's
time in which its core was at work. `bytes/s` is what is kept of a second of speech.
{"" if quick else "figures/voxceleb2.md extrapolates from these numbers."}""", table, quick)
    if not quick:
        write_page(project_folder() / "figures" / "voxceleb2.md", rates, machine(), what)
    return rates


def steps():
    """{name: (function, its arguments)} of each step, done with the corpus of one piece."""
    made = {f"waveform store, from {suffix[1:]}": ("store", suffix) for suffix in SUFFIXES}
    for front_end in LENGTHS:
        made |= {f"{front_end}, {told}": ("features", front_end, *how) for told, how in CONDITIONS.items()}
    return made


def rate(times, done, num_files):
    """(rates, row of the table) of a step. times: of one worker and two; done: [(seconds, cpu, bytes)] of one."""
    speech, cpu, size = np.sum(done["last"], axis=0)
    alone, together = (float(np.median(times[side])) for side in ("one worker", "two workers"))
    twice, lowest, highest = faster(times, "two workers", "one worker")
    rates = {"real_time": speech / alone, "two_workers": speech / together, "efficiency": twice / 2,
             "bytes": size / speech}
    return rates, {"one worker, s": alone, "two workers, s": together, "efficiency": f"{twice / 2:.0%}",
                   "lowest to highest": f"{lowest / 2:.0%} to {highest / 2:.0%}", "x real time": speech / alone,
                   "files/s": num_files / alone, "CPU": f"{cpu / alone:.0%}", "bytes/s": size / speech}


class Run:
    """One side: all pieces through a step, on a client's workers. `done["last"]` is what they reported."""

    def __init__(self, client, cores, step, folder, pieces):
        self.client, self.jobs, self.done = client, [(cores, step, str(folder), piece) for piece in range(pieces)], {}

    def warm_up(self):
        """Each worker does the first piece, or the second, and has its imports then."""
        workers = list(self.client.nthreads())
        self.client.gather([self.client.submit(do, job, workers=[worker], pure=False)
                            for worker, job in zip(workers, self.jobs, strict=False)])

    def __call__(self):
        self.done["last"] = self.client.gather(self.client.map(do, self.jobs, pure=False, batch_size=None))


def do(job):
    """(seconds of speech, seconds of the processor, bytes kept) of one step with one piece; runs in a worker."""
    import torch
    from distributed import get_worker

    cores, (kind, *settings), folder, piece = job
    if cores[0] is not None:
        os.sched_setaffinity(0, [cores[int(get_worker().name) % len(cores)]])  # and the threads started from here
    torch.set_num_threads(1)
    os.environ["SPEAKERLIB_DATA"] = folder
    before = time.process_time()
    with contextlib.redirect_stdout(StringIO()):
        speech, kept = {"store": make_store, "features": make_features}[kind](Path(folder), piece, *settings)
    cpu = time.process_time() - before
    return speech, cpu, sum(path.stat().st_size for path in kept)


def make_store(folder, piece, suffix):
    name = f"{suffix[1:]}-{piece}"
    shutil.rmtree(folder / "corpora" / name, ignore_errors=True)
    home = folder / "speech" / str(piece)
    corpus = import_corpus(home / suffix[1:], name, split_file=home / "split.csv", progress=False)
    return int(corpus.waveforms.lengths.sum()) / SAMPLE_RATE, list((corpus.folder / "waveforms").glob("*.int16"))


def make_features(folder, piece, front_end, condition, family):
    name = f"{DECODED[1:]}-{piece}"
    shutil.rmtree(folder / "features" / name, ignore_errors=True)
    store = prepare_features(open_corpus(name), front_end, LENGTHS[front_end], condition, channel_family=family,
                             progress=False)
    return len(store) * store.segment_seconds, [path for path in store.folder.glob("shard-*") if path.suffix != ".json"]


def prepare(folder, pieces, utterances):
    """Writes the speech and decodes it once; says what it is."""
    what = make_speech(folder / "all", pieces * utterances, (".wav", ".flac", ".opus"))
    files = sorted((folder / "all" / "wav").rglob("*.wav"), key=lambda path: path.name)
    for number, path in enumerate(tqdm(files, "AAC")):
        speaker, home = path.parent.name, folder / "speech" / str(number % pieces)
        for suffix in SUFFIXES:
            target = home / suffix[1:] / speaker / path.with_suffix(suffix).name
            target.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".m4a":
                write_m4a(target, read_audio(path))
            else:
                os.link(folder / "all" / suffix[1:] / speaker / target.name, target)
    for home in (folder / "speech").iterdir():  # one split, so that babble has other speakers
        speakers = sorted(path.name for path in (home / "wav").iterdir())
        (home / "split.csv").write_text("speaker,split\n" + "".join(f"{name},train\n" for name in speakers))
    return what


def write_m4a(path, samples):
    """AAC in m4a, as VoxCeleb2's archives hold it."""
    import av

    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


if __name__ == "__main__":
    keep_to(2)
    main()
