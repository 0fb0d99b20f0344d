"""R4: RAC-LoRA, a chain of exactly minimized blocks with fresh A."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory.arrays import host, namespace
from decaf_theory.stats import bonferroni, mean_interval
from verification.claim import Claim, Context, Row, Value
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import isometry

SIZES = ((3, 4, 1), (4, 3, 2), (2, 5, 3))  # d, k, r
LEVEL = bonferroni(1 - 1e-6, 2 * len(SIZES))
DRAWS = 40_000  # of a quick run
ACCURACY = 0.07  # twice the half-width of the widest interval of so many


def rows(ctx: Context) -> Iterator[Row]:
    r"""A chain of LoRA blocks with fresh A converges like (1 - r/k)^t; a single block stalls.

    $W_t = W_{t-1} + B A_t$ with $B$ the exact minimizer of $|W^* - W_{t-1} - B A_t|_F$: the
    residual $R_t = W^* - W_t$ has $E|R_t|_F^2 = (1 - r/k)^t |R_0|_F^2$. With one $A$ for all blocks
    it stays at $R_1$.

    Assumptions: the row spaces of $A_1, A_2, \ldots$ are independent and uniformly distributed, as
    those of Gaussian matrices are; $r \le k$.

    Proof: $R_t = R_{t-1} (I - A_t^+ A_t)$, a projection, of mean $(1 - r/k) I$ (see R1), and
    $|R (I - A^+A)|^2 = \langle R'R, I - A^+A \rangle$. Projecting twice is projecting once.

    Source: derived here; the method is RAC-LoRA. The expectation is that over Gaussian $A$, drawn
    anew in each round: all intervals at once hold with probability 99.9999 %.
    """
    for d, k, r in SIZES:
        yield from _chain(ctx, d, k, r)
        yield from _again(ctx, d, k, r)


def block(residual: Any, A: Any) -> Any:
    """Return the residual after one block: B = R A' (A A')^-1 is the least-squares minimizer."""
    xp = namespace(A)
    B = xp.linalg.solve(A @ A.mT, A @ residual.mT).mT
    return residual - B @ A


def _chain(ctx: Context, d: int, k: int, r: int) -> Iterator[Row]:
    """Yield |R_1|^2 and |R_2|^2 over their laws, in the mean over Gaussian A."""
    rng = ctx.rng("chain", d, k, r)
    draws = ctx.pick(DRAWS, 10 * DRAWS)
    R0 = ctx.array(rng.standard_normal((1, d, k)))
    residual = R0
    xp = namespace(R0)
    for t in (1, 2):
        residual = block(residual, ctx.array(rng.standard_normal((draws, r, k))))
        law = (1 - r / k) ** t * xp.sum(R0**2)
        ratios = host(xp.sum(residual**2, axis=(-2, -1)) / law)
        yield mean_is_one("|E|R_t|^2 / law - 1|", ratios, d=d, k=k, r=r, t=t)


def mean_is_one(name: str, ratios: np.ndarray, **where: Value) -> Row:
    """Return that the mean of independent ratios is 1, with its interval. Rounding is far below."""
    mean, low, high = mean_interval(ratios, LEVEL)
    off = abs(mean - 1)
    half = (high - low) / 2
    more = {"draws": len(ratios), "level": LEVEL, **where}
    ends = {"low": max(0.0, off - half), "high": off + half}
    return at_most(name, off, ACCURACY, rounding=0.0, **ends, **more)


def _again(ctx: Context, d: int, k: int, r: int) -> Iterator[Row]:
    """Yield that the same A adds nothing, and that a square one leaves nothing."""
    rng = ctx.rng("again", d, k, r)
    count = ctx.pick(10, 100)
    R0 = ctx.array(rng.standard_normal((count, d, k)))
    Q = ctx.array(isometry(rng, count, k, k))
    xp = namespace(R0)
    # products and a solution in these shapes, of orthonormal rows
    slip = ulps(40 * (d + k), xp.linalg.matrix_norm(R0, ord="fro"))
    R1 = block(R0, Q[:, :r])
    moved = xp.linalg.matrix_norm(block(R1, Q[:, :r]) - R1, ord="fro")
    yield same("the same A again", moved, rounding=slip, d=d, k=k, r=r)
    left = xp.linalg.matrix_norm(block(R0, Q), ord="fro")
    yield same("a square A leaves nothing", left, rounding=slip, d=d, k=k, r=k)


CLAIMS = [
    Claim(
        "R4",
        "methods",
        "derived",
        rows,
        loose="its bound is the accuracy to which a mean is known",
        chosen_bound=True,
        not_attacked="an expectation",
    )
]
