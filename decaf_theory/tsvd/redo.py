"""Elements that the panel path refused, redone by the qr path in float64."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd.mixing import TSVD, gather, normalized, rescaled
from decaf_theory.tsvd.qr import qr_rows

Host: TypeAlias = np.ndarray[Any, Any]
BLOCK = 2**20  # numbers of a stack that are processed at a time


def redo(
    truncated: TSVD, factors: Factors, index: Host, weights: Host, again: Host, rank: int
) -> None:
    """Replace the elements `again` [L, n] of a truncation, in place.

    factors B [L, N, d, r], A [L, N, r, k] are finite. If one stack serves all rows, its layer is
    factored once for all of them.
    """
    xp, shared = namespace(factors.B), weights.shape[1] == factors.B.shape[1]
    groups = np.argwhere(np.any(again, axis=-1, keepdims=True) if shared else again)
    step = max(1, BLOCK // (weights.shape[1] * factors.rank * max(factors.shape)))
    for at in range(0, len(groups), step):
        layers, rows = groups[at : at + step].T
        panels = _panels(factors, layers, index[rows], shared)
        unit, own, exponent = normalized(panels, weights if shared else weights[rows])
        width = int(truncated.tail.shape[-1])
        found = rescaled(qr_rows(unit, own, rank, width), exponent, factors.B, truncated.info)
        place: tuple[Host, ...] = (np.arange(len(layers)),)
        if shared:
            place = np.nonzero(again[layers])
            layers, rows = layers[place[0]], place[1]
        for old, new in zip(_arrays(truncated), _arrays(found), strict=True):
            to, of = (
                (xp.asarray(x, device=old.device) for x in which)
                for which in ((layers, rows), place)
            )
            old[tuple(to)] = new[tuple(of)]


def _arrays(truncated: TSVD) -> tuple[Array, ...]:
    return (*truncated.factors, truncated.singular_values, truncated.tail)


def _panels(factors: Factors, layers: Host, index: Host, shared: bool) -> Factors:
    """Return float64 panels [c, 1, N, ., .] of whole layers, or [F, m, ., .] of single elements."""
    xp = namespace(factors.B)
    at = xp.asarray(layers, device=factors.B.device)
    if shared:
        taken = gather(Factors(*(xp.take(X, at, axis=0) for X in factors)), index[:1])
    else:
        near = xp.asarray(index, device=factors.B.device)
        taken = Factors(*(X[at[:, None], near] for X in factors))
    return Factors(*(xp.astype(X, xp.float64) for X in taken))
