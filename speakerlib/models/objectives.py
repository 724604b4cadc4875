"""Objectives: what an encoder is trained to make small."""

import torch
from torch.nn import functional as F


def prototypical_loss(embeddings_support, embeddings_query):
    """Cross-entropy of queries against the mean support embedding of each speaker (Snell et al. 2017).

    embeddings_support: (tasks, way, support, dim); embeddings_query: (tasks, way, query, dim).
    Returns (loss, query accuracy, support accuracy), scalars: the loss is the mean over all queries; support
    accuracy classifies the support by its own prototypes. Computed in float32 (or float64 if given that).
    """
    shapes = tuple(embeddings_support.shape), tuple(embeddings_query.shape)
    if any(len(shape) != 4 for shape in shapes) or any(shapes[0][i] != shapes[1][i] for i in (0, 1, 3)):
        raise ValueError("Expected support (tasks, way, support, dim) and query (tasks, way, query, dim) "
                         f"with the same tasks, way and dim; got {shapes[0]} and {shapes[1]}.")
    num_way = embeddings_support.shape[1]
    support, query = _at_least_float32(embeddings_support), _at_least_float32(embeddings_query)
    centres = support.mean(dim=2)  # (T, N, dim)
    logits, labels = euclidean_logits(query.flatten(1, 2), centres), _labels(query, num_way)  # (T, N * Kq, N)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    with torch.no_grad():
        query_accuracy = _accuracy(logits, labels)
        support_logits = euclidean_logits(support.flatten(1, 2), centres)
        support_accuracy = _accuracy(support_logits, _labels(support, num_way))
    return loss, query_accuracy, support_accuracy


def euclidean_logits(queries, prototypes):
    """Minus the Euclidean distance, not squared (as in Boccio's code), of each query to each prototype.

    queries: (Q, dim) or (tasks, Q, dim); prototypes: (N, dim) or (tasks, N, dim). Returns (Q, N) or
    (tasks, Q, N). Where a query lies on a prototype the distance is 0 and its gradient is taken as 0.
    """
    # differences, not the expansion |q|^2 - 2qp + |p|^2: that loses all digits where q is close to p
    return -torch.cdist(_at_least_float32(queries), _at_least_float32(prototypes),
                        compute_mode="donot_use_mm_for_euclid_dist")


def _labels(embeddings, num_way):
    """(tasks, way * each): the place of each embedding's speaker in its task."""
    tasks, _, each, _ = embeddings.shape
    return torch.arange(num_way, device=embeddings.device).repeat_interleave(each).expand(tasks, -1)


def _accuracy(logits, labels):
    return (logits.argmax(dim=-1) == labels).float().mean()


def reconstruction_loss(reconstruction, frames, mask, normalisation="corrected"):
    """Squared error on what was removed, a scalar; all three are (batch, 1, mels, frames), True in mask is removed.

    corrected: the mean over the removed values. as_published: their sum divided by the number of all values (Boccio's
    code), and so proportional to the mask ratio: losses of different ratios cannot be compared.
    """
    if normalisation not in ("corrected", "as_published"):
        raise ValueError(f"normalisation={normalisation!r}: expected 'corrected' or 'as_published'.")
    if not reconstruction.shape == frames.shape == mask.shape:
        raise ValueError(f"Expected a reconstruction, frames and mask of one shape; got {tuple(reconstruction.shape)}, "
                         f"{tuple(frames.shape)} and {tuple(mask.shape)}.")
    squared = (_at_least_float32(reconstruction) - _at_least_float32(frames)).square() * mask
    return squared.sum() / (mask.sum() if normalisation == "corrected" else mask.numel())


def _at_least_float32(values):
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
