"""Chapter 05: trains a prototypical network, from scratch or from a pretrained encoder."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from speakerlib.data.corpora import find_corpus
from speakerlib.data.episodes import EpisodeSampler, default_rule
from speakerlib.data.features import prepare_features, segment_table
from speakerlib.data.front_ends import FRONT_ENDS, clip_size, identifier
from speakerlib.experiments import devices, fine_tuning
from speakerlib.experiments.augmentation import TrainingFeatures
from speakerlib.experiments.checkpoints import check_weights
from speakerlib.experiments.evaluation import embed, episode_accuracy, transductive_accuracy
from speakerlib.experiments.launching import train_in
from speakerlib.experiments.parameters import checkpoint_split
from speakerlib.experiments.pretrained import SCRATCH, read_encoder
from speakerlib.experiments.training import load_weights, machine_precision
from speakerlib.models.encoders import build_encoder
from speakerlib.models.objectives import prototypical_loss

EASIEST_CELL = (3, 1)  # a test split that cannot fill this cannot be used
VALIDATION_TASKS = 100  # a few milliseconds each: the segments are embedded once

_TRAINED_ON = ("labelled_speakers", "augment", "frozen_blocks", "layer_decay", "norm_statistics")
_TRAIN, _VALIDATION, TEST = 0, 1, 2  # each purpose draws episodes of its own


@dataclass(frozen=True)
class Experiment:
    """The settings of notebook 05 and the data they name."""

    settings: object
    corpus: object

    @cached_property
    def segments(self):
        """The segment table; it needs no features."""
        return segment_table(self.corpus, self.settings.segment_seconds)

    @cached_property
    def recorded(self):
        """Features as recorded: all training and validation uses them."""
        return self.features("recorded")

    def features(self, condition):
        """The feature store of a condition, made if it is not there."""
        return prepare_features(self.corpus, self.settings.front_end, self.settings.segment_seconds, condition)

    @cached_property
    def rule(self):
        """`auto` is the published rule under `as_published`, else the strictest that the corpus allows."""
        if self.settings.episode_rule != "auto":
            return self.settings.episode_rule
        return "segment" if self.settings.protocol == "as_published" else default_rule(self.segments)

    @cached_property
    def training_features(self):
        """The features of training clips: as recorded, or each through a channel of its own."""
        return TrainingFeatures(self.recorded, self.corpus, self.settings.augment)

    @cached_property
    def labelled(self):
        """The training speakers whose names are used: all, or so many of them, drawn by the seed."""
        speakers = np.unique(self.segments.loc[self.segments["split"] == "train", "speaker"])
        count = self.settings.labelled_speakers or len(speakers)
        if count > len(speakers):
            raise ValueError(f"labelled_speakers={count}: corpus {self.corpus.name!r}, split 'train', has "
                             f"{len(speakers)} speakers. Use at most so many, or 0 for all.")
        drawn = np.random.default_rng((self.settings.seed, _TRAIN)).permutation(speakers)[:count]
        return sorted(drawn)

    @property
    def checkpoint_split(self):
        """Where checkpoints are chosen: validation speakers, except as published."""
        return checkpoint_split(self.settings.protocol)

    @cached_property
    def checkpoint_num_way(self):
        """num_way where checkpoints are chosen: a small validation split plays with fewer speakers."""
        able = len(self.sampler(self.checkpoint_split, 2, self.settings.num_support, _VALIDATION).speakers)
        return min(self.settings.num_way, able)

    def new_encoder(self):
        """The encoder of the settings, untrained, for this front end and segment length."""
        size = clip_size(FRONT_ENDS[self.settings.front_end], self.settings.segment_seconds)
        return build_encoder(self.settings.encoder, *size)

    @cached_property
    def pretrained(self):
        """(encoder, facts) that training starts from, as `init` names it; (None, None) from scratch."""
        settings = self.settings
        if settings.init == SCRATCH:
            return None, None
        return read_encoder(settings.init, settings.encoder, settings.front_end, settings.segment_seconds)

    def initial_encoder(self):
        """What training starts from: random weights of the seed, or a pretrained encoder's, bit for bit."""
        torch.manual_seed(self.settings.seed)
        encoder, (source, facts) = self.new_encoder(), self.pretrained
        if source is not None:
            check_weights(encoder, source.state_dict(), facts["run"])
            encoder.load_state_dict(source.state_dict())
        fine_tuning.check_fine_tuning(encoder, self.settings)
        return encoder

    def sampler(self, split, num_way, num_support, purpose):
        """Episodes of one split; every purpose has its own list of tasks. Only labelled speakers train."""
        segments = self.segments[self.segments["split"] == split]
        if split == "train":
            segments = segments[segments["speaker"].isin(self.labelled)]
        return EpisodeSampler(
            segments,
            num_way,
            num_support,
            self.settings.num_query,
            self.rule,
            seed=3 * self.settings.seed + purpose,
            name=f"corpus {self.corpus.name!r}, split {split!r}, in segments of {self.settings.segment_seconds} s,",
        )


