"""The one vocabulary: what every notebook parameter means, and which values it may take."""

import ast
import difflib
import json
from types import SimpleNamespace

from speakerlib.data.channels import FAMILIES
from speakerlib.data.files import project_folder
from speakerlib.data.front_ends import FRONT_ENDS
from speakerlib.experiments.augmentation import AUGMENTS
from speakerlib.models.encoders import ENCODERS
from speakerlib.models.masks import UNITS
from speakerlib.models.resnet import RESNETS, STRIDE
from speakerlib.models.short_utterance_objectives import LOGITS, LOSS_TYPES
from speakerlib.models.targets import TARGETS
from speakerlib.models.voice import POOLINGS


def whole(least, most=2**31 - 1):
    """A whole number from `least` to `most`."""
    return f"a whole number of at least {least} (at most {most})", lambda v: _is_whole(v) and least <= v <= most


def number(above, most=float("inf")):
    """A number greater than `above`, at most `most`."""
    text = f"a number greater than {above}" + ("" if most == float("inf") else f" and at most {most}")
    return text, lambda v: (_is_whole(v) or isinstance(v, float)) and above < v <= most


def between(least, most):
    """A number greater than `least` and less than `most`."""
    return f"a number between {least} and {most}, both excluded", lambda v: isinstance(v, float) and least < v < most


def within(least, most):
    """A number from `least` to `most`."""
    return f"a number from {least} to {most}", lambda v: (_is_whole(v) or isinstance(v, float)) and least <= v <= most


def choice(*options):
    """One of the options."""
    return "one of " + ", ".join(repr(option) for option in options), lambda v: v in options


TEXT = ("some text", lambda v: isinstance(v, str) and bool(v.strip()))

PARAMETERS = {  # name: (what is expected, check)
    "corpus": TEXT,
    "front_end": choice(*FRONT_ENDS),
    "encoder": choice(*ENCODERS),
    "num_way": whole(2),
    "num_support": whole(1),
    "num_query": whole(1),
    "batch_size": whole(1),
    "num_train_iterations": whole(1),
    "test_interval": whole(1),
    "print_interval": whole(1),
    "test_tasks": whole(2),
    "learning_rate": number(0, 10),
    "segment_seconds": number(0, 60),
    "mask": choice(*UNITS, "mixed"),
    "mask_ratio": between(0, 1),
    "target": choice(*TARGETS),
    "agreement": within(0, 1),
    "augment": choice(*AUGMENTS),
    "num_processes": whole(1, 64),
    "init": TEXT,
    "labelled_speakers": whole(0),
    "frozen_blocks": whole(0),
    "layer_decay": number(0, 1),
    "norm_statistics": choice("batch", "pretrained", "unlabelled"),
    "width": within(1 / 32, 8),
    "loss_type": choice(*LOSS_TYPES),
    "use_global_classification": choice(True, False),
    "use_variable_length": choice(True, False),
    "logits": choice(*LOGITS),
    "nb_class_train": whole(2),
    "nb_class_test": whole(2),
    "enroll_length": whole(STRIDE),  # frames of 10 ms
    "test_length": whole(STRIDE),
    "protocol": choice("corrected", "as_published"),
    "condition": choice("recorded", "changed"),
    "channel_family": choice(*FAMILIES),
    "trials": TEXT,
    "trials_per_speaker": whole(1),
    "episode_rule": choice("auto", "segment", "utterance", "session"),
    "seed": whole(0),
    "speed_perturbation": choice(True, False),
    "pooling": choice(*POOLINGS),
    "use_pairs": choice(True, False),
    "spec_augment": choice(True, False),
    "num_copies": whole(1, 100),
    "people_folder": TEXT,
    "recording": TEXT,
    "num_people": whole(2, 40),
    "num_clips": whole(1, 50),
    "test_clips": whole(4),
    "url_directory": TEXT,
    "output": TEXT,
    "url_template": TEXT,
    "num_workers": whole(1, 64),
    "videos_per_hour": number(0, 1e6),
    "keep_audio": choice(True, False),
    "min_utterances": whole(1),
}
NOT_OF_A_RUN = ("num_processes",)  # how a run is computed, not what: its results are the same up to rounding
APART = {  # notebook: what it takes where that differs from PARAMETERS
    "10_voice_training": {
        "front_end": choice(*(name for name, record in FRONT_ENDS.items() if record.scaling == "log")),
        "augment": choice("none", *FAMILIES, "both"),
        "loss_type": choice("softmax", "am_softmax"),
        "width": within(1 / 4, 8),
    },
    "06_short_utterance_training": {
        "encoder": choice(*RESNETS),
        "front_end": choice("kye", *(name for name, record in FRONT_ENDS.items() if record.scaling == "log")),
    },
}


def checkpoint_split(protocol):
    """Whose clips or tasks choose a checkpoint: those of validation speakers, except as published."""
    return "test" if protocol == "as_published" else "validation"


def notebook_path(notebook):
    """notebooks/<notebook>.ipynb; FileNotFoundError that names the nearest one."""
    folder = project_folder() / "notebooks"
    path = folder / f"{str(notebook).removesuffix('.ipynb')}.ipynb"
    if path.parent != folder or not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.ipynb"))
        raise FileNotFoundError(
            f"there is no notebook {str(notebook)!r}{_nearest(path.stem, known)} The notebooks are: {', '.join(known)}."
        )
    return path


def notebook_parameters(notebook):
    """The defaults of a notebook: name -> value, read from its one cell tagged `parameters`."""
    cells = json.loads(notebook_path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: {len(tagged)} cells are tagged 'parameters'; expected exactly one.")
    tree = ast.parse("".join(tagged[0]["source"]))
    return {line.targets[0].id: ast.literal_eval(line.value) for line in tree.body}


def check_parameters(values, known, where):
    """Checks names against `known` (name -> default) and values against PARAMETERS; where: the notebook.

    Returns a dict of all of `known`, with `values` in place of the defaults. ValueError names the nearest
    valid name, or the value seen and what was expected.
    """
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where} has no parameter {name!r}{_nearest(name, known)} It has: {', '.join(known)}.")
        expected, accepts = APART.get(where, {}).get(name, PARAMETERS[name])
        if not accepts(value):
            raise ValueError(f"{name}={value!r}: expected {expected}.")
    return {**known, **values}


def read_parameters(notebook, variables):
    """The notebook's parameters, checked: call it with globals() right after the parameters cell.

    At that point the kernel holds nothing but the parameters, so a name that the notebook does not know (which
    papermill would only warn of) is an error. On a second execution, when `settings` exists, only the values
    are checked. Returns a namespace: settings.num_way, ...
    """
    known = notebook_parameters(notebook)
    plain = {
        name: value
        for name, value in variables.items()
        if not name.startswith("_")
        and (value is None or isinstance(value, (bool, int, float, str, list, dict)))
        and name not in ("In", "Out")
    }
    plain |= {name: variables[name] for name in known if name in variables}  # whatever became of it since
    if "settings" in variables:
        plain = {name: value for name, value in plain.items() if name in known}
    return SimpleNamespace(**check_parameters(plain, known, notebook))


def parse_value(text):
    """A value as typed on a command line: 10, 0.5, True, or text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _nearest(name, known):
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
