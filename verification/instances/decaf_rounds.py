"""DeCAF on isotropic matrix approximation, many runs in one batch, each with its own Pi and lr.

The same round is seen twice: DeCAF's own output, and that output rotated onto DLoRA's mix of the
same factors, in which frame DeCAF is DLoRA with an error of mixing (T30).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, align, pad_rank, product
from decaf_theory.measure import factor_gradients
from decaf_theory.problems.approximation import planted, spread
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import TSVD, tsvd
from verification.claim import Context

GRAPHS = ("complete", "ring", "path", "star", "bipartite", "exponential")


class Setting(NamedTuple):
    """Targets W_i* = Wbar + D_i, sum D_i = 0, on one graph a run."""

    names: tuple[str, ...]
    Wbar: np.ndarray  # [d, k]
    D: np.ndarray  # [N, d, k]
    Pi: np.ndarray  # [runs, N, N]

    @property
    def targets(self) -> np.ndarray:
        """The targets W_i* [N, d, k]."""
        return self.Wbar + self.D

    @property
    def N(self) -> int:
        """The number of agents."""
        return len(self.D)


class Round(NamedTuple):
    """One round, [runs, N, ...] each."""

    at: Factors  # where gradients are taken
    stepped: Factors  # after the local step
    means: Factors  # DLoRA's mix of them
    mixed: TSVD  # DeCAF's mix of them


def setting(
    ctx: Context, *, N: int = 6, d: int = 4, k: int = 3, rank: int = 2, kappa: float = 0.5
) -> Setting:
    """Return a planted mean of this rank and random deviations, on six graphs."""
    Wbar = planted(d=d, k=k, rank=rank, seed=ctx.seed)
    D = spread(N=N, d=d, k=k, kappa=kappa, seed=ctx.seed)
    return Setting(GRAPHS, Wbar, D, np.stack([TOPOLOGIES[name](N) for name in GRAPHS]))


def fitted(ctx: Context, case: Setting, r: int, s: float, copies: int = 1) -> Factors:
    """Return balanced factors of Wbar/s at all agents, [copies * runs, N, ...]."""
    common = tsvd(case.Wbar / s, min(r, *case.Wbar.shape))
    B, A = pad_rank(common.factors, r)
    shape = (copies * len(case.Pi), case.N, 1, 1)
    return Factors(ctx.array(np.tile(B, shape)), ctx.array(np.tile(A, shape)))


def rounds(
    start: Factors,
    targets: Any,
    Pi: Any,
    lr: Any,
    s: float,
    steps: int,
    *,
    rotate: bool = True,
    noise: Any = None,
) -> Iterator[Round]:
    """Yield `steps` rounds of a local step and DeCAF's mix, f_i = |s B A - W_i*|_F^2 / 2.

    start [runs, N, ...]; targets [N, d, k]; Pi [runs, N, N]; lr [runs]; noise, added to the weight
    gradient, [steps, runs, N, d, k]. rotate: go on from the output turned onto DLoRA's mix.
    """
    y = start
    for t in range(steps):
        g = s * product(y) - targets
        x = descend(y, g if noise is None else g + noise[t], lr, s)
        means = Factors(per_run(x.B, Pi), per_run(x.A, Pi))
        mixed = tsvd(per_run(product(x), Pi), start.rank)
        yield Round(y, x, means, mixed)
        y = align(mixed.factors, means) if rotate else mixed.factors


def descend(y: Factors, g: Any, lr: Any, s: float) -> Factors:
    """Return the factors after one step along the weight gradient g, lr [runs]."""
    slope, size = factor_gradients(g, y, s), lr[:, None, None, None]
    return Factors(y.B - size * slope.B, y.A - size * slope.A)


def per_run(X: Any, Pi: Any) -> Any:
    """Return sum_j pi_ij X_j, X [runs, N, a, b] and Pi [runs, N, N]."""
    xp = namespace(X)
    return xp.reshape(Pi @ xp.reshape(X, (*X.shape[:2], -1)), X.shape)


def error_of(rotated: Factors, means: Factors) -> Factors:
    """Return e_i, the rotated output less DLoRA's mix."""
    return Factors(rotated.B - means.B, rotated.A - means.A)


def norms(e: Factors) -> Any:
    """Return the Euclidean norm of (B, A) for each agent, [..., N]."""
    xp = namespace(e.B)
    return (xp.sum(e.B**2, axis=(-2, -1)) + xp.sum(e.A**2, axis=(-2, -1))) ** 0.5
