"""Mixing matrices that change from round to round, by name: round t -> Pi_t.

In a one-peer round each agent averages with a single other, so the graph of one round does not mix:
sqrt(rho) = 1. The product over tau = log2(N) rounds is J exactly, for N a power of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from decaf_theory.arrays import Host, integer
from decaf_theory.topology.checks import Matrix
from decaf_theory.topology.graphs import counts, dimension

Schedule: TypeAlias = Callable[[int], Matrix]


def one_peer_exponential(N: int, *, sparse: bool = False) -> Schedule:
    """Return t -> (I + P_h)/2 with h = 2^(t mod tau), tau = ceil(log2 N): i hears i + h mod N.

    Doubly stochastic but not symmetric beyond N = 2: a link carries one message, so
    `check_mixing_matrix` rejects it. For N >= 1; the product is J only for N = 2^tau.
    """
    agents = np.arange(integer("N", N, 1))
    return _one_peer(N, lambda hop: (agents + hop) % N, sparse)


def one_peer_hypercube(N: int, *, sparse: bool = False) -> Schedule:
    """Return t -> (I + P_l)/2, P_l the exchange of agents that differ in bit l = t mod log2(N).

    Symmetric and doubly stochastic: pairs that average with each other. For N = 2^tau.
    """
    N = integer("N", N, 1)
    dimension("one-peer hypercube", N)
    return _one_peer(N, lambda hop: np.arange(N) ^ hop % N, sparse)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "one_peer_exponential": one_peer_exponential,
    "one_peer_hypercube": one_peer_hypercube,
}


def _one_peer(N: int, peer: Callable[[int], Host], sparse: bool) -> Schedule:
    period = max(1, (N - 1).bit_length())

    def mixing(t: int) -> Matrix:
        """Return Pi_t; ValueError: t is not an integer >= 0."""
        hop = 1 << integer("t", t, 0) % period
        here = np.arange(N)
        ends = np.tile(here, 2), np.concatenate([here, peer(hop)])
        return counts(N, *ends, sparse) / 2

    return mixing
