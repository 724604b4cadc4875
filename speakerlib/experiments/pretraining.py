"""Chapter 04: trains a masked autoencoder on the clips of a corpus, without asking who is speaking."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch

from speakerlib.data.corpora import find_corpus
from speakerlib.data.features import prepare_features, segment_table
from speakerlib.data.front_ends import FRONT_ENDS, clip_size, identifier
from speakerlib.experiments.agreement import agreement_loss
from speakerlib.experiments.augmentation import NONE, TrainingFeatures
from speakerlib.experiments.evaluation import interval_over_speakers
from speakerlib.experiments.filling import GUESSES, guess, predict, reconstruct
from speakerlib.experiments.filmstrip import keep_clips, keep_reconstruction
from speakerlib.experiments.parameters import checkpoint_split
from speakerlib.experiments.training import load_weights, machine_precision, train
from speakerlib.models.autoencoder import build_autoencoder
from speakerlib.models.encoders import as_numbers
from speakerlib.models.masks import draw_masks
from speakerlib.models.targets import to_target

CHECK_CLIPS = 256  # at most so many tell how well an autoencoder does
FILM_CLIPS = 4

_TRAINED_ON = ("encoder", "mask", "mask_ratio", "target", "augment", "agreement")
_PURPOSES = ("train", "validation", "test")  # each draws clips and masks of its own


@dataclass(frozen=True)
class Pretraining:
    """The settings of notebook 04 and the data they name."""

    settings: object
    corpus: object

    @cached_property
    def segments(self):
        """The segment table; it needs no features."""
        return segment_table(self.corpus, self.settings.segment_seconds)

    @cached_property
    def features(self):
        """The features as recorded, made if they are not there."""
        return prepare_features(self.corpus, self.settings.front_end, self.settings.segment_seconds)

    @cached_property
    def inputs(self):
        """The features that the network is shown: as recorded, or each clip through a channel of its own."""
        return TrainingFeatures(self.features, self.corpus, self.settings.augment)

    @property
    def checkpoint_split(self):
        """Where checkpoints are chosen: validation speakers, except as published."""
        return checkpoint_split(self.settings.protocol)

    @property
    def clip_size(self):
        """(mels, frames) of a clip."""
        return clip_size(FRONT_ENDS[self.settings.front_end], self.settings.segment_seconds)

    def new_autoencoder(self):
        """The autoencoder of the settings, untrained, of the seed; its loss is normalised as the protocol says."""
        torch.manual_seed(self.settings.seed)
        settings = self.settings
        return build_autoencoder(settings.encoder, *self.clip_size, settings.protocol, settings.target)

    def draw(self, step):
        """(segment ids, masks) of a step: batch_size train clips, none twice; a function of (seed, step) alone."""
        return self._draw("train", step, self.settings.batch_size)

    def fixed(self, split):
        """(segment ids, masks) of a split on which autoencoders are compared: the same at every step, for each seed."""
        return self._draw(split, 0, min(CHECK_CLIPS, len(self._ids[split])))

    @cached_property
    def _ids(self):
        """split -> its segment ids."""
        return {split: self.segments.index[self.segments["split"] == split].to_numpy() for split in _PURPOSES}

    def _draw(self, split, step, count):
        key = np.random.SeedSequence((self.settings.seed, _PURPOSES.index(split), step))
        ids = np.random.default_rng(key).choice(self._ids[split], count, replace=False)
        # drawn on the CPU, so that they are the same whatever trains
        generator = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
        return ids, draw_masks(self.settings.mask, count, *self.clip_size, self.settings.mask_ratio, generator)


def open_pretraining(settings):
    """Corpus and settings; what can be refused is refused here, before features are made or anything is trained."""
    pretraining = Pretraining(settings, find_corpus(settings.corpus))
    pretraining.new_autoencoder()
    for split, least in (("train", settings.batch_size), (pretraining.checkpoint_split, 1)):
        count = int((pretraining.segments["split"] == split).sum())
        if count < least:
            raise ValueError(
                f"batch_size={settings.batch_size}: corpus {pretraining.corpus.name!r}, split {split!r}, has {count} "
                f"segments of {settings.segment_seconds} s; expected at least {least}. Use "
                + ("a smaller batch_size, shorter segments, or more speech." if count else "a corpus with that split."))
    pretraining.draw(0)
    return pretraining


def pretrain(pretraining, run, on_progress=None):
    """Trains, or goes on training, in the run's folder. Returns (best autoencoder, history).

    The best checkpoint is the one with the lowest loss on the fixed clips of `checkpoint_split`, in eval mode. Beside
    the loss, which the protocol normalises, the history has `training_error` and `validation_error`: the mean squared
    error of the removed values, which is the same thing for every mask ratio and protocol. Each validation leaves its
    reconstruction of a few clips in the run's filmstrip.
    """
    settings, features, done = pretraining.settings, pretraining.features, {"step": 0}
    model = pretraining.new_autoencoder()
    film = _film(pretraining, run.folder)
    film(model, 0)

    def compute_loss(model, step):
        ids, masks = pretraining.draw(step)
        device = next(model.parameters()).device
        shown = as_numbers(pretraining.inputs.read(ids, (settings.seed, step)).to(device))
        clean = None if settings.augment == NONE else as_numbers(features.read(ids, keep_bytes=True).to(device))
        loss, _, _ = model(shown, masks.to(device), clean)
        done["step"] = step + 1
        scalars = {"training_error": loss * _error_per_loss(settings, masks)}
        if settings.agreement:
            with torch.autocast(device.type, torch.bfloat16, enabled=machine_precision() == "bf16"):
                agreement, accuracy = agreement_loss(model.encoder, pretraining.segments, pretraining.inputs.read, ids,
                                                     (settings.seed, step))
            loss = (1 - settings.agreement) * loss + settings.agreement * agreement
            scalars |= {"training_agreement": agreement, "agreement_accuracy": accuracy}
        return loss, scalars

    def validate(model):
        film(model, done["step"])
        squared, removed = squared_errors(pretraining, model, pretraining.checkpoint_split)
        error = float(squared.sum() / removed.sum())
        per_value = removed.sum() / (len(removed) * np.prod(pretraining.clip_size))
        loss, scalars = error * (per_value if settings.protocol == "as_published" else 1), {"validation_error": error}
        if settings.agreement:
            agreement, accuracy = agreement_loss(model.encoder, pretraining.segments, pretraining.inputs.read,
                                                 pretraining.fixed(pretraining.checkpoint_split)[0], (settings.seed, 0))
            loss = (1 - settings.agreement) * loss + settings.agreement * float(agreement)
            scalars |= {"validation_agreement": agreement, "validation_agreement_accuracy": accuracy}
        return {"validation_loss": loss, **scalars}

    if "precision" not in run.record and not run.is_complete:
        run.write(precision=machine_precision(), checkpoint_split=pretraining.checkpoint_split)
    try:
        history = train(
            model,
            compute_loss,
            folder=run.folder,
            num_train_iterations=settings.num_train_iterations,
            learning_rate=settings.learning_rate,
            test_interval=settings.test_interval,
            print_interval=settings.print_interval,
            validate=validate,
            watch="validation_loss",
            best="min",
            on_progress=on_progress,
            data={"front_end": identifier(features.front_end), "segment_seconds": settings.segment_seconds,
                  "loss": settings.protocol, **{name: getattr(settings, name) for name in _TRAINED_ON}},
        )
    except KeyboardInterrupt:
        run.pause()
        raise
    load_weights(model, run.folder / "best.safetensors")
    if not run.is_complete:
        run.write(autoencoder=_facts(pretraining, run, best_step(history)))
    return model, history


def evaluate(pretraining, autoencoder, run):
    """One row for the validation and one for the test speakers: the error on fixed clips beside what is guessed.

    error: mean squared error of the removed values, in the values of the settings' target, with its 95 % bootstrap
    interval over speakers (low, high); error_<guess>: the same of what needs no training (see filling.guess). Returns
    a list of dicts.
    """
    if run.is_complete:
        return run.record["result"]
    rows = []
    for split in ("validation", "test"):
        ids, masks = pretraining.fixed(split)
        if len(ids) == 0:
            continue
        squared, removed = squared_errors(pretraining, autoencoder, split)
        speakers = pretraining.segments["speaker"].to_numpy()[ids]
        low, high = interval_over_speakers((squared / removed.mean())[:, None], speakers[:, None])
        goal = to_target(pretraining.features.read(ids), pretraining.settings.target)
        guessed = {name: float((guess(name, goal, masks) - goal)[masks].square().mean()) for name in GUESSES}
        rows.append({"split": split, "step": run.record["autoencoder"]["step"], "clips": len(ids),
                     "speakers": len(set(speakers)), "error": float(squared.sum() / removed.sum()), "low": low,
                     "high": high,
                     **{f"error_{name.replace(' ', '_')}": value for name, value in guessed.items()},
                     "digest": _digest(ids, masks)})
    return rows


def squared_errors(pretraining, autoencoder, split):
    """(sum of the squared errors over the removed values, their number) of each fixed clip of a split, in eval mode.

    In the values of the settings' target. The network is shown clips as it is in training.
    """
    (ids, masks), settings = pretraining.fixed(split), pretraining.settings
    device, size, sums = next(autoencoder.parameters()).device, settings.batch_size, []
    for first in range(0, len(ids), size):
        part, removed = ids[first:first + size], masks[first:first + size].to(device)
        shown = as_numbers(pretraining.inputs.read(part, (settings.seed, _PURPOSES.index(split), first)).to(device))
        goal = to_target(as_numbers(pretraining.features.read(part, keep_bytes=True).to(device)), settings.target)
        filled = predict(autoencoder, shown, removed)
        sums.append(((filled - goal).square() * removed).double().sum(dim=(1, 2, 3)).cpu())
    return torch.cat(sums).numpy(), masks.sum(dim=(1, 2, 3)).double().numpy()


def best_step(history):
    """The step of the weights that are kept: the earliest of the lowest validation loss."""
    tested = history.dropna(subset="validation_loss")
    return int(tested.loc[tested["validation_loss"].idxmin(), "step"])


def _error_per_loss(settings, masks):
    """What turns a step's loss into the mean over removed values."""
    return masks.numel() / int(masks.sum()) if settings.protocol == "as_published" else 1.0


