"""People who are enrolled, as a file: their names and embeddings, never their voices unless asked."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from speakerlib.data.audio import read_int16, write_audio

FORMAT = "1"
LONGEST_NAME = 100
FILE = "people.safetensors"
RESERVED = ("unknown", "silence")  # what answers are called that are no person


def check_person(name):
    """Returns a person's name without spaces around it; ValueError for what cannot be one."""
    if not isinstance(name, str):
        raise ValueError(f"a name is a text, this one is {name!r}.")
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or "/" in name or "\\" in name:
        raise ValueError(f"{name!r} cannot be a person's name: expected 1 to {LONGEST_NAME} printable characters, none "
                         "of them a slash. Enrol under another name.")
    if name.lower() in RESERVED:
        raise ValueError(f"{name!r} cannot be a person's name: it is what a clip of nobody is called. Use another.")
    return name


def write_people(path, clips, embeddings, audio, digest):
    """Writes people.safetensors, or the file that `path` names, atomically. Returns its path.

    clips: name, source, seconds; embeddings: (clips, dim); audio: None, or int16 samples a clip, which go to the folder
    <name of the file>-audio as 0001.flac and so on; digest: of the encoder's weights. ValueError if a clip's audio is
    asked for and was not kept, or the path ends in something else than .safetensors.
    """
    from speakerlib.experiments.checkpoints import save_weights

    path = _file(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a folder, or a file that ends in .safetensors.")
    if audio is not None:
        if missing := sum(samples is None for samples in audio):
            raise ValueError(f"the audio of {missing} of {len(audio)} clips is not there: only their embeddings were "
                             "loaded. Enrol these people from their clips again, or save without audio.")
        for number, samples in enumerate(audio, 1):
            write_audio(_audio_path(path, number), samples)
    record = {"format": FORMAT, "weights": digest, "audio": audio is not None,
              "clips": clips[["name", "source", "seconds"]].to_dict("records")}
    save_weights({"embeddings": torch.from_numpy(embeddings)}, path,
                 metadata={"people": json.dumps(record, ensure_ascii=False)})
    return path


def read_people(path, digest, dim):
    """(clips, embeddings, audio) of a file that write_people wrote; audio is a list, of None where it was not kept.

    Raises FileNotFoundError if there is no such file; ValueError if it is another kind of file, damaged, or of other
    weights than those of the digest.
    """
    from safetensors import SafetensorError, safe_open

    path = _file(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of people {path}. SpeakerIdentifier.save writes one.")
    try:
        with safe_open(path, "np") as file:
            record = json.loads((file.metadata() or {}).get("people", "null"))
            embeddings = file.get_tensor("embeddings") if "embeddings" in file.keys() else None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is no file of people, or is damaged ({error}).") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or embeddings is None:
        raise ValueError(f"{path} is no file of people that this version reads. Enrol from the clips again.")
    if record.get("weights") != digest:
        raise ValueError(f"{path} was written with other weights ({str(record.get('weights'))[:8]}) than are loaded "
                         f"({digest[:8]}): their embeddings cannot be compared. Load those weights, or enrol from the "
                         "clips again.")
    clips = pd.DataFrame(record["clips"], columns=["name", "source", "seconds"])
    lengths = np.linalg.norm(embeddings.astype(float), axis=-1)
    if embeddings.shape != (len(clips), dim) or not len(clips) or not (np.abs(lengths - 1) < 1e-3).all():
        raise ValueError(f"{path} is damaged: embeddings of shape {embeddings.shape} for {len(clips)} clips, expected "
                         f"unit length and {dim} numbers each. Enrol from the clips again.")
    clips["name"] = [check_person(name) for name in clips["name"]]
    audio = [_read_audio(_audio_path(path, number)) if record.get("audio") else None
             for number in range(1, 1 + len(clips))]
    return clips, embeddings.astype(np.float32), audio


def _file(path):
    path = Path(path).expanduser()
    return path / FILE if path.is_dir() or not path.suffix else path


def _audio_path(path, number):
    return path.with_name(f"{path.stem}-audio") / f"{number:04d}.flac"


def _read_audio(path):
    """int16 samples at 16 kHz, None if somebody took the file away."""
    return read_int16(path) if path.is_file() else None


