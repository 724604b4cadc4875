"""Chapter 03: what an autoencoder fills into the holes of a spectrogram, beside what can be guessed without one."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from speakerlib.data.channels import apply_channels, clip_seeds
from speakerlib.data.features import prepare_features
from speakerlib.data.front_ends import compute, normalise
from speakerlib.experiments.filmstrip import Filmstrip, read_filmstrip
from speakerlib.experiments.records import read_runs
from speakerlib.models.autoencoder import build_autoencoder
from speakerlib.models.masks import draw_masks
from speakerlib.models.targets import from_target

PRETRAINING = "04_mae_pretraining"

RATIOS = (0.55, 0.65, 0.75, 0.85, 0.95)  # the published ones
GUESSES = ("0", "visible mean", "interpolation")


@dataclass(frozen=True)
class Clip:
    """One segment: float32 waveform (samples,), normalised frames (1, mels, frames), and what that took from each mel.

    means: (mels,), 0 where the front end removes none.
    """

    waveform: np.ndarray
    frames: torch.Tensor
    means: torch.Tensor


@dataclass(frozen=True)
class Filling:
    """One clip, its holes and what fills them: arrays (mels, frames), in the values that the network sees."""

    original: np.ndarray
    removed: np.ndarray  # bool: True is removed
    reconstruction: np.ndarray
    errors: dict  # root mean square error over the removed values: of "autoencoder", and of each of GUESSES

    @property
    def masked(self):
        """The original, NaN where it was removed."""
        return np.where(self.removed, np.nan, self.original)

    @property
    def pasted(self):
        """The original, with the reconstruction in its holes."""
        return np.where(self.removed, self.reconstruction, self.original)

    @property
    def error(self):
        """Reconstruction minus original, NaN where nothing was removed."""
        return np.where(self.removed, self.reconstruction - self.original, np.nan)


def read_clip(corpus, front_end, segment_seconds, row, segment=0, condition="recorded"):
    """The Clip of a segment of the utterance in that row of corpus.table, segments counted on the grid from 0.

    In condition `changed` it goes through the channel that prepare_features would send it through. ValueError if the
    utterance has no such segment.
    """
    length = round(segment_seconds * front_end.sample_rate)
    if not 0 <= segment < num_segments(corpus, front_end, segment_seconds, row):
        raise ValueError(f"segment {segment} of {segment_seconds} s: {'/'.join(_names(corpus, row))} has "
                         f"{num_segments(corpus, front_end, segment_seconds, row)} of them, counted from 0.")
    samples = corpus.waveforms.read(row, segment * length, length)
    waveform = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    if condition == "changed":
        waveform = apply_channels(waveform, clip_seeds(0, [("/".join(_names(corpus, row)), segment * length)]))
    stored = compute(front_end, waveform)
    frames = normalise(front_end, stored)
    return Clip(waveform[0].numpy(), frames, (stored[0].float() - frames[0]).mean(dim=1))


def num_segments(corpus, front_end, segment_seconds, row):
    """How many segments the utterance in that row has."""
    return int(corpus.waveforms.lengths[row]) // round(segment_seconds * front_end.sample_rate)


def fill(autoencoder, frames, removed):
    """The Filling of one clip: frames (1, mels, frames), normalised, and removed of the same shape."""
    values, holes = frames[None], removed[None]
    with _one_thread():
        filled = reconstruct(autoencoder, values, holes)
        errors = {name: float(error) for name, error in _errors(values, holes, filled).items()}
    return Filling(frames[0].numpy(), removed[0].numpy(), filled[0, 0].numpy(), errors)


def mask_of(mask, shape, mask_ratio, seed, unit=None):
    """The mask of a seed for clips of shape (batch, 1, mels, frames); see draw_masks.

    With one seed, a higher ratio removes all that a lower one does, and more.
    """
    generator = torch.Generator().manual_seed(seed)
    return draw_masks(mask, shape[0], shape[2], shape[3], mask_ratio, generator, unit)


def reconstruct(autoencoder, frames, removed):
    """The reconstruction (batch, 1, mels, frames) in eval mode, in the values that the network sees.

    What the autoencoder's target leaves out (a mean, or the level and contrast of a patch) is taken from the original.
    """
    return from_target(predict(autoencoder, frames, removed), frames, autoencoder.target)


def predict(autoencoder, frames, removed):
    """The autoencoder's output in eval mode, in the values of its target, without touching the autoencoder's mode."""
    was_training = autoencoder.training
    autoencoder.eval()
    try:
        with torch.inference_mode():
            return autoencoder(frames, removed)[1].float()
    finally:
        autoencoder.train(was_training)


def guess(name, frames, removed):
    """What stands in the holes without any training: float32, of the shape of frames (batch, 1, mels, frames).

    "0": what the network is shown there; "visible mean": the mean of what is left of the mel; "interpolation":
    straight lines over time between what is left of the mel, level beyond its ends. Where nothing is left of a mel,
    the last two give the mean of what is left of the clip.
    """
    if name == "0":
        return torch.zeros_like(frames)
    seen = (~removed).float()
    clip_mean = (frames * seen).sum(dim=(2, 3), keepdim=True) / seen.sum(dim=(2, 3), keepdim=True)
    counts = seen.sum(dim=3, keepdim=True)
    means = torch.where(counts > 0, (frames * seen).sum(dim=3, keepdim=True) / counts.clamp(min=1), clip_mean)
    means = means.expand_as(frames)
    if name == "visible mean":
        return means
    if name == "interpolation":
        return _interpolate(frames, removed, means)
    raise ValueError(f"guess {name!r}: expected one of {', '.join(GUESSES)}.")


def error_by_ratio(autoencoder, frames, seed=0, masks=("strips", "boxes"), ratios=RATIOS):
    """How well the holes of many clips are filled: rows of mask, mask_ratio, method, rms_error and clips.

    frames: (clips, 1, mels, frames), normalised. rms_error: the root mean square over all removed values, in the
    values that the network sees; method: "autoencoder" or one of GUESSES. All methods meet the same masks.
    """
    rows = []
    for mask in masks:
        for ratio in ratios:
            removed = mask_of(mask, frames.shape, ratio, seed)
            errors = _errors(frames, removed, reconstruct(autoencoder, frames, removed))
            rows += [{"mask": mask, "mask_ratio": ratio, "method": method, "rms_error": float(error),
                      "clips": len(frames)}
                     for method, error in errors.items()]
    return pd.DataFrame(rows)


@contextmanager
def _one_thread():
    """One clip is too little to share: on a busy computer, threads waiting for each other take thirty times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def clips_to_fill(corpus, facts, count=64, seed=0):
    """Frames (clips, 1, mels, frames) of at most `count` segments of validation speakers, drawn from the seed.

    Of training speakers where no validation speaker has one; the test speakers are left alone.
    """
    features = prepare_features(corpus, facts["front_end"], facts["segment_seconds"])
    split = features.segments["split"].to_numpy()
    ids = np.flatnonzero(split == "validation") if "validation" in split else np.flatnonzero(split == "train")
    return features.read(np.random.default_rng(seed).permutation(ids)[:count])


