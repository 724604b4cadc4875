"""Objectives for short utterances: Kye et al. (2020), and two later ones, over one episode or batch of embeddings."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from speakerlib.models.objectives import euclidean_logits

LOSS_TYPES = ("softmax", "prototypical", "am_softmax", "angular_prototypical")
EPISODIC = ("prototypical", "angular_prototypical")
MARGIN, SCALE = 0.2, 30.0  # of am_softmax, as Chung et al. 2020 found them good for speakers


# Logits: how like each query is to each prototype or speaker weight. queries: (Q, dim); prototypes: (N, dim) -> (Q, N)


def normalised_prototype_logits(queries, prototypes):
    """q . p / |p|: only the prototype is normalised, so that a query's length is its sharpness (Kye et al. 2020)."""
    return queries @ F.normalize(prototypes, dim=-1).T


def cosine_logits(queries, prototypes):
    """q . p / (|q| |p|) (matching networks, Vinyals et al. 2016): in [-1, 1], so a scale must sharpen it."""
    return F.normalize(queries, dim=-1) @ F.normalize(prototypes, dim=-1).T


def squared_euclidean_logits(queries, prototypes):
    """-|q - p|^2, the Bregman divergence that makes the mean the best prototype (Snell et al. 2017, eq. 2)."""
    return -euclidean_logits(queries, prototypes).square()


LOGITS = {
    "normalised_prototype": normalised_prototype_logits,
    "cosine": cosine_logits,
    "squared_euclidean": squared_euclidean_logits,
    "euclidean": euclidean_logits,  # not squared: Boccio
}


# Losses: each returns (loss, accuracy), scalars


def episodic_loss(support, query, logits="normalised_prototype", scale=1.0):
    """Cross-entropy of each query against the prototypes of its episode (Snell et al. 2017, eq. 1 and 2).

    support: (way, shots, dim), of which the mean is the prototype; query: (way, queries, dim); scale: of the logits.
    """
    if support.ndim != 3 or query.ndim != 3 or support.shape[::2] != query.shape[::2]:
        raise ValueError("Expected support (way, shots, dim) and query (way, queries, dim) of the same way and dim; "
                         f"got {tuple(support.shape)} and {tuple(query.shape)}.")
    found = scale * LOGITS[logits](query.flatten(0, 1), support.mean(dim=1))  # (way * queries, way)
    return _cross_entropy(found, _repeat(torch.arange(len(query), device=query.device), query))


def global_loss(embeddings, labels, weight):
    """Cross-entropy against one weight a training speaker, logits e . w / |w| (Kye et al. 2020, and its baseline).

    embeddings: (n, dim); labels: (n,) rows of weight: (speakers, dim).
    """
    return _cross_entropy(normalised_prototype_logits(embeddings, weight), labels)


def additive_margin_loss(embeddings, labels, weight, margin=MARGIN, scale=SCALE):
    """-log e^(s (cos_y - m)) / (e^(s (cos_y - m)) + sum over others of e^(s cos_j)) (Wang et al. 2018, AM-softmax).

    The shapes are global_loss's; the accuracy is taken without the margin.
    """
    cosines = cosine_logits(embeddings, weight)
    handicap = margin * F.one_hot(labels, len(weight)).to(cosines.dtype)
    return F.cross_entropy(scale * (cosines - handicap), labels), _accuracy(cosines, labels)


def angular_prototypical_loss(support, query, scale):
    """Cross-entropy of scale * cosine(query, prototype), the scale learnt (Chung et al. 2020, angular prototypical).

    The bias beside it there is left out: it is the same in every logit, and cross-entropy does not see it.
    """
    return episodic_loss(support, query, "cosine", scale.clamp(min=1e-6))


class EpisodeLoss(NamedTuple):
    """Scalars; None for what an objective does not have."""

    loss: torch.Tensor
    episodic_loss: torch.Tensor | None
    global_loss: torch.Tensor | None
    episodic_accuracy: torch.Tensor | None
    global_accuracy: torch.Tensor | None


class ShortUtteranceObjective(nn.Module):
    """One of LOSS_TYPES, with the weights that it learns beside the encoder's: train them with its optimiser.

    softmax and am_softmax classify all embeddings among num_speakers training speakers. prototypical and
    angular_prototypical classify queries by their episode's support and, with use_global_classification, all
    embeddings among the training speakers as well: the two losses are added (Kye et al. 2020). logits: a key of LOGITS,
    for prototypical. Raises ValueError for an unknown loss_type or logits.
    """

    def __init__(self, loss_type, num_speakers, dim, use_global_classification=True, logits="normalised_prototype"):
        super().__init__()
        for key, value, known in (("loss_type", loss_type, LOSS_TYPES), ("logits", logits, LOGITS)):
            if value not in known:
                raise ValueError(f"{key}={value!r}: expected one of {', '.join(known)}.")
        self.loss_type, self.logits, self.episodic = loss_type, logits, loss_type in EPISODIC
        self.classifies = bool(use_global_classification) or not self.episodic
        if self.classifies:
            self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_speakers, dim)))
        if loss_type == "angular_prototypical":
            self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, support, query, speakers):
        """EpisodeLoss of one episode, or of a batch without one.

        support: (way, shots, dim); query: (way, queries, dim), or None where nothing is asked by episode; speakers:
        (way,) integers, the number that each row's speaker has among the training speakers. In float32 at least.
        """
        with torch.autocast(support.device.type, enabled=False):  # bf16 keeps two digits of a logit of 50
            support = _at_least_float32(support)
            query = query if query is None else _at_least_float32(query)
            episodic, everywhere = (None, None), (None, None)
            if self.loss_type == "angular_prototypical":
                episodic = angular_prototypical_loss(support, query, self.scale)
            elif self.episodic:
                episodic = episodic_loss(support, query, self.logits)
            if self.classifies:
                parts = [support] if query is None else [support, query]
                embeddings = torch.cat([part.flatten(0, 1) for part in parts])
                labels = torch.cat([_repeat(speakers, part) for part in parts])
                classify = additive_margin_loss if self.loss_type == "am_softmax" else global_loss
                everywhere = classify(embeddings, labels, self.weight)
        loss = sum(part for part in (episodic[0], everywhere[0]) if part is not None)
        return EpisodeLoss(loss, episodic[0], everywhere[0], episodic[1], everywhere[1])


def _repeat(labels, embeddings):
    """(way,) labels of embeddings (way, each, dim), one an embedding: (way * each,)."""
    return labels.repeat_interleave(embeddings.shape[1])


def _cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels), _accuracy(logits, labels)


def _accuracy(logits, labels):
    return (logits.detach().argmax(dim=-1) == labels).float().mean()


def _at_least_float32(values):
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
