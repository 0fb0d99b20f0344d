"""T10: the network's mean interference is bounded by its consensus distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from itertools import product as cartesian
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.measure import (
    consensus_distance,
    deviations,
    interference_norm,
    weighted_deviations,
)
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues
from verification.claim import Claim, Context, Row, Value
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import gaussian
from verification.instances.omega import each

NETWORKS = (
    *(("complete", 5), ("ring", 2), ("ring", 6), ("ring", 9), ("path", 5), ("star", 6)),
    *(("bipartite", 6), ("hypercube", 8), ("torus", 9), ("exponential", 7), ("erdos_renyi", 7)),
    ("complete", 1),
)
MEMBERS = ("mean", "spreads", "consensus", "half")
SHAPES = [(3, 5, 2), (4, 2, 1)]  # d, k, r


class Network(NamedTuple):
    """Instances of the agents' factors, B [instances, N, d, r], A [instances, N, r, k]."""

    topology: str
    family: str
    Pi: np.ndarray
    factors: Factors

    @property
    def params(self) -> dict[str, Value]:
        """The coordinates of a row of evidence on this network."""
        d, k = self.factors.shape
        sizes = {"N": len(self.Pi), "d": d, "k": k, "r": self.factors.rank}
        return {"topology": self.topology, "family": self.family, **sizes}


def rows(ctx: Context) -> Iterator[Row]:
    r"""The mean interference of a network is at most $(1 - \min |l|^2) \sqrt{\Xi_A \Xi_B}$.

    $\sum_{ij} \pi_{ij} |A_j - \bar A_i|_F^2 = tr\, \tilde A'(1 - \Pi^2) \tilde A$ exactly, so
    $\frac1N \sum_i |I_i|_* \le \frac1N (tr\, \tilde A'(1 - \Pi^2) \tilde A \cdot
    tr\, \tilde B'(1 - \Pi^2) \tilde B)^{1/2} \le (1 - \min_{l \ne l_1} |l|^2) \sqrt{\Xi_A \Xi_B}
    \le \Xi_w/2$.

    Assumptions: $\Pi$ symmetric and doubly stochastic, $\pi_{ij} \ge 0$.
    Proof: $\sum_j \pi_{ij} |A_j - \bar A_i|^2 = \sum_j \pi_{ij} |A_j|^2 - |\bar A_i|^2$; sum over
    $i$ with unit column sums: $|A|^2 - |\Pi A|^2$, where $A$ may be replaced by $\tilde A$. T9 for
    every neighbourhood, Cauchy-Schwarz over $i$; the eigenvalues of $1 - \Pi^2$ off the constants;
    the arithmetic mean of $\Xi_A$ and $\Xi_B$.
    Extremal: $B_i = A_i'$ for the first inequality; in addition $A_i = c_i A$ with $c$ an
    eigenvector of the least $|l|$ for the second; the third as well iff $l = 0$ occurs (complete
    graph).
    Source: derived here.
    """
    for i, ((topology, N), family) in enumerate(cartesian(NETWORKS, FAMILIES)):
        Pi = TOPOLOGIES[topology](N)
        d, k, r = SHAPES[i % len(SHAPES)]
        drawn = FAMILIES[family](ctx.rng(topology, N, family), ctx.pick(8, 200), Pi, d, k, r)
        network = Network(topology, family, Pi, Factors(*drawn).map(ctx.array))
        yield from spread_identity(network)
        yield from links(network, list(pairwise(MEMBERS)))
    yield replay(instance())


def spread_identity(network: Network) -> Iterator[Row]:
    """Yield the identity of the neighbourhood variances, for A and for B.

    Rounding: sums of N weights and of d r or r k squares of size |A_j|^2.
    """
    panels = [weighted_deviations(network.factors, row) for row in network.Pi]
    for name in ("A", "B"):
        xp = namespace(network.factors.A)
        X = getattr(network.factors, name)
        local = sum(xp.sum(getattr(panel, name) ** 2, axis=(-2, -1)) for panel in panels)
        total = host(xp.sum(X**2, axis=(-3, -2, -1)))
        n = len(network.Pi) + X.shape[-1] * X.shape[-2]
        label = f"variances of {name}, {network.topology}, {network.family}"
        residual = host(local - spread(X, network.Pi))
        yield same(label, residual, rounding=ulps(8 * n, total), **network.params)


def spread(X: Any, Pi: np.ndarray) -> Any:
    """Return tr X~'(I - Pi^2) X~ = |X~|^2 - |Pi X~|^2, [instances]."""
    xp = namespace(X)
    apart = deviations(X)
    mixed = mean_over_agents(apart, Pi)
    before = xp.sum(apart**2, axis=(-3, -2, -1))
    after = xp.sum(mixed**2, axis=(-3, -2, -1))
    return before - after


def members(network: Network) -> dict[str, np.ndarray]:
    """Return the members of the chain by name, in order, [instances] each."""
    xp = namespace(network.factors.B)
    Pi = network.Pi
    B, A = network.factors
    spreads = [np.maximum(host(spread(X, Pi)), 0.0) for X in (A, B)]
    Xi_A, Xi_B = (host(consensus_distance(X)) for X in (A, B))
    least = min((abs(float(value)) for value in mixing_eigenvalues(Pi)), default=0.0)
    N = np.array(len(Pi))
    lam_min = np.array(least)
    mean = xp.mean(interference_norm(network.factors, Pi, "nuc"), axis=-1)
    return {
        "mean": host(mean),
        "spreads": each(bounds.interference_network, spread_A=spreads[0], spread_B=spreads[1], N=N),
        "consensus": each(bounds.interference_consensus, lam_min=lam_min, Xi_A=Xi_A, Xi_B=Xi_B),
        "half": each(bounds.interference_half, Xi_w=Xi_A + Xi_B),
    }


