"""The terms of a mix, row by row: which directions count, how long they are, what is too long."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, namespace

LARGEST = 2.0**400  # of |w_j|: C'C and its digits fit between 2^-1022 and 2^1024


class Terms(NamedTuple):
    """The n terms of every row; g is one if all rows share a stack, else the number of rows."""

    G: Array  # Gram matrices of both sides [2, ..., g, n, n], an axis for what a row does not use
    size: Array  # lengths of the directions, one for what a row does not use, [2, ..., g, n]
    weights: Array  # zero where a direction adds nothing, [..., rows, n]
    total: Array  # |w|^2 of the terms' lengths w_j = pi_j |b_j||a_j|, [..., rows]
    outside: Array | None  # rows out of range, [..., rows]; None: none is

    @property
    def within(self) -> bool:
        """Whether no row is out of range."""
        return self.outside is None or not bool(self.outside.any())

    def part(self, rows: tuple[Array, ...]) -> Terms:
        """Return the terms of some rows within range, by indices for each axis of [..., rows]."""
        own = rows[-1] if self.G.shape[-3] > 1 else np.zeros_like(rows[-1])
        at = (slice(None), *rows[:-1], own)
        weights = self.weights[rows if self.weights.ndim > 2 else rows[-1]]
        return Terms(self.G[at], self.size[at], weights, self.total[rows], None)


def balance(G: Array, unfit: Array | None, weights: Array, reach: float) -> Terms:
    """Return the terms of every row, their lengths, and the rows whose numbers are out of range."""
    size = diagonal(G) ** 0.5
    w = weights * (size[0] * size[1])
    if unfit is None and _plain(size, abs(w), reach):
        return Terms(G, size, weights, (w**2).sum(-1), None)
    xp = namespace(G)
    weights, w, outside = _weighed(size, unfit, weights, w, reach)
    used = weights != 0
    if not bool(xp.all(used)):  # so that nothing depends on what a row does not use
        axis = xp.eye(int(G.shape[-1]), dtype=G.dtype, device=G.device)
        G = xp.where(used[..., :, None] & used[..., None, :], G, axis)
        size = xp.where(used, size, 1.0)
    total = xp.sum(w**2, axis=-1)
    return Terms(G, size, weights, total, outside)


def diagonal(G: Array) -> Array:
    """Return the diagonals [..., n] of contiguous matrices [..., n, n], as a view."""
    n = G.shape[-1]
    return G.reshape((*G.shape[:-2], n * n))[..., :: n + 1]


def _plain(size: Array, w: Array, reach: float) -> bool:
    """Return whether all |w| and lengths are in range, by their extremes: mostly they are."""
    low, high = float(w.min()), float(w.max())
    if not (low > 1 / LARGEST and high < LARGEST):
        return False
    return bool(size.min() >= high**0.5 / reach and size.max() <= low**0.5 * reach)


def _weighed(
    size: Array, unfit: Array | None, weights: Array, w: Array, reach: float
) -> tuple[Array, Array, Array]:
    """Return weights and w [..., rows, n], zero where a direction adds nothing, and bad rows.

    size [2, ..., g, n]: lengths of the directions. Out of range are rows whose w, or a coefficient
    in their type, would lose digits: all their weights become zero.
    """
    xp = namespace(size)
    with np.errstate(over="ignore", invalid="ignore"):
        top = xp.max(xp.abs(w), axis=-1)
        scale = top[..., None] ** 0.5
        near = xp.all((size >= scale / reach) & (size <= scale * reach), axis=0)
    used = (weights != 0) & xp.all(size > 0, axis=0)
    odd = used & (w != 0) & ~near
    if unfit is not None:
        odd = odd | (unfit & (weights != 0))
    outside = xp.any(odd, axis=-1)
    outside = outside | (xp.any(used, axis=-1) & ~((top > 1 / LARGEST) & (top < LARGEST)))
    used = used & ~outside[..., None]
    return xp.where(used, weights, 0.0), xp.where(used, w, 0.0), outside
