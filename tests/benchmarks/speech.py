"""What the benchmarks of files and waveforms work on: real read speech where it is at hand, noise elsewhere."""

import numpy as np
import soundfile

from speakerlib.data.audio import read_audio, write_audio
from speakerlib.data.files import project_folder

RATE, SHORTEST = 16000, 3.05
REAL = project_folder().parent / "shared" / "data" / "so762" / "speech"  # as the tests find it


def make_speech(folder, num_files, suffixes):
    """Writes the same utterances in each format, <format>/<speaker>/<utterance>, and says what they are."""
    found = sorted(REAL.rglob("*.opus")) if REAL.is_dir() else []
    random = np.random.default_rng(0)
    if found:
        found = [path for path in found if soundfile.info(path).duration >= SHORTEST]
        found = [found[place] for place in random.choice(len(found), num_files, replace=False)]
    seconds = 0.0
    for number in range(num_files):
        samples = (read_audio(found[number]) if found
                   else (0.1 * random.standard_normal(round(RATE * 3.6))).astype(np.float32))
        speaker = found[number].parent.name if found else f"s{number % 5}"
        seconds += len(samples) / RATE
        for suffix in suffixes:
            write_audio(folder / suffix[1:] / speaker / f"{number:04d}{suffix}", samples)
    return f"{num_files} files of {'real read speech (so762)' if found else 'noise'}, {seconds / 60:.1f} minutes"
