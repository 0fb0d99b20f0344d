"""The local optimizers: elementwise, so that one over tensors [agent, ...] is N of them."""

from __future__ import annotations

import math
from typing import Any

import torch

from decaf_theory.methods import Clock
from paper_checks.settings import Train
from paper_checks.stacked import Stacked


def optimizer_of(train: Train, stacked: Stacked, speed: float = 1.0) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the stacked parameters: elementwise, hence N optimizers in one.

    Gates and magnitudes are a group of their own, of step size `speed` lr and without weight decay.
    """
    gates = [X for site in stacked.sites.values() for X in site.variables]
    own = {id(X) for X in gates}
    groups: list[dict[str, Any]] = [
        {"params": [X for X in stacked.parameters() if id(X) not in own], "speed": 1.0}
    ]
    if gates:
        groups.append({"params": gates, "speed": speed, "weight_decay": 0.0})
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, train.lr, train.momentum, weight_decay=train.weight_decay)
    return torch.optim.AdamW(
        groups, train.lr, (train.betas[0], train.betas[1]), 1e-8, train.weight_decay
    )


def step_size(train: Train, t: int, clock: Clock) -> float:
    """Return the step size of step t: constant, or a half cosine over run or round."""
    if train.schedule == "constant":
        return train.lr
    at, period = (t, train.steps) if train.period == "run" else (clock.step, clock.steps)
    return train.lr_min + (train.lr - train.lr_min) * (1 + math.cos(math.pi * at / period)) / 2
