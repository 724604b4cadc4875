"""Autoencoders that were trained: found by a run of chapter 04 or a file, and taken over by chapters 03 and 05."""

import difflib
import json
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from speakerlib.data.files import data_folder, project_folder
from speakerlib.data.front_ends import FRONT_ENDS, identifier
from speakerlib.experiments.checkpoints import load_weights, save_weights
from speakerlib.experiments.records import Run
from speakerlib.models.autoencoder import ConvAutoencoder, build_autoencoder

NOTEBOOK = "04_mae_pretraining"
SCRATCH = "scratch"  # the value of `init` that starts from random weights
DEMO = "demo"  # the autoencoder that ships
DEMO_WEIGHTS = project_folder() / "speakerlib" / "weights" / "demo_autoencoder.safetensors"
_NEEDED = ("front_end", "front_end_identifier", "segment_seconds", "num_mels", "num_frames", "mask", "mask_ratio",
           "protocol", "corpus", "synthetic", "step")
_FIRST = {"encoder": "conv6", "target": "clip", "augment": "none", "agreement": 0.0}  # of the oldest, which do not say


def read_autoencoder(init=DEMO):
    """(autoencoder in eval mode, facts) of a complete run of chapter 04: its id or folder; or of a file.

    init: a run id, a run's folder, a .safetensors file that export_autoencoder wrote, or "demo": the one that ships,
    trained on synthetic speech. facts: encoder, front_end, segment_seconds, num_mels, num_frames, mask, mask_ratio,
    target, augment, agreement, protocol, corpus, synthetic, step (of the weights), run, and sha256 of the file.

    Raises FileNotFoundError if there is no such run or file; ValueError if it is a run of another notebook, an
    unfinished one, a file that is truncated or of another network, or of a front end that has changed since.
    """
    place = _find(str(init))
    path, facts = _of_run(place) if place.is_dir() else (place, _facts_in(place))
    facts = _FIRST | _checked(facts, path)
    model = build_autoencoder(facts["encoder"], facts["num_mels"], facts["num_frames"], facts["protocol"],
                              facts["target"])
    load_weights(model, path)
    return model.eval(), {**facts, "sha256": sha256(path.read_bytes()).hexdigest()}


def read_encoder(init, encoder, front_end, segment_seconds):
    """(encoder, facts) of an autoencoder; ValueError if it is another encoder, or was trained on other clips."""
    model, facts = read_autoencoder(init)
    asked = {"encoder": encoder, "front_end": front_end, "segment_seconds": float(segment_seconds)}
    if any(facts[name] != value for name, value in asked.items()):
        raise ValueError(f"init={str(init)!r} was trained with " + _listed({name: facts[name] for name in asked})
                         + f"; this training asks for {_listed(asked)}. Use the same here, or pretrain with these: "
                         f"speakerlib run {NOTEBOOK} " + " ".join(f"-p {name} {asked[name]}" for name in asked))
    return model.encoder, facts


def export_autoencoder(init, path):
    """Writes an autoencoder as one file that read_autoencoder reads anywhere: the weights, its facts in the header."""
    model, facts = read_autoencoder(init)
    facts = {name: value for name, value in facts.items() if name != "sha256"}
    save_weights(model.state_dict(), path, metadata={"autoencoder": json.dumps(facts, sort_keys=True)})


def _listed(values):
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _find(init):
    """The run folder or file that init names."""
    if init == DEMO:
        return DEMO_WEIGHTS
    runs, given = data_folder() / "runs" / NOTEBOOK, Path(init).expanduser()
    for place in (runs / init, given):
        if place.exists():
            return place
    known = sorted((path.parent for path in runs.glob("*/run.json")), key=lambda folder: folder.stat().st_mtime)
    names = [folder.name for folder in reversed(known)]
    near = difflib.get_close_matches(init, names, n=1, cutoff=0.5)
    raise FileNotFoundError(
        f"init={init!r}: there is no such run of {NOTEBOOK}, and no such file"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + (f" The newest runs are {', '.join(names[:3])}." if names else f" Make one: speakerlib run {NOTEBOOK}"))


def _of_run(folder):
    """(path of the best weights, facts) of a run's folder."""
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} is no run: it has no run.json. Give the folder of a run of {NOTEBOOK}.")
    run = Run.read(folder)
    if run.record.get("notebook") != NOTEBOOK:
        raise ValueError(f"{folder} is a run of {run.record.get('notebook')}, which trains no autoencoder. "
                         f"Give a run of {NOTEBOOK}.")
    if not run.is_complete or "autoencoder" not in run.record:
        raise ValueError(f"{folder} is a run that was cut short. Run it again with the same parameters; it goes on "
                         "from its last checkpoint.")
    return folder / "best.safetensors", run.record["autoencoder"]


def _facts_in(path):
    """The facts in a file's header; {} if it has none."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("autoencoder", "{}"))
    except (SafetensorError, ValueError, OSError):
        load_weights(ConvAutoencoder(64, 64), path)  # says what is wrong with the file
        return {}


def _checked(facts, path):
    """The facts, if they are whole and their front end is still what it was."""
    missing = [name for name in _NEEDED if name not in facts]
    if missing:
        names = ", ".join(sorted(load_file(path))[:2])
        raise ValueError(f"{path} does not say of what it is the autoencoder (no {', '.join(missing[:3])}; it holds "
                         f"{names}, ...). Expected a file written by export_autoencoder, or a run of {NOTEBOOK}.")
    name = facts["front_end"]
    if name not in FRONT_ENDS or identifier(FRONT_ENDS[name]) != facts["front_end_identifier"]:
        raise ValueError(f"{path} was trained on front end {name!r} ({facts['front_end_identifier']}), which is "
                         f"another one in this version. Train it again: speakerlib run {NOTEBOOK} --force")
    return facts