def describe(facts, corpus):
    """Where an autoencoder comes from, and what to expect of it on this corpus, in a sentence or two."""
    def kind(synthetic):
        return "synthetic speech" if synthetic else "real speech"

    told = (f"trained {facts['step']:,} steps on {facts['corpus']!r} ({kind(facts['synthetic'])}), {facts['mask']} at "
            f"{facts['mask_ratio']:g}, front end {facts['front_end']}, clips of {facts['segment_seconds']:g} s")
    if facts["synthetic"] != corpus.synthetic:
        told += (f"\nIt has never heard {kind(corpus.synthetic)} such as {corpus.name!r}, and fills it in worse than "
                 f"one that has. Make such a one: speakerlib run {PRETRAINING} -p corpus {corpus.name}; then give that "
                 "run here, as `init`.")
    return told


def filmstrip_for(corpus, autoencoder, facts, frames, removed):
    """(Filmstrip, sentence): of the newest complete run of chapter 04 on this corpus with the autoencoder's clips.

    Where there is none: what an untrained network and the autoencoder make of frames (clips, 1, mels, frames), and
    which command makes a filmstrip.
    """
    runs = read_runs(PRETRAINING)
    if len(runs):
        runs = runs[(runs["corpus_fingerprint"] == corpus.fingerprint) & (runs["front_end"] == facts["front_end"])
                    & (runs["segment_seconds"] == facts["segment_seconds"])].sort_values("finished")
    for run in reversed(runs.to_dict("records")):
        try:
            return read_filmstrip(run["folder"]), f"from the run {run['run']} of {PRETRAINING}"
        except FileNotFoundError:
            continue
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = build_autoencoder(facts["encoder"], facts["num_mels"], facts["num_frames"])
    filled = [reconstruct(model, frames, removed)[:, 0].numpy() for model in (untrained, autoencoder)]
    film = Filmstrip(np.array([0, facts["step"]]), frames[:, 0].numpy(), removed[:, 0].numpy(), np.stack(filled))
    return film, (f"an untrained network and this one; for a picture of each stage between: speakerlib run "
                  f"{PRETRAINING} -p corpus {corpus.name}, then this chapter again")


def _names(corpus, row):
    return [str(value) for value in corpus.table.loc[row, ["speaker", "session", "utterance"]]]


def _errors(frames, removed, filled):
    tried = {"autoencoder": filled} | {name: guess(name, frames, removed) for name in GUESSES}
    return {name: (values - frames)[removed].square().mean().sqrt() for name, values in tried.items()}


def _interpolate(frames, removed, means):
    """For each removed value the visible neighbours to its left and right in the same mel, weighted by nearness."""
    size = frames.shape[3]
    place = torch.arange(size).expand_as(frames)
    left = torch.where(removed, -1, place).cummax(dim=3).values
    right = torch.where(removed, size, place).flip(3).cummin(dim=3).values.flip(3)
    first, last = left < 0, right >= size
    low, high = torch.where(first, right, left), torch.where(last, left, right)  # level beyond the ends
    weight = (place - low) / (high - low).clamp(min=1)
    at_low, at_high = (frames.gather(3, i.clamp(0, size - 1)) for i in (low, high))
    return torch.where(first & last, means, at_low + weight.clamp(0, 1) * (at_high - at_low))
