"""Encoders of speech of any length: found by a run of chapters 04 to 06, a file, or a name, for chapter 07."""

import difflib
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from speakerlib.data.files import data_folder
from speakerlib.data.front_ends import clip_size, identifier
from speakerlib.data.kye_front_end import KYE
from speakerlib.data.utterance_features import utterance_front_end
from speakerlib.experiments.checkpoints import load_weights
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.pretrained import NOTEBOOK as PRETRAINING
from speakerlib.experiments.pretrained import read_autoencoder
from speakerlib.experiments.records import Run, run_folder
from speakerlib.experiments.short_utterance import NOTEBOOK as SHORT_UTTERANCES
from speakerlib.experiments.short_utterance import build_short_utterance_encoder
from speakerlib.experiments.transfer import NOTEBOOK as PROTONET
from speakerlib.experiments.voice_weights import NOTEBOOK as VOICE
from speakerlib.experiments.voice_weights import build_encoder as build_voice_encoder
from speakerlib.models.encoders import build_encoder
from speakerlib.models.resnet import ResNetEncoder, load_kye_checkpoint

UNTRAINED = "untrained"  # random weights: what training has to beat
CHECKPOINTS = (".pth", ".pt", ".tar")  # of the authors of Kye et al. 2020
NOTEBOOKS = (SHORT_UTTERANCES, PROTONET, PRETRAINING, VOICE)


