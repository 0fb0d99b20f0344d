"""T20: DeCAF mixes products and sees no gauge; DLoRA mixes factors and does."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace, transpose
from decaf_theory.lowrank import Factors, align, balance, gauge, mix_products, product, spectrum
from decaf_theory.measure import factor_gradients, product_distance, truncation_error
from decaf_theory.methods import METHODS
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Instance, Row, Value
from verification.curves.gauges import of_methods
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import Mix, allowance, gaussian, isometry, load, mixes, stored
from verification.instances.omega import each


def rows(ctx: Context) -> Iterator[Row]:
    r"""DeCAF's mix is the same in every gauge; balanced factors are unique up to a rotation.

    For any invertible $R_j$, one an agent, $(B_j R_j^{-1}, R_j A_j)$ leaves $M$ and
    $\mathrm{TSVD}_r(M)$ as they are. Balanced factors ($B'B = AA'$) of one product of rank $r$
    differ by one $O \in O(r)$: $(BO, O'A)$. A gradient step maps $(BO, O'A)$ to
    $(B^+ O, O' A^+)$. DLoRA's mix commutes with one gauge common to all agents.

    Assumptions: for the second statement $\sigma_r > 0$; for the first, where it speaks of the
    truncation, $\sigma_r(M) > \sigma_{r+1}(M)$.

    Proof: $B_j R_j^{-1} R_j A_j = B_j A_j$. Balanced factors have $BB' = (PP')^{1/2}$ and
    $A'A = (P'P)^{1/2}$, so two of them satisfy $\tilde B = BO$ with $O$ orthogonal, and
    $\tilde B \tilde A = BA$ gives $\tilde A = O'A$. With $W$ unchanged,
    $BO - \alpha s g (O'A)' = (B - \alpha s g A') O$, likewise $A$. Sums commute with a common $R$.

    Counterexample (for DLoRA): see T20-dlora.

    Source: derived here.
    """
    for mix in mixes(ctx, instances=ctx.pick(60, 1500)):
        yield from _any_gauge(ctx, mix)
        yield from _steps_and_common_gauges(ctx, mix)
        yield _unique_up_to_rotation(ctx, mix)
    yield from of_methods(ctx, ("decaf",))


def _any_gauge(ctx: Context, mix: Mix) -> Iterator[Row]:
    """Each agent in a gauge of its own, of condition number up to ten."""
    other = mix._replace(factors=gauge(mix.factors, _gauges(ctx, mix, "own")))
    r = mix.factors.rank
    first, second = (tsvd_of_mix(x.factors, x.Pi, r) for x in (mix, other))
    slip = allowance(mix) + 10 * allowance(other)  # solving for B R^-1 loses the condition of R
    M = mix_products(mix.factors, mix.Pi)
    norm = namespace(M).linalg.matrix_norm
    residual = norm(M - product(second.factors), ord="fro") - truncation_error(first)
    yield same("|M - P~|_F = |E|_F", residual, rounding=2 * slip, **mix.params)

    next_one = second.tail[..., 0] if second.tail.shape[-1] else 0 * slip
    letters = {"sigma_r": second.singular_values[..., -1], "sigma_next": next_one, "e": slip}
    factor = each(bounds.tsvd_perturbation, **{name: host(x) for name, x in letters.items()})
    held = np.isfinite(factor)
    yield same(
        "P~ = P where the gap exceeds rounding",
        product_distance(first.factors, second.factors),
        rounding=np.where(held, factor, 0) * host(slip) + host(slip),
        held=held,
        **mix.params,
    )


def _gauges(ctx: Context, mix: Mix, *name: str) -> Any:
    """Return a gauge an agent: rotations around singular values between 1 and 10."""
    rng = ctx.rng("gauge", mix.family, *name)
    r = mix.factors.rank
    shape = (*mix.factors.B.shape[:-2], r, r)
    stretch = rng.uniform(1, 10, (*shape[:-1], 1))
    return ctx.array(isometry(rng, *shape) @ (stretch * isometry(rng, *shape)))


def _unique_up_to_rotation(ctx: Context, mix: Mix) -> Row:
    """Balanced factors of one product, reached from two gauges and aligned."""
    other = gauge(mix.factors, _gauges(ctx, mix, "balanced"))
    reference = balance(mix.factors)
    gap = _apart(align(balance(other), reference), reference)
    each_alone = namespace(mix.Pi).eye(mix.Pi.shape[-1], dtype=mix.Pi.dtype)
    alone = mix._replace(Pi=each_alone)
    slip = host(allowance(alone) + 10 * allowance(alone._replace(factors=other)))
    sigma_r = host(spectrum(mix.factors)[..., -1])
    # products off by the slip allow this distance (T20-distance), and alignment rounds by eps |Z|
    allowed = each(bounds.factor_distance, product_distance=slip, sigma_r=sigma_r)
    held = sigma_r > slip
    rounding = np.where(held, allowed, 0) + ulps(10, host(_size(reference)))
    case = "balanced factors agree up to O(r)"
    return same(case, gap, rounding=rounding, held=held, **mix.params)


def _size(Z: Factors) -> Any:
    """Return |[B; A']|_F."""
    norm = namespace(Z.B).linalg.matrix_norm
    return (norm(Z.B, ord="fro") ** 2 + norm(Z.A, ord="fro") ** 2) ** 0.5


def _apart(left: Factors, right: Factors) -> Any:
    return _size(Factors(left.B - right.B, left.A - right.A))


def _steps_and_common_gauges(ctx: Context, mix: Mix) -> Iterator[Row]:
    """Gradient steps commute with rotations, DLoRA's mix with a gauge common to all agents."""
    rng = ctx.rng("common", mix.family)
    r = mix.factors.rank
    count, m = mix.factors.B.shape[:2]
    R = ctx.array(isometry(rng, count, 1, r, r))
    g = ctx.array(rng.standard_normal((count, m, *mix.factors.shape)))

    def turned(Z: Factors) -> Factors:
        return Factors(Z.B @ transpose(R), R @ Z.A)

    def step(Z: Factors) -> Factors:
        gradients = factor_gradients(g, Z, 0.5)
        return Factors(Z.B - 0.1 * gradients.B, Z.A - 0.1 * gradients.A)

    def dlora(Z: Factors) -> Factors:
        return METHODS["dlora"].mix(Z, mix.Pi, 0)

    slope = namespace(g).linalg.matrix_norm(g)[..., None]
    size = _size(mix.factors)[..., None] * (1 + slope)
    # sums of at most d, k or m r products
    slip = ulps(10 * max(*mix.factors.shape, r * mix.Pi.shape[-1]), host(size).max(1))
    for case, map_of in (("a step is O(r)-equivariant", step), ("a common gauge commutes", dlora)):
        gap = _apart(map_of(turned(mix.factors)), turned(map_of(mix.factors)))
        yield same(case, gap, rounding=slip, **mix.params)


def dlora_is_gauge_free(ctx: Context) -> Iterator[Row]:
    r"""DLoRA's mixed product does not depend on the gauges of the single agents.

    For invertible $R_j$, mixing $(B_j R_j^{-1}, R_j A_j)$ gives the same $\bar B \bar A$ as mixing
    $(B_j, A_j)$. FALSE: only a gauge common to all agents leaves it.

    Assumptions: weights $\pi_j \ge 0$ with sum one.

    Counterexample: two scalar agents $(1, 1)$ with weights 1/2, and the gauge $R_2 = -1$: DLoRA's
    product falls from 1 to 0, while all products, and DeCAF's mix, stay 1.

    Source: derived here.
    """
    yield replay(instance())
    yield from of_methods(ctx, ("dlora", "dlora_fa"))


def instance() -> Instance:
    """Return two scalar agents with product one, and the gauge -1 of the second."""
    agents = Factors(np.ones((2, 1, 1)), np.ones((2, 1, 1)))
    return stored(agents, [0.5, 0.5], gauges=[[[1.0]], [[-1.0]]])


def replay(instance: Instance) -> Row:
    """Return the row |Bbar Abar before - after the gauges|_F = 0 of one stored mix."""
    mix = load(instance)
    other = mix._replace(factors=gauge(mix.factors, np.asarray(instance["gauges"])))
    before, after = (METHODS["dlora"].mix(x.factors, x.Pi, 0) for x in (mix, other))
    slip = allowance(mix) + 10 * allowance(other)
    case = "Bbar Abar is the same in other gauges"
    return same(case, product_distance(before, after), rounding=slip, **mix.params)


def distance(ctx: Context) -> Iterator[Row]:
    r"""Balanced factors are as near as their products, up to a rotation and sigma_r.

    $\min_{O \in O(r)} \|Z - Z'O\|_F^2 \le (1 + \sqrt 2)\, \|P - P'\|_F^2 /
    \max(\sigma_r(P), \sigma_r(P'))$ for balanced factors $Z = [B; A']$, $Z'$ of $P$, $P'$.

    Assumptions: $\sigma_r(P)$ or $\sigma_r(P')$ is positive.

    Proof: $ZZ'$ has the blocks $(PP')^{1/2}, P, P', (P'P)^{1/2}$, and the squared distances of
    both square roots sum to at most $2\|P - P'\|_F^2$ (Kittaneh), so that of the Gram matrices
    is at most $4\|P - P'\|_F^2$. The Procrustes lemma bounds the squared distance of factors by
    that of the Gram matrices over $2(\sqrt 2 - 1)\,\sigma_r(Z)^2$, and
    $\sigma_r(Z)^2 = 2\sigma_r(P)$; the roles of both may be exchanged.

    Extremal: $P = e_1 e_1'$, $P' = (\sqrt 2 - 1) e_2 e_2'$, $r = 1$: both sides are $2\sqrt 2$.

    Source: derived here, from Kittaneh's inequality and the Procrustes lemma of Tu et al.
    """
    for r, d, k in ((1, 2, 3), (2, 5, 3), (3, 4, 7)):
        rng = ctx.rng("pairs", r)
        count = ctx.pick(150, 5000)
        first = gaussian(rng, count, d, k, r).map(ctx.array)
        apart = gaussian(rng, count, d, k, r).map(ctx.array)
        size = ctx.array(10.0 ** rng.uniform(-4, 0, (count, 1, 1)))
        near = Factors(first.B + size * apart.B, first.A + size * apart.A)
        weak = ctx.array(10.0 ** -np.arange(r))  # by columns of B: 1, 1/10, ...
        graded = Factors(first.B * weak, first.A)
        for family, pair in (
            ("independent", (first, apart)),
            ("near", (first, near)),
            ("graded", (graded, apart)),
        ):
            yield _distance_row(family, *pair)
    yield replay_distance(sharp())


def _distance_row(family: str, left: Factors, right: Factors) -> Row:
    Z = balance(left)
    other = balance(right)
    gap = _apart(align(other, Z), Z) ** 2
    sigma_r = [_last(x) for x in (left, right)]
    apart = host(product_distance(left, right))
    bound = each(bounds.factor_distance, product_distance=apart, sigma_r=np.maximum(*sigma_r)) ** 2
    held = np.isfinite(bound)  # not where both products have a rank below r
    d, k = left.shape
    # the squared norms of both factors, off by the rounding of QR, SVD and alignment
    slip = ulps(20 * max(d, k), (_size(Z) + _size(other)) ** 2)
    size: dict[str, Value] = {"family": family, "d": d, "k": k, "r": left.rank}
    return at_most(
        "min |Z - Z'O|_F^2 <= bound",
        gap,
        np.where(held, bound, 0.0),
        rounding=slip,
        held=held,
        **size,
    )


def _last(factors: Factors) -> Any:
    """Return sigma_r of the products, 0 where it is no more than rounding leaves of rank r - 1."""
    S = host(spectrum(factors))
    return np.where(S[..., -1] > ulps(20 * max(*factors.shape), S[..., 0]), S[..., -1], 0.0)


def sharp() -> Instance:
    """Return two orthogonal rank-one products of sizes 1 and sqrt 2 - 1."""
    sizes = np.array([1.0, sqrt(2) - 1])[:, None, None]
    e = np.eye(2)  # agent j holds e_j e_j' times its size
    return stored(Factors(sizes * e[:, :, None], e[:, None, :]), [0.5, 0.5])


def replay_distance(instance: Instance) -> Row:
    """Return the row of the first two agents of a stored mix."""
    B, A = load(instance).factors
    first = Factors(B[:, 0], A[:, 0])
    second = Factors(B[:, 1], A[:, 1])
    return _distance_row("stored", first, second)


def attacks() -> dict[str, Any]:
    """Return the attacks on T20-distance."""
    from verification.attacks.truncation import factor_distance

    return {f"r = {r}": factor_distance(r, r + 2, r + 1) for r in (1, 2)}


CLAIMS = [
    Claim(
        "T20",
        "truncation",
        "derived",
        rows,
        conditional=True,
        not_attacked="identities; its inequality is T20-distance",
    ),
    Claim(
        "T20-distance",
        "truncation",
        "derived",
        distance,
        bounds=(bounds.factor_distance,),
        attacks=attacks,
        replay=replay_distance,
        instance=sharp,
        reaches={
            "min |Z - Z'O|_F^2 <= bound": 1,
        },
    ),
    Claim(
        "T20-dlora",
        "truncation",
        "derived",
        dlora_is_gauge_free,
        expected="violated",
        replay=replay,
        instance=instance,
        script="T20-dlora",
    ),
]