def _film(pretraining, folder):
    """A function of (model, step) that adds a frame to the filmstrip of a few clips, each of another speaker.

    They are those of the fixed clips that have the most contrast, so that there is something to see.
    """
    ids, masks = pretraining.fixed(pretraining.checkpoint_split)
    frames = pretraining.features.read(ids)
    order = frames.var(dim=(1, 2, 3)).argsort(descending=True).numpy()
    speakers = pretraining.segments["speaker"].to_numpy()[ids[order]]
    chosen = order[np.sort(np.unique(speakers, return_index=True)[1])[:FILM_CLIPS]]
    frames, masks = frames[chosen], masks[chosen]
    keep_clips(folder, frames, masks)

    def film(model, step):
        device = next(model.parameters()).device
        keep_reconstruction(folder, step, reconstruct(model, frames.to(device), masks.to(device)))

    return film


def _facts(pretraining, run, step):
    """What a reader of the weights has to know; goes with them wherever they go."""
    settings, (mels, frames) = pretraining.settings, pretraining.clip_size
    return {"front_end": settings.front_end, "front_end_identifier": identifier(FRONT_ENDS[settings.front_end]),
            "segment_seconds": float(settings.segment_seconds), "num_mels": mels, "num_frames": frames,
            **{name: getattr(settings, name) for name in _TRAINED_ON}, "protocol": settings.protocol,
            "corpus": pretraining.corpus.name, "synthetic": bool(pretraining.corpus.synthetic),
            "step": step, "run": run.folder.name}


def _digest(ids, masks):
    """Short hash: errors of the same digest are of the same clips and masks."""
    content = np.ascontiguousarray(ids, "<i8").tobytes() + np.packbits(masks.numpy()).tobytes()
    return sha256(content).hexdigest()[:16]
