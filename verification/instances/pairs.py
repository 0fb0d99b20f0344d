"""Pairs of points of Omega_c, on which the claims on smoothness are tried.

Omega_c = {sigma_1(A) <= c, sigma_1(B) <= c} (Assumption 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, product
from verification.claim import Context, Value
from verification.evidence import ulps
from verification.instances.mixes import gaussian, isometry
from verification.instances.omega import clip, inside_omega, on_omega

SHAPES = [(4, 3, 2), (2, 6, 1), (5, 5, 3), (3, 2, 4)]  # d, k, r


class Pair(NamedTuple):
    """Instances of two points, B [instances, d, r] and A [instances, r, k], in Omega_c."""

    family: str
    c: float
    start: Factors
    end: Factors

    @property
    def params(self) -> dict[str, Value]:
        """The coordinates of a row of evidence on these pairs."""
        d, k = self.start.shape
        return {"family": self.family, "c": self.c, "d": d, "k": k, "r": self.start.rank}

    @property
    def held(self) -> Any:
        """A mask [instances] of the pairs inside Omega_c."""
        xp = namespace(self.start.B)
        return xp.logical_and(*(inside_omega(point, self.c) for point in (self.start, self.end)))

    @property
    def step(self) -> Factors:
        """The displacement (dB, dA) from end to start."""
        return Factors(self.start.B - self.end.B, self.start.A - self.end.A)

    @property
    def product_step(self) -> Any:
        """B A - B'A', dense."""
        return product(self.start) - product(self.end)

    @property
    def slip(self) -> float:
        """The rounding of |B A - B'A'|_F: products of r terms, |B|_F, |A|_F <= sqrt(r) c each."""
        return ulps(2 * (self.start.rank + 4), self.start.rank, self.c**2)


def blocks(X: Factors, norm: str) -> Any:
    """Return the two blocks' Frobenius norms combined: "sum", "euclid" or "max", [instances]."""
    xp = namespace(X.B)
    b, a = (xp.linalg.matrix_norm(part, ord="fro") for part in X)
    if norm == "sum":
        return b + a
    return xp.hypot(b, a) if norm == "euclid" else xp.where(b > a, b, a)


Points = tuple[Any, Any]
Draw = Callable[[np.random.Generator, Factors], tuple[Factors, Factors]]


def _generic(rng: np.random.Generator, w: Factors) -> tuple[Factors, Factors]:
    """Two independent points."""
    return w, w.map(lambda X: np.roll(X, 1, axis=0))


def _near(rng: np.random.Generator, w: Factors) -> tuple[Factors, Factors]:
    """Two points 10^-6 apart."""
    return w, w.map(lambda X: X * (1 + 1e-6 * rng.standard_normal(X.shape)))


def _towards_zero(rng: np.random.Generator, w: Factors) -> tuple[Factors, Factors]:
    """Both factors scaled down, by one number an instance."""
    t = rng.random((len(w.B), 1, 1))
    return w, Factors(t * w.B, t * w.A)


def _one_factor(rng: np.random.Generator, w: Factors) -> tuple[Factors, Factors]:
    """B moves, A stays."""
    return w, Factors(np.roll(w.B, 1, axis=0), w.A)


def _rank_deficient(rng: np.random.Generator, w: Factors) -> tuple[Factors, Factors]:
    """One point has a factor of rank one, the other a factor of rank zero."""
    one = w.B[..., :1] @ np.ones((1, w.rank))
    return Factors(one, w.A), Factors(0 * w.B, w.A / 2)


def _tie(rng: np.random.Generator, w: Factors) -> tuple[Factors, Factors]:
    """Isometries with one size: all singular values agree."""
    size = np.linalg.norm(w.B, ord=2, axis=(-2, -1)).max()
    end, start = (w.map(lambda X: size * isometry(rng, *X.shape)) for _ in range(2))
    return start, end


def _gauge_rotated(rng: np.random.Generator, w: Factors) -> tuple[Factors, Factors]:
    """One product in two gauges: W does not move."""
    R = isometry(rng, len(w.B), w.rank, w.rank)
    return w, Factors(w.B @ R.mT, R @ w.A)


FAMILIES: dict[str, Draw] = {
    "generic": _generic,
    "near": _near,
    "towards zero": _towards_zero,
    "one factor moves": _one_factor,
    "rank-deficient": _rank_deficient,
    "tie": _tie,
    "gauge-rotated": _gauge_rotated,
}
SCALES = {"c = 1e-8": 1e-8, "c = 1e8": 1e8}


def pairs(ctx: Context, instances: int, c: float) -> Iterator[Pair]:
    """Yield pairs of each family of `FAMILIES` in two shapes, and generic ones at two scales."""
    for i, (family, draw) in enumerate(FAMILIES.items()):
        for d, k, r in (SHAPES[i % 4], SHAPES[(i + 1) % 4]):
            yield _drawn(ctx, family, draw, instances, (d, k, r), c)
    for family, scale in SCALES.items():
        yield _drawn(ctx, family, _generic, instances, SHAPES[0], scale)


def _drawn(
    ctx: Context, family: str, draw: Draw, instances: int, shape: tuple[int, int, int], c: float
) -> Pair:
    """Return one family's pairs: starts on the boundary of Omega_c, ends projected onto it."""
    rng = ctx.rng("pairs", family, *shape)
    start = on_omega(gaussian(rng, instances, *shape), c)
    points = (point.map(lambda X: clip(X, c)) for point in draw(rng, start))
    return Pair(family, c, *(point.map(ctx.array) for point in points))


def pair_of(ctx: Context, family: str, c: float, start: Points, end: Points) -> Pair:
    """Return one instance, from B [d, r] and A [r, k] of each point."""
    points = (Factors(*point).map(lambda X: ctx.array(X)[None]) for point in (start, end))
    return Pair(family, c, *points)


def stored(pair: Pair, **extra: Any) -> dict[str, Any]:
    """Return one pair as plain numbers and lists: c, B, A, B_end, A_end."""
    (B, A), (B_end, A_end) = (map(first, point) for point in (pair.start, pair.end))
    return {"c": pair.c, "B": B, "A": A, "B_end": B_end, "A_end": A_end, **extra}


def first(X: Any) -> list[Any]:
    """Return the first instance as nested lists."""
    nested: list[Any] = host(X)[0].tolist()
    return nested


def load(instance: Mapping[str, Any]) -> Pair:
    """Return a stored pair."""
    start, end = (
        (np.array(instance["B" + at]), np.array(instance["A" + at])) for at in ("", "_end")
    )
    return pair_of(Context("stored"), "stored", instance["c"], start, end)