class OverWindows(nn.Module):
    """An encoder of segments of one length, over clips of any length: the mean over evenly spread windows.

    forward: (batch, 1, num_mels, frames) -> (batch, dim). Windows overlap by half or more; a clip that is shorter is
    repeated to fill one. mean_normalise: each mel's mean over the window is removed, as in training.
    """

    def __init__(self, encoder, mean_normalise):
        super().__init__()
        self.encoder, self.mean_normalise = encoder, mean_normalise
        self.dim, self.num_mels = encoder.dim, encoder.num_mels

    def forward(self, frames):
        length = self.encoder.num_frames
        if frames.shape[-1] < length:
            frames = frames[..., torch.arange(length, device=frames.device) % frames.shape[-1]]
        beyond = frames.shape[-1] - length
        count = 1 + -(-2 * beyond // length)
        starts = torch.linspace(0, beyond, count).round().long().tolist()
        windows = torch.stack([frames[..., start:start + length] for start in starts], dim=1)
        if self.mean_normalise:
            windows = windows - windows.mean(dim=-1, keepdim=True)
        return self.encoder(windows.flatten(0, 1)).unflatten(0, (len(frames), count)).mean(dim=1)


def read_speaker_encoder(init, corpus=None, seed=0):
    """(encoder in eval mode, facts): (batch, 1, num_mels, frames), any length -> (batch, dim).

    init: a complete run of chapter 06, 05 or 04, by its id or folder; the name of one of these notebooks, for its run
    with the default parameters on this Corpus; "untrained", a quarter-width ResNet34 with random weights of the seed;
    or a checkpoint (.pth) of the authors of Kye et al. 2020, of any depth and width. Encoders of chapters 04 and 05
    know one length only: see OverWindows. facts: kind (a notebook, "untrained" or "checkpoint"), encoder, front_end,
    dim, run, corpus and synthetic (that it was trained on), sha256 of the weights, parameters (of its run), and what
    else its record tells.

    Raises FileNotFoundError if there is no such run or file; ValueError for one that is not complete, of another
    kind, whose front end has changed since, or has no frames of whole utterances.
    """
    if init == UNTRAINED:
        return _untrained(seed)
    if Path(str(init)).suffix in CHECKPOINTS:
        encoder, speakers, epoch = load_kye_checkpoint(init)
        facts = {"encoder": encoder.name, "width": encoder.width, "front_end": KYE.name, "dim": encoder.dim,
                 "train_speakers": len(speakers), "step": epoch}
        return encoder, {"kind": "checkpoint", "run": Path(init).name, **facts, "sha256": _digest(Path(init))}
    run = Run.read(_find(str(init), corpus))
    notebook = run.record.get("notebook")
    if notebook not in _READERS:
        raise ValueError(f"init={init!r} is a run of {notebook}, which trains no encoder of speakers. Give a run of "
                         f"{', '.join(NOTEBOOKS)}.")
    if not run.is_complete:
        raise ValueError(f"init={init!r} is a run that was cut short. Run it again with the same parameters; it goes "
                         "on from its last checkpoint.")
    encoder, facts = _READERS[notebook](run)
    trained_on = run.record.get("corpus") or {}
    return encoder.eval(), {"kind": notebook, "run": run.folder.name, "corpus": trained_on.get("name"),
                            "synthetic": trained_on.get("synthetic"), "dim": encoder.dim, **facts,
                            "parameters": run.record["parameters"]}


def _untrained(seed):
    settings = {"encoder": "resnet34", "width": 0.25, "front_end": KYE.name}
    torch.manual_seed(seed)
    encoder = ResNetEncoder(settings["encoder"], KYE.num_mels, settings["width"])
    return encoder.eval(), {"kind": UNTRAINED, "run": UNTRAINED, **settings, "dim": encoder.dim, "seed": seed}


def _of_short_utterances(run):
    facts = run.record.get("speaker_encoder")
    if not facts:
        raise ValueError(f"{run.folder} does not tell of its encoder (no speaker_encoder in its record). Delete it and "
                         "run it again.")
    front = utterance_front_end(facts["front_end"])
    _require_unchanged(run, facts["front_end"], identifier(front), facts["front_end_identifier"])
    encoder = build_short_utterance_encoder(SimpleNamespace(**facts))
    return encoder, {**facts, "sha256": _load(encoder, run.folder / "encoder.safetensors")}


def _of_voice(run):
    facts = run.record["speaker_encoder"]
    _require_unchanged(run, facts["front_end"], identifier(utterance_front_end(facts["front_end"])),
                       facts["front_end_identifier"])
    encoder = build_voice_encoder({name: str(value) for name, value in facts.items()})
    digest = _load(encoder.encoder, run.folder / "encoder.safetensors")
    return encoder, {**facts, "dim": encoder.dim, "sha256": digest}


def _of_protonet(run):
    settings = SimpleNamespace(**run.record["parameters"])
    front = utterance_front_end(settings.front_end)
    encoder = build_encoder(settings.encoder, *clip_size(front, settings.segment_seconds))
    digest = _load(encoder, run.folder / "best.safetensors")
    names = ("encoder", "front_end", "segment_seconds", "init", "augment", "labelled_speakers", "seed")
    return OverWindows(encoder, front.mean_normalise), {
        **{name: getattr(settings, name, None) for name in names}, "sha256": digest}


def _of_pretraining(run):
    model, facts = read_autoencoder(run.folder)
    front = utterance_front_end(facts["front_end"])
    names = ("encoder", "front_end", "segment_seconds", "mask", "mask_ratio", "target", "augment", "step", "sha256")
    return OverWindows(model.encoder, front.mean_normalise), {name: facts[name] for name in names}


def _load(encoder, path):
    load_weights(encoder, path)
    return _digest(path)


def _digest(path):
    return sha256(path.read_bytes()).hexdigest()


def _require_unchanged(run, name, now, then):
    if now != then:
        raise ValueError(f"{run.folder} was trained on front end {name!r} ({then}), which is another one in this "
                         f"version ({now}). Train it again: speakerlib run {run.record['notebook']} --force")


def _find(init, corpus):
    """The run folder that init names."""
    runs = data_folder() / "runs"
    if init in NOTEBOOKS:
        if corpus is None:
            raise ValueError(f"init={init!r} is a notebook: its run is found by a corpus, and none was given.")
        folder = run_folder(init, SimpleNamespace(**{**notebook_parameters(init), "corpus": corpus.name}), corpus)
        if (folder / "run.json").is_file():
            return folder
        raise FileNotFoundError(f"init={init!r}: there is no run of it with its default parameters on corpus "
                                f"{corpus.name!r} as it is now. Make it: speakerlib run {init} -p corpus {corpus.name}")
    for place in (*(runs / notebook / init for notebook in NOTEBOOKS), Path(init).expanduser()):
        if (place / "run.json").is_file():
            return place
    known = [path.parent for notebook in NOTEBOOKS for path in (runs / notebook).glob("*/run.json")]
    names = [folder.name for folder in sorted(known, key=lambda folder: -folder.stat().st_mtime)]
    near = difflib.get_close_matches(init, names, n=1, cutoff=0.5)
    raise FileNotFoundError(
        f"init={init!r}: there is no such run of {', '.join(NOTEBOOKS)}"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + (f" The newest runs are {', '.join(names[:3])}." if names else
           f" Make one: speakerlib run {SHORT_UTTERANCES}; or use init={UNTRAINED!r}."))


_READERS = {SHORT_UTTERANCES: _of_short_utterances, PROTONET: _of_protonet, PRETRAINING: _of_pretraining,
            VOICE: _of_voice}
