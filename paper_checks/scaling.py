"""Loss scaling for float16 autocast, by torch's GradScaler: one scale for all agents of a run.

The loss is multiplied by the scale, so that small gradients do not become zero in float16, and the
gradients are divided by it. If one of any agent is not finite then, no agent takes the step and the
scale is halved; after 2,000 steps without that it is doubled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paper_checks.devices import kind_of
from paper_checks.settings import Train

LEAST = 1.0  # a gradient that overflows at this scale overflows by itself


def scaler_of(train: Train, device: str) -> torch.amp.GradScaler | None:
    """Return the scaler of a run, None if its numbers have float32's range."""
    if train.autocast != "float16":
        return None
    return torch.amp.GradScaler(kind_of(device))


def backward(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    """Compute the gradients of a loss times its scale."""
    (loss if scaler is None else scaler.scale(loss)).backward()


def overflowed(scaler: torch.amp.GradScaler | None, optimizer: torch.optim.Optimizer) -> bool:
    """Divide the gradients by the scale and adjust it; return whether the step is to be skipped.

    Not below the scale `LEAST`: then the gradients are not finite whatever the scale.
    """
    if scaler is None:
        return False
    before = scaler.get_scale()
    scaler.unscale_(optimizer)
    scaler.update()
    return LEAST <= scaler.get_scale() < before
