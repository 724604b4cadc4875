"""Objectives against their definitions, computed independently in float64 with numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.models.objectives import euclidean_logits, prototypical_loss


def loss_by_definition(support, query):
    """(loss, query accuracy, support accuracy), one query after the other."""
    tasks, way, _, _ = support.shape
    losses, right = [], {"query": [], "support": []}
    for task in range(tasks):
        centres = [support[task, speaker].mean(axis=0) for speaker in range(way)]
        for name, clips in (("query", query), ("support", support)):
            for speaker in range(way):
                for clip in clips[task, speaker]:
                    logits = np.array([-np.sqrt(((clip - centre) ** 2).sum()) for centre in centres])
                    right[name].append(logits.argmax() == speaker)
                    if name == "query":
                        shifted = logits - logits.max()
                        losses.append(np.log(np.exp(shifted).sum()) - shifted[speaker])
    return np.mean(losses), np.mean(right["query"]), np.mean(right["support"])


@settings(max_examples=25, deadline=None)
@given(tasks=st.integers(1, 3), way=st.integers(2, 6),
       num_support=st.integers(1, 4), num_query=st.integers(1, 4),
       dim=st.integers(1, 9), spread=st.sampled_from([0.1, 1.0, 30.0]), seed=st.integers(0, 999))
def test_prototypical_loss_is_its_definition(tasks, way, num_support, num_query, dim, spread, seed):
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(tasks, way, 1, dim))
    support = centres + rng.normal(size=(tasks, way, num_support, dim))
    query = centres + rng.normal(size=(tasks, way, num_query, dim))
    expected = loss_by_definition(support, query)
    found = prototypical_loss(torch.from_numpy(support), torch.from_numpy(query))
    assert found[0].item() == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
    assert [found[1].item(), found[2].item()] == pytest.approx(expected[1:], abs=1e-6)  # float32 means
    single = prototypical_loss(torch.from_numpy(support).float(), torch.from_numpy(query).float())
    assert single[0].item() == pytest.approx(expected[0], rel=1e-4, abs=1e-5)


def test_logits_are_minus_the_unsquared_distance_alone_and_in_batches():
    queries = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    centres = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    expected = torch.tensor([[-5.0, 0.0, -10.0], [0.0, -5.0, -5.0]])
    assert torch.equal(euclidean_logits(queries, centres), expected)
    batched = euclidean_logits(torch.stack([queries, 2 * queries]), torch.stack([centres, 2 * centres]))
    assert torch.equal(batched, torch.stack([expected, 2 * expected]))


def test_logits_keep_their_digits_far_from_the_origin():
    """The expansion |q|^2 - 2qp + |p|^2 would lose a distance of 0.01 at 1000 from the origin in float32."""
    centres = torch.full((30, 64), 1000.0)
    queries = centres.clone()
    queries[:, 0] += 0.0625
    assert torch.equal(euclidean_logits(queries, centres), torch.full((30, 30), -0.0625))


def test_logits_have_the_gradient_of_their_definition():
    torch.manual_seed(0)
    queries, centres = (torch.randn(2, n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 3))
    assert torch.autograd.gradcheck(euclidean_logits, (queries, centres))


def test_the_gradient_is_finite_where_a_query_is_its_prototype():
    torch.manual_seed(0)
    support = torch.randn(1, 3, 1, 4)
    query = support.expand(1, 3, 2, 4).clone()
    support.requires_grad_(), query.requires_grad_()
    loss, _, _ = prototypical_loss(support, query)
    loss.backward()
    for gradient in (support.grad, query.grad):
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_half_precision_embeddings_are_compared_in_float32():
    torch.manual_seed(0)
    support, query = torch.randn(2, 3, 4, 8).bfloat16(), torch.randn(2, 3, 4, 8).bfloat16()
    found = prototypical_loss(support, query)[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, prototypical_loss(support.float(), query.float())[0])


def test_shapes_that_do_not_belong_together_are_named():
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 4\) and \(1, 5, 2, 4\)"):
        prototypical_loss(torch.randn(1, 3, 2, 4), torch.randn(1, 5, 2, 4))
