"""The panel path: one Gram matrix for each factor and layer, outputs as products with the factors.

A stack X [n, d] holds the rank directions of the agents, one per row. It is read once for its Gram
matrix, in float64, and once for the output; in between, all matrices have the size n = m r
(`core`). Two arrangements, chosen by cost:

shared    one stack of all N agents serves every row; the Gram matrices of a row are sub-blocks, and
    the output is one product with coefficients that are zero outside the row's agents.
gathered  each row has a stack of its m agents: N = 10^4 agents on a ring cost O(N m^2 r^2 d).

Layers, or rows, are processed in blocks, so that little memory is needed besides the factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, convert, host, like, namespace, transpose, working
from decaf_theory.lowrank import Factors, pad_rank
from decaf_theory.tsvd.core import Core, solve_core
from decaf_theory.tsvd.grouping import Group, all_tiles
from decaf_theory.tsvd.mixing import TSVD, Info, padded
from decaf_theory.tsvd.precision import SMALLEST, Precision
from decaf_theory.tsvd.solvers import compiled_kernels
from decaf_theory.tsvd.terms import diagonal

Host: TypeAlias = np.ndarray[Any, Any]
Block: TypeAlias = tuple[tuple[Array, Array, Array], Host | None, bool]

BLOCK = 2**21  # numbers of a stack that are processed at a time
CHUNK = 2**15  # of these, converted to float64 at a time: they stay in the cache


def shares_stack(N: int, n: int, m: int, r: int, rank: int) -> bool:
    """Return whether one stack for all rows costs less than one stack per row.

    In multiply-adds per r^2 d: N^2/2 for the Gram matrix (its symmetric half) and N n rank/r for
    the output, compared with n m^2/2, n m rank/r, and n m copied entries, each worth some 40/r.
    """
    return N**2 / 2 + N * n * rank / r <= n * m * (m / 2 + rank / r + 40 / r)


def panel_rows(
    factors: Factors, group: Group, rank: int, width: int
) -> tuple[TSVD, Host | None, bool]:
    """Return TSVD_r(sum_j w_ij B_j A_j), the refused elements, and whether any number was unfit.

    factors B [L, N, d, r], A [L, N, r, k]. Refused elements [L, n] hold an index into
    `conditions.REASONS`, and their results have to be replaced; None: none is.
    """
    B, A = transpose(factors.B), factors.A
    L, N, r, d = B.shape
    n, m = group.weights.shape
    shared = m == N or shares_stack(N, n, m, r, rank)
    entries = (N if shared else m) * r * max(d, A.shape[-1])
    blocks = list(_blocks(L, n, entries, shared))
    with np.errstate(over="ignore", invalid="ignore"):  # found, and named by reason or caller
        if len(blocks) == 1:
            found = _block(Factors(B, A), group, rank, shared)
        else:
            found = _one_by_one(blocks, Factors(B, A), group, rank, shared)
    (B, A, S), refused, unfit = found
    kept, tail = padded(S[..., :rank], rank), padded(S[..., rank : rank + width], width)
    outputs = Factors(transpose(B), A)
    if outputs.rank < rank:
        outputs = pad_rank(outputs, rank)
    return TSVD(outputs, kept, tail, Info("", 0)), refused, unfit


def _blocks(L: int, n: int, entries: int, shared: bool) -> Iterator[tuple[slice, slice]]:
    """Yield the layers and rows to be processed together; `entries` in each of their stacks."""
    step = max(1, BLOCK // entries)
    if shared:
        yield from ((slice(at, at + step), slice(0, n)) for at in range(0, L, step))
        return
    for layer in range(L):
        yield from ((slice(layer, layer + 1), slice(at, at + step)) for at in range(0, n, step))


def _one_by_one(
    blocks: Sequence[tuple[slice, slice]], factors: Factors, group: Group, rank: int, shared: bool
) -> Block:
    """Return what `_block` returns for all layers and rows, of several blocks."""
    L, n = len(factors.B), len(group.rows)
    whole: tuple[Array, ...] = ()
    refused: Host | None = None
    unfit = False
    for layers, rows in blocks:
        own = group if shared else group.part(rows)
        piece, why, odd = _block(Factors(factors.B[layers], factors.A[layers]), own, rank, shared)
        unfit = unfit or odd
        whole = whole or tuple(_room(part, L, n) for part in piece)
        for to, part in zip(whole, piece, strict=True):
            to[layers, rows] = part
        if why is not None:
            refused = np.zeros((L, n), np.int8) if refused is None else refused
            refused[layers, rows] = why
    return (whole[0], whole[1], whole[2]), refused, unfit


def _room(part: Array, L: int, n: int) -> Array:
    """Return an empty array [L, n, ...] for parts [layers, rows, ...]."""
    shape = (L, n, *part.shape[2:])
    return namespace(part).empty(shape, dtype=part.dtype, device=part.device)


def _block(factors: Factors, group: Group, rank: int, shared: bool) -> Block:
    """Return (B' transposed [c, n, r, d], A', all singular values), refusals, if any was unfit.

    factors here are both [c, N, r, length].
    """
    part_of_all = shared and group.weights.shape[1] != group.N
    stacks = Factors(*(_stack(X, group.index, shared) for X in factors))
    grams = _grams(stacks, group if part_of_all else None)
    stacks, G, unfit = grams.stacks, grams.G, grams.unfit
    if part_of_all:
        G = _taken(G.reshape((*G.shape[:2], -1)), group.pairs)
        unfit = unfit if unfit is None else _taken(unfit[:, 0], group.directions)
    w = convert(group.by_direction, G)
    longest = max(stacks.B.shape[-1], stacks.A.shape[-1])
    core = solve_core(G, unfit, w, rank, longest, Precision.of(stacks.B))
    B, A = (like(X, factors.B) for X in _outputs(core, stacks, group, part_of_all))
    refused = None if core.refused is None else host(core.refused)
    return (B, A, like(core.singular_values, B)), refused, grams.odd


def _stack(X: Array, index: Host, shared: bool) -> Array:
    """Return [c, 1, N r, d], or the agents of each row [c, n, m r, d], of X [c, N, r, d]."""
    c, N, r, d = X.shape
    if shared:
        return working(X.reshape((c, 1, N * r, d)))
    xp = namespace(X)
    taken = xp.take(X, xp.asarray(index.ravel(), device=X.device), axis=1)
    return working(xp.reshape(taken, (c, len(index), -1, d)))


def _gram(X: Array, to: Array, group: Group | None) -> None:
    """Put XX' of stacks [c, g, n, d], accumulated in float64, into `to` [c, g, n, n].

    group: all that is wanted is between directions that meet in one of its rows; None: everything.
    """
    n, d = X.shape[-2:]
    flat, products = X.reshape((-1, n, d)), to.reshape((-1, n, n))
    side = n if group is None else group.weights.shape[1] * group.r
    kernels = None if Precision.of(X).double else compiled_kernels(X, side)
    if kernels is not None:
        kernels.gram(flat, all_tiles(n) if group is None else group.tiles, products)
        return
    step = max(1, CHUNK // (n * d))
    for at in range(0, len(flat), step):
        wide = like(flat[at : at + step], to)
        products[at : at + step] = wide @ transpose(wide)


class Grams(NamedTuple):
    """Both stacks, with directions whose squares are out of range zeroed, and their Grams."""

    stacks: Factors
    G: Array  # [2, c, g, n, n]
    unfit: Array | None  # directions out of range that would add something, [c, g, n]
    odd: bool  # whether a number was out of range at all


def _grams(stacks: Factors, group: Group | None) -> Grams:
    """Return the Gram matrices of both stacks in float64, and the directions out of their range.

    Squares that are not finite, or so small that digits were lost, need another look at the data:
    a direction of zeros is fit, and so is one that will be multiplied by zeros.
    """
    xp, (*batch, n, d) = namespace(stacks.B), stacks.B.shape
    G = xp.zeros((2, *batch, n, n), dtype=xp.float64, device=stacks.B.device)
    squares = diagonal(G)
    _both(stacks, G, group)
    least = max(d, stacks.A.shape[-1]) * SMALLEST
    if squares.min() >= least and squares.max() < np.inf:  # neither is true of nan
        return Grams(stacks, G, None, odd=False)
    odd = ~((squares >= least) & (squares < xp.inf))
    zero = xp.stack([xp.max(xp.abs(X), axis=-1) == 0 for X in stacks])
    odd = odd & ~zero
    unfit = xp.any(odd & ~xp.flip(zero, axis=0), axis=0)
    if not bool(xp.any(odd)):
        return Grams(stacks, G, None, odd=False)
    fit = Factors(
        *(xp.where(o[..., None], xp.zeros_like(X), X) for o, X in zip(odd, stacks, strict=True))
    )
    _both(fit, G, group)
    return Grams(fit, G, unfit, odd=True)


def _both(stacks: Factors, G: Array, group: Group | None) -> None:
    """Put the Gram matrices of both stacks into G [2, c, g, n, n], as far as wanted."""
    for X, to in zip(stacks, G, strict=True):
        _gram(X, to, group)


def _taken(X: Array, at: Host) -> Array:
    """Return the entries of X [..., q] at places of any shape [...]."""
    if isinstance(X, np.ndarray):
        return X.take(at, axis=-1)
    xp = namespace(X)
    flat = xp.asarray(at.ravel(), device=X.device)
    return xp.reshape(xp.take(X, flat, axis=-1), (*X.shape[:-1], *at.shape))


def _spread(X: Array, chosen: Array) -> Array:
    """Return coefficients [..., n, N r, rank] of all agents from [..., n, m r, rank]."""
    *batch, _, rank = X.shape
    by_agent = X.reshape((*batch, chosen.shape[-1], -1))
    return (chosen @ by_agent).reshape((*batch, -1, rank))


def _outputs(core: Core, stacks: Factors, group: Group, part_of_all: bool) -> tuple[Array, Array]:
    """Return both outputs [c, n, rank, length] from their coefficients."""
    X, graded = core.X, core.graded
    if part_of_all:
        double = Precision.of(stacks.B).double
        wide = double or (graded is not None and bool(graded.any()))
        kernels = None if wide else compiled_kernels(X, X.shape[-2])
        if kernels is not None:
            B, A = (kernels.combine(x, S, group.directions) for x, S in zip(X, stacks, strict=True))
            return B, A
        X = _spread(X, convert(group.selection, X))
    B, A = (_multiply(x, S, graded) for x, S in zip(X, stacks, strict=True))
    return B, A


def _multiply(X: Array, stack: Array, graded: Array | None) -> Array:
    """Return X'stack [c, n, rank, d] for X [c, n, q, rank] and a stack [c, 1 or n, q, d].

    In the type of the stack, and in float64 where `graded` [c, n]; None: nowhere.
    """
    c, n, q, rank = X.shape
    turned = transpose(X)
    if stack.shape[1] == 1:
        turned = turned.reshape((c, 1, n * rank, q))
    out = (like(turned, stack) @ stack).reshape((c, n, rank, -1))
    if graded is None or not graded.any():
        return out
    xp = namespace(X)
    for layer in np.flatnonzero(host(xp.any(graded, axis=-1))):
        at = int(layer)
        wide = xp.reshape(turned[at] @ xp.astype(stack[at], X.dtype), (n, rank, -1))
        out[at] = xp.where(graded[at][:, None, None], like(wide, stack), out[at])
    return out
