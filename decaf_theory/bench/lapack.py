"""LAPACK's test of its own SVD drivers, for the kernel: 17 matrix types x 19 sizes = 323 cases.

Each matrix is passed as a mix: cut into column or row panels, one per agent, with weights that
are powers of two, so that the mix is that matrix to the last bit. The kernel returns balanced
factors and not U and V, so the ratios are, in units of max(d, k) ulp |M|: the residual |M - BA|
beyond the optimal one, |B'B - S|, |AA' - S|, |S - S of LAPACK|; S nonnegative and decreasing.
Threshold 50, as in LAPACK. The six sizes with a zero count as the named error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory.arrays import Host
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd import TSVD

THRESHOLD = 50.0
SIZES = [
    *((0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1), (3, 3)),
    *((10, 10), (10, 16), (16, 10), (16, 16), (30, 30), (30, 40), (40, 30), (40, 40)),
]
SPECTRA = ("even", "geometric", "clustered")
TYPES = [
    *("zero", "identity"),
    *(f"diagonal {s}" for s in SPECTRA),
    *("diagonal geometric huge", "diagonal geometric tiny"),
    *(f"U S V' {s}" for s in SPECTRA),
    *("U S V' even huge", "U S V' even tiny", "U S V' half zero"),
    *("random", "random huge", "random tiny"),
    "bidiagonal log-uniform",
]


def cases() -> list[tuple[str, int, int]]:
    """Return all types and sizes."""
    return [(kind, d, k) for kind in TYPES for d, k in SIZES]


def matrix(kind: str, d: int, k: int, dtype: Any) -> Host:
    """Return the test matrix of one type; random signs, "huge" and "tiny" at the roots."""
    rng = np.random.default_rng([TYPES.index(kind), d, k])
    info, p = np.finfo(dtype), min(d, k)
    ulp = float(info.eps)
    M, words = np.zeros((d, k)), kind.split()
    if kind == "identity":
        M = np.eye(d, k)
    elif words[0] in ("diagonal", "U"):
        values = _spectrum(words[3 if words[0] == "U" else 1], p, ulp)
        M[range(p), range(p)] = values * rng.choice([-1, 1], p)
        if words[0] == "U":
            M = orthogonal(rng, d) @ M @ orthogonal(rng, k)
    elif words[0] == "random":
        M = rng.uniform(-1, 1, (d, k))
    elif words[0] == "bidiagonal":
        entries = ulp ** rng.uniform(-2, 2, (2, d, k)) * rng.choice([-1, 1], (2, d, k))
        M = entries[0] * np.eye(d, k) + entries[1] * np.eye(d, k, 1)
    if words[-1] == "huge":
        M *= float(info.max) ** 0.5
    if words[-1] == "tiny":
        M *= float(info.tiny) ** 0.5
    return M.astype(dtype)


def orthogonal(rng: np.random.Generator, n: int) -> Host:
    """Return a random orthogonal matrix, uniformly distributed."""
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    signed: Host = Q * np.sign(np.diag(R))
    return signed


def _spectrum(name: str, p: int, ulp: float) -> Host:
    """Condition 1/ulp: evenly or geometrically spaced, or one large among equal small ones."""
    place = np.arange(p) / max(p - 1, 1)
    values: dict[str, Host] = {
        "even": 1 - place * (1 - ulp),
        "geometric": ulp**place,
        "clustered": np.where(place == 0, 1.0, ulp),
        "half": np.where(place < 0.5, 1.0, 0.0),
    }
    return values[name]


def as_mix(M: Host, agents: int, by_rows: bool) -> tuple[Factors, Host]:
    """Return factors and weights whose mix is M exactly."""
    if by_rows:
        turned, Pi = as_mix(M.T, agents, by_rows=False)
        return Factors(turned.A.swapaxes(-1, -2), turned.B.swapaxes(-1, -2)), Pi
    d, k = M.shape
    width = -(-k // agents)
    Pi = 2.0 ** -np.arange(1, agents + 1)
    B, A = np.zeros((agents, d, width), M.dtype), np.zeros((agents, width, k), M.dtype)
    for j in range(agents):
        for place, column in enumerate(range(j * width, min((j + 1) * width, k))):
            B[j, :, place] = M[:, column] / M.dtype.type(Pi[j])
            A[j, place, column] = 1
    return Factors(B, A), Pi[None]


def mixes(dtype: Any) -> Iterator[tuple[tuple[str, int, int], Host, Factors, Host]]:
    """Yield (kind, d, k), M, factors and weights of the 221 cases that have no empty side."""
    for number, (kind, d, k) in enumerate(cases()):
        if 0 not in (d, k):
            M = matrix(kind, d, k, dtype)
            yield (kind, d, k), M, *as_mix(M, 1 + number % 3, by_rows=number % 2 == 0)


def ranks(d: int, k: int) -> set[int]:
    """Return the ranks at which a case is truncated: one, half and all."""
    return {1, (min(d, k) + 1) // 2, min(d, k)}


def ratio(M: Host, truncated: TSVD, rank: int) -> float:
    """Return the largest of the ratios; all in float64 on M scaled to size one.

    Infinite if singular values are negative or not decreasing.
    """
    unit = 2.0 ** np.frexp(np.max(np.abs(M), initial=0.0))[1] if M.any() else 1.0
    exact, half = M.astype(np.float64) / unit, unit**0.5
    B, A = (X[0].astype(np.float64) / half for X in truncated.factors)
    kept, tail = (
        X[0].astype(np.float64) / unit for X in (truncated.singular_values, truncated.tail)
    )
    values = np.linalg.svd(exact, compute_uv=False)
    found = np.concatenate([kept, tail])
    if not (np.all(found >= 0) and np.all(np.diff(found) <= 0)):
        return np.inf
    best = np.concatenate([values[rank:], np.zeros(rank)])
    residual = np.linalg.svd(exact - B @ A, compute_uv=False)
    gaps = [
        np.max(residual - best),
        np.linalg.norm(B.T @ B - np.diag(kept), 2),
        np.linalg.norm(A @ A.T - np.diag(kept), 2),
        np.max(np.abs(found - values[: len(found)])),
        np.max(values[len(found) :], initial=0.0),
    ]
    largest = values[0] if values[0] > 0 else 1.0
    return float(max(gaps) / (max(M.shape) * float(np.finfo(M.dtype).eps) * largest))
