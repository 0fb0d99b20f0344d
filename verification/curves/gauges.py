"""Agents of one product in different gauges: what each method's mix makes of it, in closed form.

Two agents with weights 1/2 hold the isometric product B A of rank 2. The second one's gauge is
turned by an angle, or stretched by t: (t B, A/t).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import cos, pi, sin

import numpy as np

from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, gauge
from decaf_theory.measure import product_distance
from decaf_theory.methods import METHODS
from verification.claim import Context, Row, Value
from verification.evidence import same, ulps
from verification.instances.mixes import isometry

D = 5
K = 4
ANGLES = tuple(pi * i / 8 for i in range(9))
STRETCHES = tuple(2.0 ** (i / 2) for i in range(9))

# |mixed - B A| / |B A| at agent 0, whose gauge is the identity: turned by an angle, stretched by t
LAWS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "decaf": (lambda angle: 0.0, lambda t: 0.0),
    "dlora": (lambda angle: sin(angle / 2) ** 2, lambda t: (1 + t) ** 2 / (4 * t) - 1),
    "dlora_fa": (lambda angle: sin(angle / 2), lambda t: abs(1 + t) / 2 - 1),
}


def of_methods(ctx: Context, methods: tuple[str, ...]) -> Iterator[Row]:
    """Yield, for each method and gauge, that what its mix loses is the closed form."""
    rng = ctx.rng("gauge panel")
    B, A = (ctx.array(isometry(rng, *shape)) for shape in ((D, 2), (2, K)))
    for method in methods:
        turned, stretched = LAWS[method]
        for angle in ANGLES:
            R = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
            yield _lost(ctx, method, Factors(B, A), R, turned(angle), turned_by=angle / pi)
        for t in STRETCHES:
            yield _lost(ctx, method, Factors(B, A), np.eye(2) / t, stretched(t), stretched_by=t)


def _lost(
    ctx: Context, method: str, one: Factors, R: np.ndarray, law: float, **where: float
) -> Row:
    """Return the row |lost - law| = 0 where the second agent is in the gauge R."""
    pair = one.map(lambda X: namespace(X).stack([X, X]))
    pair = gauge(pair, ctx.array(np.stack([np.eye(2), R])))
    mixed = METHODS[method].mix(pair, ctx.array(np.full((2, 2), 0.5)), 0)
    first = Factors(mixed.B[0], mixed.A[0])
    lost = float(product_distance(first, one)) / 2**0.5  # |B A|_F = sqrt 2
    size = float(np.prod([np.linalg.norm(host(X)) for X in pair]))
    # a mix, QR and SVD of factors with D and K rows: each max(D, K) eps of their norms
    slip = ulps(20 * max(D, K), size)
    params: dict[str, Value] = {"curve": "gauges", "method": method, "lost": lost, **where}
    return same("what the mix loses is the closed form", lost - law, rounding=slip, **params)
