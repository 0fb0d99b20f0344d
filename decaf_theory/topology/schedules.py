"""Mixing matrices that change from round to round, by name: round t -> Pi_t.

In a one-peer round each agent averages with a single other, so the graph of one round does not mix:
sqrt(rho) = 1. The product over tau = log2(N) rounds is J exactly, for N a power of two.

A `RandomSchedule` draws its rounds independently. They mix on average where rho = |E Pi'Pi - J|_op
is below 1, although often no single round does: E|(Pi - J) X|_F^2 <= rho |(I - J) X|_F^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy

from decaf_theory.arrays import Host, integer
from decaf_theory.names import Table
from decaf_theory.rng import generator
from decaf_theory.topology.checks import Matrix, symmetric
from decaf_theory.topology.contacts import contacts
from decaf_theory.topology.graphs import (
    check_probability,
    counts,
    dimension,
    metropolis_weights,
    random_links,
    ring,
    with_self_weights,
)
from decaf_theory.topology.spectra import sqrt_rho

Schedule: TypeAlias = Callable[[int], Matrix]


@dataclass(frozen=True)
class RandomSchedule:
    """Independent draws of a mixing matrix: round t -> Pi_t, the same whenever it is asked for.

    rho(): |E Pi'Pi - J|_op, exact up to rounding.
    """

    name: str
    seed: int
    draw: Callable[[np.random.Generator], Matrix]
    rho: Callable[[], float]

    def __post_init__(self) -> None:
        """Check the seed."""
        integer("seed", self.seed, 0)

    def __call__(self, t: int) -> Matrix:
        """Return Pi_t; ValueError: t is not an integer >= 0."""
        return self.draw(generator(self.seed, self.name, integer("t", t, 0)))


# ---------------------------------------------------------------- one peer a round


def one_peer_exponential(N: int, *, sparse: bool = False) -> Schedule:
    """Return t -> (I + P_h)/2 with h = 2^(t mod tau), tau = ceil(log2 N): i hears i + h mod N.

    Doubly stochastic but not symmetric beyond N = 2: a link carries one message. For N >= 1; the
    product is J only for N = 2^tau.
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


def _one_peer(N: int, peer: Callable[[int], Host], sparse: bool) -> Schedule:
    period = max(1, (N - 1).bit_length())

    def mixing(t: int) -> Matrix:
        """Return Pi_t; ValueError: t is not an integer >= 0."""
        return _halves(peer(1 << integer("t", t, 0) % period), sparse)

    return mixing


def _halves(peer: Host, sparse: bool) -> Matrix:
    """Return the matrix of agents that average with a peer each; their own peer: alone."""
    here = np.arange(len(peer))
    return counts(len(peer), np.tile(here, 2), np.concatenate([here, peer]), sparse) / 2


# ---------------------------------------------------------------- random rounds


def pairwise_gossip(
    N: int, *, Pi: Matrix | None = None, seed: int = 0, sparse: bool = False
) -> RandomSchedule:
    """Return rounds in which the ends of one link average, drawn uniformly; the others rest.

    Links: the nonzero weights of a symmetric Pi [N, N]; by default of any two agents.
    Pi_t is a projection, so E Pi'Pi = I - Lap / (2 links); rho = 1 - 1/(N - 1) by default.
    ValueError: Pi is not such a matrix, or has no link.
    """
    N = integer("N", N, 1)
    links = None
    if Pi is not None:
        links, _ = _links(Pi, N, "pairwise_gossip")
        if links.size == 0:
            raise ValueError("Pi must have a nonzero weight off its diagonal, got none: no links")

    def draw(random: np.random.Generator) -> Matrix:
        if links is None:
            ends = random.choice(N, min(N, 2), replace=False)
        else:
            ends = links[:, random.integers(links.shape[1])]
        peer = np.arange(N)
        peer[ends] = ends[::-1]
        return _halves(peer, sparse)

    def rho() -> float:
        if links is None:
            return 1 - 1 / (N - 1) if N > 1 else 0.0
        share = np.full(links.shape[1], 0.5 / links.shape[1])
        return sqrt_rho(with_self_weights(_both_ways(N, links, share, sparse)))

    return RandomSchedule("pairwise gossip", seed, draw, rho)


