"""Chapter 10: trains an encoder on voices at several speeds through many channels, so that it learns the voice."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import numpy as np
import torch
from torch import nn

from speakerlib.data.channels import FAMILIES
from speakerlib.data.corpora import find_corpus
from speakerlib.data.episodes import default_rule
from speakerlib.data.front_ends import identifier
from speakerlib.data.speeds import SPEEDS
from speakerlib.data.utterance_features import prepare_utterance_features, utterance_front_end, utterance_table
from speakerlib.data.voice_batches import VoiceBatches
from speakerlib.experiments.checkpoints import save_weights
from speakerlib.experiments.training import load_weights, machine_precision, train
from speakerlib.experiments.voice_tasks import CONDITIONS, draw_voice_tasks, voice_accuracy
from speakerlib.experiments.voice_weights import voice_header, warped
from speakerlib.models.short_utterance_objectives import SCALE, additive_margin_loss, angular_prototypical_loss
from speakerlib.models.voice import CHANNELS, WIDTH, VoiceEncoder

AUGMENTS = ("none", *FAMILIES, "both")
LOSS_TYPES = ("softmax", "am_softmax")
RECORDED_SHARE = 0.3  # how often a clip of a batch is as recorded, where training hears channels too
FAMILY_WEIGHTS = {"I": 55, "II": 15}  # how often it is of each family, of those that training hears
MARGIN = 0.2  # of am_softmax; reached after WARM_MARGIN of the steps
WARM_MARGIN = 0.3
VALIDATION_TASKS = 200
LARGEST_GRADIENT = 5.0  # norm

_TRAINED_ON = ("augment", "speed_perturbation", "pooling", "loss_type", "use_pairs", "spec_augment", "batch_size",
               "num_copies", "seed")
_TRAIN, _VALIDATION, _TEST = 0, 1, 2  # each purpose draws tasks of its own


class VoiceNetwork(nn.Module):
    """An encoder with the weights of the training voices and the scale of pairs, which are trained beside it."""

    def __init__(self, encoder, num_voices):
        super().__init__()
        self.encoder = encoder
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_voices, encoder.dim)))
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, frames):
        return self.encoder(frames)


@dataclass(frozen=True)
class Voice:
    """The settings of notebook 10 and the data they name."""

    settings: object
    corpus: object

    @cached_property
    def utterances(self):
        """The table of utterances; it needs no features."""
        return utterance_table(self.corpus, utterance_front_end(self.settings.front_end))

    def split(self, name):
        """The utterances of one split."""
        return self.utterances[self.utterances["split"] == name]

    def features(self, condition, channel_family="I", channel_seed=0, speed=1.0, split="test"):
        """The frames of one split's utterances, made if they are not there."""
        return prepare_utterance_features(self.corpus, self.settings.front_end, condition, channel_seed, channel_family,
                                          speed=speed, split=split)

    @cached_property
    def speeds(self):
        """The speeds at which training speakers are heard."""
        return SPEEDS if self.settings.speed_perturbation else (1.0,)

    @cached_property
    def copies(self):
        """What training hears of each utterance: (condition, family, channel seed); tests are of channel seed 0."""
        augment = self.settings.augment
        families = {"none": (), "both": tuple(FAMILIES)}.get(augment, (augment,))
        return [("recorded", "I", 0), *(("changed", family, seed) for family in families
                                        for seed in range(1, 1 + self.settings.num_copies))]

    @property
    def shares(self):
        """How often a clip is of each copy: evenly within a family."""
        families = [family for condition, family, _ in self.copies if condition == "changed"]
        weights = np.array([FAMILY_WEIGHTS[family] / families.count(family) for family in families])
        if not families:
            return np.ones(1)
        return np.concatenate([[RECORDED_SHARE], (1 - RECORDED_SHARE) * weights / weights.sum()])

    @cached_property
    def batches(self):
        """The batches that training meets; the copies are made if they are not there."""
        from tqdm.auto import tqdm

        wanted = [(speed, copy) for speed in self.speeds for copy in self.copies]
        made = [self.features(*copy, speed=speed, split="train")
                for speed, copy in tqdm(wanted, desc="copies of the training speech", unit="copy", delay=5)]
        stores = [made[first:first + len(self.copies)] for first in range(0, len(made), len(self.copies))]
        settings = self.settings
        return VoiceBatches(stores, "train", settings.batch_size, self.seed(_TRAIN), settings.use_pairs,
                            settings.spec_augment, self.shares)

    @cached_property
    def rule(self):
        """What enrolment and queries never share: the strictest that the corpus allows."""
        return default_rule(self.utterances)

    def seed(self, purpose):
        """The seed of the batches or tasks of one purpose; all runs meet the same tests."""
        return 3 * self.settings.seed + purpose if purpose == _TRAIN else purpose

    def tasks(self, split):
        """{name: IdentificationTasks} of `validation` or `test` speakers, the same for every seed of training."""
        purpose, count = (_TEST, self.settings.test_tasks) if split == "test" else (_VALIDATION, VALIDATION_TASKS)
        return draw_voice_tasks(self.split(split), self.utterances["frames"], count, self.rule, self.seed(purpose))

    def new_encoder(self):
        """An encoder with the random weights of the seed."""
        torch.manual_seed(self.settings.seed)
        mels, width = utterance_front_end(self.settings.front_end).num_mels, self.settings.width
        channels = [round(width * count) for count in CHANNELS]
        return VoiceEncoder(mels, channels, round(width * WIDTH), pooling=self.settings.pooling)