def open_experiment(settings):
    """Corpus and settings; what can be refused is refused here, before features are made or anything is trained."""
    devices.check_share("batch_size", settings.batch_size, settings.num_processes)
    devices.keep_forkable(settings.num_processes)
    experiment = Experiment(settings, find_corpus(settings.corpus))
    experiment.initial_encoder()
    experiment.sampler("train", settings.num_way, settings.num_support, _TRAIN)
    experiment.sampler("test", *EASIEST_CELL, TEST)
    if experiment.checkpoint_num_way < settings.num_way:
        print(
            f"Checkpoints are chosen on {experiment.checkpoint_num_way}-way tasks: no more speakers of split "
            f"{experiment.checkpoint_split!r} can fill {settings.num_support} + {settings.num_query} segments."
        )
    return experiment


def train_protonet(experiment, run, on_progress=None):
    """Trains, or goes on training, in the run's folder. Returns (best encoder, history).

    A step is batch_size tasks in one forward pass; in several processes each computes as many of them, and the result
    is that of one up to rounding. The best checkpoint is the one with the highest accuracy on the tasks of
    `experiment.checkpoint_split`.
    """
    settings, features = experiment.settings, experiment.training_features
    encoder, (_, facts) = experiment.initial_encoder(), experiment.pretrained
    fine_tuning.freeze(encoder, settings.frozen_blocks)
    if settings.norm_statistics == fine_tuning.UNLABELLED:
        fine_tuning.take_statistics(encoder, _unlabelled(experiment))
    sampler = experiment.sampler("train", settings.num_way, settings.num_support, _TRAIN)

    def compute_loss(model, step):
        episodes = sampler.draw(step, settings.batch_size)
        ids = np.concatenate([episodes.support.ravel(), episodes.query.ravel()])
        tasks = devices.share(settings.batch_size)
        numbers = np.split(np.arange(len(ids)), [episodes.support.size])
        support, query = (number.reshape(side.shape)[tasks]
                          for number, side in zip(numbers, (episodes.support, episodes.query)))
        device = next(model.parameters()).device
        if settings.norm_statistics != fine_tuning.BATCH:
            fine_tuning.hold_statistics(model)
        places = np.concatenate([support.ravel(), query.ravel()])
        embeddings = model(features.read(ids, (settings.seed, step), places).to(device)).float()
        loss, accuracy, support_accuracy = prototypical_loss(
            embeddings[: support.size].reshape(*support.shape, -1),
            embeddings[support.size :].reshape(*query.shape, -1))
        return loss, {"training_accuracy": accuracy, "support_accuracy": support_accuracy}

    def describe(**more):
        if not run.is_complete and devices.is_leader() and ("precision" not in run.record or more):
            run.write(checkpoint_num_way=experiment.checkpoint_num_way, precision=machine_precision(),
                      init_weights=facts, **more)

    if settings.num_processes == 1:
        describe()
    else:
        features.read(np.arange(1), (settings.seed, 0))  # made now if they are not there, not once a process
    try:
        history = train_in(
            settings.num_processes,
            encoder,
            compute_loss,
            folder=run.folder,
            num_train_iterations=settings.num_train_iterations,
            learning_rate=settings.learning_rate,
            test_interval=settings.test_interval,
            print_interval=settings.print_interval,
            validate=_validation(experiment),
            on_progress=on_progress,
            parameter_groups=lambda model: fine_tuning.parameter_groups(model, settings.learning_rate,
                                                                        settings.layer_decay),
            data={"front_end": identifier(experiment.recorded.front_end), "segment_seconds": settings.segment_seconds,
                  **{name: getattr(settings, name) for name in _TRAINED_ON},
                  **({"init_weights": facts["sha256"]} if facts else {})},
        )
    except KeyboardInterrupt:
        if devices.is_leader():
            run.pause()
        raise
    if settings.num_processes > 1:  # not before: asking a GPU for its precision spoils it for forks
        describe(num_processes=settings.num_processes)
    load_weights(encoder, run.folder / "best.safetensors")
    return encoder, history


def _unlabelled(experiment):
    """Batches of clips of all training speakers, labelled or not, as training reads them."""
    segments, seed = experiment.segments, experiment.settings.seed
    ids = np.random.default_rng(seed).permutation(segments.index[segments["split"] == "train"].to_numpy())
    size = min(128, len(ids))
    for first in range(0, min(len(ids), fine_tuning.STATISTICS_CLIPS) - size + 1, size):
        yield experiment.training_features.read(ids[first:first + size], (seed, first))


def _validation(experiment):
    """The function that train() calls at each test_interval."""
    features, split = experiment.recorded, experiment.checkpoint_split
    sampler = experiment.sampler(split, experiment.checkpoint_num_way, experiment.settings.num_support, _VALIDATION)
    if experiment.settings.protocol == "as_published":
        episodes = sampler.draw(0, 4 * experiment.settings.batch_size)
        return lambda model: {"validation_accuracy": float(transductive_accuracy(model, features, episodes).mean())}
    episodes = sampler.draw(0, VALIDATION_TASKS)
    ids = np.unique(np.concatenate([episodes.support.ravel(), episodes.query.ravel()]))
    return lambda model: {
        "validation_accuracy": float(episode_accuracy(embed(model, features, ids), ids, episodes).mean())
    }
