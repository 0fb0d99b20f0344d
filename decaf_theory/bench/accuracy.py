"""How accurate the kernel is: LAPACK's protocol and the hard cases, for every path and dtype.

Errors are relative to sigma_1 of the mix, against an independent reference: the mix formed in
extended precision and LAPACK's SVD of it in float64, or for large matrices a QR loop in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Host, host
from decaf_theory.bench import lapack, peers
from decaf_theory.bench.cases import Inputs, mixing, on_torch
from decaf_theory.lowrank import Factors, spectrum, subtract
from decaf_theory.rng import generator
from decaf_theory.tsvd import TSVD, tsvd_of_mix

N, D, K, RANK = 6, 64, 48, 4


class Protocol(NamedTuple):
    """What LAPACK's protocol found: cases passed of 323, the worst ratio, and where."""

    passed: int
    worst: float
    where: str


def protocol(path: str, dtype: str, device: str | None = None) -> Protocol:
    """Return what the 323 cases give on one path; `device` None is NumPy, else torch there."""
    passed, worst, where = 0, 0.0, ""
    for (kind, d, k), M, factors, Pi in lapack.mixes(dtype):
        ratios = [
            lapack.ratio(M, truncated(Inputs(factors, Pi, rank), path, device), rank)
            for rank in lapack.ranks(d, k)
        ]
        largest = max(ratios)
        passed += largest < lapack.THRESHOLD
        if largest > worst:
            worst, where = largest, f"{kind} {d}x{k}"
    for _, d, k in lapack.cases():
        if 0 in (d, k):
            passed += _is_refused(d, k, path, dtype)
    return Protocol(passed, worst, where)


def _is_refused(d: int, k: int, path: Any, dtype: str) -> bool:
    factors = Factors(np.ones((2, d, 1), dtype), np.ones((2, 1, k), dtype))
    try:
        tsvd_of_mix(factors, np.ones((1, 2)), 1, method=path)
    except ValueError as error:
        return "no empty axis" in str(error)
    return False


def truncated(inputs: Inputs, path: Any, device: str | None = None) -> TSVD:
    """Return the kernel's truncation as NumPy arrays."""
    if device is not None:
        inputs = on_torch(inputs, device)
    found = tsvd_of_mix(*inputs, method=path)
    if device is None:
        return found
    B, A = (X.cpu().numpy() for X in found.factors)
    return TSVD(
        Factors(B, A), found.singular_values.cpu().numpy(), found.tail.cpu().numpy(), found.info
    )


