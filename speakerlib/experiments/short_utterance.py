"""Chapter 06: trains one objective for short utterances (Kye et al. 2020), by episodes or by batches."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from speakerlib.data.corpora import find_corpus
from speakerlib.data.episodes import default_rule
from speakerlib.data.front_ends import identifier
from speakerlib.data.utterance_episodes import LongShortEpisodes, SpeakerBatches
from speakerlib.data.utterance_features import prepare_utterance_features, utterance_front_end, utterance_table
from speakerlib.experiments.augmentation import COPIES, NONE
from speakerlib.experiments.checkpoints import save_weights
from speakerlib.experiments.query_lengths import accuracy_by_length, draw_tasks, require_tasks
from speakerlib.experiments.training import load_weights, machine_precision, train
from speakerlib.models.resnet import ResNetEncoder
from speakerlib.models.short_utterance_objectives import EPISODIC, ShortUtteranceObjective

NOTEBOOK = "06_short_utterance_training"
VALIDATION_LENGTHS = (100, 200)  # frames of the queries that choose the weights
VALIDATION_TASKS = 200

_TRAINED_ON = ("encoder", "width", "loss_type", "use_global_classification", "use_variable_length", "logits",
               "nb_class_train", "num_support", "num_query", "enroll_length", "test_length", "augment", "seed")
_TRAIN, _VALIDATION, _TEST = 0, 1, 2  # each purpose draws tasks of its own


class ShortUtteranceNetwork(nn.Module):
    """An encoder, and the objective that it learns by, with its weights. forward: the encoder's."""

    def __init__(self, encoder, objective):
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(self, frames):
        return self.encoder(frames)


@dataclass(frozen=True)
class ShortUtterances:
    """The settings of notebook 06 and the data they name."""

    settings: object
    corpus: object

    @cached_property
    def utterances(self):
        """The table of utterances; it needs no features."""
        return utterance_table(self.corpus, utterance_front_end(self.settings.front_end))

    def split(self, name):
        """The utterances of one split."""
        return self.utterances[self.utterances["split"] == name]

    def features(self, condition, channel_seed=0, channel_family="I"):
        """The frames of all utterances, made if they are not there."""
        return prepare_utterance_features(self.corpus, self.settings.front_end, condition, channel_seed,
                                          channel_family)

    @cached_property
    def training_features(self):
        """What training reads: utterances as recorded and, with `augment`, copies through channels of their own."""
        family = self.settings.augment
        seeds = range(1, 1 + COPIES) if family != NONE else ()  # the changed speech of the tests is of seed 0
        return [self.features("recorded"), *(self.features("changed", seed, family) for seed in seeds)]

    @cached_property
    def rule(self):
        """What a speaker's support and queries never share: the strictest that the corpus allows."""
        return default_rule(self.utterances)

    @cached_property
    def draws(self):
        """The episodes that training meets, or, for an objective without them, batches of as many segments."""
        settings, train_split = self.settings, self.split("train")
        if settings.loss_type not in EPISODIC:
            return SpeakerBatches(train_split, segments_per_step(settings), settings.enroll_length, self.seed(_TRAIN))
        return LongShortEpisodes(train_split, settings.nb_class_train, settings.num_support, settings.num_query,
                                 self.rule, self.seed(_TRAIN), f"corpus {self.corpus.name!r}, split 'train'",
                                 settings.use_variable_length, settings.enroll_length, settings.test_length)

    def seed(self, purpose):
        """The seed of the tasks of one purpose."""
        return 3 * self.settings.seed + purpose

    def validation_tasks(self):
        """{query length: tasks} of validation speakers, of so many of them as there are."""
        split = self.split("validation")
        num_way = min(self.settings.nb_class_test, split["speaker"].nunique())
        return draw_tasks(split, self.utterances["frames"], num_way, VALIDATION_TASKS, self.rule,
                          self.seed(_VALIDATION), VALIDATION_LENGTHS)

    def test_tasks(self):
        """{query length: tasks} of test speakers, the same for every encoder that is compared."""
        return draw_tasks(self.split("test"), self.utterances["frames"], self.settings.nb_class_test,
                          self.settings.test_tasks, self.rule, self.seed(_TEST))

    def new_network(self):
        """Encoder and objective with the random weights of the seed."""
        torch.manual_seed(self.settings.seed)
        encoder = build_short_utterance_encoder(self.settings)
        settings = self.settings
        return ShortUtteranceNetwork(encoder, ShortUtteranceObjective(
            settings.loss_type, self.split("train")["speaker"].nunique(), encoder.dim,
            settings.use_global_classification, settings.logits))


def build_short_utterance_encoder(settings):
    """A new encoder as the settings name it: encoder, width, front_end. ValueError for what does not fit."""
    return ResNetEncoder(settings.encoder, utterance_front_end(settings.front_end).num_mels, settings.width)


def segments_per_step(settings):
    """How many segments a step reads: the same for every objective, so that equal steps are an equal budget."""
    return settings.nb_class_train * (settings.num_support + settings.num_query)


