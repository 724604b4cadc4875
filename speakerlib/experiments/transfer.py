"""Chapter 05 from a pretrained encoder: compared with the same training from scratch, on identical tasks."""

from types import SimpleNamespace

import pandas as pd

from speakerlib.data.features import CONDITIONS
from speakerlib.experiments.evaluation import paired_interval
from speakerlib.experiments.nine_cells import NINE_CELLS, accuracy_on, episodes_of_cell
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.pretrained import NOTEBOOK as PRETRAINING
from speakerlib.experiments.pretrained import SCRATCH
from speakerlib.experiments.records import Run, run_folder, short_path
from speakerlib.experiments.training import load_weights

NOTEBOOK = "05_protonet_training"
CONTROL = {"init": SCRATCH, "frozen_blocks": 0, "layer_decay": 1.0, "norm_statistics": "batch"}  # all else is equal
COLUMNS = ["condition", "num_way", "num_support", "pretrained", "scratch", "difference", "low", "high"]


def scratch_run(experiment):
    """The complete run from scratch with the parameters of this one; None, and a sentence, where there is none."""
    settings = vars(experiment.settings)
    if settings["init"] == SCRATCH:
        print(f"init = {SCRATCH!r}: this encoder started from random weights. To start from an autoencoder's, train "
              f"one (speakerlib run {PRETRAINING}) and give the name of its run as init.")
        return None
    other = {**settings, **CONTROL}
    folder = run_folder(NOTEBOOK, SimpleNamespace(**other), experiment.corpus)
    if not (folder / "run.json").exists() or not Run.read(folder).is_complete:
        print("There is no complete run from scratch with these parameters yet. Make it, then open this one again:\n"
              f"  {command({**other, 'corpus': experiment.corpus.name})}")
        return None
    print(f"from scratch: {short_path(folder)}")
    return Run.read(folder)


def beside_scratch(experiment, encoder, run, scratch, progress=True):
    """The nine cells of a pretrained run beside those of a run from scratch; both networks meet the same tasks.

    scratch: as scratch_run returns it. Rows of condition, num_way, num_support, pretrained, scratch (accuracies),
    difference and its 95 % bootstrap interval over test speakers (low, high); none without a run from scratch. They
    are kept in the run record.
    """
    from tqdm.auto import tqdm

    if scratch is None:
        return pd.DataFrame(columns=COLUMNS)
    known = run.record.get("beside_scratch")
    if known and known["scratch"] == scratch.folder.name:
        return pd.DataFrame(known["rows"], columns=COLUMNS)
    other = experiment.new_encoder().to(next(encoder.parameters()).device)
    load_weights(other, scratch.folder / "best.safetensors")
    rows = []
    with tqdm(total=len(CONDITIONS) * len(NINE_CELLS), desc="beside scratch", disable=not progress) as bar:
        for condition in CONDITIONS:
            features = experiment.features(condition)
            accuracies = [accuracy_on(experiment, model, features) for model in (encoder, other)]
            for cell in NINE_CELLS:
                rows += _compared(experiment, condition, cell, accuracies)
                bar.update()
    run.write(beside_scratch={"scratch": scratch.folder.name, "rows": rows})
    return pd.DataFrame(rows, columns=COLUMNS)


def command(settings):
    """The command line that runs chapter 05 with these settings."""
    defaults = notebook_parameters(NOTEBOOK)
    changed = [f"-p {name} {value}" for name, value in settings.items() if value != defaults.get(name)]
    return " ".join(["speakerlib run", NOTEBOOK, *changed])


def _compared(experiment, condition, cell, accuracies):
    """One row; none where the test split cannot fill the cell."""
    try:
        episodes, _ = episodes_of_cell(experiment, *cell)
    except ValueError:
        return []
    pretrained, scratch = (accuracy_of(episodes) for accuracy_of in accuracies)
    difference, low, high = paired_interval(pretrained, scratch, episodes.speakers)
    means = float(pretrained.mean()), float(scratch.mean())
    return [dict(zip(COLUMNS, (condition, *cell, *means, difference, low, high), strict=True))]
