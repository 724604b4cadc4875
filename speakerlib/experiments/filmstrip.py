"""A filmstrip: what an autoencoder made of the same few clips, at one moment of its training after the other."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerlib.data.files import atomic_path

FOLDER = "filmstrip"  # in a run's folder
_LARGEST = np.finfo(np.float16).max


@dataclass(frozen=True)
class Filmstrip:
    """steps: (n,); originals, masks (True is removed): (clips, mels, frames); reconstructions: (n, clips, ...)."""

    steps: np.ndarray
    originals: np.ndarray
    masks: np.ndarray
    reconstructions: np.ndarray


def keep_clips(run_folder, frames, masks):
    """Writes the clips and masks that the reconstructions are of: (clips, 1, mels, frames) each."""
    _write(run_folder, "originals", _half(frames))
    _write(run_folder, "masks", masks.cpu().numpy()[:, 0])


def keep_reconstruction(run_folder, step, reconstruction):
    """Writes the reconstruction (clips, 1, mels, frames) of a step; one that is repeated after a kill replaces it."""
    _write(run_folder, f"step-{step:06d}", _half(reconstruction))


def read_filmstrip(run_folder):
    """The Filmstrip of a run, float32; FileNotFoundError if it has none."""
    folder = Path(run_folder) / FOLDER
    paths = sorted(folder.glob("step-*.npy"))
    if not paths or not (folder / "masks.npy").is_file():
        raise FileNotFoundError(f"there is no filmstrip in {run_folder}. Runs of 04_mae_pretraining leave one: "
                                "speakerlib run 04_mae_pretraining")
    read = [np.load(path, allow_pickle=False).astype(np.float32) for path in (folder / "originals.npy", *paths)]
    steps = np.array([int(path.stem.removeprefix("step-")) for path in paths])
    return Filmstrip(steps, read[0], np.load(folder / "masks.npy", allow_pickle=False), np.stack(read[1:]))


def _half(values):
    """float16 (clips, mels, frames); an early reconstruction may be beyond its range."""
    return values.detach().cpu().float().numpy()[:, 0].clip(-_LARGEST, _LARGEST).astype(np.float16)


def _write(run_folder, name, array):
    with atomic_path(Path(run_folder) / FOLDER / f"{name}.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
