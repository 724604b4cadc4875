"""Prototypical distances: all tasks in one call, against loops over tasks and queries.

    python tests/benchmarks/distances.py

The yardstick does what work A's code does with a step's embeddings: task by task it adds up the prototypes, takes the
norm of a query less every prototype, query by query, and piles the rows up, for support and query alike. Both sides
give the loss, its gradient and both accuracies.
"""

import numpy as np
import torch
from side_by_side import alternate, faster, options, table, write
from torch.nn import functional as F

from speakerlib.models.objectives import prototypical_loss

CASES = ((4, 5, 5, 15), (2, 10, 5, 15), (100, 5, 5, 15))  # tasks, way, support, query
TINY = ((2, 3, 2, 2),)
DIM = 1024
TOLERANCE = 1e-5


def main(arguments=None):
    chosen = options(__doc__, arguments)
    tables, ratios = [], []
    for tasks, num_way, num_support, num_query in TINY if chosen.quick else CASES:
        random = torch.Generator().manual_seed(0)
        support = torch.randn(tasks, num_way, num_support, DIM, generator=random).requires_grad_()
        query = torch.randn(tasks, num_way, num_query, DIM, generator=random).requires_grad_()
        check_equal(support, query)
        times = alternate({"loops over tasks and queries": lambda: run(by_loops, support, query),
                           "all tasks at once": lambda: run(prototypical_loss, support, query),
                           "reading the embeddings once": lambda: [side.detach().sum() for side in (support, query)]},
                          repeats=2 if chosen.quick else 9)
        found = table(times, "loops over tasks and queries", tasks, "tasks")
        tables.append(found.rename_axis(f"{tasks} tasks, {num_way}-way {num_support}-shot {num_query}-query"))
        ratios.append(faster(times, "all tasks at once", "loops over tasks and queries")[0])
    found = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    write("Prototypical distances, loss and gradient", f"""
`python tests/benchmarks/distances.py`. Embeddings of {DIM} numbers, float32, forward and backward. Loss, gradients and
accuracies of both sides agree to {TOLERANCE:g}.

Found: **{found} times** as fast as the loops (no target of its own: it is part of a training's step).""",
          tables, chosen.quick)


def run(loss_of, support, query):
    support.grad = query.grad = None
    loss, *accuracies = loss_of(support, query)
    loss.backward()
    return [loss.detach(), *accuracies, support.grad, query.grad]


def check_equal(support, query):
    for ours, theirs in zip(run(prototypical_loss, support, query), run(by_loops, support, query), strict=True):
        torch.testing.assert_close(ours, torch.as_tensor(theirs, dtype=ours.dtype), rtol=TOLERANCE, atol=TOLERANCE)


def by_loops(support, query):
    """(loss, query accuracy, support accuracy) of (tasks, way, each, dim) embeddings, as work A computes them."""
    losses, of_query, of_support = [], [], []
    for task_support, task_query in zip(support, query, strict=True):
        num_way, num_support, dim = task_support.shape
        labels_support = torch.arange(num_way).repeat_interleave(num_support)
        labels_query = torch.arange(num_way).repeat_interleave(task_query.shape[1])
        task_support, task_query = task_support.flatten(0, 1), task_query.flatten(0, 1)
        prototypes = torch.zeros(num_way, dim).index_add(0, labels_support, task_support, alpha=1 / num_support)
        far_support, far_query = (
            torch.cat([torch.norm(prototypes - side[number], dim=1).unsqueeze(0) for number in range(len(side))])
            for side in (task_support, task_query))
        losses.append(F.cross_entropy(-far_query, labels_query))
        of_support.append(_accuracy(far_support, labels_support))
        of_query.append(_accuracy(far_query, labels_query))
    return torch.stack(losses).mean(), np.mean(of_query), np.mean(of_support)


def _accuracy(distances, labels):
    return (distances.argmin(dim=-1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
