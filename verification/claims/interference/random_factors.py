"""T12: the mean square of interference for random factors, by enumeration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as cartesian
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mix_products
from decaf_theory.measure import interference
from verification.claim import Claim, Context, Row, Value
from verification.evidence import same, ulps


class Case(NamedTuple):
    """Sizes small enough to enumerate all 2^(m r (d + k)) values of the entries, and weights."""

    d: int
    k: int
    r: int
    weights: tuple[float, ...]

    @property
    def entries(self) -> int:
        """How many entries all factors have together."""
        return len(self.weights) * self.r * (self.d + self.k)


QUICK = [
    Case(1, 2, 1, (0.5, 0.5)),
    Case(2, 3, 1, (0.75, 0.25)),
    Case(3, 1, 2, (0.375, 0.625)),
    Case(2, 1, 1, (0.5, 0.375, 0.125)),
    Case(1, 1, 2, (0.0625, 0.9375, 0.0)),
    Case(2, 1, 1, (1.0,)),
]
FULL = [
    Case(2, 3, 1, (0.5, 0.375, 0.125)),
    Case(1, 3, 2, (0.75, 0.25)),
    Case(3, 2, 1, (0.25, 0.5, 0.25)),
]
UNIFORM = [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)]  # m, r at d = k = 1

# value -> probability: zero mean; the second is skew, so that third moments would show
SIGNS = {1.0: 0.5, -1.0: 0.5}
SKEW = {2.0: 1 / 3, -1.0: 2 / 3}
A_SCALE = 3.0  # entries of A are this much larger, so that t_A and t_B differ


def rows(ctx: Context) -> Iterator[Row]:
    r"""For random factors the mean square of interference is exact, whatever the entries' law.

    $E |I|_F^2 = d k r\, t_A^2 t_B^2 (|\pi|_2^2 - 2 |\pi|_3^3 + |\pi|_2^4)$ and
    $E |M|_F^2 = d k r\, t_A^2 t_B^2 |\pi|_2^2$. For $m$ equal weights the relative root mean square
    is $\sqrt{(m - 1)/m}$, independent of $r$.

    Assumptions: independent entries with mean zero, of variance $t_A^2$ in every $A_j$ and $t_B^2$
    in every $B_j$; $\sum_j \pi_j = 1$. Only second moments enter.
    Proof: $I = \sum_{ij} w_{ij} B_i A_j$ with $w = diag(\pi) - \pi \pi'$. The products $B_i A_j$
    are uncorrelated for different $(i, j)$ and $E |B_i A_j|_F^2 = d k r\, t_A^2 t_B^2$; and
    $|w|_F^2 = |\pi|_2^2 - 2 |\pi|_3^3 + |\pi|_2^4$. For $M$ put $w = diag(\pi)$.
    Source: derived here. The expectations are computed by enumerating all values of all entries,
    for entries $\pm 1$ and for the skew law of $2$ and $-1$ with probabilities 1/3 and 2/3, times
    3 in $A$.
    """
    for case in ctx.pick(QUICK, QUICK + FULL):
        for law, values in (("signs", SIGNS), ("skew", SKEW)):
            yield from mean_squares(ctx, case, law, values)
    for m, r in UNIFORM:
        yield relative(ctx, Case(1, 1, r, (1 / m,) * m))


def mean_squares(ctx: Context, case: Case, law: str, values: dict[float, float]) -> Iterator[Row]:
    """Yield the two identities of one case."""
    of_I, of_M, rounding = enumerate_squares(ctx, case, values)
    t = sum(p * value**2 for value, p in values.items()) ** 0.5
    params: dict[str, Value] = {"law": law, "d": case.d, "k": case.k, "r": case.r}
    params["m"] = len(case.weights)
    for quantity, measured, formula in (
        ("interference", of_I, bounds.interference_mean_square),
        ("mix", of_M, bounds.mix_mean_square),
    ):
        exact = formula(d=case.d, k=case.k, r=case.r, tau_A=A_SCALE * t, tau_B=t, pi=case.weights)
        residual = measured - exact
        yield same(f"{quantity}, {law}", residual, rounding=rounding, **params)


def relative(ctx: Context, case: Case) -> Row:
    """Return the identity E|I|^2 = (m - 1)/m E|M|^2, in shape r."""
    of_I, of_M, rounding = enumerate_squares(ctx, case, SIGNS)
    m = len(case.weights)
    residual = of_I - (m - 1) / m * of_M
    return same("relative, equal weights", residual, rounding=2 * rounding, m=m, r=case.r)


def enumerate_squares(
    ctx: Context, case: Case, values: dict[float, float]
) -> tuple[float, float, float]:
    """Return (E|I|_F^2, E|M|_F^2, rounding) over all values of all entries.

    An entry of I or M is a sum of at most n = m (r + 2) products of size b = A_SCALE max |value|^2,
    4 b with differences; d k squares of at most (4 r b)^2 are added, and then averaged. So the mean
    is off by at most (2 n + d k + entries) eps times d k (4 r b)^2.
    """
    d = case.d
    k = case.k
    r = case.r
    m = len(case.weights)
    table = np.array(list(cartesian(values, repeat=case.entries)))
    chance = np.prod(np.array(list(cartesian(values.values(), repeat=case.entries))), axis=-1)
    factors = Factors(
        ctx.array(table[:, : m * d * r].reshape(-1, m, d, r)),
        ctx.array(A_SCALE * table[:, m * d * r :].reshape(-1, m, r, k)),
    )
    Pi = ctx.array([case.weights])
    of_I, of_M = (
        float(host(_square(X)) @ chance)
        for X in (interference(factors, Pi), mix_products(factors, Pi))
    )
    size = d * k * (4 * r * A_SCALE * max(abs(v) for v in values) ** 2) ** 2
    return of_I, of_M, ulps(2 * m * (r + 2) + d * k + case.entries, size)


def _square(X: Any) -> Any:
    """Return |X|_F^2 of the one row of each instance, [instances]."""
    return namespace(X).sum(X[:, 0] ** 2, axis=(-2, -1))


CLAIMS = [
    Claim(
        "T12",
        "interference",
        "derived",
        rows,
        bounds=(bounds.interference_mean_square, bounds.mix_mean_square),
        not_attacked="an exact expectation",
    )
]
