"""Making the demo corpus, beside the time that espeak-ng itself needs for its words.

    python tests/benchmarks/demo_speech.py
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
from side_by_side import CORES, alternate, faster, options, table, write

from speakerlib.data import synthetic_speech
from speakerlib.data.demo_corpus import make_demo_corpus
from speakerlib.data.espeak import synthesise_all

LIMIT = "limit: espeak-ng's own synthesis"


def main(arguments=None):
    """Writes the section, and returns the times."""
    quick = options(__doc__, arguments).quick
    speakers, sessions, utterances = (3, 1, 2) if quick else (16, 3, 5)
    requests = [requests_of(number, sessions, utterances) for number in range(speakers)]
    with tempfile.TemporaryDirectory() as folder:
        folders = (Path(folder) / str(number) for number in count())

        def make():
            return make_demo_corpus(next(folders), speakers, num_sessions=sessions, num_utterances=utterances,
                                    num_workers=CORES, progress=False)

        first, again = (sorted(make().rglob("*.wav")) for _ in range(2))
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
        assert len(first) == speakers * sessions * utterances
        times = alternate({LIMIT: lambda: speak(requests), "demo corpus": make}, *((1, 0) if quick else (7, 1)))
    longer = 1 / faster(times, "demo corpus", LIMIT)[0]
    write("Demo corpus", (
        f"`demo_speech.py`, {speakers} synthetic speakers, {sessions} sessions of {utterances} utterances each, "
        f"{CORES} threads. Limit: the same requests spoken by as many espeak-ng processes, nothing done with the "
        f"samples. The corpus takes **{longer:.2f} times** as long (target: within 2"
        f"{'' if longer <= 2 else '; **missed**'}): vocal tract, room, line and noise of each utterance, and files."),
        table(times, LIMIT, speakers * sessions * utterances, "utterances"), quick)
    return times


def requests_of(number, num_sessions, num_utterances):
    """What a speaker of the demo corpus has espeak-ng say."""
    asked, speak_all = [], synthetic_speech.synthesise_all

    def keep(requests):
        asked.extend(requests)
        return [np.ones(1000, np.int16)] * len(requests)  # any sound will do

    synthetic_speech.synthesise_all = keep
    try:
        synthetic_speech.speak_sessions(0, number, num_sessions, num_utterances)
    finally:
        synthetic_speech.synthesise_all = speak_all
    return asked


def speak(requests):
    with ThreadPoolExecutor(CORES) as threads:
        return list(threads.map(synthesise_all, requests))


if __name__ == "__main__":
    main()
