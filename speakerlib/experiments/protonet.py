"""Chapter 05: trains a prototypical network and fills the 3/5/10-way x 1/5/10-shot table with it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from speakerlib.data.corpora import find_corpus
from speakerlib.data.episodes import EpisodeSampler, default_rule
from speakerlib.data.features import CONDITIONS, prepare_features, segment_table
from speakerlib.data.front_ends import FRONT_ENDS, clip_size, identifier
from speakerlib.experiments.checkpoints import check_weights
from speakerlib.experiments.evaluation import (
    embed,
    episode_accuracy,
    interval_as_published,
    transductive_accuracy,
    with_intervals,
)
from speakerlib.experiments.parameters import checkpoint_split
from speakerlib.experiments.pretrained import SCRATCH, read_encoder
from speakerlib.experiments.training import load_weights, machine_precision, train
from speakerlib.models.encoders import build_encoder
from speakerlib.models.objectives import prototypical_loss

NINE_CELLS = tuple((num_way, num_support) for num_support in (1, 5, 10) for num_way in (3, 5, 10))
VALIDATION_TASKS = 100  # a few milliseconds each: the segments are embedded once
TRANSDUCTIVE_TASKS = 100  # as_published needs a forward pass a task

_TRAIN, _VALIDATION, _TEST = 0, 1, 2  # each purpose draws episodes of its own


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
        return read_encoder(settings.init, settings.front_end, settings.segment_seconds)

    def initial_encoder(self):
        """What training starts from: random weights of the seed, or a pretrained encoder's, bit for bit."""
        torch.manual_seed(self.settings.seed)
        encoder, (source, facts) = self.new_encoder(), self.pretrained
        if source is not None:
            check_weights(encoder, source.state_dict(), facts["run"])
            encoder.load_state_dict(source.state_dict())
        return encoder

    def sampler(self, split, num_way, num_support, purpose):
        """Episodes of one split; every purpose has its own list of tasks."""
        return EpisodeSampler(
            self.segments[self.segments["split"] == split],
            num_way,
            num_support,
            self.settings.num_query,
            self.rule,
            seed=3 * self.settings.seed + purpose,
            name=f"corpus {self.corpus.name!r}, split {split!r}, in segments of {self.settings.segment_seconds} s,",
        )


def open_experiment(settings):
    """Corpus and settings; what can be refused is refused here, before features are made or anything is trained."""
    experiment = Experiment(settings, find_corpus(settings.corpus))
    experiment.initial_encoder()
    experiment.sampler("train", settings.num_way, settings.num_support, _TRAIN)
    experiment.sampler("test", *NINE_CELLS[0], _TEST)
    if experiment.checkpoint_num_way < settings.num_way:
        print(
            f"Checkpoints are chosen on {experiment.checkpoint_num_way}-way tasks: no more speakers of split "
            f"{experiment.checkpoint_split!r} can fill {settings.num_support} + {settings.num_query} segments."
        )
    return experiment


def train_protonet(experiment, run, on_progress=None):
    """Trains, or goes on training, in the run's folder. Returns (best encoder, history).

    A step is batch_size tasks in one forward pass. The best checkpoint is the one with the highest accuracy on the
    tasks of `experiment.checkpoint_split`.
    """
    settings, features = experiment.settings, experiment.recorded
    encoder, (_, facts) = experiment.initial_encoder(), experiment.pretrained
    sampler = experiment.sampler("train", settings.num_way, settings.num_support, _TRAIN)

    def compute_loss(model, step):
        episodes = sampler.draw(step, settings.batch_size)
        ids = np.concatenate([episodes.support.ravel(), episodes.query.ravel()])
        device = next(model.parameters()).device
        embeddings = model(features.read(ids).to(device)).float()
        support = embeddings[: episodes.support.size].reshape(*episodes.support.shape, -1)
        query = embeddings[episodes.support.size :].reshape(*episodes.query.shape, -1)
        loss, accuracy, support_accuracy = prototypical_loss(support, query)
        return loss, {"training_accuracy": accuracy, "support_accuracy": support_accuracy}

    if "precision" not in run.record and not run.is_complete:
        run.write(checkpoint_num_way=experiment.checkpoint_num_way, precision=machine_precision(), init_weights=facts)
    try:
        history = train(
            encoder,
            compute_loss,
            folder=run.folder,
            num_train_iterations=settings.num_train_iterations,
            learning_rate=settings.learning_rate,
            test_interval=settings.test_interval,
            print_interval=settings.print_interval,
            validate=_validation(experiment),
            on_progress=on_progress,
            data={"front_end": identifier(features.front_end), "segment_seconds": settings.segment_seconds,
                  **({"init_weights": facts["sha256"]} if facts else {})},
        )
    except KeyboardInterrupt:
        run.pause()
        raise
    load_weights(encoder, run.folder / "best.safetensors")
    return encoder, history


