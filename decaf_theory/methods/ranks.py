"""Agents of unequal rank: zero-padded to the largest, and cut back to their own after each mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method, Mixed
from decaf_theory.methods.state import Clock, Message, State
from decaf_theory.tsvd import TSVD


def within_ranks(factors: Factors, ranks: Sequence[int]) -> Factors:
    """Return the factors with zero columns of B and rows of A beyond each agent's rank, [n].

    Both gradients of such a direction vanish (s g A' and s B'g), so that local steps leave it.
    """
    kept = _kept(factors.B, ranks, factors.rank)
    return Factors(factors.B * kept[:, None, :], factors.A * kept[:, :, None])


def limiting_ranks(method: Method, ranks: Sequence[int]) -> Method:
    """Return the method after whose mixes agent i keeps its first r_i directions, ranks [n].

    Of balanced factors of a truncation these are the truncation to rank r_i; the singular values
    that this drops join its tail.
    """

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        state, truncated = method.receive(own, sent, weights, clock)
        limited = state._replace(factors=within_ranks(state.factors, ranks))
        return Mixed(limited, None if truncated is None else _shortened(truncated, ranks))

    return replace(method, receive=receive)


def _kept(like: Array, ranks: Sequence[int], r: int) -> Array:
    """Return ones [n, r] for the directions within each agent's rank, zeros beyond."""
    mask = np.arange(r) < np.asarray(ranks)[:, None]
    return namespace(like).asarray(mask, dtype=like.dtype, device=like.device)


def _shortened(truncated: TSVD, ranks: Sequence[int]) -> TSVD:
    """Return the truncation of agent i to rank r_i."""
    S = truncated.singular_values
    xp = namespace(S)
    kept = S * _kept(S, ranks, S.shape[-1])
    # largest first, so that the zeros in place of the kept ones come last
    dropped = xp.sort(xp.concat([S - kept, truncated.tail], axis=-1), axis=-1, descending=True)
    return truncated._replace(
        factors=within_ranks(truncated.factors, ranks), singular_values=kept, tail=dropped
    )
