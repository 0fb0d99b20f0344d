"""Grouping rows by their number of agents: a star's hub does not slow down the rows of its leaves.

Rows that are treated together are padded to the longest of them, and the cost of a core is the cube
of that length. So rows with at most half as many agents form a group of their own if that pays.
They are split off before any padding: memory is proportional to the entries of Pi, not to N rows as
long as a hub's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd.mixing import TSVD, Info, padded

Host: TypeAlias = np.ndarray[Any, Any]
WORTH = 2**20  # multiply-adds of all cores above which a second pass costs less


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
