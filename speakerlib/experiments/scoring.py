"""Scores of embeddings: cosine, cosine after the mean is taken away, and adaptive s-norm against a cohort."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

SCORINGS = ("cosine", "centred", "s-norm")
TRIALS_AT_ONCE = 1 << 16


def embed_clips(encoder, features, clips, batch_frames=None, progress=True):
    """Embeddings of clips (see speakerlib.data.clips), in eval mode: float32 (len(clips), dim), on the CPU.

    features: UtteranceFeatures. Each mel's mean over the joined clip is removed where the front end says so. Clips of
    one length are embedded together, up to batch_frames frames at once: by default 20,000 on a GPU, and 4,000 on a
    processor, in whose cache a quarter-width ResNet34 then stays (a third quicker). Raises ValueError for clips that
    do not lie in their utterances, and for an embedding that is not finite.
    """
    from tqdm.auto import tqdm

    if not len(clips):
        raise ValueError("there is no clip to embed: expected one or more.")
    outside = clips.start + clips.length > np.append(features.lengths, 0)[np.minimum(clips.row, len(features.lengths))]
    if outside.any():
        row = int(clips.row[outside.argmax()])
        raise ValueError(f"{int(outside.sum())} of {len(outside)} pieces of clips are not in their utterances, such as "
                         f"one of utterance {row}: they were drawn for another corpus or front end. Draw them again.")
    device = next(encoder.parameters()).device
    batch_frames = batch_frames or (4_000 if device.type == "cpu" else 20_000)
    frames = clips.frames
    first = np.searchsorted(clips.clip, np.arange(len(clips) + 1))
    batches, was_training = list(_batches(frames, batch_frames)), encoder.training

    def embed(batch):
        with torch.inference_mode():
            values = torch.stack([_read_clip(features, clips, slice(*first[clip:clip + 2])) for clip in batch])
            embedded = encoder(values.unsqueeze(1).to(device)).float().cpu()
        bar.update(len(batch))
        return embedded

    encoder.eval()
    try:
        with tqdm(total=len(clips), desc="Embedding", unit="clip", delay=5, disable=not progress, leave=False) as bar:
            parts = side_by_side(embed, batches) if device.type == "cpu" else [embed(batch) for batch in batches]
    finally:
        encoder.train(was_training)
    embeddings = torch.empty(len(clips), parts[0].shape[1])
    embeddings[np.concatenate(batches)] = torch.cat(parts)
    _require_finite(embeddings)
    return embeddings


def side_by_side(function, items):
    """[function(item)], on torch's number of threads, one item on one: together on one item they mostly wait."""
    threads = min(torch.get_num_threads(), len(items))
    if threads == 1:
        return [function(item) for item in items]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "embedding", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(before)  # the number is each thread's own, but also what new threads begin with


def speaker_means(embeddings, speakers):
    """The mean embedding of each speaker, (speakers, dim), in the order of their names: a cohort.

    A cohort is made of training speakers: of those that are tested it would tell the answer.
    """
    names, codes = np.unique(np.asarray(speakers), return_inverse=True)
    codes = torch.from_numpy(codes)
    total = torch.zeros(len(names), embeddings.shape[1], dtype=torch.float64).index_add_(0, codes, embeddings.double())
    return (total / torch.bincount(codes, minlength=len(names))[:, None]).float()


def score_trials(enrolment, test, enrolment_of, test_of, scoring="cosine", cohort=None, top=20):
    """Scores of trials, float64 (trials,), higher for voices more alike.

    enrolment, test: (clips, dim) embeddings; enrolment_of, test_of: (trials,) which of them each trial compares.
    scoring: `cosine`; `centred`, the cosine after the cohort's mean is taken away from both; `s-norm`, centred scores
    less their mean, over their deviation, against the `top` speakers of the cohort most like each side, averaged over
    both sides (Matejka et al. 2017, eq. 4 with the cohort of each side its own). cohort: (speakers, dim), see
    speaker_means; top: at most as many. Raises ValueError for settings that do not fit, and embeddings of length 0.
    """
    enrolment, test = (_directions(part, scoring, cohort) for part in (enrolment, test))
    enrolment_of, test_of = (torch.as_tensor(np.asarray(part), dtype=torch.int64) for part in (enrolment_of, test_of))
    scores = torch.cat([(enrolment[one] * test[other]).sum(dim=1) for one, other in
                        zip(enrolment_of.split(TRIALS_AT_ONCE), test_of.split(TRIALS_AT_ONCE))])
    if scoring == "s-norm":
        others = _directions(cohort, scoring, cohort)
        parts = [(_cohort_statistics(side, others, top), of) for side, of in
                 ((enrolment, enrolment_of), (test, test_of))]
        scores = sum((scores - mean[of]) / deviation[of] for (mean, deviation), of in parts) / 2
    return scores.numpy()


