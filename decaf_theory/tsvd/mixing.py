"""What every path of the kernel shares: neighbours of a row, safe scaling, bad numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_torch_array

from decaf_theory.arrays import Array, host, like, namespace
from decaf_theory.lowrank import Factors, pad_rank


class Info(NamedTuple):
    """How a truncation was computed."""

    path: str  # the algorithm that ran: "dense", "qr" or "panel"
    elements: int  # matrices that were truncated
    skipped: tuple[tuple[int, ...], ...] = ()  # (*batch, row) left as NaN under on_nonfinite="skip"
    fell_back: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (why, (*batch, row)): redone by "qr"


class TSVD(NamedTuple):
    """A truncated SVD with its dropped singular values."""

    factors: Factors  # balanced, B [..., n, d, r], A [..., n, r, k]
    singular_values: Array  # kept, decreasing, [..., n, r]
    tail: Array  # dropped, decreasing, [..., n, w]: the exact truncation error
    info: Info


def neighbours(Pi: Array, N: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (index, weights [n, m]): which agents each row weights, m the most of any row.

    index is [n, m], or [1, N] where some row weights all N agents, so that one gather serves every
    row. Rows with fewer neighbours are padded with weight zero. ValueError: shape, non-finite.
    """
    if hasattr(Pi, "tocsr"):
        csr = Pi.tocsr(copy=True)
        csr.sum_duplicates()
        rows_of, columns, values = (
            np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr)),
            csr.indices,
            csr.data,
        )
        shape = csr.shape
    else:
        dense = Pi.detach().to_dense().cpu().numpy() if hasattr(Pi, "detach") else np.asarray(Pi)
        shape = dense.shape
        if dense.ndim == 2:
            rows_of, columns = np.nonzero(dense)
            values = dense[rows_of, columns]
    if len(shape) != 2 or shape[1] != N:
        raise ValueError(f"Pi must be [n, {N}] for {N} agents, got shape {tuple(shape)}")
    if np.iscomplexobj(values) or not np.all(np.isfinite(values)):
        raise ValueError("Pi must hold real finite weights, got complex numbers, nan or inf")
    counts = np.bincount(rows_of)
    m = max(int(counts.max(initial=0)), 1)
    slot = np.arange(len(rows_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    if m == N:
        index, slot = np.arange(N)[None, :], columns
    else:
        index = np.zeros((shape[0], m), dtype=np.int64)
        index[rows_of, slot] = columns
    weights = np.zeros((shape[0], m))
    weights[rows_of, slot] = values
    return index, weights


def gather(factors: Factors, index: np.ndarray[Any, Any]) -> Factors:
    """Return the panels B [..., g, m, d, r], A [..., g, m, r, k] of agents index [g, m]."""
    xp = namespace(factors.B)
    flat = xp.asarray(index.ravel(), device=factors.B.device)

    def take(X: Array) -> Array:
        taken = xp.take(X, flat, axis=-3)
        return xp.reshape(taken, (*X.shape[:-3], *index.shape, *X.shape[-2:]))

    return Factors(take(factors.B), take(factors.A))


def concatenate(factors: Factors) -> Factors:
    """Return B [..., d, m r] and A [..., m r, k] from panels B [..., m, d, r], A [..., m, r, k]."""
    xp = namespace(factors.B)
    *batch, m, d, r = factors.B.shape
    B = xp.reshape(xp.moveaxis(factors.B, -3, -2), (*batch, d, m * r))
    return Factors(B, xp.reshape(factors.A, (*batch, m * r, factors.A.shape[-1])))


def on_host(factors: Factors) -> Factors:
    """Return CPU tensors that NumPy has a type for as NumPy arrays of the same memory.

    NumPy takes half of torch's time for many small matrices. All else is returned as given.
    """
    if not is_torch_array(factors.B):
        return factors
    if factors.B.device.type != "cpu" or namespace(factors.B).finfo(factors.B.dtype).bits < 32:
        return factors
    return Factors(*(X.detach().numpy() for X in factors))


def power_of_two(exponent: Array, reference: Array) -> Array:
    """Return 2^exponent in the dtype of `reference` (`ldexp` of torch overflows in float32)."""
    return 2.0 ** like(exponent, reference)


def scale_by(x: Array, exponent: Array) -> Array:
    """Return x 2^exponent for integer exponents, in two steps as 2^exponent may overflow alone."""
    half = exponent // 2
    return x * power_of_two(half, x) * power_of_two(exponent - half, x)


def exponent_of(largest: Array) -> Array:
    """Return the binary exponent e of each number, x 2^-e in [1/2, 1); 0 for 0."""
    return namespace(largest).frexp(largest)[1]


def equilibrate(factors: Factors) -> tuple[Factors, Array]:
    """Return panels of the same products up to 2^(2e), with entries of size at most one, and e.

    First each rank direction's column of B and row of A get equal size (a gauge by powers of two),
    then each panel is divided by 2^e, e [..., g]: no product of finite factors overflows inside,
    and none vanishes that is not negligible beside the panel's largest.
    """
    xp = namespace(factors.B)
    B, A = factors
    size_B, size_A = xp.max(xp.abs(B), axis=-2), xp.max(xp.abs(A), axis=-1)  # [..., g, m, r]
    shift = (exponent_of(size_A) - exponent_of(size_B)) // 2
    both = xp.logical_and(size_A > 0, size_B > 0)
    shift = xp.where(both, shift, xp.zeros_like(shift))
    B, A = scale_by(B, shift[..., None, :]), scale_by(A, -shift[..., :, None])
    # a direction that is zero in one factor adds nothing, but could be huge in the other
    B = xp.where(both[..., None, :], B, xp.zeros_like(B))
    A = xp.where(both[..., :, None], A, xp.zeros_like(A))
    largest = xp.max(
        xp.stack([xp.max(xp.abs(B), axis=(-3, -2, -1)), xp.max(xp.abs(A), axis=(-3, -2, -1))]),
        axis=0,
    )
    e = exponent_of(largest)
    return Factors(
        scale_by(B, -e[..., None, None, None]), scale_by(A, -e[..., None, None, None])
    ), e


def truncate(U: Array, S: Array, Vh: Array, rank: int, width: int) -> TSVD:
    """Return balanced rank-r factors, kept and dropped singular values of U diag(S) Vh.

    Zeros fill up to `rank` and `width`, so that the widths do not depend on the path.
    """
    xp = namespace(S)
    root = xp.sqrt(S[..., :rank])
    kept = Factors(U[..., :, :rank] * root[..., None, :], root[..., :, None] * Vh[..., :rank, :])
    tail = S[..., rank : rank + width]
    return TSVD(pad_rank(kept, rank), padded(S[..., :rank], rank), padded(tail, width), Info("", 0))


def padded(S: Array, width: int) -> Array:
    """Return S [..., p] followed by zeros up to `width`."""
    xp = namespace(S)
    missing = (*S.shape[:-1], width - S.shape[-1])
    if not missing[-1]:
        return S
    return xp.concat([S, xp.zeros(missing, dtype=S.dtype, device=S.device)], axis=-1)


def rescaled(truncated: TSVD, exponent: Array, reference: Array, info: Info) -> TSVD:
    """Undo the scaling by 2^e of both factors, e [...], and return the dtype of `reference`."""
    B, A = truncated.factors
    with np.errstate(over="ignore"):
        kept, tail = (
            like(scale_by(S, 2 * exponent[..., None]), reference)
            for S in (truncated.singular_values, truncated.tail)
        )
        B, A = (like(scale_by(X, exponent[..., None, None]), reference) for X in (B, A))
    return TSVD(Factors(B, A), kept, tail, info)


def check_overflow(singular_values: Array) -> None:
    """Raise ValueError where a singular value, of [..., r], is infinite: it exceeds its dtype."""
    finite = namespace(singular_values).isfinite(singular_values[..., 0])
    if not bool(namespace(finite).all(finite)):
        raise ValueError(
            f"the product at index {first_false(finite)} overflows {singular_values.dtype}; "
            f"scale the factors down or use a wider dtype"
        )


def first_false(mask: Array) -> tuple[int, ...]:
    """Return the index of the first false element."""
    return tuple(int(i) for i in np.argwhere(~host(mask))[0])


def nonfinite_agents(factors: Factors) -> np.ndarray[Any, Any]:
    """Return a host mask [..., N] of the agents with nan or inf in either factor."""
    xp = namespace(factors.B)
    finite = xp.logical_and(
        xp.all(xp.isfinite(factors.B), axis=(-2, -1)), xp.all(xp.isfinite(factors.A), axis=(-2, -1))
    )
    return ~host(finite)
