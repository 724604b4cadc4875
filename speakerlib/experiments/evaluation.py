"""Few-shot accuracy: every segment is embedded once, the episodes are index arithmetic."""

import contextlib

import numpy as np
import torch
from torch.nn import functional as F

from speakerlib.experiments.memory import kept_memory
from speakerlib.models.encoders import as_numbers, folded
from speakerlib.models.objectives import euclidean_logits

MOST_PRODUCTS = 4096  # embeddings


def embed(encoder, features, segment_ids, batch_size=256):
    """Embeddings of segments, in eval mode. Returns (len(segment_ids), dim), float32, on the CPU."""
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    parts = []
    try:
        network = folded(encoder)
        with torch.inference_mode(), kept_memory() as keep:
            for first in range(0, len(segment_ids), batch_size):
                frames = features.read(segment_ids[first : first + batch_size], keep_bytes=True).to(device)
                parts.append(network(as_numbers(frames)).float().cpu())
                keep()
    finally:
        encoder.train(was_training)
    return torch.cat(parts)


def episode_accuracy(embeddings, segment_ids, episodes, tasks_at_once=50, products=None):
    """Accuracy of the nearest prototype, from embeddings computed once.

    embeddings: (n, dim), row i being segment segment_ids[i] (ascending). Returns (tasks, way): the fraction of each
    speaker's queries that was attributed to that speaker. products: inner_products(embeddings), where many tasks are to
    come; a query as near to two prototypes as float32 can tell may then go to the other one.
    """
    parts = []
    for first in range(0, len(episodes.support), tasks_at_once):
        support, query = (np.searchsorted(segment_ids, side[first : first + tasks_at_once])
                          for side in (episodes.support, episodes.query))
        if products is None:
            parts.append(_fraction_correct(embeddings[support], embeddings[query]))
        else:
            parts.append(_fraction_correct_by_products(products, torch.from_numpy(support), torch.from_numpy(query)))
    return torch.cat(parts).numpy()


def inner_products(embeddings):
    """(n, n), float64, for episode_accuracy; None where that would be more than 128 MB: distances then stay quicker."""
    if len(embeddings) > MOST_PRODUCTS:
        return None
    exact = embeddings.double()
    return exact @ exact.T


def transductive_accuracy(encoder, features, episodes):
    """As published: a forward pass a task, BatchNorm taking its statistics from support and query together.

    Returns (tasks, way) as episode_accuracy does. The running statistics are left as they were.
    """
    device = next(encoder.parameters()).device
    parts = []
    with torch.inference_mode(), _batch_statistics(encoder):
        for support, query in zip(episodes.support, episodes.query):
            ids = np.concatenate([support.ravel(), query.ravel()])
            embeddings = encoder(features.read(ids, keep_bytes=True).to(device)).float().cpu()
            parts.append(
                _fraction_correct(
                    embeddings[: support.size].reshape(1, *support.shape, -1),
                    embeddings[support.size :].reshape(1, *query.shape, -1),
                )
            )
    return torch.cat(parts).numpy()


def with_intervals(accuracy, speakers):
    """{accuracy, interval, low, high}: the mean, half the 95 % interval over tasks, the one over speakers.

    accuracy, speakers: (tasks, way).
    """
    low, high = interval_over_speakers(accuracy, speakers)
    interval = float(interval_over_tasks(accuracy))
    return {"accuracy": float(accuracy.mean()), "interval": interval, "low": low, "high": high}


def interval_over_tasks(accuracy):
    """Half width of the 95 % interval of the mean over tasks; accuracy: (tasks, way)."""
    tasks = accuracy.mean(axis=1)
    return 1.96 * tasks.std(ddof=1) / np.sqrt(len(tasks))


def interval_as_published(accuracy, batch_size):
    """Work A's formula: spread of batch means over the root of the number of tasks; too narrow by sqrt(batch_size)."""
    tasks = accuracy.mean(axis=1)
    whole = len(tasks) // batch_size * batch_size
    if whole < 2 * batch_size:
        return None
    return 1.96 * tasks[:whole].reshape(-1, batch_size).mean(axis=1).std(ddof=1) / np.sqrt(len(tasks))


def interval_over_speakers(accuracy, speakers, seed=0, draws=2000):
    """95 % bootstrap interval over test speakers: (low, high).

    The queries' true speakers are drawn again, with all their queries of all tasks. accuracy, speakers: (tasks, way).
    """
    codes = np.unique(speakers, return_inverse=True)[1].reshape(speakers.shape)
    total = np.bincount(codes.ravel(), accuracy.ravel())
    count = np.bincount(codes.ravel())
    drawn = np.random.default_rng(seed).integers(len(count), size=(draws, len(count)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    return tuple(float(value) for value in np.percentile(means, [2.5, 97.5]))


def accuracy_by_speaker(accuracy, speakers):
    """{speaker: accuracy of its queries in all tasks}; accuracy, speakers: (tasks, way)."""
    names, codes = np.unique(speakers, return_inverse=True)
    means = np.bincount(codes.ravel(), accuracy.ravel()) / np.bincount(codes.ravel())
    return {str(name): round(float(mean), 5) for name, mean in zip(names, means)}


def paired_interval(accuracy, other, speakers):
    """How much more accurate one method is than another on the same episodes: (difference, low, high).

    accuracy, other, speakers: (tasks, way), of one list of episodes. low, high: the 95 % bootstrap interval over test
    speakers; the methods are apart if it excludes 0.
    """
    if not accuracy.shape == other.shape == speakers.shape:
        raise ValueError(f"accuracies of shapes {accuracy.shape} and {other.shape} for speakers {speakers.shape}: "
                         "expected both methods on one list of episodes.")
    difference = np.asarray(accuracy, dtype=float) - other
    return (float(difference.mean()), *interval_over_speakers(difference, speakers))


def _fraction_correct(support, query):
    """support: (tasks, way, shot, dim), query: (tasks, way, query, dim) -> (tasks, way)."""
    tasks, way, num_query, dim = query.shape
    logits = euclidean_logits(query.reshape(tasks, way * num_query, dim), support.mean(dim=2))
    truth = torch.arange(way, device=logits.device).repeat_interleave(num_query)
    return (logits.argmax(dim=-1) == truth).float().reshape(tasks, way, num_query).mean(dim=2)


def _fraction_correct_by_products(products, support, query):
    """support: (tasks, way, shot), query: (tasks, way, query), rows of products (n, n), float64 -> (tasks, way).

    |q - p|^2 = |q|^2 - 2 q.p + |p|^2, and a product with a mean is the mean of the products. (In float32 this would
    lose the digits of a small distance.)
    """
    tasks, way, num_query = query.shape
    by_prototype = F.embedding_bag(support.flatten(0, 1), products, mode="mean").view(tasks, way, -1)  # p.x of all x
    lengths = by_prototype.gather(2, support).mean(dim=2)  # |p|^2
    near = 2 * by_prototype.gather(2, query.view(tasks, 1, -1).expand(-1, way, -1)) - lengths[:, :, None]
    truth = torch.arange(way).repeat_interleave(num_query)
    return (near.argmax(dim=1) == truth).float().reshape(tasks, way, num_query).mean(dim=2)


@contextlib.contextmanager
def _batch_statistics(encoder):
    """BatchNorm normalises by the batch at hand and remembers nothing of it."""
    was_training, norms = encoder.training, [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    encoder.train()
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
        encoder.train(was_training)
