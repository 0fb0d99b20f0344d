"""A scene of tests.ranks: the harness at ranks, and in one process with another order of sums."""

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from decaf_theory.distributed.collective import at_first
from paper_checks import finetune, ranks
from paper_checks.run import Run
from tests import paper_runs

LONG = 60.0  # seconds to wait for other ranks
UNIT, UNIT_32 = 2.0**-53, 2.0**-24
# a sum, with weights w, of independent roundings that are uniform in [-u, u] has a root mean square
# of u |w| / sqrt(3), and exceeds it 10 times with a chance below 2 exp(-100 / 6) (Hoeffding)
TIMES = 10


def other_order(rank: int) -> int:
    """Train in float64 at ranks and in one process; print how far apart, and what rounding allows.

    Rounding, in the norm of what an agent trains, at its largest over the agents: a mix adds twice
    (two orders) the gamma_N = N u of a sum of N terms whose weights sum to one; a step along g
    multiplies what is there by 1 + lr L, L the curvature of an agent's loss, and adds twice that of
    x - lr g. What g itself loses is measured in float32, where the same operations round by other
    units: it is linear in them to leading order, and `TIMES` is for the luck of those roundings.
    """
    finetune.load_task = partial(paper_runs.task, dtype=torch.float64)
    usual = {"mix__agents": 6, "mix__every": 1, "train__steps": 4, "observe__every": 9}
    config = paper_runs.config(mix__method="dlora", **usual)
    with TemporaryDirectory() as folder:
        run = finetune.finetune(config, Path(folder), ranks=LONG)
    parts = at_first(ranks.tensors(run), "as states were gathered")
    if parts is None:
        return 0
    lr, N = config.train.lr, config.mix.agents
    allowed = size = most = 0.0
    gradients, mix = finetune.gradients, finetune.mix

    def counted_gradients(run: Run, t: int) -> torch.Tensor:
        nonlocal allowed, most
        allowed *= 1 + lr * curvature(run, t)
        losses = gradients(run, t)
        held = trained_by(run)
        lost = largest(X.grad - g for X, g in zip(held, in_float32(run, t), strict=True)) / UNIT_32
        allowed += 2 * UNIT * (largest(held) + lr * TIMES * lost)
        most = max(most, lost / largest(X.grad for X in held))
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
    print(json.dumps({"gap": gap, "allowed": allowed, "size": size, "lost": most}))
    return 0


def trained_by(run: Run) -> list[torch.Tensor]:
    return [X for X in run.stacked.parameters() if X.requires_grad]


def largest(tensors: Iterable[torch.Tensor]) -> float:
    """Return the largest Euclidean norm over the agents of their rows in all tensors [N, ...]."""
    rows = torch.cat([X.detach().flatten(1) for X in tensors], 1)
    return float(torch.linalg.vector_norm(rows, dim=1).max())


def in_float32(run: Run, t: int) -> tuple[torch.Tensor, ...]:
    """Return the gradients of step t from weights and inputs in float32."""
    narrow = replace(run, stacked=deepcopy(run.stacked))
    narrow.stacked.model.float()
    ((inputs, labels),) = run.batches.at(t)
    batch = {name: X.float() for name, X in inputs.items()}, labels
    losses = finetune.agents_losses(narrow, batch, narrow.stacked.agents)
    found = torch.autograd.grad(losses.sum(), trained_by(narrow))
    assert {X.dtype for X in found} == {torch.float32}
    return found


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
