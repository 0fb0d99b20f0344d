"""What all paths of the kernel share: neighbours of a row, safe scaling, bad numbers."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from array_api_compat import is_torch_array

from decaf_theory.arrays import (
    Array,
    host,
    like,
    namespace,
    require_unit_sums,
    require_weights,
    weight_tolerance,
)
from decaf_theory.lowrank import Factors, pad_rank

Host: TypeAlias = np.ndarray[Any, Any]
LARGEST = 126  # exponent of a weight: a direction that is zero times infinity would be nan


class Info(NamedTuple):
    """How a truncation was computed."""

    path: str  # the algorithm that ran: "dense", "qr" or "panel"; "a and b" for unlike rows
    elements: int  # matrices that were truncated
    skipped: tuple[tuple[int, ...], ...] = ()  # (*batch, row) left as NaN under on_nonfinite="skip"
    fell_back: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (why, (*batch, row)): redone by "qr"


class TSVD(NamedTuple):
    """A truncated SVD with its dropped singular values."""

    factors: Factors  # balanced, B [..., n, d, r], A [..., n, r, k]
    singular_values: Array  # kept, decreasing, [..., n, r]
    tail: Array  # dropped, decreasing, [..., n, w]: the exact truncation error
    info: Info


class Entries(NamedTuple):
    """The weights of a mixing matrix that are not zero, row by row."""

    counts: Host  # of each row, [n]
    agents: Host  # which are weighted, [sum of counts]
    weights: Host  # float64, as many
    N: int


def entries(Pi: Array, N: int) -> Entries:
    """Return what is not zero in Pi, dense or sparse. ValueError: shape, non-finite."""
    require_weights(Pi)
    rows_of, columns, values, shape = _entries(Pi)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != N:
        raise ValueError(
            f"Pi must be [n, {N}] for {N} agents, got shape {tuple(shape)}; "
            f"it needs at least one row, and a column for each agent"
        )
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        at = int(rows_of[odd[0]]), int(columns[odd[0]])
        raise ValueError(f"Pi must hold real finite weights, got {values[odd[0]]} at {at}")
    return Entries(np.bincount(rows_of, minlength=shape[0]), columns, values, N)


def stochastic_entries(Pi: Array, N: int) -> Entries:
    """Return `entries` of rows that sum to one; ValueError: they do not, and as there."""
    found = entries(Pi, N)
    n = len(found.counts)
    sums = np.bincount(np.repeat(np.arange(n), found.counts), found.weights, n)
    require_unit_sums("rows of Pi", sums, weight_tolerance(Pi))
    return found


def neighbours(found: Entries, rows: Host) -> tuple[Host, Host]:
    """Return (index, weights [n, m]): the agents that the n rows weight, at most m in a row.

    index is [n, m], or [1, N] if some row weights all N agents, so that one gather serves every
    row. Rows with fewer neighbours are padded with weight zero.
    """
    counts = found.counts[rows]
    m = max(int(counts.max(initial=0)), 1)
    row = np.repeat(np.arange(len(rows)), counts)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.cumsum(found.counts) - found.counts
    at = np.repeat(start[rows], counts) + slot
    if m == found.N:
        index, slot = np.arange(m)[None, :], found.agents[at]
    else:
        index = np.zeros((len(rows), m), dtype=np.int64)
        index[row, slot] = found.agents[at]
    weights = np.zeros((len(rows), m))
    weights[row, slot] = found.weights[at]
    return index, weights


def _entries(Pi: Array) -> tuple[Host, Host, Host, tuple[int, ...]]:
    """Return rows, columns and float64 values of what is not zero, row by row, and the shape."""
    if hasattr(Pi, "tocsr"):
        csr = Pi.tocsr(copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
        return rows, csr.indices, _real(csr.data), csr.shape
    if is_torch_array(Pi):
        Pi = Pi.detach().cpu()
        if Pi.layout != namespace(Pi).strided:
            coo = Pi.to_sparse_coo().coalesce()
            rows, columns = coo.indices().numpy()
            values = _real(coo.values())
            kept = values != 0
            return rows[kept], columns[kept], values[kept], tuple(Pi.shape)
    dense = _real(Pi)
    rows, columns = np.nonzero(dense) if dense.ndim == 2 else (np.empty(0, np.int64),) * 2
    return rows, columns, dense[rows, columns] if dense.ndim == 2 else np.empty(0), dense.shape


def _real(x: Array) -> Host:
    """Return x as float64; ValueError unless it is an array of real numbers."""
    if is_torch_array(x) and not x.is_complex():
        x = x.double()  # NumPy has no type for bfloat16
    try:
        array = np.asarray(x)
        if array.dtype.kind not in "biuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            "Pi must hold real finite weights in rows of one length, got complex numbers, "
            "text or other objects; give a matrix of floats"
        ) from None


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
    if factors.B.device.type != "cpu" or factors.B.dtype.itemsize < 4:
        return factors
    return Factors(factors.B.numpy(force=True), factors.A.numpy(force=True))


def given_back(found: tuple[Array, ...], reference: Array) -> tuple[Array, ...]:
    """Return what was computed `on_host` as the kind of `reference`, in the same memory."""
    if isinstance(found[0], np.ndarray) and is_torch_array(reference):
        return tuple(map(namespace(reference).from_numpy, found))
    return found


def power_of_two(exponent: Array, reference: Array) -> Array:
    """Return 2^exponent in the dtype of `reference` (`ldexp` of torch overflows in float32)."""
    return 2.0 ** like(exponent, reference)


def scale_by(x: Array, exponent: Array) -> Array:
    """Return x 2^exponent for integer exponents, in two steps: 2^exponent itself may overflow."""
    half = exponent // 2
    return x * power_of_two(half, x) * power_of_two(exponent - half, x)


def exponent_of(largest: Array) -> Array:
    """Return the binary exponent e of each number, x 2^-e in [1/2, 1); 0 for 0."""
    return namespace(largest).frexp(largest)[1]


def normalized(panels: Factors, weights: np.ndarray[Any, Any]) -> tuple[Factors, Array, Array]:
    """Return unit panels, weights [..., n, m r] and e [..., n] with M_i = 4^e_i sum w_ij b_j a_j.

    panels [..., g, m, ., .], weights [n, m], g = 1 or n. Columns b_j of B and rows a_j of A get
    sizes in [1/2, 1) by powers of two, which go into the weights, whose largest in a row i is in
    [1/8, 1): no product of finite factors overflows inside, and only those vanish that are
    negligible compared with the largest of their own row.
    """
    xp = namespace(panels.B)
    B, A = panels
    size_B, size_A = xp.max(xp.abs(B), axis=-2), xp.max(xp.abs(A), axis=-1)  # [..., g, m, r]
    own_B, own_A = exponent_of(size_B), exponent_of(size_A)
    both = (size_B > 0) & (size_A > 0)  # a direction that is zero in one factor adds nothing
    live = both | carry_gradients(panels)  # but its derivative may
    B = xp.where(live[..., None, :], scale_by(B, -own_B[..., None, :]), 0.0)
    A = xp.where(live[..., :, None], scale_by(A, -own_A[..., :, None]), 0.0)
    mantissa, power = (xp.asarray(x, device=B.device) for x in np.frexp(weights))
    total = (own_B + own_A) + power[:, :, None]
    weighted = mantissa[:, :, None] != 0
    lowest = xp.min(total, axis=(-2, -1), keepdims=True)
    top = xp.max(xp.where(both & weighted, total, lowest), axis=(-2, -1))
    e = (top + 1) // 2
    exponent = xp.clip(total - 2 * e[..., None, None], max=LARGEST)
    scale = power_of_two(xp.where(live & weighted, exponent, 0), B)
    w = xp.where(live & weighted, like(mantissa, B)[:, :, None] * scale, 0.0)
    return Factors(B, A), xp.reshape(w, (*w.shape[:-2], -1)), e


def carry_gradients(factors: Factors) -> bool:
    """Return whether torch's gradients will come back to the factors."""
    B, A = factors
    return bool(getattr(B, "requires_grad", False) or getattr(A, "requires_grad", False))


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


def check_overflow(singular_values: Array, reference: Array) -> None:
    """Raise ValueError if one of [..., r] is infinite: it exceeds the dtype of `reference`."""
    first = host(singular_values)[..., 0]
    if not isfinite(first.max()):
        finite = np.isfinite(first)
        raise ValueError(
            f"the product at index {first_false(finite)} overflows {reference.dtype}; "
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
