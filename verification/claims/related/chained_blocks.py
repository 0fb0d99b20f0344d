"""R4: RAC-LoRA, a chain of exactly minimized blocks with fresh A."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Any

from decaf_theory.arrays import namespace
from verification.claim import Claim, Context, Row
from verification.evidence import same, ulps
from verification.instances.mixes import isometry

SIZES = ((3, 4, 1), (4, 3, 2), (2, 5, 3), (3, 2, 2))  # d, k, r


def rows(ctx: Context) -> Iterator[Row]:
    r"""A chain of LoRA blocks with fresh A converges like (1 - r/k)^t; a single block stalls.

    $W_t = W_{t-1} + B A_t$ with $B$ the exact minimizer of $|W^* - W_{t-1} - B A_t|_F$: the
    residual $R_t = W^* - W_t$ has $E|R_t|_F^2 = (1 - r/k)^t |R_0|_F^2$. With one $A$ for all blocks
    it stays at $R_1$.

    Assumptions: the row spaces of $A_1, A_2, \ldots$ are independent and uniformly distributed, as
    those of Gaussian matrices are; $r \le k$.

    Proof: $R_t = R_{t-1} (I - A_t^+ A_t)$, a projection, of mean $(1 - r/k) I$ (see R1), and
    $|R (I - A^+A)|^2 = \langle R'R, I - A^+A \rangle$. Projecting twice is projecting once.

    Source: derived here; the method is RAC-LoRA. The expectation is computed over all choices of
    $r$ of the $k$ rows of an orthogonal matrix in both of two rounds.
    """
    for d, k, r in SIZES:
        yield from _chain(ctx, d, k, r)


def block(residual: Any, A: Any) -> Any:
    """Return the residual after one block: B = R A' (A A')^-1 is the least-squares minimizer."""
    xp = namespace(A)
    B = xp.linalg.solve(A @ A.mT, A @ residual.mT).mT
    return residual - B @ A


def _chain(ctx: Context, d: int, k: int, r: int) -> Iterator[Row]:
    rng = ctx.rng("chain", d, k, r)
    count = ctx.pick(10, 100)
    params = {"d": d, "k": k, "r": r}
    R0 = ctx.array(rng.standard_normal((count, d, k)))
    Q1, Q2 = (ctx.array(isometry(rng, count, k, k)) for _ in range(2))
    xp = namespace(R0)
    choices = list(combinations(range(k), r))
    size = xp.sum(R0**2, axis=(-2, -1))
    # sums over all choices of squares of d k entries, each after two projections
    slip = ulps(40 * (d + k + len(choices)), size)
    first, second, again = (0 * size for _ in range(3))
    for rows_1 in choices:
        A = _rows(Q1, rows_1)
        R1 = block(R0, A)
        first = first + xp.sum(R1**2, axis=(-2, -1)) / comb(k, r)
        again = xp.maximum(again, xp.linalg.matrix_norm(block(R1, A) - R1, ord="fro"))
        for rows_2 in choices:
            R2 = block(R1, _rows(Q2, rows_2))
            second = second + xp.sum(R2**2, axis=(-2, -1)) / comb(k, r) ** 2
    for t, mean in ((1, first), (2, second)):
        error = mean - (1 - r / k) ** t * size
        yield same("E|R_t|^2", error, rounding=slip, t=t, **params)
    yield same("the same A again", again, rounding=slip / xp.sqrt(size), **params)


def _rows(Q: Any, chosen: tuple[int, ...]) -> Any:
    """Return the chosen rows of each Q [instances, k, k]."""
    return namespace(Q).stack([Q[:, i] for i in chosen], axis=-2)


CLAIMS = [Claim("R4", "methods", "derived", rows, not_attacked="an exact expectation")]
