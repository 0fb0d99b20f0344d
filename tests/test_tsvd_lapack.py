"""LAPACK's test of its own SVD drivers, run on the kernel: 17 matrix types x 19 sizes.

Each matrix is handed over as a mix: cut into column or row panels, one an agent, with weights that
are powers of two, so that the mix is that matrix to the last bit. The kernel returns balanced
factors and not U and V, so the ratios are, in units of max(d, k) ulp |M|: the residual |M - BA|
beyond the optimal one, |B'B - S|, |AA' - S|, |S - S of LAPACK|; S nonnegative and decreasing.
Threshold 50, as in LAPACK. The six sizes with a zero count as the named error.
"""

import numpy as np
import pytest

from decaf_theory.lowrank import Factors
from decaf_theory.tsvd import PATHS, tsvd, tsvd_of_mix

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


def orthogonal(rng, n):
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    return Q * np.sign(np.diag(R))


def spectrum(name, p, ulp):
    """Condition 1/ulp: evenly or geometrically spaced, or one large among equal small ones."""
    place = np.arange(p) / max(p - 1, 1)
    return {
        "even": 1 - place * (1 - ulp),
        "geometric": ulp**place,
        "clustered": np.where(place == 0, 1.0, ulp),
        "half": np.where(place < 0.5, 1.0, 0.0),
    }[name]


def matrix(kind, d, k, dtype):
    """Return the test matrix of one type; random signs, "huge" and "tiny" at the roots."""
    rng = np.random.default_rng([TYPES.index(kind), d, k])
    info, p = np.finfo(dtype), min(d, k)
    ulp = float(info.eps)
    M, words = np.zeros((d, k)), kind.split()
    if kind == "identity":
        M = np.eye(d, k)
    elif words[0] in ("diagonal", "U"):
        values = spectrum(words[3 if words[0] == "U" else 1], p, ulp)
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


def as_mix(M, agents, by_rows):
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


def ratio(M, truncated, rank):
    """Return the largest of the ratios; all in float64 on M scaled to size one."""
    unit = 2.0 ** np.frexp(np.max(np.abs(M), initial=0.0))[1] if M.any() else 1.0
    exact, half = M.astype(np.float64) / unit, unit**0.5
    B, A = (X[0].astype(np.float64) / half for X in truncated.factors)
    kept, tail = (
        X[0].astype(np.float64) / unit for X in (truncated.singular_values, truncated.tail)
    )
    values = np.linalg.svd(exact, compute_uv=False)
    found = np.concatenate([kept, tail])
    best = np.concatenate([values[rank:], np.zeros(rank)])
    residual = np.linalg.svd(exact - B @ A, compute_uv=False)
    gaps = [
        np.max(residual - best),
        np.linalg.norm(B.T @ B - np.diag(kept), 2),
        np.linalg.norm(A @ A.T - np.diag(kept), 2),
        np.max(np.abs(found - values[: len(found)])),
        np.max(values[len(found) :], initial=0.0),
    ]
    assert np.all(found >= 0)
    assert np.all(np.diff(found) <= 0)
    largest = values[0] if values[0] > 0 else 1.0
    return max(gaps) / (max(M.shape) * float(np.finfo(M.dtype).eps) * largest)


def cases():
    return [(kind, d, k) for kind in TYPES for d, k in SIZES]


def test_there_are_323_cases_of_which_102_have_an_empty_side():
    assert len(TYPES) == len(set(TYPES)) == 17
    assert len(SIZES) == len(set(SIZES)) == 19
    assert len(cases()) == 323
    assert sum(0 in (d, k) for _, d, k in cases()) == 102


def ratios(path, dtype):
    """Return the largest ratio of each case that has no empty side, over three ranks."""
    found = {}
    for number, (kind, d, k) in enumerate(cases()):
        if 0 in (d, k):
            continue
        M = matrix(kind, d, k, dtype)
        factors, Pi = as_mix(M, agents=1 + number % 3, by_rows=number % 2 == 0)
        found[kind, d, k] = max(
            ratio(M, tsvd_of_mix(factors, Pi, rank, method=path), rank)
            for rank in {1, (min(d, k) + 1) // 2, min(d, k)}
        )
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", ["auto", *PATHS])
def test_every_path_passes_lapacks_test_of_its_own_svd(path, dtype):
    found = ratios(path, dtype)
    assert len(found) == 221
    assert {case: value for case, value in found.items() if not value < THRESHOLD} == {}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", ["auto", *PATHS])
def test_the_102_cases_with_an_empty_side_are_the_named_error(path, dtype):
    for d, k in {(d, k) for _, d, k in cases() if 0 in (d, k)}:
        factors = Factors(np.ones((2, d, 1), dtype), np.ones((2, 1, k), dtype))
        with pytest.raises(ValueError, match="no empty axis"):
            tsvd_of_mix(factors, np.ones((1, 2)), 1, method=path)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_dense_oracle_passes_it_too(dtype):
    for kind, d, k in cases():
        M = matrix(kind, d, k, dtype)
        if 0 in (d, k):
            with pytest.raises(ValueError, match="with d, k >= 1"):
                tsvd(M, 1)
            continue
        rank = (min(d, k) + 1) // 2
        truncated = tsvd(M[None], rank)
        assert ratio(M, truncated, rank) < THRESHOLD, (kind, d, k)


def test_a_naive_gram_matrix_fails_it():
    """The protocol can fail: squared singular values lose what lies below sqrt(ulp)."""
    failures = 0
    for kind, d, k in cases():
        if 0 in (d, k) or kind.endswith(("huge", "tiny", "zero", "identity")):
            continue
        M = matrix(kind, d, k, np.float64)
        p = min(d, k)
        values = np.sqrt(np.abs(np.linalg.eigvalsh(M @ M.T if d <= k else M.T @ M)))[::-1]
        exact = np.linalg.svd(M, compute_uv=False)
        gap = np.max(np.abs(values - exact)) / (max(d, k) * np.finfo(np.float64).eps * exact[0])
        failures += gap >= THRESHOLD and p > 1
    assert failures > 20
