"""Difference quotients of the factor gradient over rank and scaling, against a constant.

K = 2 L eta c^2/G = 8: at s = eta/r Lemma 1 then exceeds L* most at r = 16, by the factor 2
(T3-gap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt

from verification.claim import Context, Row
from verification.evidence import at_most
from verification.instances.mixes import gaussian
from verification.instances.omega import on_omega
from verification.instances.pairs import Pair, blocks
from verification.instances.slopes import Slope, extremal, random_slopes

D = 66
K = 64
RANKS = (1, 2, 4, 8, 16, 32, 64)
L = 1.25
ETA = 2.0
C = 1.5
G = 2 * L * ETA * C**2 / 8
SCALINGS: dict[str, Callable[[int], float]] = {
    "eta/r": lambda r: ETA / r,
    "eta/sqrt(r)": lambda r: ETA / sqrt(r),
    "constant": lambda r: ETA,
}


def over_ranks(ctx: Context, constant: Callable[[Slope], float]) -> Iterator[Row]:
    """Yield the quotients of T3's extremal and of random slopes against a constant."""
    for r in RANKS:
        rng = ctx.rng("curve", r)
        points = (
            on_omega(gaussian(rng, ctx.pick(4, 40), D, K, r), C).map(ctx.array) for _ in range(2)
        )
        pair = Pair("random", C, *points)
        for scaling, s_of in SCALINGS.items():
            s = s_of(r)
            top = extremal(ctx, D, K, r, L=L, c=C, G=G, s=s)
            yield quotient(top, constant, scaling)
            yield quotient(random_slopes(rng, pair, L, G, s), constant, scaling)


def quotient(slope: Slope, constant: Callable[[Slope], float], scaling: str) -> Row:
    """Return the row of the largest |grad phi(w) - grad phi(w')| / |w - w'|, Euclidean norms.

    Rounding as in `steepness`, over the length of the step.
    """
    length = blocks(slope.pair.step, "euclid")
    bound = constant(slope)
    slip = 4 * slope.s * slope.c * (slope.eps * slope.G + slope.L * slope.s * slope.pair.slip)
    measured = blocks(slope.change, "euclid") / length
    return at_most(
        f"quotient, {slope.pair.family}",
        measured,
        bound,
        rounding=slip / length + slope.eps * bound,
        held=slope.held,
        **slope.pair.params,
        G=slope.G,
        curve="smoothness",
        scaling=scaling,
    )