def identify(embeddings, episodes, scoring="cosine", cohort=None, top=20):
    """N-way identification: (tasks, way), the fraction of each speaker's queries attributed to that speaker.

    embeddings: (clips, dim); episodes: tasks of numbers of clips (see draw_identification). A query goes to the
    speaker whose prototype, the mean of its enrolments' embeddings, scores highest. `cosine` decides as Kye et al.
    2020 do, whose query is not normalised: its length is the same for every speaker. See score_trials.
    """
    others = _directions(cohort, scoring, cohort) if scoring == "s-norm" else None
    queries = _directions(embeddings, scoring, cohort)
    accuracy = np.empty(episodes.query.shape[:2])
    for task, (support, query) in enumerate(zip(episodes.support, episodes.query)):
        prototypes = _directions(embeddings[torch.from_numpy(support)].double().mean(dim=1), scoring, cohort)
        scores = queries[torch.from_numpy(query.ravel())] @ prototypes.T  # (way * query, way)
        if others is not None:
            (mean, deviation), (mean_query, deviation_query) = (
                _cohort_statistics(part, others, top) for part in (prototypes, queries[query.ravel()]))
            scores = (scores - mean) / deviation + (scores - mean_query[:, None]) / deviation_query[:, None]
        truth = torch.arange(len(support)).repeat_interleave(query.shape[1])
        accuracy[task] = (scores.argmax(dim=1) == truth).view(query.shape).double().mean(dim=1)
    return accuracy


def _batches(frames, batch_frames):
    """Numbers of clips, those of one length together."""
    order = np.argsort(frames, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(frames[order])) + 1):
        size = max(1, batch_frames // int(frames[group[0]]))
        yield from (group[first:first + size] for first in range(0, len(group), size))


def _read_clip(features, clips, pieces):
    """Frames of one clip as the network takes them, float32 (num_mels, frames)."""
    joined = np.concatenate([features.frames(int(row))[start:start + length] for row, start, length in
                             zip(clips.row[pieces], clips.start[pieces], clips.length[pieces])])
    values = torch.from_numpy(joined.T.astype(np.float32))
    if getattr(features.front_end, "mean_normalise", True):  # `kye` has no choice
        values -= values.mean(dim=1, keepdim=True)
    return values


def _directions(embeddings, scoring, cohort):
    """Embeddings of length 1, float64, the cohort's mean taken away first where the scoring says so."""
    if scoring not in SCORINGS:
        raise ValueError(f"scoring={scoring!r}: expected one of {', '.join(SCORINGS)}.")
    embeddings = torch.as_tensor(embeddings).double()
    if scoring != "cosine":
        if cohort is None or len(cohort) < 2:
            raise ValueError(f"scoring={scoring!r} needs a cohort: mean embeddings of two or more training speakers.")
        embeddings = embeddings - torch.as_tensor(cohort).double().mean(dim=0)
    _require_finite(embeddings)
    if (empty := embeddings.norm(dim=1) == 0).any():
        raise ValueError(f"{int(empty.sum())} of {len(empty)} embeddings are zero, the first one "
                         f"{int(empty.nonzero()[0])}: they have no direction, so no cosine. Is the network trained?")
    return F.normalize(embeddings, dim=1)


def _cohort_statistics(directions, cohort, top):
    """Mean and deviation of each direction's scores against the `top` speakers of the cohort most like it: (n,)."""
    if isinstance(top, bool) or int(top) != top or not 2 <= top <= len(cohort):
        raise ValueError(f"top={top!r}: expected 2 to {len(cohort)}, the speakers of the cohort that count.")
    parts = [(part @ cohort.T).topk(int(top), dim=1).values for part in directions.split(TRIALS_AT_ONCE // 8)]
    mean = torch.cat([part.mean(dim=1) for part in parts])
    deviation = torch.cat([part.std(dim=1, correction=0) for part in parts])
    if (deviation < 1e-12).any():
        raise ValueError(f"the {top} nearest speakers of the cohort score alike: there is no deviation to divide by. "
                         "Use a larger top, or a network that tells them apart.")
    return mean, deviation


def _require_finite(embeddings):
    wrong = ~torch.isfinite(embeddings).all(dim=1)
    if wrong.any():
        raise ValueError(f"{int(wrong.sum())} of {len(wrong)} embeddings are not finite, the first one "
                         f"{int(wrong.nonzero()[0])}. Did the training diverge?")
