"""T8: interference is a weighted cross-covariance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import mix_factors, mix_products, product
from decaf_theory.measure import interference
from verification.claim import Claim, Context, Row
from verification.evidence import same, ulps
from verification.instances.mixes import Mix, mixes


def rows(ctx: Context) -> Iterator[Row]:
    r"""Interference is the weighted cross-covariance of the factors, exactly.

    $I = M - \bar B \bar A = \sum_j \pi_j (B_j - \bar B)(A_j - \bar A)
    = \frac12 \sum_{ij} \pi_i \pi_j (B_i - B_j)(A_i - A_j)$,
    with $M = \sum_j \pi_j B_j A_j$, $\bar B = \sum_j \pi_j B_j$, $\bar A = \sum_j \pi_j A_j$.

    Assumptions: $\sum_j \pi_j = 1$. No sign of the weights, no norm and no shape is assumed.
    Proof: Expand the first sum: the two mixed terms are each $-\bar B \bar A$ and the last is
    $+\bar B \bar A$. Expand the second: $\frac12(M + M - 2 \bar B \bar A)$.
    Counterexample (with other weights): where they sum to $w \ne 1$ the first sum is off by
    $(1 - w) \bar B \bar A$.
    Source: derived here.
    """
    for mix in mixes(ctx, ctx.pick(20, 400)):
        direct = mix_products(mix.factors, mix.Pi) - product(mix_factors(mix.factors, mix.Pi))
        forms = {"covariance": interference(mix.factors, mix.Pi), "pairs": pairs(mix)}
        for name, form in forms.items():
            residual = namespace(form).linalg.matrix_norm(direct - form, ord="fro")
            case = f"{name}, {mix.family}"
            yield same(case, residual, rounding=allowed(mix), **mix.params)


def pairs(mix: Mix) -> Any:
    """Return 1/2 sum_ij pi_i pi_j (B_i - B_j)(A_i - A_j) for rows Pi, [instances, n, d, k]."""
    xp = namespace(mix.factors.B)
    B, A = (X[:, :, None] - X[:, None, :] for X in mix.factors)
    weights = mix.Pi[:, :, None] * mix.Pi[:, None, :]
    return xp.einsum("nij,aijdr,aijrk->andk", 0.5 * weights, B, A)


def allowed(mix: Mix) -> Any:
    """Return the rounding error allowed to the difference of two forms, [instances, 1].

    Each form is a sum of at most n = m^2 + r products, off by n u = n eps / 2 times the sum of
    their sizes, itself at most 4 max_j |B_j|_F max_j |A_j|_F (differences double each factor); so
    two forms differ by 4 n eps times that product at most, and weights that sum to one up to
    m eps add as little again.
    """
    xp = namespace(mix.factors.B)
    B, A = (xp.max(xp.linalg.matrix_norm(X, ord="fro"), axis=-1) for X in mix.factors)
    m = mix.Pi.shape[-1]
    return (ulps(4 * (m * m + mix.factors.rank), B, A))[:, None]


CLAIMS = [Claim("T8", "interference", "derived", rows, not_attacked="an identity")]
