"""T24: what a round of mixing preserves: factor means (DLoRA), the mean product (DeCAF)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mix_products, product
from decaf_theory.measure import interference
from decaf_theory.methods import METHODS
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import same, ulps
from verification.instances.mixes import Mix, allowance, gaussian, load, stored

NETWORKS = (  # name, N, d, k, r
    ("complete", 4, 5, 3, 2),
    ("ring", 5, 3, 6, 1),
    ("star", 6, 6, 5, 3),
    ("path", 4, 4, 5, 2),
    ("exponential", 7, 5, 4, 1),
)


def rows(ctx: Context) -> Iterator[Row]:
    r"""DLoRA keeps the mean factors, DeCAF the mean product up to truncation, frozen A both.

    For doubly stochastic $\Pi$ and one round of mixing: DLoRA leaves $\frac1N \sum_i A_i$ and
    $\frac1N \sum_i B_i$, and changes the mean product by exactly $-\frac1N \sum_i I_i$. DeCAF
    changes the mean product by exactly $-\frac1N \sum_i E_i$. With equal frozen $A$, averaging $B$
    keeps the mean factors and the mean product.

    Assumptions: columns of $\Pi$ sum to one, for DLoRA's mean product its rows too.

    Proof: column sums of one give $\frac1N \sum_i \sum_j \pi_{ij} X_j = \frac1N \sum_j X_j$, for
    factors and for products. DLoRA's product is $M_i - I_i$, DeCAF's is $M_i - E_i$; with equal $A$
    $I_i = 0$.

    Counterexample (for the mean factors): see T24-factors.

    Source: derived here.
    """
    for name, N, d, k, r in NETWORKS:
        rng = ctx.rng(name)
        count = ctx.pick(60, 1500)
        B, A = gaussian(rng, count, N, d, k, r)
        Pi = ctx.array(TOPOLOGIES[name](N))
        yield from _dlora(Mix(name, Factors(ctx.array(B), ctx.array(A)), Pi))
        yield _decaf(Mix(name, Factors(ctx.array(B), ctx.array(A)), Pi))
        equal = np.repeat(A[:, :1], N, axis=1)
        yield from _frozen(Mix(name, Factors(ctx.array(B), ctx.array(equal)), Pi))


def _mean(X: Any) -> Any:
    return namespace(X).mean(X, axis=-3)


def _factors_kept(method: str, mix: Mix) -> Iterator[Row]:
    mixed = METHODS[method].mix(mix.factors, mix.Pi, 0)
    for letter, before, after in zip("BA", mix.factors, mixed, strict=True):
        norm = namespace(before).linalg.matrix_norm
        # two means of N numbers each, and the row sums of Pi are off by N eps
        slip = ulps(10 * mix.Pi.shape[-1], host(norm(before, ord="fro")).max(-1))
        gap = norm(_mean(after) - _mean(before), ord="fro")
        yield same(f"{method}: mean {letter} kept", gap, rounding=slip, **mix.params)


def _product_change(method: str, mix: Mix, expected: Any, case: str) -> Row:
    """Compare the change of the mean product with the mean of `expected` [instances, N, d, k]."""
    mixed = METHODS[method].mix(mix.factors, mix.Pi, 0)
    change = _mean(product(mixed)) - _mean(product(mix.factors))
    gap = namespace(change).linalg.matrix_norm(change - _mean(expected), ord="fro")
    slip = 4 * host(allowance(mix)).max(-1)
    return same(f"{method}: {case}", gap, rounding=slip, **mix.params)


def _dlora(mix: Mix) -> Iterator[Row]:
    yield from _factors_kept("dlora", mix)
    lost = interference(mix.factors, mix.Pi)
    yield _product_change("dlora", mix, -lost, "mean product changes by -(1/N) sum I_i")


def _decaf(mix: Mix) -> Row:
    dense = mix_products(mix.factors, mix.Pi)
    xp = namespace(dense)
    U, S, Vh = xp.linalg.svd(dense, full_matrices=False)  # apart from the kernel
    r = mix.factors.rank
    error = (U[..., r:] * S[..., None, r:]) @ Vh[..., r:, :]
    return _product_change("decaf", mix, -error, "mean product changes by -(1/N) sum E_i")


def _frozen(mix: Mix) -> Iterator[Row]:
    yield from _factors_kept("dlora_fa", mix)
    yield _product_change("dlora_fa", mix, 0 * product(mix.factors), "mean product kept")


def mean_factors_kept_by_decaf(ctx: Context) -> Iterator[Row]:
    r"""DeCAF preserves the mean factors of the network, as DLoRA does.

    For doubly stochastic $\Pi$ one round of DeCAF leaves $\frac1N \sum_i B_i$ and
    $\frac1N \sum_i A_i$ as they are. FALSE: it mixes products and splits them anew.

    Assumptions: $\Pi$ doubly stochastic.

    Counterexample: scalar agents $(B, A) = (2, 1/2)$ and $(1, 1)$, complete graph: both products
    are 1, so both agents leave with $|B| = |A| = 1$, and the mean $B$ falls from 3/2 to 1 in size.

    Source: derived here.
    """
    yield replay(instance())


def instance() -> Instance:
    """Return two scalar agents with equal products and unequal factors."""
    pair = Factors(np.array([[[2.0]], [[1.0]]]), np.array([[[0.5]], [[1.0]]]))
    return stored(pair, [0.5, 0.5])


def replay(instance: Instance) -> Row:
    """Return the row |mean B before| = |mean B after| of one stored mix on the complete graph."""
    mix = load(instance)
    m = mix.Pi.shape[-1]
    mixed = METHODS["decaf"].mix(mix.factors, np.repeat(mix.Pi, m, axis=0), 0)
    # norms, as the sign of a factor is free
    before, after = (np.linalg.norm(_mean(x.B), axis=(-2, -1)) for x in (mix.factors, mixed))
    # two means of m numbers each
    slip = ulps(10 * m, before)
    return same("decaf: |mean B| kept", after - before, rounding=slip, **mix.params)


CLAIMS = [
    Claim("T24", "truncation", "derived", rows, not_attacked="identities"),
    Claim(
        "T24-factors",
        "truncation",
        "derived",
        mean_factors_kept_by_decaf,
        expected="violated",
        replay=replay,
        instance=instance,
        script="T24-factors",
    ),
]
