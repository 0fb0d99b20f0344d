"""Grouping rows by their number of agents: a star's hub does not slow down the rows of its leaves.

Rows that are treated together are padded to the longest of them, and the cost of a core is the cube
of that length. So rows with at most half as many agents form a group of their own if that pays.
They are split off before any padding: memory is proportional to the entries of Pi, not to N rows as
long as a hub's.

Rounds repeat their mixing matrix, and finding its neighbours costs as much as a small round. What
is found in a small dense matrix is remembered by its numbers, so that it is never out of date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd.mixing import TSVD, Info, entries, neighbours, padded

Host: TypeAlias = np.ndarray[Any, Any]
WORTH = 2**20  # multiply-adds of all cores above which a second pass costs less
SMALL = 2**10  # entries of a mixing matrix that is remembered
TILE = 2, 4  # entries of a Gram matrix that compiled code finds together


@dataclass(frozen=True, eq=False)
class Group:
    """Rows of a mixing matrix that are treated together, and where their directions are."""

    rows: Host  # which of the matrix, [n]
    index: Host  # the agents that they weight, [n, m]; [1, N] if one gather serves every row
    weights: Host  # of these agents, [n, m]
    N: int
    r: int

    @cached_property
    def alike(self) -> bool:
        """Whether all rows are equal, so that one truncation serves them."""
        return len(self.index) == 1 and bool(np.all(self.weights == self.weights[:1]))

    @cached_property
    def different(self) -> Group:
        """The same, with only the first of rows that are alike."""
        return self.part(slice(0, 1)) if self.alike and len(self.rows) > 1 else self

    def part(self, rows: slice) -> Group:
        """Return some of the rows."""
        index = self.index if len(self.index) == 1 else self.index[rows]
        return Group(self.rows[rows], index, self.weights[rows], self.N, self.r)

    @cached_property
    def by_direction(self) -> Host:
        """Weights of the rank directions, [n, m r]."""
        return np.repeat(self.weights, self.r, axis=-1)

    @cached_property
    def directions(self) -> Host:
        """Where each row's directions are in a stack of all agents, [n, m r]."""
        own: Host = self.index[:, :, None] * self.r + np.arange(self.r)
        return own.reshape(len(own), -1)

    @cached_property
    def pairs(self) -> Host:
        """Where each row's Gram matrix is in a flat one of all agents, [n, m r, m r]."""
        own = self.directions
        return own[:, :, None] * (self.N * self.r) + own[:, None, :]

    @cached_property
    def tiles(self) -> Host:
        """`tiles` of a stack of all agents, for what meets in a row, and for the diagonal."""
        wanted = np.eye(self.N * self.r, dtype=bool)
        wanted.reshape(-1)[self.pairs] = True
        return tiles(wanted)

    @cached_property
    def selection(self) -> Host:
        """One where an agent is a row's neighbour in that place, else zero, [n, N, m]."""
        chosen: Host = self.index[:, None, :] == np.arange(self.N)[:, None]
        return np.where(chosen & (self.weights[:, None, :] != 0), 1.0, 0.0)


def tiles(wanted: Host) -> Host:
    """Return where tiles of TILE entries begin, [tiles, 2], in which something is wanted.

    wanted [n, n]: symmetric, so that tiles on the diagonal and below are enough.
    """
    (rows, columns), lower = TILE, np.tril(wanted)
    places = ((i, j) for i in range(0, len(lower), rows) for j in range(0, i + rows, columns))
    found = [(i, j) for i, j in places if lower[i : i + rows, j : j + columns].any()]
    return np.array(found, dtype=np.int64)


@lru_cache
def all_tiles(n: int) -> Host:
    """Return the tiles of a matrix of side n in which everything is wanted."""
    return tiles(np.ones((n, n), dtype=bool))


def plan(Pi: Array, N: int, r: int) -> tuple[Group, ...]:
    """Return groups of rows of Pi [n, N], dense or sparse, for r directions of each agent.

    ValueError: as `mixing.entries`.
    """
    if type(Pi) is np.ndarray and Pi.dtype == np.float64 and Pi.size <= SMALL:
        return _remembered(Pi.tobytes(), Pi.shape, N, r)
    return _found(Pi, N, r)


@lru_cache(maxsize=32)
def _remembered(numbers: bytes, shape: tuple[int, ...], N: int, r: int) -> tuple[Group, ...]:
    return _found(np.frombuffer(numbers).reshape(shape), N, r)


def _found(Pi: Array, N: int, r: int) -> tuple[Group, ...]:
    found = entries(Pi, N)
    return tuple(Group(own, *neighbours(found, own), N, r) for own in groups(found.counts, r))


def groups(counts: Host, r: int) -> list[Host]:
    """Return groups of rows to be treated together, for counts [n] of agents; mostly one group."""
    longest = max(int(counts.max()), 1)
    few = 2 * np.maximum(counts, 1) <= longest
    if not few.any() or len(counts) * (longest * r) ** 3 <= WORTH:
        return [np.arange(len(counts))]
    narrow = np.flatnonzero(few)
    return [np.flatnonzero(~few), *(narrow[rows] for rows in groups(counts[narrow], r))]


def in_order(parts: Sequence[Array], rows: Sequence[Host], axis: int) -> Array:
    """Return arrays of groups of rows as one, in the order of the rows."""
    if len(parts) == 1:
        return parts[0]
    xp = namespace(parts[0])
    order = xp.asarray(np.argsort(np.concatenate(rows)), device=parts[0].device)
    return xp.take(xp.concat(list(parts), axis=axis), order, axis=axis)


def joined(parts: Sequence[TSVD], rows: Sequence[Host], width: int) -> TSVD:
    """Return the truncations of groups of rows as one, in the order of the rows."""
    infos = [part.info for part in parts]
    skipped, fell_back = [], []
    for info, own in zip(infos, rows, strict=True):
        skipped += [(*at[:-1], int(own[at[-1]])) for at in info.skipped]
        fell_back += [(why, (*at[:-1], int(own[at[-1]]))) for why, at in info.fell_back]
    return TSVD(
        Factors(*(in_order([part.factors[side] for part in parts], rows, -3) for side in (0, 1))),
        in_order([part.singular_values for part in parts], rows, -2),
        in_order([padded(part.tail, width) for part in parts], rows, -2),
        Info(
            " and ".join(sorted({info.path for info in infos})),
            sum(info.elements for info in infos),
            tuple(sorted(skipped)),
            tuple(sorted(fell_back, key=lambda found: found[1])),
        ),
    )
