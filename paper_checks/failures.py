"""Numbers that end a run: losses, gradients and steps that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from paper_checks.run import Run


class TrainingError(Exception):
    """A run that cannot continue; the message names agent and step, and what was saved."""


def require_finite(run: Run, losses: Tensor, t: int) -> None:
    """Raise TrainingError, naming agent and step, unless losses and gradients are finite.

    Gradients of a scaled loss that overflowed are not looked at.
    """
    fine = {"loss": torch.isfinite(losses)}
    if not run.overflowed:
        grads = [X.grad for X in run.stacked.parameters() if X.grad is not None]
        fine["gradient"] = torch.stack([torch.isfinite(g).flatten(1).all(1) for g in grads]).all(0)
    masks = torch.stack(list(fine.values())).tolist()  # waits for the device once
    for what, mask in zip(fine, masks, strict=True):
        if not all(mask):
            agent = mask.index(False)
            raise TrainingError(
                f"the {what} of agent {run.own[agent]} at step {t} is not finite "
                f"(its loss is {float(losses[agent])}); lower train.lr = {run.config.train.lr}"
            )


def finite(run: Run) -> bool:
    """Whether all tensors that the agents train are finite; waits for the device once."""
    return bool(torch.stack([torch.isfinite(X).all() for X in run.stacked.parameters()]).all())
