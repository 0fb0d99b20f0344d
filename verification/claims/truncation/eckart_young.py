"""T15: the truncation error is the norm of the dropped singular values; where it vanishes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, mix_products, product
from decaf_theory.measure import NORMS, schatten, truncation_error
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Row
from verification.evidence import at_least, same
from verification.instances.mixes import Mix, allowance, gaussian, isometry, mixes, stochastic


def rows(ctx: Context) -> Iterator[Row]:
    r"""The truncation error is the norm of the dropped singular values, and no rank r is nearer.

    For $M = \sum_j \pi_j B_j A_j$ of $m$ agents and $E = M - \mathrm{TSVD}_r(M)$:
    $\|E\|_F^2 = \sum_{i>r} \sigma_i(M)^2$, $\|E\|_{op} = \sigma_{r+1}(M)$,
    $\|E\|_* = \sum_{i>r} \sigma_i(M)$, and $\|M - X\| \ge \|E\|$ for every $X$ of rank at most
    $r$, in all three norms. $\mathrm{rank}\, M \le \min(m r, d, k)$, and $E = 0$ exactly where
    $\mathrm{rank}\, M \le r$: equal products, a common row or column space (frozen $A$), products
    of rank $r_0$ with $m r_0 \le r$, or $r \ge \min(d, k)$.

    Assumptions: none; any weights.

    Proof: Eckart-Young-Mirsky: Weyl's inequality gives
    $\sigma_{r+i}(M) \le \sigma_i(M - X) + \sigma_{r+1}(X) = \sigma_i(M - X)$, attained for all $i$
    by $X = \mathrm{TSVD}_r(M)$. The rank of a sum is at most the sum of the ranks.

    Extremal: $X = \mathrm{TSVD}_r(M)$ itself.

    Source: derived here; the first part is Eckart-Young-Mirsky.
    """
    for mix in mixes(ctx, instances=ctx.pick(40, 1000)):
        yield from _error_is_the_tail(mix)
        yield from _nothing_is_nearer(ctx, mix)
    for mix in _few_agents(ctx):
        yield _rank(mix)
    for mix in _without_error(ctx):
        yield _no_error(mix)


def _error_is_the_tail(mix: Mix) -> Iterator[Row]:
    truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
    error = mix_products(mix.factors, mix.Pi) - product(truncated.factors)
    values = namespace(error).linalg.svdvals(error)
    for norm in NORMS:
        residual = schatten(values, norm) - truncation_error(truncated, norm)
        case = f"|M - BA| = norm of the dropped singular values, {norm}"
        yield same(case, residual, rounding=2 * allowance(mix), norm=norm, **mix.params)


def _nothing_is_nearer(ctx: Context, mix: Mix) -> Iterator[Row]:
    """Matrices of rank r at random and at distances 1 ... 10^-12 from the truncation."""
    truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
    M = mix_products(mix.factors, mix.Pi)
    xp = namespace(M)
    rng = ctx.rng("rivals", mix.family)
    away = ctx.array(10.0 ** rng.uniform(-12, 0, (len(M), 1, 1, 1)))
    noise = truncated.factors.map(lambda X: ctx.array(rng.standard_normal(X.shape)))
    rival = truncated.factors.map(lambda X, G: X * (1 + away * G), noise)
    values = xp.linalg.svdvals(M - product(rival))
    for norm in NORMS:
        case = f"|M - X| >= |E| for X of rank r, {norm}"
        yield at_least(
            case,
            schatten(values, norm),
            truncation_error(truncated, norm),
            rounding=4 * allowance(mix),
            norm=norm,
            **mix.params,
        )


def _few_agents(ctx: Context) -> Iterator[Mix]:
    """Fewer than min(d, k) directions in all."""
    for m, d, k, r in ((1, 4, 6, 2), (2, 7, 5, 2), (3, 6, 9, 1)):
        rng = ctx.rng("few", m)
        B, A = gaussian(rng, ctx.pick(50, 1000), m, d, k, r)
        Pi = ctx.array(stochastic(rng, 4, m))
        yield Mix("few agents", Factors(ctx.array(B), ctx.array(A)), Pi)


def _rank(mix: Mix) -> Row:
    d, k = mix.factors.shape
    rank = bounds.mix_rank(m=mix.Pi.shape[-1], r=mix.factors.rank, d=d, k=k)
    M = mix_products(mix.factors, mix.Pi)
    beyond = namespace(M).linalg.svdvals(M)[..., rank]
    case = "sigma_{min(m r, d, k) + 1}(M) = 0"
    return same(case, beyond, rounding=allowance(mix), rank=rank, **mix.params)


def _without_error(ctx: Context) -> Iterator[Mix]:
    """The five cases in which nothing is dropped."""
    rng = ctx.rng("without error")
    count = ctx.pick(50, 1000)
    m = 3

    def made(family: str, B: Any, A: Any) -> Mix:
        return Mix(family, Factors(ctx.array(B), ctx.array(A)), ctx.array(stochastic(rng, 4, m)))

    B, A = gaussian(rng, count, m, 6, 5, 2)
    turned = isometry(rng, count, m, 2, 2)
    inverse = turned.swapaxes(-1, -2)
    yield made("equal products", B[:, :1] @ inverse, turned @ A[:, :1])
    yield made("frozen A", B, np.repeat(A[:, :1], m, axis=1))
    yield made("common column space", B[:, :1] @ rng.standard_normal((count, m, 2, 2)), A)
    thin = gaussian(rng, count, m, 6, 5, 1)
    wide = rng.standard_normal((count, m, 1, 3))
    yield made("m r0 <= r", thin.B @ wide, np.swapaxes(wide, -1, -2) @ thin.A)
    yield made("r = min(d, k)", *gaussian(rng, count, m, 3, 5, 3))


def _no_error(mix: Mix) -> Row:
    truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
    error = mix_products(mix.factors, mix.Pi) - product(truncated.factors)
    residual = namespace(error).linalg.matrix_norm(error, ord="fro")
    return same("E = 0", residual, rounding=2 * allowance(mix), **mix.params)


CLAIMS = [
    Claim(
        "T15",
        "truncation",
        "derived",
        rows,
        not_attacked="identities, and Eckart-Young's inequality, which defines the truncation",
        reaches={
            "|M - X| >= |E| for X of rank r, fro": 1,
            "|M - X| >= |E| for X of rank r, op": 1,
            "|M - X| >= |E| for X of rank r, nuc": 1,
        },
    )
]
