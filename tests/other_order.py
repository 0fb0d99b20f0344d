"""A scene of tests.ranks: the harness at ranks, and in one process with another order of sums."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from decaf_theory.distributed.collective import at_first
from paper_checks import finetune, ranks
from paper_checks.run import Run
from tests import paper_runs

LONG = 60.0  # seconds to wait for other ranks
UNIT = 2.0**-53
# a gradient takes fewer than 200 roundings in a row, of condition below 10 for this seed: those of
# float32 are 1.5 of its units from those of float64
CONDITION = 2e3


def other_order(rank: int) -> int:
    """Train in float64 at ranks and in one process; print how far apart, and what rounding allows.

    Rounding, in the norm of what an agent trains, at its largest over the agents: a mix adds twice
    (two orders) the gamma_N = N u of a sum of N terms whose weights sum to one; a step along g
    multiplies what is there by 1 + lr L, L the curvature of an agent's loss, and adds twice that of
    x - lr g.
    """
    finetune.load_task = partial(paper_runs.task, dtype=torch.float64)
    usual = {"mix__agents": 6, "mix__every": 1, "train__steps": 4, "observe__every": 9}
    config = paper_runs.config(mix__method="dlora", **usual)
    with TemporaryDirectory() as folder:
        run = finetune.finetune(config, Path(folder), ranks=LONG)
    parts = at_first(ranks.tensors(run), "as states were gathered")
    if parts is None:
        return 0
    lr, N, allowed, size = config.train.lr, config.mix.agents, 0.0, 0.0
    gradients, mix = finetune.gradients, finetune.mix

    def counted_gradients(run: Run, t: int) -> torch.Tensor:
        nonlocal allowed
        allowed *= 1 + lr * curvature(run, t)
        losses = gradients(run, t)
        held = trained_by(run)
        slope = largest(X.grad for X in held)
        allowed += 2 * UNIT * (largest(held) + CONDITION * lr * slope)
        return losses

    def counted_mix(run: Run, round_: int) -> None:
        nonlocal allowed, size
        size = largest(trained_by(run))
        allowed += 2 * N * UNIT * size
        mix(run, round_)

    finetune.gradients, finetune.mix = counted_gradients, counted_mix
    with TemporaryDirectory() as folder:
        alone = ranks.tensors(finetune.finetune(config, Path(folder)))
    gap = largest(X - torch.cat([part[name] for part in parts]) for name, X in alone.items())
    print(json.dumps({"gap": gap, "allowed": allowed, "size": size}))
    return 0


def trained_by(run: Run) -> list[torch.Tensor]:
    return [X for X in run.stacked.parameters() if X.requires_grad]


def largest(tensors: Iterable[torch.Tensor]) -> float:
    """Return the largest Euclidean norm over the agents of their rows in all tensors [N, ...]."""
    rows = torch.cat([X.detach().flatten(1) for X in tensors], 1)
    return float(torch.linalg.vector_norm(rows, dim=1).max())


def curvature(run: Run, t: int) -> float:
    """Return the largest norm over the agents of the Hessian of the loss of step t."""
    held = trained_by(run)
    (batch,) = run.batches.at(t)
    losses = finetune.agents_losses(run, batch, run.stacked.agents).sum()
    slopes = torch.autograd.grad(losses, held, create_graph=True)
    found = []
    for column in torch.cat([X.flatten(1) for X in slopes], 1).T:  # one number of all agents
        of = torch.autograd.grad(column.sum(), held, retain_graph=True, materialize_grads=True)
        found.append(torch.cat([X.flatten(1) for X in of], 1))
    return float(torch.linalg.matrix_norm(torch.stack(found, 1), 2).max())
