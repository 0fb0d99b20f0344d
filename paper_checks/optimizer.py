"""The local optimizers: elementwise, so that one over tensors [agent, ...] is N of them."""

from __future__ import annotations

import math

import torch

from decaf_theory.methods import Clock
from paper_checks.settings import Train
from paper_checks.stacked import Stacked


def optimizer_of(train: Train, stacked: Stacked) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the stacked parameters: elementwise, hence N optimizers in one."""
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            stacked.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay
        )
    return torch.optim.AdamW(
        stacked.parameters(), train.lr, (train.betas[0], train.betas[1]), 1e-8, train.weight_decay
    )


def step_size(train: Train, t: int, clock: Clock) -> float:
    """Return the step size of step t: constant, or a half cosine over run or round."""
    if train.schedule == "constant":
        return train.lr
    at, period = (t, train.steps) if train.period == "run" else (clock.step, clock.steps)
    return train.lr_min + (train.lr - train.lr_min) * (1 + math.cos(math.pi * at / period)) / 2