def links(network: Network, pairs: list[tuple[str, str]]) -> Iterator[Row]:
    """Yield the rows of pairs of members of the chain.

    Rounding: deviations are off by N eps of the factors themselves, norms by p n eps (T9), so that
    every member is off by 8 (N + p) n eps (|A|^2 + |B|^2) / N, p = max(d, k, N r), n = min(d, k).
    """
    xp = namespace(network.factors.B)
    N = len(network.Pi)
    d, k = network.factors.shape
    size = sum(host(xp.sum(X**2, axis=(-3, -2, -1))) for X in network.factors)
    p = max(d, k, N * network.factors.rank)
    rounding = ulps(8 * (N + p) * min(d, k), size) / N
    found = members(network)
    for lower, upper in pairs:
        label = f"{lower} <= {upper}, {network.topology}, {network.family}"
        yield at_most(label, found[lower], found[upper], rounding=rounding, **network.params)


Arrays = tuple[np.ndarray, np.ndarray]


def random(rng: np.random.Generator, n: int, Pi: np.ndarray, d: int, k: int, r: int) -> Arrays:
    """Independent agents."""
    return gaussian(rng, n, len(Pi), d, k, r)


def outlier(rng: np.random.Generator, n: int, Pi: np.ndarray, d: int, k: int, r: int) -> Arrays:
    """One agent apart from all others, which agree up to 10^-6."""
    B, A = gaussian(rng, n, len(Pi), d, k, r)
    first = np.arange(len(Pi))[:, None, None] == 0
    near_B = B[:, -1:] + 1e-6 * B
    near_A = A[:, -1:] + 1e-6 * A
    return np.where(first, B, near_B), np.where(first, A, near_A)


def scaled(rng: np.random.Generator, n: int, Pi: np.ndarray, d: int, k: int, r: int) -> Arrays:
    """Rank-deficient agents at scales 10^-8 ... 10^8, one scale an instance."""
    B, A = gaussian(rng, n, len(Pi), d, k, r)
    size = 10.0 ** rng.uniform(-8, 8, (n, 1, 1, 1))
    B[:, ::2, :, -1] = 0.0
    return size * B, size * A


def mirrored(rng: np.random.Generator, n: int, Pi: np.ndarray, d: int, k: int, r: int) -> Arrays:
    """B_i = A_i', padded with zeros to the longer side."""
    X = rng.standard_normal((n, len(Pi), min(d, k), r))
    B = np.zeros((n, len(Pi), d, r))
    A = np.zeros((n, len(Pi), r, k))
    B[:, :, : min(d, k)] = X
    A[..., : min(d, k)] = X.mT
    return B, A


def eigenvector(rng: np.random.Generator, n: int, Pi: np.ndarray, d: int, k: int, r: int) -> Arrays:
    """B_i = c_i B, A_i = c_i B' with c an eigenvector of the least |l|, off the constants."""
    B, A = mirrored(rng, n, Pi[:1], d, k, r)
    N = len(Pi)
    basis = np.linalg.svd(np.eye(N) - 1 / N)[0][:, : N - 1]  # of the deviations
    values, vectors = np.linalg.eigh(basis.T @ Pi @ basis)
    c = basis @ vectors[:, np.argmin(abs(values))] if N > 1 else np.zeros(1)
    return c[:, None, None] * B, c[:, None, None] * A


FAMILIES: dict[str, Callable[..., Arrays]] = {
    "random": random,
    "outlier": outlier,
    "scaled, rank-deficient": scaled,
    "mirrored": mirrored,
    "eigenvector": eigenvector,
}


def instance() -> Mapping[str, Any]:
    """Return two agents of weights (2/3, 1/3), B_i = A_i' = +-(1, 2)': l = 1/3."""
    B = np.array([[[1.0], [2.0]], [[-1.0], [-2.0]]])
    Pi = [[2 / 3, 1 / 3], [1 / 3, 2 / 3]]
    return {"Pi": Pi, "B": B.tolist(), "A": B.mT.tolist()}


def replay(stored: Mapping[str, Any]) -> Row:
    """Return the row of a stored network: the mean nuclear norm against the consensus distances."""
    B, A, Pi = (np.array(stored[name]) for name in ("B", "A", "Pi"))
    network = Network("stored", "stored", Pi, Factors(B[None], A[None]))
    (row,) = links(network, [("mean", "consensus")])
    return row


def attacks() -> dict[str, Any]:
    """Return the attacks on T10."""
    from verification.attacks.mixes import network

    return {name: network(name, N) for name, N in (("ring", 5), ("complete", 3))}


CLAIMS = [
    Claim(
        "T10",
        "interference",
        "derived",
        rows,
        bounds=(
            bounds.interference_network,
            bounds.interference_consensus,
            bounds.interference_half,
        ),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "mean <= spreads": 1,
            "spreads <= consensus": 1,
            "consensus <= half": 1,
            "mean <= consensus": 1,
        },
    )
]
