"""What train() steps with: optimizers by name, and schedules that lower the learning rate on a plateau or by cosine."""

import math
from functools import partial

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau


def adamw(parameters, lr):
    """AdamW with weight decay of 0.01 on matrices and filters, none on biases and norms."""
    parameters = list(parameters)
    return torch.optim.AdamW([{"params": [each for each in parameters if each.ndim > 1], "weight_decay": 0.01},
                              {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0}], lr=lr)


OPTIMIZERS = {
    "adamw": adamw,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-4),  # Kye et al. 2020
}
SCHEDULES = ("constant", "plateau", "cosine")
WARM_UP = 0.1  # of a cosine's steps
PATIENCE, FACTOR, LOWEST = 3, 0.1, 1e-5  # of a plateau, as Kye et al. 2020


class Plateau:
    """Lowers the learning rate tenfold, to LOWEST at least, when the loss has not fallen for more than PATIENCE calls.

    What it watches is the mean loss of all steps since the call before. (The authors' code gives the schedule the loss
    of a single episode, since the mean is reset just before.) state: a dict that is kept in the checkpoint; with what
    it held then, a schedule goes on as if it had never stopped.
    """

    def __init__(self, optimizer, state):
        self.optimizer, self.state = optimizer, state
        self.scheduler = ReduceLROnPlateau(optimizer, factor=FACTOR, patience=PATIENCE, min_lr=LOWEST)
        if "scheduler" in state:
            self.scheduler.load_state_dict(state["scheduler"])
        state.setdefault("total", 0.0)
        state.setdefault("count", 0)

    def add(self, loss):
        """Counts a step's loss; the sum stays on the device, which is not waited for."""
        self.state["total"] = self.state["total"] + loss.detach().double()
        self.state["count"] += 1

    def step(self):
        """Ends an interval; returns the learning rate that held in it."""
        held = self.optimizer.param_groups[-1]["lr"]
        self.scheduler.step(float(self.state["total"]) / self.state["count"])
        self.state.update(total=0.0, count=0, scheduler=self.scheduler.state_dict())
        return held


def cosine(learning_rate, step, total):
    """The rate of a step (0, 1, ...): rises in a line over the first WARM_UP of all steps, then falls as a cosine to 0.

    It depends on the step alone, so that a resume needs no state; another total is another schedule.
    """
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return learning_rate * (step + 1) / warm
    return learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