def random_matching(N: int, *, seed: int = 0, sparse: bool = False) -> RandomSchedule:
    """Return rounds in which all agents average in random pairs; if N is odd, one rests.

    Pi_t is a projection, and any two agents meet equally often: rho = 1 - floor(N/2)/(N - 1).
    """
    N = integer("N", N, 1)

    def draw(random: np.random.Generator) -> Matrix:
        order = random.permutation(N)
        left, right = order[: N // 2], order[N // 2 : N // 2 * 2]
        peer = np.arange(N)
        peer[left], peer[right] = right, left
        return _halves(peer, sparse)

    return RandomSchedule(
        "random matching", seed, draw, lambda: 1 - N // 2 / (N - 1) if N > 1 else 0.0
    )


def dropped_links(
    N: int, *, Pi: Matrix | None = None, p: float = 0.5, seed: int = 0, sparse: bool = False
) -> RandomSchedule:
    """Return rounds of a symmetric Pi [N, N], the ring's by default, without some of its links.

    Each link fails with probability p in both directions, and both ends keep its weight w for
    themselves. With w^2 as weights of Lap, E Pi_t'Pi_t = (p I + (1-p) Pi)^2 + 2 p (1-p) Lap.
    ValueError: p outside [0, 1], or Pi is not such a matrix.
    """
    N = integer("N", N, 1)
    check_probability(p)
    whole = ring(N, sparse=sparse) if Pi is None else Pi
    ends, weights = _links(whole, N, "dropped_links")

    def draw(random: np.random.Generator) -> Matrix:
        kept = random.random(len(weights)) >= p
        return with_self_weights(_both_ways(N, ends[:, kept], weights[kept], sparse))

    def rho() -> float:
        return _rho_of_failing(N, ends, weights, up=1 - p, both=(1 - p) ** 2, sparse=sparse)

    return RandomSchedule("dropped links", seed, draw, rho)


def stragglers(
    N: int, *, Pi: Matrix | None = None, p: float = 0.1, seed: int = 0, sparse: bool = False
) -> RandomSchedule:
    """Return rounds of a symmetric Pi [N, N], the ring's by default, that some agents miss.

    Each agent misses a round with probability p: nothing passes over its links, and both ends keep
    their weight w for themselves. With w^2 as weights of Lap_2, Lap = I - Pi and a = 1 - p,
    E Pi_t'Pi_t = I - 2 a^2 Lap + a^3 Lap^2 + 2 a^2 p Lap_2. ValueError: p outside [0, 1], or Pi is
    not such a matrix.
    """
    N = integer("N", N, 1)
    check_probability(p)
    whole = ring(N, sparse=sparse) if Pi is None else Pi
    ends, weights = _links(whole, N, "stragglers")

    def draw(random: np.random.Generator) -> Matrix:
        there = random.random(N) >= p
        kept = there[ends].all(axis=0)
        return with_self_weights(_both_ways(N, ends[:, kept], weights[kept], sparse))

    def rho() -> float:
        return _rho_of_failing(N, ends, weights, up=(1 - p) ** 2, both=(1 - p) ** 3, sparse=sparse)

    return RandomSchedule("stragglers", seed, draw, rho)


def _rho_of_failing(
    N: int, ends: Host, weights: Host, *, up: float, both: float, sparse: bool
) -> float:
    """Return rho of rounds in which a link works with chance `up`, two of one agent with `both`.

    Pi_t = I - sum_l x_l L_l, L_l the Laplacian of link l and x_l whether it works: L_l L_m = 0
    for links without a common end, and L_l^2 is the Laplacian of weight 2 w_l^2. So E Pi_t'Pi_t =
    I - 2 up Lap + both Lap^2 + 2 (up - both) Lap_2.
    """
    eye = scipy.sparse.eye_array(N, format="csr") if sparse else np.eye(N)
    Lap, Lap_2 = (
        eye - with_self_weights(_both_ways(N, ends, w, sparse)) for w in (weights, weights**2)
    )
    return sqrt_rho(eye - 2 * up * Lap + both * Lap @ Lap + 2 * (up - both) * Lap_2)


def erdos_renyi_redrawn(
    N: int, *, p: float = 0.5, seed: int = 0, sparse: bool = False
) -> RandomSchedule:
    """Return rounds on a random graph each, of links with probability p, Metropolis weights.

    Unlike `erdos_renyi` a round's graph need not be connected. All agents are alike, so that
    E Pi'Pi - J = rho (I - J), rho = (E|Pi|_F^2 - 1)/(N - 1). ValueError: p outside [0, 1].
    """
    N = integer("N", N, 1)
    check_probability(p)

    def draw(random: np.random.Generator) -> Matrix:
        return metropolis_weights(random_links(random, N, p, sparse))

    return RandomSchedule("erdos renyi redrawn", seed, draw, lambda: _rho_of_random_graphs(N, p))


def _rho_of_random_graphs(N: int, p: float) -> float:
    """Return (E|Pi|_F^2 - 1)/(N - 1) for Metropolis weights of graphs G(N, p)."""
    from scipy.stats import binom  # here, so that the library loads without it

    if N == 1:
        return 0.0
    further = np.arange(N - 1)  # links of one end of a link beyond it, independent of the other's
    chance = binom.pmf(further, N - 2, p)
    weight = 1 / (2 + np.maximum(further, further[:, None]))
    mean, square = (p * chance @ weight**power @ chance for power in (1, 2))
    # weights of two links i-j, i-k: given i's further links, and whether there is one from j to k
    further = np.arange(max(N - 2, 1))
    chance = binom.pmf(further, max(N - 3, 0), p)
    both = 0.0
    for linked, share in ((0, 1 - p), (1, p)):
        weight = 1 / (1 + np.maximum(2 + further[:, None], 1 + linked + further))
        both += p**2 * share * float(chance @ (weight @ chance) ** 2)
    own = 1 - (N - 1) * (2 * mean - square - (N - 2) * both)  # E (1 - sum of weights)^2
    rho = (N * own + N * (N - 1) * square - 1) / (N - 1)
    return max(0.0, float(rho))  # rounding may leave a negative zero


def _links(Pi: Matrix, N: int, wanted: str) -> tuple[Host, Host]:
    """Return the links i < j of a symmetric Pi, [2, links], and their weights [links]."""
    Pi = symmetric(Pi, wanted)
    if Pi.shape != (N, N):
        raise ValueError(f"Pi must be {N} x {N} for {N} agents, got shape {Pi.shape}")
    above = scipy.sparse.triu(scipy.sparse.coo_array(Pi), k=1, format="coo")
    above.eliminate_zeros()
    return np.stack(above.coords), above.data


def _both_ways(N: int, ends: Host, weights: Host, sparse: bool) -> Matrix:
    """Return the symmetric matrix [N, N] of these weights of the links i - j, [2, links]."""
    i, j = np.concatenate([ends, ends[::-1]], axis=1)
    return counts(N, i, j, sparse, np.tile(weights, 2))


SCHEDULES: Table[Callable[..., Schedule]] = Table(
    {
        "one_peer_exponential": one_peer_exponential,
        "one_peer_hypercube": one_peer_hypercube,
        "pairwise_gossip": pairwise_gossip,
        "random_matching": random_matching,
        "dropped_links": dropped_links,
        "stragglers": stragglers,
        "erdos_renyi_redrawn": erdos_renyi_redrawn,
        "contacts": contacts,
    }
)
