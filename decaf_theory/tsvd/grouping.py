"""Rows of few agents apart from rows of many: a hub does not make its leaves pay for all agents.

A stack is as long as the longest row of those that are treated together, and its core costs the
cube of that. So rows of at most half as many agents go by themselves where that pays.
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


def groups(weights: Host, r: int) -> list[Host]:
    """Return the rows [n] of weights [n, m] that are treated together; one group mostly."""
    counts = np.count_nonzero(weights, axis=1)
    few = 2 * np.maximum(counts, 1) <= weights.shape[1]
    if not few.any() or len(weights) * (weights.shape[1] * r) ** 3 <= WORTH:
        return [np.arange(len(weights))]
    narrow = np.flatnonzero(few)
    rest = groups(narrowed(np.zeros((1, weights.shape[1])), weights, narrow)[1], r)
    return [np.flatnonzero(~few), *(narrow[rows] for rows in rest)]


def narrowed(index: Host, weights: Host, rows: Host) -> tuple[Host, Host]:
    """Return index and weights of some rows, as wide as the longest of them needs."""
    counts = np.count_nonzero(weights[rows], axis=1)
    m = max(int(counts.max(initial=0)), 1)
    if m == weights.shape[1]:
        return (index if len(index) == 1 else index[rows]), weights[rows]
    order = np.argsort(weights[rows] == 0, axis=1, kind="stable")[:, :m]
    own = np.broadcast_to(index, weights.shape)[rows]
    return np.take_along_axis(own, order, 1), np.take_along_axis(weights[rows], order, 1)


def joined(parts: Sequence[TSVD], rows: Sequence[Host], width: int) -> TSVD:
    """Return the truncations of groups of rows as one, in the order of the rows."""
    xp = namespace(parts[0].tail)
    order = xp.asarray(np.argsort(np.concatenate(rows)), device=parts[0].tail.device)

    def join(arrays: Sequence[Array], axis: int) -> Array:
        return xp.take(xp.concat(list(arrays), axis=axis), order, axis=axis)

    infos = [part.info for part in parts]
    skipped, fell_back = [], []
    for info, own in zip(infos, rows, strict=True):
        skipped += [(*at[:-1], int(own[at[-1]])) for at in info.skipped]
        fell_back += [(why, (*at[:-1], int(own[at[-1]]))) for why, at in info.fell_back]
    return TSVD(
        Factors(*(join([part.factors[side] for part in parts], -3) for side in (0, 1))),
        join([part.singular_values for part in parts], -2),
        join([padded(part.tail, width) for part in parts], -2),
        Info(
            " and ".join(sorted({info.path for info in infos})),
            sum(info.elements for info in infos),
            tuple(sorted(skipped)),
            tuple(sorted(fell_back, key=lambda found: found[1])),
        ),
    )
