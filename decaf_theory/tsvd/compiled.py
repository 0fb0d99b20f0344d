"""The compiled kernels: Gram matrices, from these the coefficients of both outputs, and these.

What `panel` and `core` do by NumPy and LAPACK for float32 data, in three functions (`products`,
`lanes`, `simd`). Rows with anything odd are not for the second: `core` takes the results that the
conditions of every path allow, and does the other rows itself. Needs Numba, an extra:
pip install "decaf-theory[fast]".

To compile takes some 20 seconds, once: Numba keeps the result next to this file or, where nothing
can be written there, in the user's cache (NUMBA_CACHE_DIR says where). If that is of no use, this
module warns, and each process compiles anew.
"""
# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore"
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import warnings
from hashlib import sha256
from math import frexp, prod
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numba import types

from decaf_theory.tsvd import lanes, products
from decaf_theory.tsvd.simd import LANES, compiled, full, select, sqrt, vectors
from decaf_theory.tsvd.terms import Terms

Host: TypeAlias = np.ndarray[Any, Any]
FOUR, TWO = "f8[:, :, :, ::1]", "f8[:, ::1]"  # contiguous float64 arrays


class Found(NamedTuple):
    """The results for every row, which mean nothing where it is not fine."""

    X: Host  # coefficients [2, ..., rows, n, r], as those of `core.Core`
    singular_values: Host  # [..., rows, n]
    longest: Host  # square of the longest column of X, directions of length one, [..., rows]
    fine: Host  # Gram matrices are positive definite, and the iteration converged, [..., rows]


def coefficients(terms: Terms, rank: int, shift: float) -> Found:
    """Return the results for terms within range, with LL' = G + shift diag(G); r = min(rank, n).

    Inside, lengths are at most one and the |w_j| of every row near one by powers of two, so that
    nothing overflows or vanishes, and no digit depends on the scale of factors or of other rows.
    """
    n, rows = terms.G.shape[-1], terms.total.shape
    many, r = prod(rows), min(rank, n)
    X, S, marks = np.empty((2, many, n, r)), np.empty((many, n)), np.empty((2, many))
    B, A = (frexp(side.max())[1] for side in terms.size)
    G, weights = terms.G.reshape((2, -1, n, n)), terms.weights.reshape((-1, n))
    _solve(G, weights, terms.total.reshape(-1), shift, B, A, X, S, marks)
    longest, fine = marks.reshape((2, *rows))
    return Found(X.reshape((2, *rows, n, r)), S.reshape((*rows, n)), longest, fine > 0)


def gram(X: Host, places: Host, to: Host) -> None:
    """Put XX' of float32 stacks X [c, n, d] into `to` [c, n, n], in tiles of `grouping`."""
    _gram(np.require(X, np.float32, ("C", "A")), places, to)


def combine(X: Host, stack: Host, places: Host) -> Host:
    """Return sum_j X[c, i, j] stack[c, 0, places[i, j]], [c, rows, r, d] in float32.

    X [c, rows, n, r], one float32 stack for all rows [c, 1, N, d], places [rows, n].
    """
    out = np.empty((*X.shape[:2], X.shape[3], stack.shape[3]), np.float32)
    whole = np.require(stack[:, 0], np.float32, ("C", "A"))
    _combine(np.ascontiguousarray(X), whole, places, out)
    return out


def _entries(texts: int, kept: bool = True) -> tuple[Any, Any, Any]:
    """Return the functions, which Numba's cache, if kept, knows by this file and `texts`."""
    options = {"error_model": "numpy", "nogil": True, "cache": kept}
    read = types.Array(types.float32, 3, "C", readonly=True)  # takes what may be written, too

    @numba.njit(types.void(read, types.i8[:, ::1], types.f8[:, :, ::1]), **options)
    def gram(X, places, to):
        if texts >= 0:  # always; but what is not read would not belong to the function
            products.gram(X, places, to)

    @numba.njit(
        types.void(types.f8[:, :, :, ::1], read, types.i8[:, ::1], types.f4[:, :, :, ::1]),
        **options,
    )
    def combine(X, stack, places, out):
        if texts >= 0:
            products.combine(X, stack, places, out)

    @numba.njit(f"void({FOUR}, {TWO}, f8[::1], f8, i8, i8, {FOUR}, {TWO}, {TWO})", **options)
    def solve(G, weights, total, shift, B, A, X, S, marks):
        if texts >= 0:
            _solve_all(G, weights, total, shift, (B, A), X, S, marks)

    return gram, combine, solve


def _made(texts: int) -> tuple[Any, Any, Any]:
    """Return the functions, with a warning where Numba's cache is of no use."""
    try:
        return _entries(texts)
    except Exception as error:  # no folder may be written, a disk is full, a file is damaged
        warnings.warn(
            f"compiled kernels are not kept, so that each process compiles them: {error}; "
            f"delete what is damaged there, or let NUMBA_CACHE_DIR name another folder",
            RuntimeWarning,
            stacklevel=2,
        )
        return _entries(texts, kept=False)


@compiled
def _solve_all(G, weights, total, shift, exponents, X, S, marks):
    room, steps = _room(X.shape[2], X.shape[3]), lanes.room(X.shape[2])
    for start in range(0, len(S), LANES):
        _scale(total, start, exponents, room.scales)
        _load(G, weights, start, len(S), exponents, room)
        good = lanes.cholesky(vectors(room.B), shift)
        good &= lanes.cholesky(vectors(room.A), shift)
        _square(room)
        good &= lanes.eigenvectors(room.K, room.S, room.Y, steps)
        _express(room)
        vectors(room.marks)[1] = select(good, 1.0, 0.0)
        _store(room, start, X, S, marks)