def open_voice(settings):
    """Corpus and settings; what can be refused is refused here, before features are made or anything is trained."""
    experiment = Voice(settings, find_corpus(settings.corpus))
    if settings.use_pairs and settings.batch_size % 2:
        raise ValueError(f"batch_size={settings.batch_size}: with use_pairs a batch is pairs of clips; expected an "
                         "even number.")
    for split in ("train", "validation", "test"):
        speakers = experiment.split(split)["speaker"].nunique()
        if speakers < 2:
            raise ValueError(f"corpus {experiment.corpus.name!r}, split {split!r}, has {speakers} speakers; expected "
                             "at least 2. Import it with other splits.")
    experiment.new_encoder()
    for split in ("validation", "test"):
        experiment.tasks(split)
    return experiment


def train_voice(experiment, run, on_progress=None):
    """Trains, or goes on training, in the run's folder. Returns (WarpedEncoder of the best weights, history).

    The loss of a batch is the softmax over training voices, with an additive margin that grows over the first
    WARM_MARGIN of the steps, and with use_pairs the angular prototypical loss between the first and second clips. The
    weights that are kept are those with the highest mean accuracy on validation speakers, over three conditions and the
    tasks with clips of 3 s, heard as they are. The run's folder then has encoder.safetensors: the encoder alone, with
    its warps and what a reader of it has to know. Batches are read in a thread beside the training; `waited` in the
    record is the share of its time that the training waited for them.
    """
    settings, batches = experiment.settings, experiment.batches
    network = VoiceNetwork(experiment.new_encoder(), batches.num_voices)
    stores = {name: experiment.features(*copy, split="validation") for name, copy in CONDITIONS.items()}
    tasks = {name: task for name, task in experiment.tasks("validation").items() if "1 s" not in name}
    total, began = settings.num_train_iterations, perf_counter()

    def compute_loss(model, step):
        device = next(model.parameters()).device
        parts, voices = ahead(step)
        embeddings, voices = torch.cat([model(frames.to(device)).float() for frames in parts]), voices.to(device)
        margin = MARGIN * min(1.0, step / max(1, WARM_MARGIN * total)) if settings.loss_type == "am_softmax" else 0.0
        loss, accuracy = additive_margin_loss(embeddings, voices, model.weight, margin, SCALE)
        told = {"global_loss": loss, "training_accuracy": accuracy}
        if settings.use_pairs:
            first, second = embeddings.unflatten(0, (2, -1))
            paired, told["pair_accuracy"] = angular_prototypical_loss(first[:, None], second[:, None], model.scale)
            loss, told["pair_loss"] = loss + paired, paired
        return loss, told

    def validate(model):
        found = {name: voice_accuracy(model, store, tasks) for name, store in stores.items()}
        each = {f"validation_accuracy_{name.replace(' ', '_')}": float(np.mean([one.mean() for one in part.values()]))
                for name, part in found.items()}
        return {"validation_accuracy": float(np.mean(list(each.values()))), **each}

    if "precision" not in run.record and not run.is_complete:
        run.write(precision=machine_precision(), num_voices=batches.num_voices)
    try:
        with ReadAhead(batches.read, total) as ahead:
            history = train(
                network,
                compute_loss,
                folder=run.folder,
                num_train_iterations=total,
                learning_rate=settings.learning_rate,
                test_interval=settings.test_interval,
                print_interval=settings.print_interval,
                validate=validate,
                optimizer="adamw",
                schedule="cosine",
                clip=LARGEST_GRADIENT,
                on_progress=on_progress,
                data={"front_end": identifier(stores["recorded"].front_end), "corpus": experiment.corpus.fingerprint,
                      "encoder_width": settings.width, **{name: getattr(settings, name) for name in _TRAINED_ON}},
            )
    except KeyboardInterrupt:
        run.pause()
        raise
    load_weights(network, run.folder / "best.safetensors")
    encoder = warped(network.encoder, utterance_front_end(settings.front_end))
    if not run.is_complete:
        run.write(waited=round(ahead.waited / (perf_counter() - began), 4))
        _keep_encoder(experiment, encoder, run, history)
    return encoder, history


class ReadAhead:
    """read(step) of steps in turn, each begun in a thread while the step before is worked on; `waited`: seconds."""

    def __init__(self, read, steps):
        self.read, self.steps, self.waited = read, steps, 0.0
        self.coming = {}

    def __enter__(self):
        self.thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *_):
        self.thread.shutdown(cancel_futures=True)

    def __call__(self, step):
        if step not in self.coming:  # the first, or after a jump
            self.coming = {step: self.thread.submit(self.read, step)}
        found = self.coming.pop(step)
        if step + 1 < self.steps:
            self.coming = {step + 1: self.thread.submit(self.read, step + 1)}
        began = perf_counter()
        batch = found.result()
        self.waited += perf_counter() - began
        return batch


def _keep_encoder(experiment, encoder, run, history):
    """Writes encoder.safetensors, and its facts into the record."""
    settings, tested = experiment.settings, history.dropna(subset="validation_accuracy")
    facts = {**{name: getattr(settings, name) for name in _TRAINED_ON}, "corpus": experiment.corpus.name,
             "synthetic": bool(experiment.corpus.synthetic),
             "step": int(tested.loc[tested["validation_accuracy"].idxmax(), "step"]), "run": run.folder.name}
    header = voice_header(encoder, utterance_front_end(settings.front_end), **facts)
    save_weights(encoder.encoder.state_dict(), run.folder / "encoder.safetensors", header)
    run.write(speaker_encoder=header | facts)
