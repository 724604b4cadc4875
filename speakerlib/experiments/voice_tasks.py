"""The three tasks of chapter 10: who is it, of five or of twenty, as recorded and through channels of both families?"""

import numpy as np
import torch
import torch.nn.functional as F

from speakerlib.data.identification_tasks import draw_identification
from speakerlib.experiments.evaluation import accuracy_by_speaker, with_intervals
from speakerlib.experiments.scoring import embed_clips, identify

TASKS = {  # lengths in frames of 10 ms
    "5-way 1-shot, 3 s": {"num_way": 5, "num_support": 1, "num_query": 3, "enroll_length": 300, "test_length": 300},
    "5-way 5-shot, 3 s": {"num_way": 5, "num_support": 5, "num_query": 3, "enroll_length": 300, "test_length": 300},
    "20-way 1-shot, 3 s and 1 s": {"num_way": 20, "num_support": 1, "num_query": 3, "enroll_length": 300,
                                   "test_length": 100},
}
ONCE, WARPED, TRANSDUCTIVE = "once", "at several warps", "at several warps, transductively"  # how a clip is asked
CONDITIONS = {"recorded": ("recorded", "I"), "changed I": ("changed", "I"), "changed II": ("changed", "II")}


def draw_voice_tasks(utterances, frames, num_tasks, rule, seed, tasks=TASKS):
    """{name: IdentificationTasks} of one split; the fewer speakers a split has, the fewer ways.

    utterances: rows of one split (see utterance_table); frames: of all the corpus' utterances. Utterances that are
    shorter than the query are left out where enough speakers have enough others; else they are repeated end to end.
    """
    drawn = {}
    for name, task in tasks.items():
        ways = min(task["num_way"], utterances["speaker"].nunique())
        sizes = {**task, "num_way": ways, "num_tasks": num_tasks, "rule": rule, "seed": seed, "num_enrolments": 4,
                 "num_cuts": 1}
        try:
            drawn[name] = draw_identification(utterances[utterances["frames"] >= task["test_length"]], frames, **sizes)
        except ValueError:
            drawn[name] = draw_identification(utterances, frames, **sizes)
    return drawn


def voice_accuracy(encoder, features, tasks):
    """{name: (tasks, way) accuracy} of an encoder on UtteranceFeatures; the highest cosine to a mean enrolment wins."""
    return {name: identify(embed_clips(encoder, features, task.clips, progress=False), task.episodes)
            for name, task in tasks.items()}


def voice_rows(encoder, features_of, tasks, progress=True):
    """A row for each condition, task and way of asking: accuracy, its intervals over tasks and speakers, by speaker.

    encoder: a WarpedEncoder; features_of(condition, channel_family) -> UtteranceFeatures; tasks: of draw_voice_tasks.
    """
    from tqdm.auto import tqdm

    rows = []
    for name, (condition, family) in tqdm(CONDITIONS.items(), desc="test conditions", disable=not progress):
        features = features_of(condition, family)
        for task, drawn in tasks.items():
            embedded, episodes = embed_clips(encoder, features, drawn.clips, progress=False), drawn.episodes
            asked = {ONCE: identify(encoder.once(embedded), episodes), WARPED: identify(embedded, episodes),
                     TRANSDUCTIVE: identify_transductively(embedded, episodes)}
            for way, accuracy in asked.items():
                rows.append({"condition": condition, "channel_family": features.channel_family, "heard": name,
                             "task": task, "asked": way, **TASKS[task], "num_way": accuracy.shape[1],
                             **with_intervals(accuracy, episodes.speakers), "tasks": len(accuracy),
                             "speakers": len(np.unique(episodes.speakers)), "episodes": drawn.digest(),
                             "by_speaker": accuracy_by_speaker(accuracy, episodes.speakers)})
    return rows


def identify_transductively(embeddings, episodes, rounds=3, scale=10.0):
    """`identify`, with prototypes refined by all queries of the task at once: (tasks, way).

    Soft k-means (Ren et al. 2018): each query belongs to each speaker by the softmax of its scaled cosines, and a
    prototype becomes the direction of its enrolments' mean and its share of the queries together; so several times. A
    query is judged with the help of the others: it needs all of them at once, each speaker among them as often.
    """
    directions = F.normalize(torch.as_tensor(embeddings).double(), dim=1)
    accuracy = np.empty(episodes.query.shape[:2])
    for task, (support, query) in enumerate(zip(episodes.support, episodes.query)):
        enrolled = F.normalize(directions[torch.from_numpy(support)].mean(dim=1), dim=1)
        queries, prototypes = directions[torch.from_numpy(query.ravel())], enrolled
        for _ in range(rounds):
            belongs = (scale * queries @ prototypes.T).softmax(dim=1)
            prototypes = F.normalize(enrolled + belongs.T @ queries, dim=1)
        truth = torch.arange(len(support)).repeat_interleave(query.shape[1])
        right = (queries @ prototypes.T).argmax(dim=1) == truth
        accuracy[task] = right.view(query.shape).double().mean(dim=1)
    return accuracy
