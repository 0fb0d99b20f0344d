"""A search for factors in Omega_c whose mixes by DeCAF and by DLoRA are far apart."""

from __future__ import annotations

from functools import partial

import numpy as np

from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import schatten
from decaf_theory.tsvd import tsvd
from verification.evidence import ulps
from verification.instances.omega import polar

STEPS = (1.0, 0.3, 0.1)  # shares of the way


def climbed(factors: Factors, weights: np.ndarray, norm: str, *, c: float, rounds: int) -> Factors:
    """Return factors of large |P - Q|, from those given [n, N, ...], by steps to linear maximizers.

    The derivative at the factors is linear; Omega_c holds its maximizer, and the segment to it.
    Of the shares `STEPS` of the way the best is taken, if it is a step up.
    """
    here, starts = factors, np.arange(len(factors.B))
    for _ in range(rounds):
        ahead = slopes(here, weights, norm).map(lambda X: c * polar(X))
        ways = [here, *(here.map(partial(part_way, t), ahead) for t in STEPS)]
        heights = [size_of(difference(way, weights), norm) for way in ways]
        best = np.argmax(heights, axis=0), starts
        here = Factors(
            np.stack([way.B for way in ways])[best], np.stack([way.A for way in ways])[best]
        )
    return here


def part_way(t: float, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return start + t (end - start)."""
    reached: np.ndarray = start + t * (end - start)
    return reached


def slopes(factors: Factors, weights: np.ndarray, norm: str) -> Factors:
    """Return the derivative of |P - Q| by the factors, shaped like them."""
    row = weights[:, None, None]
    B, A = (X.mT for X in factors)
    Bbar, Abar = (np.sum(row * X, axis=1, keepdims=True) for X in (B, A))
    Z = dual(difference(factors, weights), norm)
    G = pulled_back(mean_product(factors, weights), Z, factors.rank)[:, None]
    Z = Z[:, None]
    return Factors(row * (G @ A - Z @ Abar), row * (B @ G - Bbar @ Z))


def mean_product(factors: Factors, weights: np.ndarray) -> np.ndarray:
    """Return M, [n, d, k]."""
    M: np.ndarray = np.einsum("m,nmdr,nmrk->ndk", weights, *factors)
    return M


def difference(factors: Factors, weights: np.ndarray) -> np.ndarray:
    """Return P - Q, [n, d, k]."""
    B, A = (np.einsum("m,nmab->nab", weights, X) for X in factors)
    P = product(tsvd(mean_product(factors, weights), factors.rank).factors)
    apart: np.ndarray = P - B @ A
    return apart


def size_of(X: np.ndarray, norm: str) -> np.ndarray:
    """Return |X|, [n]."""
    size: np.ndarray = schatten(np.linalg.svdvals(X), norm)
    return size


def dual(X: np.ndarray, norm: str) -> np.ndarray:
    """Return Z with <Z, X> = |X| in the norm, of dual norm one: a gradient of the norm."""
    U, S, Vh = np.linalg.svd(X, full_matrices=False)
    top = S[:, :1]
    # to the rounding of the SVD: a direction of value zero has no sign
    signs = {"op": S == top, "fro": S / np.linalg.norm(S, axis=-1, keepdims=True)}
    signs["nuc"] = S > ulps(max(X.shape), top)
    Z: np.ndarray = (U * signs[norm][:, None]) @ Vh
    return Z


def pulled_back(M: np.ndarray, Z: np.ndarray, r: int) -> np.ndarray:
    """Return the gradient of <Z, TSVD_r(M)> by M, where sigma_r > sigma_{r+1}.

    In the singular bases it maps (F_ij, F_ji), i kept and j dropped, to
    (s_i^2 F_ij + s_i s_j F_ji)/(s_i^2 - s_j^2), and keeps F_ij of two kept directions.
    """
    d, k = M.shape[-2:]
    pad = (0, 0), (0, max(k - d, 0)), (0, max(d - k, 0))
    U, s, Vh = np.linalg.svd(np.pad(M, pad))
    F = U.mT @ np.pad(Z, pad) @ Vh.mT
    s = s[:, :, None]
    kept = np.arange(s.shape[1])[:, None] < r
    crossing = kept != kept.T
    larger = np.maximum(s, s.mT) ** 2
    gap = np.where(crossing, np.abs(s**2 - s.mT**2), 1.0)
    # at a tie any direction serves the search, as long as it is finite
    gap = np.maximum(gap, np.finfo(np.float64).tiny)
    G = np.where(crossing, (larger * F + s * s.mT * F.mT) / gap, (kept & kept.T) * F)
    pulled: np.ndarray = (U @ G @ Vh)[:, :d, :k]
    return pulled
