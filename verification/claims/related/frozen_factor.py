"""R1: FFA-LoRA, a frozen common A: exact mixing, and its price."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mix_products, product
from decaf_theory.measure import interference_norm, schatten, truncation_error
from decaf_theory.methods import METHODS
from decaf_theory.tsvd import tsvd, tsvd_of_mix
from verification.claim import Claim, Context, Instance, Row, Value
from verification.claims.related.chained_blocks import DRAWS, block, mean_is_one
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import stochastic

SIZES = ((3, 4, 1), (4, 3, 2), (5, 6, 3), (6, 5, 5), (3, 5, 4))  # d, k, r


def rows(ctx: Context) -> Iterator[Row]:
    r"""A frozen common A mixes exactly; its price is the target outside of A's rows.

    Interference and truncation error vanish. $\min_B |\bar W - B A|_F = |\bar W (I - A^+ A)|_F$,
    never below the error of the best rank-$r$ approximation; for Gaussian $A$, $r \le k$, its mean
    square is $(1 - r/k) |\bar W|_F^2$.

    Assumptions: $A$ is the same at all agents, $\sum_j \pi_{ij} = 1$; for the mean, the row space
    of $A$ is uniformly distributed.

    Proof: $\sum_j \pi_{ij} B_j A = \bar B_i A$ has rank $r$. The best $B$ is $\bar W A^+$. The row
    space of a Gaussian $A$ is that of $r$ of the $k$ rows of a uniformly distributed orthogonal
    $Q$; averaged over the choice of rows the projector is $\frac rk Q'Q = \frac rk I$ for each
    $Q$.

    Extremal: $A$ the leading right singular vectors of $\bar W$: the best rank-$r$ error.

    Source: derived here; the method is FFA-LoRA. The mean is that over Gaussian $A$, as in R4.
    """
    for d, k, r in SIZES:
        yield from _exact_mixing(ctx, d, k, r)
        yield from _price(ctx, d, k, r)
        if r < k:  # a square A costs nothing
            yield _mean_price(ctx, d, k, r)
    yield replay(leading())


def _exact_mixing(ctx: Context, d: int, k: int, r: int) -> Iterator[Row]:
    """Yield that the interference and the truncation error of B_i A are zero."""
    rng = ctx.rng("mix", d, k, r)
    count = ctx.pick(20, 400)
    m = 4
    B = ctx.array(rng.standard_normal((count, m, d, r)))
    A = ctx.array(np.repeat(rng.standard_normal((count, 1, r, k)), m, axis=1))
    state = Factors(B, A)
    Pi = ctx.array(stochastic(rng, m, m))
    mixed = METHODS["dlora_fa"].mix(state, Pi, 0)
    xp = namespace(B)
    params = {"d": d, "k": k, "r": r}
    size = xp.linalg.matrix_norm(B, ord="fro") * xp.linalg.matrix_norm(A, ord="fro")
    # sums of m r products, QR and SVD in these shapes
    slip = ulps(10 * max(d, k, m * r), xp.max(size, axis=-1)[:, None])
    lost = xp.linalg.matrix_norm(product(mixed) - mix_products(state, Pi), ord="fro")
    yield same("the mixed product is the mean product", lost, rounding=slip, **params)
    yield same("I = 0", interference_norm(state, Pi), rounding=slip, **params)
    if r < min(d, k):
        cut = truncation_error(tsvd_of_mix(state, Pi, r))
        yield same("E = 0", cut, rounding=slip, **params)


def _price(ctx: Context, d: int, k: int, r: int) -> Iterator[Row]:
    """Yield the best error in closed form, and that the best rank-r approximation errs less."""
    rng = ctx.rng("price", d, k, r)
    count = ctx.pick(40, 1000)
    W = rng.standard_normal((count, d, k))
    A = rng.standard_normal((count, r, k))
    # least squares in B through the normal equations; A A' has condition number cond^2
    best = np.linalg.solve(A @ A.mT, A @ W.mT).mT
    reached = ctx.array(best @ A)
    W = ctx.array(W)
    A = ctx.array(A)
    xp = namespace(W)
    params = {"d": d, "k": k, "r": r}
    outside = W - W @ xp.linalg.pinv(A) @ A
    error, norm = (xp.linalg.matrix_norm(x, ord="fro") for x in (outside, W))
    values = xp.linalg.svdvals(A)
    condition = values[..., 0] / values[..., -1]
    slip = ulps(20 * max(d, k), norm, condition**2)
    gap = xp.linalg.matrix_norm(W - reached - outside, ord="fro")
    yield same("min |W - B A|", gap, rounding=slip, **params)
    tail = schatten(tsvd(W, r).tail) if r < min(d, k) else 0 * error
    yield at_most("best rank-r error <= price", tail, error, rounding=slip, **params)


def _mean_price(ctx: Context, d: int, k: int, r: int) -> Row:
    """Return that over Gaussian A the mean price is (1 - r/k)|W|^2."""
    rng = ctx.rng("mean", d, k, r)
    W = ctx.array(rng.standard_normal((1, d, k)))
    A = ctx.array(rng.standard_normal((ctx.pick(DRAWS, 10 * DRAWS), r, k)))
    xp = namespace(W)
    law = (1 - r / k) * xp.sum(W**2)
    ratios = host(xp.sum(block(W, A) ** 2, axis=(-2, -1)) / law)
    return mean_is_one("|mean price / law - 1|", ratios, d=d, k=k, r=r)


def leading() -> Instance:
    """Return W = diag(3, 2, 1) without its last row and A = e_1': the best error of rank 1."""
    return {"W": [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]], "A": [[1.0, 0.0, 0.0]]}


def replay(instance: Instance) -> Row:
    """Return that the best rank-r error of one stored W is at most the price of one stored A."""
    W, A = (np.asarray(instance[name], dtype=np.float64) for name in ("W", "A"))
    d, k = W.shape
    r = len(A)
    price = np.linalg.norm(W - W @ np.linalg.pinv(A) @ A)
    tail = schatten(tsvd(W[None], r).tail)  # of one instance
    params: dict[str, Value] = {"d": d, "k": k, "r": r}
    slip = ulps(20 * max(d, k), np.linalg.norm(W))
    return at_most("best rank-r error <= price", tail, price, rounding=slip, **params)


def attacks() -> dict[str, Any]:
    """Return the attacks on R1."""
    from verification.attacks.truncation import price

    return {"r = 2": price(2, 4, 3)}


CLAIMS = [
    Claim(
        "R1",
        "methods",
        "derived",
        rows,
        attacks=attacks,
        replay=replay,
        instance=leading,
        reaches={
            "best rank-r error <= price": 1,
            "|mean price / law - 1|": 0,
        },
    )
]