def nine_cells(experiment, encoder, run, progress=True):
    """The network in all nine cells of the table, in both conditions. Returns a list of rows (dicts).

    `corrected`: test_tasks tasks a cell from cached embeddings; `as_published`: transductive BatchNorm and fewer
    tasks. A cell that the test split cannot fill has accuracy None and the reason.
    """
    from tqdm.auto import tqdm

    if run.is_complete:
        return run.record["result"]
    rows = []
    with tqdm(total=len(CONDITIONS) * len(NINE_CELLS), desc="test cells", disable=not progress) as bar:
        for condition in CONDITIONS:
            features = experiment.features(condition)
            accuracy_of = accuracy_on(experiment, encoder, features)
            for num_way, num_support in NINE_CELLS:
                row = _cell(experiment, num_way, num_support, accuracy_of)
                rows.append({"condition": condition, "channel_family": features.channel_family, **row})
                bar.update()
    return rows


def embeddings_for_map(experiment, encoder, condition, num_speakers=20, segments_per_speaker=15):
    """Embeddings of some segments of the first test speakers: ((n, dim) array, speaker of each)."""
    features = experiment.features(condition)
    test = features.segments[features.segments["split"] == "test"]
    test = test[test["speaker"].isin(sorted(test["speaker"].unique())[:num_speakers])]
    chosen = test.groupby("speaker", observed=True).head(segments_per_speaker)
    return embed(encoder, features, chosen.index.to_numpy()).numpy(), chosen["speaker"].to_numpy()


def accuracy_on(experiment, encoder, features):
    """A function of episodes that gives an encoder's (tasks, way) accuracy on the test speakers."""
    if experiment.settings.protocol == "as_published":
        return lambda episodes: transductive_accuracy(encoder, features, episodes)
    ids = features.segments.index[features.segments["split"] == "test"].to_numpy()
    embeddings = embed(encoder, features, ids)
    return lambda episodes: episode_accuracy(embeddings, ids, episodes)


def episodes_of_cell(experiment, num_way, num_support):
    """The tasks of a cell of the table, the same for every encoder, and how many speakers may play in them.

    ValueError if the test split cannot fill them.
    """
    sampler = experiment.sampler("test", num_way, num_support, _TEST)
    most = TRANSDUCTIVE_TASKS if experiment.settings.protocol == "as_published" else experiment.settings.test_tasks
    return sampler.draw(0, min(experiment.settings.test_tasks, most)), len(sampler.speakers)


def _cell(experiment, num_way, num_support, accuracy_of):
    row = {
        "num_way": num_way,
        "num_support": num_support,
        "episode_rule": experiment.rule,
        "accuracy": None,
        **dict.fromkeys(("interval", "low", "high", "tasks", "speakers", "interval_as_published", "reason")),
    }
    try:
        episodes, num_speakers = episodes_of_cell(experiment, num_way, num_support)
    except ValueError as error:
        return {**row, "reason": str(error)}
    accuracy = accuracy_of(episodes)
    return {
        **row,
        **with_intervals(accuracy, episodes.speakers),
        "tasks": len(accuracy),
        "speakers": num_speakers,
        "episodes": episodes.digest(),
        "interval_as_published": interval_as_published(accuracy, experiment.settings.batch_size),
    }


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
