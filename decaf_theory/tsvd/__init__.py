"""The truncated SVD of a mix of products: the one kernel that theory and training share.

from decaf_theory.tsvd import tsvd_of_mix
truncated = tsvd_of_mix(factors, Pi, rank)      # one round of DeCAF mixing for all agents
truncated.factors                               # balanced B, A of TSVD_r(sum_j pi_ij B_j A_j)
truncated.tail                                  # the dropped singular values: the exact error
"""

from __future__ import annotations

import operator
from math import prod
from typing import Any, Literal

import numpy as np

from decaf_theory.arrays import Array, convert, namespace, require_real, working
from decaf_theory.lowrank import Factors, check_factors
from decaf_theory.tsvd.dense import dense_rows
from decaf_theory.tsvd.mixing import (
    TSVD,
    Info,
    equilibrate,
    exponent_of,
    first_false,
    gather,
    neighbours,
    nonfinite_agents,
    rescaled,
    scale_by,
    truncate,
)
from decaf_theory.tsvd.qr import qr_rows

__all__ = ["TSVD", "Info", "tsvd", "tsvd_of_mix"]

PATHS = {"dense": dense_rows, "qr": qr_rows}


def tsvd(M: Array, rank: int) -> TSVD:
    """Return TSVD_r(M) as balanced factors, by a dense SVD: the oracle of the other paths.

    M [..., d, k] real floating point (half types are raised to float32 inside). Returns factors
    B = U_r S_r^(1/2) [..., d, r] and A = S_r^(1/2) V_r' [..., r, k], singular_values [..., r] and
    tail [..., min(d, k) - r]. |M - BA| is least among matrices of rank r in every unitarily
    invariant norm (Eckart-Young-Mirsky). ValueError: shape, rank, dtype, a non-finite entry.
    """
    require_real("M", M)
    if M.ndim < 2 or 0 in M.shape:
        raise ValueError(f"M must be [..., d, k] with d, k >= 1, got shape {tuple(M.shape)}")
    d, k = M.shape[-2:]
    rank = check_rank(rank, d, k)
    xp = namespace(M)
    finite = xp.all(xp.isfinite(M), axis=(-2, -1))
    if not bool(xp.all(finite)):
        raise ValueError(f"M is not finite at batch index {first_false(finite)}")
    wide = working(M)
    half = exponent_of(xp.sqrt(xp.max(xp.abs(wide), axis=(-2, -1))))  # of either factor
    U, S, Vh = xp.linalg.svd(scale_by(wide, -2 * half[..., None, None]), full_matrices=False)
    info = Info("dense", prod(M.shape[:-2]))
    return rescaled(truncate(U, S, Vh, rank, min(d, k) - rank), half, M, info)


