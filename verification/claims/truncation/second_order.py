"""T21: near a common product, the truncation error is of second order."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, sin
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mix_products, product
from decaf_theory.measure import truncation_error
from decaf_theory.tsvd import tsvd, tsvd_of_mix
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_most, ulps
from verification.instances.mixes import Mix, allowance, gaussian, load, mixes, stochastic, stored
from verification.instances.omega import each


def rows(ctx: Context) -> Iterator[Row]:
    r"""For products near one of rank r the truncation error is quadratic in their distance.

    For any $P_0$ of rank $r$ with $\delta = \max_j \|B_j A_j - P_0\|_{op} < \sigma_r(P_0)$:
    $$\|E\|_F \le \frac{\sum_j \pi_j \|B_j A_j - P_0\|_F^2 +
    \|\sum_j \pi_j (B_j A_j - P_0)\|_F^2}{2 (\sigma_r(P_0) - \delta)}.$$

    Assumptions: $\delta < \sigma_r(P_0)$, computed for each instance; weights $\pi_j \ge 0$ with
    sum one.

    Proof: write $B_j A_j$ in blocks $a_j, b_j, c_j, d_j$ in the singular bases of $P_0$. As
    $\sigma_r(a_j) \ge \sigma_r(P_0) - \delta > 0$ and the rank is $r$,
    $d_j = c_j a_j^{-1} b_j$. The matrix that agrees with $M$ but for the last block
    $M_{21} M_{11}^{-1} M_{12}$ has rank $r$, and
    $\sigma_r(M_{11}) \ge \sigma_r(P_0) - \delta$ too, so
    $\|E\|_F \le \|\sum_j \pi_j c_j a_j^{-1} b_j\|_F + \|M_{21} M_{11}^{-1} M_{12}\|_F$, where
    $\|c\|_F \|b\|_F \le \frac12 (\|c\|_F^2 + \|b\|_F^2)$.

    Extremal: $B_j = A_j' = (\cos\theta, \pm \sin\theta)$, weights 1/2, $P_0 = e_1 e_1'$:
    $\|E\|_F = \sin^2\theta$ and the ratio $(1 - \sin\theta)/(1 + \sin^2\theta)$ tends to 1. Only
    in that limit: by T21-global the ratio is at most $1 - \delta/\sigma_r(P_0)$.

    Source: derived here.
    """
    count = ctx.pick(100, 3000)
    for r, d, k, m in ((1, 3, 2, 2), (2, 4, 6, 3), (3, 7, 5, 4)):
        for size in (1e-4, 1e-2, 0.1, 0.5):
            yield from _both_references(_near_consensus(ctx, count, (r, d, k, m), size), size=size)
    for mix in mixes(ctx, instances=ctx.pick(40, 1000)):
        yield from _both_references(mix, size=1.0)
    for angle in (0.3, 2.0**-8, 2.0**-15, 2.0**-22):
        yield replay(extremal(angle))


def _near_consensus(ctx: Context, count: int, shape: tuple[int, int, int, int], size: float) -> Mix:
    r, d, k, m = shape
    rng = ctx.rng("near", r)
    common = gaussian(rng, count, 1, d, k, r)
    apart = gaussian(rng, count, m, d, k, r)
    near = common.map(lambda X, D: ctx.array(X + size * D), apart)
    return Mix("near", near, ctx.array(stochastic(rng, 3, m)))


def _both_references(mix: Mix, **params: float) -> Iterator[Row]:
    """Against the first agent's product, and against the truncated mix itself."""
    first = product(mix.factors)[:, :1]
    yield _row(mix, first, reference="first agent", **params)
    mean = mix_products(mix.factors, mix.Pi)[:, 0]
    own = product(tsvd(mean, mix.factors.rank).factors)[:, None]
    yield _row(mix._replace(Pi=mix.Pi[:1]), own, reference="TSVD_r(M)", **params)


def _row(mix: Mix, P0: Any, slip: Any = None, **params: Value) -> Row:
    """Compare |E|_F with the bound for the reference P0 [instances, 1, d, k]."""
    xp = namespace(P0)
    r = mix.factors.rank
    apart = product(mix.factors) - P0
    values = xp.linalg.svdvals(apart)
    squares = xp.sum(values**2, axis=-1)
    mean = mix_products(mix.factors, mix.Pi) - P0
    letters = {
        "mean_square": squares @ mix.Pi.mT,
        "square_mean": xp.sum(mean**2, axis=(-2, -1)),
        "sigma_r": xp.linalg.svdvals(P0)[..., r - 1],
        "delta": xp.max(values[..., 0], axis=-1)[:, None],
    }
    bound = each(bounds.truncation_second_order, **{name: host(x) for name, x in letters.items()})
    held = np.isfinite(bound)
    error = truncation_error(tsvd_of_mix(mix.factors, mix.Pi, r))
    if slip is None:
        # a product off by e moves the bound by 2 e |B_jA_j - P0|_F / 2 (sigma_r - delta), twice
        room = np.where(held, host(letters["sigma_r"] - letters["delta"]), 1.0)
        slip = host(allowance(mix)) * (1 + 2 * host(letters["mean_square"]) ** 0.5 / room)
    where = {"rounding": slip, "held": held, **mix.params, **params}
    return at_most("|E|_F <= bound", error, np.where(held, bound, 0), **where)


def extremal(angle: float = 2.0**-22) -> Instance:
    """Return two unit vectors at +-angle from the reference direction e_1."""
    v = np.array([[cos(angle), sin(angle)], [cos(angle), -sin(angle)]])
    return stored(Factors(v[:, :, None], v[:, None, :]), [0.5, 0.5], reference=[[1, 0], [0, 0]])


def replay(instance: Instance) -> Row:
    """Return the row of one stored mix and reference."""
    P0 = np.asarray(instance["reference"], dtype=np.float64)[None, None]
    mix = load(instance)
    row = _row(mix, P0, reference="stored")
    M = mix_products(mix.factors, mix.Pi)[0, 0]
    if np.count_nonzero(M) > np.count_nonzero(np.diagonal(M)):
        return row
    # a diagonal mix has its singular values on show, to relative precision
    return _row(mix, P0, slip=ulps(20, row.bound), reference="stored")


def attacks() -> dict[str, Any]:
    """Return the attacks on T21."""
    from verification.attacks.truncation import second_order

    return {f"r = {r}": second_order(r, r + 2, r + 1) for r in (1, 2)}


CLAIMS = [
    Claim(
        "T21",
        "truncation",
        "derived",
        rows,
        bounds=(bounds.truncation_second_order,),
        conditional=True,
        attacks=attacks,
        replay=replay,
        instance=extremal,
        reaches={
            "|E|_F <= bound, first agent": 0,
            "|E|_F <= bound, TSVD_r(M)": 0.92,
            "|E|_F <= bound, stored": 1,
        },
    )
]