def hard_cases(dtype: str) -> dict[str, Inputs]:
    """Return the mixes that break naive algorithms, of 6 agents, 64 x 48, rank 4."""
    rng = generator(0, "bench", "hard")
    B, A = rng.standard_normal((N, D, RANK)), rng.standard_normal((N, RANK, K))
    Q, P = (np.linalg.qr(rng.standard_normal((n, N * RANK)))[0] for n in (D, K))
    axes_B = np.moveaxis(Q.reshape(D, N, RANK), 1, 0)  # all 24 columns orthonormal
    axes_A = np.moveaxis(P.reshape(K, N, RANK), 0, -1)
    ring, complete = mixing("ring", N), mixing("complete", N)
    sign = np.array([1.0, -1.0] * (N // 2))[:, None, None]
    alive = (np.arange(N) != 2)[:, None, None] * 1.0
    grades = np.logspace(0, -12, N * RANK).reshape(RANK, N).T[:, None, :]  # no two are equal
    R = _conditioned(rng, 1e6)
    near = 1e-3 if dtype == "float32" else 1e-6
    down = 2.0 ** (-140 if dtype == "float32" else -1060)  # entries are subnormal
    up = 2.0 ** (120 if dtype == "float32" else 1020)
    pairs: dict[str, tuple[Host, Host, Host]] = {
        "random": (B, A, ring),
        "consensus": (B[:1].repeat(N, 0), A[:1].repeat(N, 0), ring),
        "rank-deficient": (B * ([1, 1, 0, 0] * np.ones((N, D, 1))), A, ring),
        "graded to 1e-12": (axes_B * grades, axes_A, ring),
        "ill-conditioned": (B @ R, R.T @ A, ring),
        "bad gauge": (B @ np.linalg.inv(R), R @ A, ring),
        "cancelling": (sign * (B[:1] + near * B), A[:1] + near * A, complete),
        "tie": (axes_B, axes_A, ring),
        "zero": (0 * B, 0 * A, ring),
        "one agent zero": (alive * B, alive * A, ring),
        "scales 1e+-30": (B * 10 ** (30 * sign), A / 10 ** (30 * sign), ring),
        "subnormal": (B * down, A * up, ring),
    }
    return {
        name: Inputs(Factors(B.astype(dtype), A.astype(dtype)), Pi, RANK)
        for name, (B, A, Pi) in pairs.items()
    }


def _conditioned(rng: np.random.Generator, condition: float) -> Host:
    Q, P = (np.linalg.qr(rng.standard_normal((RANK, RANK)))[0] for _ in range(2))
    R: Host = (Q * np.logspace(0, -np.log10(condition), RANK)) @ P
    return R


BY_RESIDUAL = ("tie", "cancelling")  # the best product is not unique, or moves with the rounding
# |M| is small compared with its terms: rounding the factors alone moves M by eps times their sum
BY_TERMS = ("cancelling", "bad gauge")


class HardError(NamedTuple):
    """The error of the worst row, over sigma_1 and over sum_j |pi_ij||B_j||A_j|."""

    over_sigma: float
    over_terms: float


def hard_error(name: str, inputs: Inputs, path: Any, device: str | None = None) -> HardError:
    """Return the error of the product BA or, for `BY_RESIDUAL`, of M - BA's singular values.

    These should be the dropped ones of M, followed by zeros.
    """
    found = truncated(inputs, path, device)
    wide = [X.astype(np.longdouble) for X in inputs.factors]
    products, weights = wide[0] @ wide[1], inputs.Pi.astype(np.longdouble)
    lengths = np.linalg.norm(
        inputs.factors.B.astype(np.float64), 2, axis=(-2, -1)
    ) * np.linalg.norm(inputs.factors.A.astype(np.float64), 2, axis=(-2, -1))
    worst = HardError(0.0, 0.0)
    for i, row in enumerate(weights):
        M = np.tensordot(row, products, axes=1)
        size = np.max(np.abs(M)) or np.longdouble(1)
        exact = (M / size).astype(np.float64)
        B, A = (X[i].astype(np.longdouble) for X in found.factors)
        got = (B @ A / size).astype(np.float64)
        U, S, Vh = np.linalg.svd(exact, full_matrices=False)
        if name in BY_RESIDUAL:
            dropped = np.concatenate([S[RANK:], np.zeros(RANK)])
            values = np.linalg.svd(exact - got, compute_uv=False)
            error = float(np.max(np.abs(values - dropped)))
        else:
            error = float(np.linalg.norm((U[:, :RANK] * S[:RANK]) @ Vh[:RANK] - got, 2))
        terms = float(np.abs(inputs.Pi[i]) @ lengths / float(size))
        worst = HardError(
            max(worst.over_sigma, error / (S[0] or 1.0)),
            max(worst.over_terms, error / (terms or 1.0)),
        )
    return worst


def layer_error(inputs: Inputs) -> float:
    """Return the kernel's largest |difference to a float64 QR loop| over sigma_1, first layer."""
    first = inputs._replace(factors=inputs.factors.map(lambda X: X[:1]))
    return max(
        difference(own, best)
        for own, best in zip(_split(tsvd_of_mix(*first).factors), reference(first), strict=True)
    )


def reference(inputs: Inputs) -> list[Factors]:
    """Return the truncation of each agent by a QR loop in float64."""
    wide = inputs.factors.map(lambda X: host(X).astype(np.float64))
    return peers.qr_loop(inputs._replace(factors=wide))()


def difference(found: Factors, best: Factors) -> float:
    """Return |found - best| over |best| in operator norm, from the factors."""
    own = found.map(lambda X: host(X).astype(np.float64))
    return float(spectrum(subtract(own, best))[0] / spectrum(best)[0])


def _split(factors: Factors) -> list[Factors]:
    return [Factors(factors.B[0, i], factors.A[0, i]) for i in range(factors.B.shape[1])]
