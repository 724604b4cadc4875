"""Unseen-speaker identification by the length of the query: a long enrolment, shorter and shorter questions."""

import numpy as np
import torch

from speakerlib.data.clips import take_clips
from speakerlib.data.features import CONDITIONS
from speakerlib.data.identification_tasks import draw_identification
from speakerlib.experiments.evaluation import accuracy_by_speaker, with_intervals
from speakerlib.experiments.records import read_runs
from speakerlib.experiments.scoring import embed_clips, identify

QUERY_LENGTHS = (50, 100, 200, 300)  # frames of 10 ms
ENROLMENT = {"num_support": 1, "enroll_length": 500}  # 1 shot of 5 s and 5 queries, as Kye et al. 2020
NUM_QUERY = 5
OBJECTIVE = ("loss_type", "use_global_classification", "use_variable_length", "logits")  # all else is the recipe
_NAMES = {"softmax": "softmax", "prototypical": "prototypical", "am_softmax": "additive margin",
          "angular_prototypical": "angular prototypical"}


def draw_tasks(table, frames, num_way, num_tasks, rule, seed, lengths=QUERY_LENGTHS):
    """{query length: IdentificationTasks}: the same enrolments, and the same tasks, for every length.

    table: the utterances of one split; frames: of all the corpus' utterances. See draw_identification.
    """
    return {length: draw_identification(table, frames, num_way, num_tasks, **ENROLMENT, num_query=NUM_QUERY,
                                        test_length=length, rule=rule, seed=seed, num_enrolments=4, num_cuts=1)
            for length in lengths}


def require_tasks(table, frames, num_way, rule, name):
    """ValueError, naming the split, unless it can fill tasks of so many speakers."""
    try:
        draw_tasks(table, frames, num_way, 1, rule, 0, QUERY_LENGTHS[:1])
    except ValueError as error:
        raise ValueError(f"{name}: {error} For tests num_way is nb_class_test.") from None


def accuracy_by_length(encoder, features, tasks):
    """{query length: (tasks, way) accuracy}: the fraction of each speaker's queries that was attributed to it.

    tasks: as draw_tasks returns them; a query goes to the enrolment with the highest cosine.
    """
    first = next(iter(tasks.values()))
    enrolments = embed_clips(encoder, features, take_clips(first.clips, range(first.num_enrolments)), progress=False)
    found = {}
    for length, each in tasks.items():
        queries = take_clips(each.clips, range(each.num_enrolments, len(each.clips)))
        queries = embed_clips(encoder, features, queries, progress=False)
        found[length] = identify(torch.cat([enrolments, queries]), each.episodes)
    return found


def evaluate_by_length(experiment, encoder, run, progress=True):
    """A row for each condition and query length of test speakers: accuracy with its intervals, and by speaker."""
    from tqdm.auto import tqdm

    if run.is_complete:
        return run.record["result"]
    tasks, rows = experiment.test_tasks(), []
    for condition in tqdm(CONDITIONS, desc="test conditions", disable=not progress):
        features = experiment.features(condition)
        for length, accuracy in accuracy_by_length(encoder, features, tasks).items():
            episodes = tasks[length].episodes
            rows.append({"condition": condition, "channel_family": features.channel_family,
                         "num_way": accuracy.shape[1], **ENROLMENT, "num_query": NUM_QUERY, "test_length": length,
                         "episode_rule": experiment.rule, **with_intervals(accuracy, episodes.speakers),
                         "tasks": len(accuracy), "speakers": len(np.unique(episodes.speakers)),
                         "episodes": tasks[length].digest(),
                         "by_speaker": accuracy_by_speaker(accuracy, episodes.speakers)})
    return rows


def objective_name(parameters):
    """A readable name of what a run was trained by; parameters: a dict, or a row of read_runs."""
    name = _NAMES[parameters["loss_type"]]
    if "prototypical" not in parameters["loss_type"]:
        return name
    name += " + global" if parameters["use_global_classification"] else ""
    name += "" if parameters["use_variable_length"] else ", fixed length"
    return name + (f", {parameters['logits']}" if parameters["logits"] != "normalised_prototype" else "")


def beside_others(experiment, rows, notebook):
    """{objective: rows}: this run's, and those of complete runs that differ from it in nothing but the objective."""
    ours, found = vars(experiment.settings), {}
    for run in read_runs(notebook).to_dict("records"):
        same = all(run.get(name) == value for name, value in ours.items() if name not in (*OBJECTIVE, "corpus"))
        if same and run["corpus_fingerprint"] == experiment.corpus.fingerprint:
            found.setdefault(objective_name(run), run["result"])
    return {objective_name(ours): rows, **{name: each for name, each in found.items() if name != objective_name(ours)}}


def lines_by_length(compared, condition):
    """{objective: {seconds: (accuracy, low, high)}} of one condition, as plot_by_length draws it."""
    return {name: {row["test_length"] / 100: (row["accuracy"], row["low"], row["high"])
                   for row in rows if row["condition"] == condition} for name, rows in compared.items()}