def open_short_utterances(settings):
    """Corpus and settings; what can be refused is refused here, before features are made or anything is trained."""
    experiment = ShortUtterances(settings, find_corpus(settings.corpus))
    train_speakers = experiment.split("train")["speaker"].nunique()
    if settings.nb_class_train > train_speakers:
        raise ValueError(f"nb_class_train={settings.nb_class_train}: corpus {experiment.corpus.name!r}, split 'train', "
                         f"has {train_speakers} speakers. Use at most so many, or a corpus with more.")
    if settings.test_length > settings.enroll_length:
        raise ValueError(f"test_length={settings.test_length} (the shortest query) is more than "
                         f"enroll_length={settings.enroll_length} (the support). Use a lower one.")
    experiment.new_network()
    experiment.draws.draw(0)
    for split, num_way in (("validation", 2), ("test", settings.nb_class_test)):
        require_tasks(experiment.split(split), experiment.utterances["frames"], num_way, experiment.rule,
                      f"corpus {experiment.corpus.name!r}, split {split!r}")
    return experiment


def train_short_utterances(experiment, run, on_progress=None):
    """Trains, or goes on training, in the run's folder. Returns (encoder with the best weights, history).

    A step is one episode, or one batch of as many segments. The weights that are kept are those with the highest mean
    accuracy of identification on validation speakers, over VALIDATION_LENGTHS. The run's folder then has
    encoder.safetensors: the encoder alone, with what a reader of it has to know.
    """
    settings, network, stores = experiment.settings, experiment.new_network(), experiment.training_features
    draws, tasks = experiment.draws, experiment.validation_tasks()

    def compute_loss(model, step):
        episode, device = draws.draw(step), next(model.parameters()).device
        random = np.random.default_rng((experiment.seed(_TRAIN), step))
        support, query = (
            None if crops is None else model(read_crops(crops, stores, random).to(device)).unflatten(
                0, crops.utterances.shape) for crops in (episode.support, episode.query))
        found = model.objective(support, query, torch.from_numpy(episode.speakers).to(device))
        scalars = {"episodic_loss": found.episodic_loss, "global_loss": found.global_loss,
                   "training_accuracy": found.episodic_accuracy, "global_accuracy": found.global_accuracy}
        return found.loss, {name: value for name, value in scalars.items() if value is not None}

    def validate(model):
        accuracy = accuracy_by_length(model, stores[0], tasks)
        each = {f"validation_accuracy_{length / 100:g}s": float(values.mean()) for length, values in accuracy.items()}
        return {"validation_accuracy": float(np.mean(list(each.values()))), **each}

    if "precision" not in run.record and not run.is_complete:
        run.write(precision=machine_precision(), segments_per_step=segments_per_step(settings),
                  validation_way=next(iter(tasks.values())).episodes.speakers.shape[1])
    try:
        history = train(
            network,
            compute_loss,
            folder=run.folder,
            num_train_iterations=settings.num_train_iterations,
            learning_rate=settings.learning_rate,
            test_interval=settings.test_interval,
            print_interval=settings.print_interval,
            validate=validate,
            optimizer="sgd",
            schedule="plateau",
            on_progress=on_progress,
            data={"front_end": identifier(stores[0].front_end), "corpus": experiment.corpus.fingerprint,
                  **{name: getattr(settings, name) for name in _TRAINED_ON}},
        )
    except KeyboardInterrupt:
        run.pause()
        raise
    load_weights(network, run.folder / "best.safetensors")
    if not run.is_complete:
        _keep_encoder(experiment, network.encoder, run, history)
    return network.encoder, history


def read_crops(crops, stores, random):
    """The segments of Crops, each from one of several stores, drawn by random: (way * each, 1, mels, frames)."""
    if len(stores) == 1:
        return crops.read(stores[0])
    utterances, starts = crops.utterances.ravel(), crops.starts.ravel()
    drawn = random.integers(len(stores), size=len(utterances))
    frames = torch.empty(len(utterances), 1, stores[0].num_mels, crops.length)
    for number in np.unique(drawn):
        places = np.flatnonzero(drawn == number)
        frames[torch.from_numpy(places)] = stores[number].segments(utterances[places], starts[places], crops.length)
    return frames


def _keep_encoder(experiment, encoder, run, history):
    """Writes encoder.safetensors, and its facts into the record."""
    settings, tested = experiment.settings, history.dropna(subset="validation_accuracy")
    facts = {"front_end": settings.front_end,
             "front_end_identifier": identifier(utterance_front_end(settings.front_end)),
             "num_mels": encoder.num_mels, "dim": encoder.dim,
             **{name: getattr(settings, name) for name in _TRAINED_ON},
             "corpus": experiment.corpus.name, "synthetic": bool(experiment.corpus.synthetic),
             "step": int(tested.loc[tested["validation_accuracy"].idxmax(), "step"]), "run": run.folder.name}
    save_weights(encoder.state_dict(), run.folder / "encoder.safetensors",
                 metadata={name: str(value) for name, value in facts.items()})
    run.write(speaker_encoder=facts)
