"""T21-global: the truncation error is of second order however far apart the products are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import pi
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import mix_products, product
from decaf_theory.measure import truncation_error
from decaf_theory.tsvd import TSVD, tsvd_of_mix
from verification.claim import Claim, Context, Instance, Row
from verification.claims.truncation import second_order
from verification.evidence import at_most, attained
from verification.instances.mixes import Mix, allowance, gaussian, isometry, load, mixes, stochastic
from verification.instances.omega import each, mix_of

SHAPES = ((1, 3, 2, 2), (2, 4, 6, 3), (3, 7, 5, 4), (4, 6, 8, 5))  # r, d, k, m
WEIGHTS = ([0.5, 0.5], [0.7, 0.3], [0.5, 0.3, 0.2], [1 / 3] * 3, [0.05, 0.9, 0.05])


def rows(ctx: Context) -> Iterator[Row]:
    r"""In nuclear norm the truncation error is of second order, near a common product or not.

    For any $P_0$ of rank at most $r$, with $s_i = \sigma_i(M)$ and $p_i = \sigma_i(P_0)$:
    $$\|E\|_* \le \frac{\sum_j \pi_j \|B_j A_j - P_0\|_F^2 +
    2 (\sum_{i \le r} s_i p_i - \langle M, P_0 \rangle)}{2 \max(s_r, p_r)}.$$
    With $P_0 = P = \mathrm{TSVD}_r(M)$ and $S = \sum_j \pi_j \|B_j A_j - P\|_F^2$ this is
    $\|E\|_* \le S / (2 s_r)$. With the best $P_0$ it is, for the least $q$ such that $q = r$ or
    $\ell \le s_{r-q}$,
    $$\|E\|_* \le q\,\ell - \sum_{r-q < i \le r} s_i, \qquad
    \ell^2 = \frac1q \Bigl(S + \sum_{r-q < i \le r} s_i^2\Bigr);$$
    for $r = 1$: $\|E\|_* (2 s_1 + \|E\|_*) \le S$. All of it is measured on the mix itself.

    Assumptions: weights $\pi_j \ge 0$ with sum one; $B_j A_j$ and $P_0$ of rank at most $r$;
    $\max(s_r, p_r) > 0$, with $P_0 = P$: $s_r > 0$; $q \ge 1$.

    Proof: write $P_j = B_j A_j$. The first bound says that
    $\sum_j \pi_j \|P_j - P_0\|_F^2 + \|M - P_0\|_F^2 = \sum_j \pi_j \|P_j\|_F^2 + \|M\|_F^2 -
    4 \langle M, P_0 \rangle + 2 \|P_0\|_F^2$ is at least
    $2 v \|E\|_* + \|E\|_F^2 + \sum_{i \le r} (s_i - p_i)^2$, $v = \max(s_r, p_r)$, where
    $\langle M, P_0 \rangle \le \sum_{i \le r} s_i p_i$. Let $U$ have the singular vectors of $M$
    and the values $u_i = \max(s_i, v)$ for $i \le r$, $v$ for $i > r$. As $P_j$ has rank $r$,
    $\langle U, P_j \rangle \le t \|P_j\|_F$ with $t^2 = \sum_{i \le r} u_i^2$, so that
    $\|P_j\|_F^2 \ge 2 \langle U, P_j \rangle - t^2$ and
    $\sum_j \pi_j \|P_j\|_F^2 \ge 2 v \|E\|_* + \sum_{i \le r} (2 u_i s_i - u_i^2)$. What is left to
    show is $(u_i - s_i)^2 \le (s_i - p_i)^2$ for $i \le r$: either $u_i = s_i$, or
    $s_i < u_i = p_r \le p_i$. For $P_0$ with $M$'s singular vectors the first bound is
    $(S + \sum_{i \le r} (s_i - p_i)^2) / (2 \max(s_r, p_r))$, least where
    $p_i = \max(s_i, \ell)$.

    Extremal: agents that share $r - q$ directions with values of at least 1, and each hold the
    value 1 in $q$ of $n' > q$ others that are orthogonal to them and to each other: $\ell = 1$, for
    any weights ($q = 1$: a direction for each agent; $q = n' - 1$: each omits one). T21's pair at
    every angle, $r = 1$. As one agent takes all the weight $S / (2 s_r)$ is attained in the limit.

    Source: derived here. It implies T21, whose $\delta$ and condition are not needed.
    """
    everywhere = chain(mixes(ctx, ctx.pick(40, 1000)), _drawn(ctx))
    for mix in everywhere:
        case = Spread.of(mix)
        yield case.row()
        yield case.against(case.P, "TSVD_r(M)")
        yield case.against(product(mix.factors)[:, :1], "first agent")
        yield case.against(_random_reference(ctx, case), "random")
    for angle in (0.3, pi / 4, 1.0, 1.5):
        yield from attained(replay(extremal(angle)))
    for mix, P0 in _sharing(ctx):
        case = Spread.of(mix)
        yield from attained(case.row())
        yield from attained(case.against(P0, "best"))
    for r, d, k, _ in SHAPES:
        # S / (2 s_r) exceeds |E|_* = light by the factor 1 + light / (2 s_r)
        light = 2.0**-10
        mix, _ = _shared(ctx, r, [[0], [1]], [1 - light, light], (d, k))
        case = Spread.of(mix)
        yield case.against(case.P, "TSVD_r(M), light agent")


class Spread(NamedTuple):
    """A mix, its truncation, P = TSVD_r(M) [instances, n, d, k], and the error of the numbers.

    error [instances, n]: of the root mean square over agents of |B_j A_j|_F, and so of |M|_F.
    """

    mix: Mix
    truncated: TSVD
    P: Any
    error: Any

    @classmethod
    def of(cls, mix: Mix) -> Spread:
        """Return the truncation of a mix at the rank of its factors."""
        agents = mix._replace(Pi=namespace(mix.Pi).eye(mix.Pi.shape[-1], dtype=mix.Pi.dtype))
        error = (allowance(agents) ** 2 @ mix.Pi.mT) ** 0.5
        truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
        return cls(mix, truncated, product(truncated.factors), host(error))

    def mean_square(self, P0: Any) -> Any:
        """Return sum_j pi_j |B_j A_j - P0|_F^2 for P0 [instances, n or 1, d, k]."""
        xp = namespace(P0)
        apart = product(self.mix.factors)[:, None] - P0[:, :, None]
        return host(xp.sum(self.mix.Pi * xp.sum(apart**2, axis=(-2, -1)), axis=-1))

    def row(self) -> Row:
        """Compare |E|_* with the bound by the spread about P.

        As the computed P is best for M up to an error e, |P - M| is within 2 e of |E|, and sqrt(S)
        off by 3 e. The bound moves by sqrt(r) times as much, and by that of s_1, ..., s_r.
        """
        r = self.mix.factors.rank
        square = self.mean_square(self.P)
        kept = host(self.truncated.singular_values)
        spectra = zip(square.ravel().tolist(), kept.reshape(-1, r).tolist(), strict=True)
        limits = [bounds.truncation_by_spread(mean_square=x, kept=s) for x, s in spectra]
        return at_most(
            "|E|_* <= bound by the spread",
            truncation_error(self.truncated, "nuc"),
            np.reshape(limits, square.shape),
            rounding=(1 + 4 * r**0.5) * self.error,
            **self.mix.params,
        )

    def against(self, P0: Any, reference: str) -> Row:
        """Compare |E|_* with the bound by the reference P0 [instances, n or 1, d, k].

        Norms off by e move the mean square S by 2 sqrt(S) e + e^2, each of the two sums that differ
        in the misalignment by 2 e |P0|, and the divisor v by e.
        """
        xp = namespace(P0)
        r = self.mix.factors.rank
        mean = mix_products(self.mix.factors, self.mix.Pi)
        p = xp.linalg.svdvals(P0)[..., :r]
        s = self.truncated.singular_values
        aligned = xp.sum(s * p, axis=-1) - xp.sum(mean * P0, axis=(-2, -1))
        square = self.mean_square(P0)
        letters = {
            "mean_square": square,
            "misalignment": np.maximum(host(aligned), 0),
            "sigma_r": host(s[..., -1]),
            "reference_r": host(p[..., -1]),
        }
        bound = each(bounds.truncation_by_reference, **letters)
        e = self.error
        larger = np.maximum(letters["sigma_r"], letters["reference_r"])
        held = larger > 4 * e
        size = host(xp.linalg.matrix_norm(P0))
        moved = 2 * square**0.5 * e + e**2 + 8 * e * size
        slip = e + (moved / 2 + 2 * bound * e) / np.where(held, larger, 1.0)
        return at_most(
            "|E|_* <= bound by a reference",
            truncation_error(self.truncated, "nuc"),
            bound,
            rounding=slip,
            held=held,
            reference=reference,
            **self.mix.params,
        )


def _drawn(ctx: Context) -> Iterator[Mix]:
    """Products at four ranks, of unequal shape, far apart and near a common one."""
    for r, d, k, m in SHAPES:
        for size in (0.1, 10.0):
            rng = ctx.rng("drawn", r)
            common = gaussian(rng, ctx.pick(40, 1000), 1, d, k, r)
            apart = gaussian(rng, ctx.pick(40, 1000), m, d, k, r)
            factors = common.map(lambda X, D, size=size: ctx.array(X + size * D), apart)
            yield Mix(f"{size} apart", factors, ctx.array(stochastic(rng, 3, m)))


def _random_reference(ctx: Context, case: Spread) -> Any:
    """Return random products of rank r, of the size of each mix and one for all its rows."""
    d, k = case.mix.factors.shape
    drawn = gaussian(ctx.rng("reference", case.mix.family), d, k, case.mix.factors.rank)
    shape = ctx.array(drawn.B @ drawn.A / np.linalg.norm(drawn.B @ drawn.A))
    return shape * namespace(shape).linalg.matrix_norm(case.P[:, :1])[..., None, None]


def _sharing(ctx: Context) -> Iterator[tuple[Mix, Any]]:
    """Yield the extremal mixes and their best references."""
    for r in (1, 2, 3, 4):
        for weights in WEIGHTS:
            own = [[j] for j in range(len(weights))]
            yield _shared(ctx, r, own, weights, (r + 3, r + 2))
    for q in (2, 3, 4):
        for r in (q, q + 1):
            omitting = [[i for i in range(q + 1) if i != j] for j in range(q + 1)]
            uneven = np.arange(1, q + 2) / sum(range(1, q + 2))
            yield _shared(ctx, r, omitting, uneven, (r + 1, r + 3))


def _shared(
    ctx: Context, r: int, held: list[list[int]], weights: Any, shape: tuple[int, int]
) -> tuple[Mix, Any]:
    """Return agents that share r - q directions at 2 and hold q others each, `held`, at 1.

    And the reference: the shared directions at 2, the q that weigh most at 1.
    """
    d, k = shape
    q = len(held[0])
    n = r - q + 1 + max(i for own in held for i in own)
    rng = ctx.rng("shared", r, n)
    left = isometry(rng, d, n)
    right = isometry(rng, n, k)
    others = np.array([[*range(r - q), *(r - q + i for i in own)] for own in held])
    values = np.where(others < r - q, 2.0, 1.0)
    B = np.moveaxis(left[:, others], 1, 0) * values[:, None]
    weight = np.zeros(n)
    np.add.at(weight, others, values * np.asarray(weights)[:, None])
    best = np.argsort(-weight, kind="stable")[:r]
    P0 = left[:, best] * np.where(best < r - q, 2.0, 1.0) @ right[best]
    return mix_of(ctx, "sharing", B, right[others], weights), ctx.array(P0)[None, None]


def extremal(angle: float = 1.0) -> Instance:
    """Return T21's pair: two unit vectors at +-angle, weights 1/2, |E| = min(sin^2, cos^2)."""
    pair = second_order.extremal(angle)
    return {name: pair[name] for name in ("B", "A", "weights")}


def replay(instance: Instance) -> Row:
    """Return the row of one stored mix: against its reference if it has one, else its spread."""
    case = Spread.of(load(instance))
    if "reference" not in instance:
        return case.row()
    P0 = np.asarray(instance["reference"], dtype=np.float64)[None, None]
    return case.against(P0, "stored")


def attacks() -> dict[str, Any]:
    """Return the attacks on T21-global."""
    from verification.attacks.mixes import HALVES, HEAVY
    from verification.attacks.truncation import by_reference, by_spread

    return {
        "spread, r = 1": by_spread(HEAVY, (3, 4, 1)),
        "spread, r = 2": by_spread(HEAVY, (4, 3, 2)),
        "spread, r = 3": by_spread(HALVES, (4, 5, 3)),
        "reference, r = 1": by_reference(HEAVY, (3, 4, 1)),
        "reference, r = 2": by_reference(HALVES, (4, 3, 2)),
    }


CLAIMS = [
    Claim(
        "T21-global",
        "truncation",
        "derived",
        rows,
        bounds=(bounds.truncation_by_reference, bounds.truncation_by_spread),
        attacks=attacks,
        replay=replay,
        instance=extremal,
        reaches={
            "|E|_* <= bound by the spread": 1,
            "|E|_* <= bound by a reference, TSVD_r(M)": 0.82,
            "|E|_* <= bound by a reference, first agent": 1,
            "|E|_* <= bound by a reference, random": 0.17,
            "|E|_* <= bound by a reference, best": 1,
            "|E|_* <= bound by a reference, TSVD_r(M), light agent": 0.99,
        },
    )
]