def tsvd_of_mix(
    factors: Factors,
    Pi: Array,
    rank: int,
    *,
    method: Literal["auto", "dense", "qr"] = "auto",
    on_nonfinite: Literal["raise", "skip"] = "raise",
) -> TSVD:
    """Return TSVD_r(M_i), M_i = sum_j pi_ij B_j A_j, for every row i of Pi.

    factors: B [..., N, d, r_in], A [..., N, r_in, k]; fold a LoRA scale into B. Agents of unequal
    rank are zero-padded first (exact). Pi [n, N]: the rows wanted, dense or sparse (scipy, torch);
    they need not sum to one. Returns balanced factors B [..., n, d, r] and A [..., n, r, k],
    singular_values [..., n, r] and tail [..., n, w], w = max(min(m r_in, d, k) - r, 0) with m the
    most agents that a row weights: the same width on every path.

    method: "dense" forms M_i (right when m r_in >= 0.75 min(d, k), where factoring gains nothing),
    "qr" works on the factors (backward stable); "auto" chooses by that rule.
    on_nonfinite: "raise" names batch index and agent; "skip" returns NaN for the rows that weight
    such an agent, lists them in info.skipped and leaves all other rows intact.
    ValueError: shapes, dtype, rank, method, non-finite factors or weights, overflow of a product.
    """
    require_real("factors.B", factors.B)
    require_real("factors.A", factors.A)
    check_factors(factors)
    if factors.B.ndim < 3 or 0 in factors.B.shape or 0 in factors.A.shape:
        raise ValueError(
            f"factors must be B [..., agent, d, r] and A [..., agent, r, k] with no empty axis, "
            f"got B {tuple(factors.B.shape)} and A {tuple(factors.A.shape)}"
        )
    (d, k), r_in = factors.shape, factors.rank
    rank = check_rank(rank, d, k)
    if method not in ("auto", *PATHS):
        raise ValueError(f"method must be one of {('auto', *PATHS)}, got {method!r}")
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"on_nonfinite must be 'raise' or 'skip', got {on_nonfinite!r}")
    index, weights = neighbours(Pi, int(factors.B.shape[-3]))
    bad = nonfinite_agents(factors)
    if bad.any() and on_nonfinite == "raise":
        raise ValueError(_name_agent(bad))
    m = weights.shape[1]
    if method == "auto":
        method = "dense" if m * r_in >= 0.75 * min(d, k) else "qr"
    width = max(min(m * r_in, d, k) - rank, 0)
    panels = gather(_without(factors, bad), index)
    unit, exponent = equilibrate(Factors(working(panels.B), working(panels.A)))
    truncated = PATHS[method](unit, convert(weights, unit.B), rank, width)
    lost = _rows_that_use(bad, index, weights)
    skipped = tuple(tuple(int(i) for i in at) for at in np.argwhere(lost))
    info = Info(method, lost.size - len(skipped), skipped)
    result = rescaled(truncated, exponent, factors.B, info)
    return _with_nan(result, lost) if skipped else result


def check_rank(rank: int, d: int, k: int) -> int:
    """Return rank as an int; ValueError unless it is an integer in 1 ... min(d, k)."""
    try:
        value = operator.index(rank)
    except TypeError:
        raise ValueError(f"rank must be an integer, got {rank!r}") from None
    if not 1 <= value <= min(d, k):
        raise ValueError(
            f"rank must be in 1 ... min(d, k) = {min(d, k)} for {d} x {k} matrices, got {value}"
        )
    return value


def _name_agent(bad: np.ndarray[Any, Any]) -> str:
    *batch, agent = (int(i) for i in np.argwhere(bad)[0])
    where = f" at batch index {tuple(batch)}" if batch else ""
    return (
        f"factors of agent {agent}{where} hold nan or inf; "
        f"on_nonfinite='skip' goes on without the rows that use it"
    )


def _without(factors: Factors, bad: np.ndarray[Any, Any]) -> Factors:
    """Return the factors with those of bad agents [..., N] set to zero."""
    if not bad.any():
        return factors
    xp = namespace(factors.B)
    mask = xp.asarray(bad, device=factors.B.device)[..., None, None]
    return Factors(*(xp.where(mask, xp.zeros_like(X), X) for X in factors))


def _rows_that_use(
    bad: np.ndarray[Any, Any], index: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return a mask [..., n] of the rows that put weight on a bad agent."""
    used: np.ndarray[Any, Any] = np.any(bad[..., index] & (weights != 0), axis=-1)
    return used


def _with_nan(truncated: TSVD, lost: np.ndarray[Any, Any]) -> TSVD:
    """Return the truncation with NaN in the lost rows [..., n]."""
    xp = namespace(truncated.tail)
    mask = xp.asarray(lost, device=truncated.tail.device)

    def blank(x: Array) -> Array:
        wide = xp.reshape(mask, (*mask.shape, *([1] * (x.ndim - mask.ndim))))
        return xp.where(wide, xp.full_like(x, xp.nan), x)

    return TSVD(
        Factors(*(blank(X) for X in truncated.factors)),
        blank(truncated.singular_values),
        blank(truncated.tail),
        truncated.info,
    )
