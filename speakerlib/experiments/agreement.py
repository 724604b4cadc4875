"""A second objective for pretraining, without names: two clips of one utterance should lie closer than other clips."""

import numpy as np

from speakerlib.models.objectives import prototypical_loss


def partners(segments, ids, key):
    """For each segment another one of its utterance, drawn by key; itself where the utterance has no other.

    segments: the segment table, whose rows are sorted by utterance; ids: integers (n,). Returns integers (n,).
    """
    utterance = segments["utterance"].to_numpy()
    first = np.searchsorted(utterance, utterance[ids])
    count = np.searchsorted(utterance, utterance[ids], side="right") - first
    steps = np.random.default_rng(key).integers(1, np.maximum(count, 2))  # 1 to count - 1
    return first + (ids - first + steps * (count > 1)) % count


def agreement_loss(encoder, segments, read, ids, key):
    """(loss, accuracy) of telling utterances apart by one clip of each, a prototypical task whose names are free.

    The first segment of each utterance in ids enrols it, its partner asks (Snell et al. 2017, eq. 2, with one support
    and one query; as a second loss beside masked prediction: Mishra et al. 2022, CAN). read(ids, key) -> frames, each
    clip through a channel of its own where training is augmented: then neither channel nor device tells them apart.
    """
    ids = ids[np.sort(np.unique(segments["utterance"].to_numpy()[ids], return_index=True)[1])]
    both = np.concatenate([ids, partners(segments, ids, (*key, 1))])
    frames = read(both, (*key, 2)).to(next(encoder.parameters()).device)
    support, query = encoder(frames).float().reshape(2, 1, len(ids), 1, -1)  # each (task, utterances, 1, dim)
    loss, accuracy, _ = prototypical_loss(support, query)
    return loss, accuracy
