"""Targets of isotropic matrix approximation, a common start fitted to their mean, and six graphs.

A claim runs a method on each graph in turn, all of its runs in one simulation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, pad_rank
from decaf_theory.problems.approximation import approximation, planted, spread
from decaf_theory.problems.base import Problem
from decaf_theory.simulate import Config, Visit, visits
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd
from verification.claim import Context

GRAPHS = ("complete", "ring", "path", "star", "bipartite", "exponential")


class Setting(NamedTuple):
    """Targets W_i* = Wbar + D_i, sum D_i = 0, and graphs."""

    names: tuple[str, ...]
    Wbar: np.ndarray  # [d, k]
    D: np.ndarray  # [N, d, k]
    Pi: np.ndarray  # [graphs, N, N]

    @property
    def targets(self) -> np.ndarray:
        """The targets W_i* [N, d, k]."""
        shifted: np.ndarray = self.Wbar + self.D
        return shifted

    @property
    def N(self) -> int:
        """The number of agents."""
        return len(self.D)

    def simulations(self, **options: Any) -> Iterator[tuple[str, Config]]:
        """Yield each graph's name and simulation, f_i = |W - W_i*|_F^2 / 2, with these options."""
        problem = approximation(self.targets)
        for name, Pi in zip(self.names, self.Pi, strict=True):
            yield name, Config(problem=problem, Pi=Pi, **options)


def setting(
    ctx: Context, *, N: int = 6, d: int = 4, k: int = 3, rank: int = 2, kappa: float = 0.5
) -> Setting:
    """Return a planted mean of this rank and random deviations, on six graphs."""
    Wbar = planted(d=d, k=k, rank=rank, seed=ctx.seed)
    D = spread(N=N, d=d, k=k, kappa=kappa, seed=ctx.seed)
    return Setting(GRAPHS, Wbar, D, np.stack([TOPOLOGIES[name](N) for name in GRAPHS]))


def fitted(W: np.ndarray, r: int, s: float) -> Factors:
    """Return balanced factors of rank r with s B A = W, W [d, k] of rank r at most."""
    return pad_rank(tsvd(W / s, min(r, *W.shape)).factors, r)


def prescribed(ctx: Context, problem: Problem) -> Factors:
    """Return the start that the problem prescribes, on the run's device."""
    assert problem.start is not None
    return problem.start.map(ctx.array)


def loss_gap(problem: Problem, W: Array) -> float:
    """Return F(W) - F* of a problem that knows F*, W [1, d, k]."""
    least = problem.constants.F_star
    assert least is not None
    return float(problem.loss(W).mean()) - least


def smoothness(problem: Problem, s: float, c: float) -> float:
    """Return L* of the factors on Omega_c (T2), of a problem that knows L and G."""
    L = problem.constants.L
    G = problem.constants.G
    assert L is not None
    assert G is not None
    return bounds.smoothness_sharp(L=L, c=c, G=G(s, c), s=s)


def last_visit(config: Config) -> Visit:
    """Run the simulation; return its last state."""
    return deque(visits(config), maxlen=1).pop()


def at_all_agents(ctx: Context, common: Factors, N: int) -> Factors:
    """Return the same factors for N agents, on the run's device, [N, ...]."""
    return common.map(lambda X: ctx.array(np.tile(X, (N, 1, 1))))