class Room(NamedTuple):
    """Memory for LANES rows."""

    B: Any  # Gram matrix, then its factor, [n, n, LANES]
    A: Any
    C: Any  # core
    K: Any  # C'C
    weights: Any  # [n, LANES]
    S: Any  # singular values, [n, LANES]
    Y: Any  # right vectors, then X_B, [n, r, LANES]
    U: Any  # left vectors, then X_A, [n, r, LANES]
    P: Any  # [n, r, LANES]
    sizes: Any  # lengths of the directions of both sides, [2, n, LANES]
    marks: Any  # longest and fine, [2, LANES]
    scales: Any  # of weights on the way in; of X_B, X_A and S on the way out, [4, LANES]


@compiled
def _room(n, r):
    square, row, columns = (n, n, LANES), (n, LANES), (n, r, LANES)
    return Room(
        np.empty(square),
        np.empty(square),
        np.empty(square),
        np.empty(square),
        np.empty(row),
        np.empty(row),
        np.empty(columns),
        np.empty(columns),
        np.empty(columns),
        np.empty((2, n, LANES)),
        np.empty((2, LANES)),
        np.empty((4, LANES)),
    )


@compiled
def _scale(total, start, exponents, scales):
    """Put the powers of two of rows from `start` into lanes: 4^half is above a row's |w|."""
    B, A = exponents
    for w in range(LANES):
        half = frexp(total[min(start + w, len(total) - 1)])[1] // 4 + 1
        scales[0, w] = 2.0 ** (B + A - 2 * half)
        scales[1, w] = 2.0 ** (half - B)
        scales[2, w] = 2.0 ** (half - A)
        scales[3, w] = 2.0 ** (2 * half)


@compiled
def _load(G, weights, start, many, exponents, room):
    """Put lower triangles of Gram matrices, weights and lengths of rows from `start` into lanes.

    Lanes beyond the last row get that one.
    """
    shared, n = many // len(G[0]), G.shape[2]
    B, A = 4.0 ** -exponents[0], 4.0 ** -exponents[1]
    for w in range(LANES):
        at = min(start + w, many - 1)
        row, place = at % len(weights), at // shared
        for i in range(n):
            room.weights[i, w] = weights[row, i] * room.scales[0, w]
            for j in range(i + 1):
                room.B[i, j, w] = G[0, place, i, j] * B
                room.A[i, j, w] = G[1, place, i, j] * A
            room.sizes[0, i, w] = np.sqrt(room.B[i, i, w])
            room.sizes[1, i, w] = np.sqrt(room.A[i, i, w])


@compiled
def _square(room):
    """Put the core C = L_B' diag(pi) L_A, of lower triangles, and K = C'C into place."""
    B, A, C, K = vectors(room.B), vectors(room.A), vectors(room.C), vectors(room.K)
    n, weights = len(B), vectors(room.weights)
    room.C[:] = 0.0
    room.K[:] = 0.0
    for k in range(n):
        for i in range(k + 1):
            x = B[k, i] * weights[k]
            for j in range(k + 1):
                C[i, j] += x * A[k, j]
    for k in range(n):
        for i in range(n):
            x = C[k, i]
            for j in range(i + 1):
                K[i, j] += x * C[k, j]
    for i in range(n):
        for j in range(i):
            K[j, i] = K[i, j]


@compiled
def _express(room):
    """Replace squares by singular values, and vectors by the coefficients of both outputs."""
    S, Y, U, P = vectors(room.S), vectors(room.Y), vectors(room.U), vectors(room.P)
    n, r = Y.shape
    for i in range(n):
        S[i] = sqrt(select(S[i] > 0.0, S[i], 0.0))
    _multiply(vectors(room.C), Y, n, U)
    for q in range(r):
        value = select(S[q] > 0.0, S[q], 1.0)
        root = 1.0 / sqrt(value)
        for i in range(n):
            Y[i, q] *= root
            U[i, q] *= root / value
    weights, sizes, longest = vectors(room.weights), vectors(room.sizes), full(0.0)
    for side, L, X in ((0, vectors(room.A), Y), (1, vectors(room.B), U)):
        _multiply(L, X, 1, P)
        for q in range(r):
            length = full(0.0)
            for i in range(n):
                X[i, q] = P[i, q] * weights[i]
                x = X[i, q] * sizes[side, i]
                length += x * x
            longest = select(length > longest, length, longest)
    vectors(room.marks)[0] = longest


@compiled
def _multiply(A, Y, first, to):
    """Put A Y into `to` [n, r], where row i of A ends at first + i, or all at n."""
    n, r = Y.shape
    for i in range(n):
        for q in range(r):
            to[i, q] = full(0.0)
        for j in range(min(first + i, n)):
            x = A[i, j]
            for q in range(r):
                to[i, q] += x * Y[j, q]


@compiled
def _store(room, start, X, S, marks):
    """Take the results out of the lanes."""
    n, r = X.shape[2:]
    for w in range(min(LANES, len(S) - start)):
        at, value = start + w, room.scales[3, w]
        for i in range(n):
            S[at, i] = room.S[i, w] * value
            for q in range(r):
                X[0, at, i, q] = room.Y[i, q, w] * room.scales[1, w]
                X[1, at, i, q] = room.U[i, q, w] * room.scales[2, w]
        marks[0, at], marks[1, at] = room.marks[0, w] * value, room.marks[1, w]


# or Numba would take from its cache what was compiled before one of these changed
_CALLED = ("lanes", "products", "simd", "grouping", "precision")
_TEXTS = b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in _CALLED)
_gram, _combine, _solve = _made(int(sha256(_TEXTS).hexdigest()[:12], 16))
