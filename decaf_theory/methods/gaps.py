"""What the mix of a round leaves, and how far apart two ends of it may be by rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, Host, host
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods.base import Method, Mixed
from decaf_theory.methods.state import Clock, State

EPS = float(np.finfo(np.float64).eps)


class Round(NamedTuple):
    """Where a promise is asked: factors of N agents, their weights [N, N], and the round."""

    factors: Factors
    Pi: Host
    clock: Clock = Clock()


class Gap(NamedTuple):
    """What was found that should be zero or small, entry by entry, and the most that it may be."""

    found: Host
    allowed: Host | float


def exchange(method: Method, factors: Factors, Pi: Array, clock: Clock) -> Mixed:
    """Return what the mix of a round leaves, to which agents came as they started."""
    begun = method.begin(factors)
    weights = method.weights(Pi, begun.agents, clock)
    return Mixed(begun) if weights is None else method.exchange(begun, weights, clock)


def whole(method: Method, state: State) -> Factors:
    """Return factors of W - W0 in units of B A: the agents' own, or that matrix itself and I."""
    if method.form.factored:
        return state.factors
    update = host(method.form.update(state, 1.0))
    k = update.shape[-1]
    return Factors(
        update, np.broadcast_to(np.eye(k, dtype=update.dtype), (*update.shape[:-2], k, k))
    )


def mixed(method: Method, at: Round) -> Factors:
    """Return the factors after the mix, `whole`."""
    return whole(method, exchange(method, *at).state)


def sizes(*pairs: Factors) -> tuple[float, float]:
    """Return the largest |B_j|_F and |A_j|_F of all agents, for tolerances."""
    B, A = (
        max(float(np.sqrt(np.sum(X**2, axis=(-2, -1))).max()) for X in part)
        for part in zip(*pairs, strict=True)
    )
    return B, A


def rounding(Pi: Array, factors: Factors, *after: Factors, eps: float = EPS) -> float:
    """Return what one mix may lose on a product: sums of N r terms and a QR of max(d, k) rows.

    after: the factors after the mix, where they may be larger.
    """
    B, A = sizes(factors, *after)
    return 20 * (max(factors.shape) + int(Pi.shape[1]) * factors.rank) * eps * B * A


def truncation_rounding(factors: Factors, Pi: Host, eps: float = EPS) -> Host:
    """Return the rounding of each TSVD_r(M_i), times its condition number (T19); inf at a tie."""
    M = np.einsum("ij,jab->iab", Pi, product(factors))
    S = np.linalg.svd(M, compute_uv=False)
    r = factors.rank
    after = S[:, r] if S.shape[1] > r else np.zeros(len(S))
    loss = rounding(Pi, factors, eps=eps)
    gap = S[:, r - 1] - after
    # the global form of T19 holds for perturbations below half the gap, here a tenth
    known = gap > 10 * loss
    condition = np.where(known, S[:, r - 1] / np.where(known, gap, 1.0) * 2, np.inf)
    bound: Host = np.where(after <= loss, 2.0, condition)[:, None, None] * loss
    return bound


def between(
    method: Method,
    found: Factors,
    expected: Factors,
    at: Round,
    *,
    rows: Sequence[int] | None = None,
    eps: float = EPS,
) -> Gap:
    """Return the gap of the products of all agents after a round, or of these `rows` of Pi.

    It may be anything where a truncation is not determined at all.
    """
    loss: Host | float = rounding(at.Pi, at.factors, expected, eps=eps)
    if method.space == "products" or exchange(method, *at).truncated is not None:
        Pi = at.Pi if rows is None else at.Pi[rows]
        loss = np.maximum(loss, truncation_rounding(at.factors, Pi, eps))
    return Gap(np.abs(product(found) - product(expected)), loss)


def taken(factors: Factors, agents: Sequence[int]) -> Factors:
    """Return the factors of the agents of these numbers, in this order."""
    return factors.map(lambda X: X[..., agents, :, :])


def together(gaps: Sequence[Gap]) -> Gap:
    """Return all gaps as one."""
    spread = [np.broadcast_arrays(*gap) for gap in gaps]
    return Gap(*(np.concatenate([X.ravel() for X in part]) for part in zip(*spread, strict=True)))
