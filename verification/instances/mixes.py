"""Mixes on which the claims on truncation are tried.

A mix is a batch of factors of m agents with stochastic rows Pi; every row meets every instance.
The stored form of one mix is a dict of plain lists: B [m][d][r], A [m][r][k], weights [m].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, gauge, mix_products, product
from verification.claim import Context, Value
from verification.evidence import ulps

Draw = Callable[[np.random.Generator, int, int], tuple[Factors, np.ndarray]]


class Mix(NamedTuple):
    """Instances of factors, B [instances, m, d, r], A [instances, m, r, k], and rows Pi [n, m]."""

    family: str
    factors: Factors
    Pi: Any

    @property
    def params(self) -> dict[str, Value]:
        """The coordinates of a row of evidence on this mix."""
        d, k = self.factors.shape
        return {
            "family": self.family,
            "m": self.Pi.shape[-1],
            "d": d,
            "k": k,
            "r": self.factors.rank,
        }


def gaussian(rng: np.random.Generator, *shape: int) -> Factors:
    """Return Gaussian factors for shape (..., d, k, r), leading axes kept."""
    *batch, d, k, r = shape
    return Factors(rng.standard_normal((*batch, d, r)), rng.standard_normal((*batch, r, k)))


def stochastic(rng: np.random.Generator, rows: int, m: int) -> np.ndarray:
    """Return rows of Dirichlet weights [rows, m], the first row uniform."""
    Pi = rng.dirichlet(np.ones(m), size=rows)
    Pi[0] = 1.0 / m
    return Pi


def isometry(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return random matrices (..., rows, columns) whose nonzero singular values are all one."""
    U, _, Vh = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    partial_isometry: np.ndarray = U @ Vh
    return partial_isometry


def _plain(m: int, d: int, k: int, r: int, scale: float = 1.0, tilt: float = 1.0) -> Draw:
    """Gaussian factors of one shape, B times scale * tilt and A times scale / tilt."""

    def draw(rng: np.random.Generator, instances: int, rows: int) -> tuple[Factors, np.ndarray]:
        B, A = gaussian(rng, instances, m, d, k, r)
        return Factors(scale * tilt * B, scale / tilt * A), stochastic(rng, rows, m)

    return draw


def _rank_deficient(rng: np.random.Generator, n: int, rows: int) -> tuple[Factors, np.ndarray]:
    """The first agent misses a direction, the others share their row space."""
    B, A = gaussian(rng, n, 3, 6, 5, 2)
    B[:, 0, :, 1] = 0.0
    A[:, 2] = A[:, 1]
    return Factors(B, A), stochastic(rng, rows, 3)


def _tie(rng: np.random.Generator, n: int, rows: int) -> tuple[Factors, np.ndarray]:
    """Mutually orthogonal products with equal weights: all singular values of the mix agree."""
    left = isometry(rng, n, 7, 6)
    right = isometry(rng, n, 6, 6)
    B = np.moveaxis(left.reshape(n, 7, 3, 2), 2, 1)
    return Factors(B, right.reshape(n, 3, 2, 6)), np.full((1, 3), 1 / 3)


def _heavy_weight(rng: np.random.Generator, n: int, rows: int) -> tuple[Factors, np.ndarray]:
    """One agent holds 1 - 10^-1, 1 - 10^-3, ... of the weight."""
    light = 10.0 ** -(2.0 * np.arange(rows) + 1)
    Pi = np.stack([1 - light, light / 4, 3 * light / 4], axis=-1)
    return gaussian(rng, n, 3, 5, 6, 2), Pi


def _gauge_rotated(rng: np.random.Generator, n: int, rows: int) -> tuple[Factors, np.ndarray]:
    """All agents hold one product, each in a gauge of its own: M has rank r, I need not vanish."""
    B, A = gaussian(rng, n, 1, 6, 4, 2)
    same = Factors(np.repeat(B, 4, axis=1), np.repeat(A, 4, axis=1))
    return gauge(same, isometry(rng, n, 4, 2, 2)), stochastic(rng, rows, 4)


def _near_consensus(rng: np.random.Generator, n: int, rows: int) -> tuple[Factors, np.ndarray]:
    """Agents within 10^-3 of common factors."""
    common = gaussian(rng, n, 1, 6, 5, 2)
    apart = gaussian(rng, n, 4, 6, 5, 2)
    near = Factors(common.B + 1e-3 * apart.B, common.A + 1e-3 * apart.A)
    return near, stochastic(rng, rows, 4)


FAMILIES: dict[str, Draw] = {
    "generic": _plain(3, 6, 5, 2),
    "wide": _plain(3, 3, 8, 2),
    "tall": _plain(4, 8, 3, 1),
    "one agent": _plain(1, 5, 4, 2),
    "full rank": _plain(3, 5, 3, 3),
    "rank-deficient": _rank_deficient,
    "tie": _tie,
    "heavy weight": _heavy_weight,
    "gauge-rotated": _gauge_rotated,
    "near consensus": _near_consensus,
    "tiny": _plain(3, 6, 5, 2, scale=1e-8),
    "huge": _plain(3, 6, 5, 2, scale=1e8),
    "unbalanced": _plain(3, 4, 6, 2, tilt=1e8),
}


def mixes(ctx: Context, instances: int, rows: int = 4) -> Iterator[Mix]:
    """Yield one mix a family of `FAMILIES`."""
    for family, draw in FAMILIES.items():
        factors, Pi = draw(ctx.rng("mix", family), instances, rows)
        yield Mix(family, Factors(ctx.array(factors.B), ctx.array(factors.A)), ctx.array(Pi))


def allowance(mix: Mix) -> Any:
    """Return how far a norm computed from a mix may be off by floating point, [instances, n].

    Forming M takes m r products an entry, relative to sum_j pi_j |B_j||A_j|; LAPACK's SVD adds
    max(d, k) eps |M|; a norm sums at most min(d, k) values. Ten of the larger covers all three.
    """
    xp = namespace(mix.factors.B)
    size_B, size_A = (xp.linalg.matrix_norm(X, ord="fro") for X in mix.factors)
    d, k = mix.factors.shape
    terms = mix.factors.rank * mix.Pi.shape[-1]
    return ulps(10 * max(d, k, terms), (size_B * size_A) @ mix.Pi.mT)


def mix_apart(mix: Mix) -> Any:
    """Return the singular values of M_i - B_j A_j, [instances, n, m, min(d, k)]."""
    M = mix_products(mix.factors, mix.Pi)
    agents = product(mix.factors)
    return namespace(M).linalg.svdvals(M[:, :, None] - agents[:, None])


def stored(factors: Factors, weights: Any, **extra: Any) -> dict[str, Any]:
    """Return one mix, B [m, d, r], A [m, r, k], weights [m], as plain lists."""
    B, A, row = (np.asarray(x, dtype=np.float64).tolist() for x in (*factors, weights))
    return {"B": B, "A": A, "weights": row, **extra}


def load(instance: Mapping[str, Any]) -> Mix:
    """Return a stored mix as a mix of one instance and one row."""
    B, A, row = (np.asarray(instance[name], dtype=np.float64) for name in ("B", "A", "weights"))
    return Mix("stored", Factors(B[None], A[None]), row[None])
