"""How accurate identification is by seconds of enrolment and seconds of query: the table behind a heat map."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from speakerlib.data.clips import Clips
from speakerlib.data.episodes import default_rule
from speakerlib.data.identification_tasks import draw_identification
from speakerlib.data.utterance_features import prepare_utterance_features
from speakerlib.experiments.evaluation import with_intervals
from speakerlib.experiments.open_set import CONDITIONS, at_most
from speakerlib.experiments.scoring import embed_clips, identify

ENROLMENT_SECONDS = (1, 3, 5, 10)
QUERY_SECONDS = (0.5, 1, 2, 3)


def accuracy_by_seconds(encoder, corpus, front_end="compact", split="test", enrolment_seconds=ENROLMENT_SECONDS,
                        query_seconds=QUERY_SECONDS, num_way=5, num_query=3, num_tasks=1000, conditions=CONDITIONS,
                        seed=0, progress=True, most=None):
    """A row a condition, seconds of enrolment and seconds of query: accuracy, with intervals over tasks and speakers.

    A person is enrolled with a cut of one utterance, or with several where one is shorter than that: they are embedded
    apart, as files are, since each went through a channel of its own, and averaged by length. Query and enrolment never
    share an utterance, or a session where each speaker has several; all come from utterances of at least the longest
    query, so that the columns of a table differ in nothing but the cut. Columns: condition, enrolment_seconds,
    query_seconds, accuracy, interval, low, high (see with_intervals), num_way, tasks, speakers, repeated (clips that
    repeat what there is), episodes (their digest). The tasks of a cell are the same in each condition. most: see
    embed_open_set. Raises what draw_identification does.
    """
    from tqdm.auto import tqdm

    stores = {name: prepare_utterance_features(corpus, front_end, kind, 0, family, progress, split=split)
              for name, (kind, family) in conditions.items()}
    store = next(iter(stores.values()))
    table, longest = store.utterances, round(max(query_seconds) * 100)
    table = table[(table["split"] == split) & (table["frames"] >= longest)]
    table = table.iloc[at_most(table["speaker"].to_numpy(), most, seed)]
    rule, rows = default_rule(table), []
    pairs = [(enrolment, query) for enrolment in enrolment_seconds for query in query_seconds]
    tasks = {pair: draw_identification(table, store.lengths, num_way=num_way, num_support=1, num_query=num_query,
                                       enroll_length=round(100 * pair[0]), test_length=round(100 * pair[1]),
                                       num_tasks=num_tasks, rule=rule, seed=seed, num_enrolments=4, num_cuts=1)
             for pair in pairs}
    for name, features in tqdm(stores.items(), desc="conditions", delay=5, disable=not progress):
        embedded = _embed_apart(encoder, features, [task.clips for task in tasks.values()])
        for ((enrolment, query), task), embeddings in zip(tasks.items(), embedded):
            accuracy = identify(embeddings, task.episodes)
            rows.append({"condition": name, "enrolment_seconds": enrolment, "query_seconds": query,
                         **with_intervals(accuracy, task.episodes.speakers), "num_way": num_way,
                         "tasks": len(accuracy), "speakers": len(np.unique(task.episodes.speakers)),
                         "repeated": int(task.clips.repeated.sum()), "episodes": task.digest()})
    return pd.DataFrame(rows).sort_values(["condition", "enrolment_seconds", "query_seconds"], ignore_index=True)


def _embed_apart(encoder, features, lists):
    """For each of several Clips, (clips, dim): the mean of the unit embeddings of a clip's pieces, by their lengths.

    A piece that is in several lists is embedded once.
    """
    pieces = np.concatenate([np.stack([clips.row, clips.start, clips.length], axis=1) for clips in lists])
    different, place = np.unique(pieces, axis=0, return_inverse=True)
    each = embed_clips(encoder, features, Clips(np.arange(len(different)), *different.T), progress=False)
    weighed = (F.normalize(each, dim=1) * torch.from_numpy(different[:, 2:]))[torch.from_numpy(place.ravel())]
    parts = torch.split(weighed, [len(clips.row) for clips in lists])
    return [torch.zeros(len(clips), part.shape[1]).index_add_(0, torch.from_numpy(clips.clip), part)
            for clips, part in zip(lists, parts)]
