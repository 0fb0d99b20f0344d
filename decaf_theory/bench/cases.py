"""What is timed: the factors of all agents of some layers, and who mixes with whom."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Host
from decaf_theory.lowrank import Factors
from decaf_theory.rng import generator
from decaf_theory.topology import TOPOLOGIES


class Case(NamedTuple):
    """The sizes of one round of mixing."""

    d: int
    k: int
    r: int
    N: int
    graph: str  # a topology, "unequal": all agents weight all, by rows that differ, or "merge"
    dtype: str = "float32"
    layers: int = 1
    apart: float = 1.0  # size of an agent's own part, the common one has 1; 1: no common part

    @property
    def label(self) -> str:
        """The case in words."""
        layers = f", {self.layers} layers" if self.layers > 1 else ""
        near = f", apart {self.apart:g}" if self.apart < 1 else ""
        return f"{self.d}x{self.k} r={self.r} N={self.N} {self.graph} {self.dtype}{layers}{near}"


class Inputs(NamedTuple):
    """The arguments of one round: factors [layers, N, ., .], Pi [N, N] on the host, the rank."""

    factors: Factors
    Pi: Host
    rank: int

    def neighbours(self, i: int) -> Host:
        """Return the agents that agent i weights."""
        return np.flatnonzero(self.Pi[i])


def draw(case: Case) -> Inputs:
    """Return Gaussian factors of products of size one, near consensus if the case says so."""
    d, k, r, N, graph, dtype, layers, apart = case
    rng = generator(0, "bench", d, k, r, N, layers)
    factors = []
    for shape, length in (((d, r), d), ((r, k), k)):
        own = rng.standard_normal((layers, N, *shape), dtype=np.float32)
        common = rng.standard_normal((layers, 1, *shape), dtype=np.float32)
        X = own if apart == 1 else common + apart * own
        factors.append((X / length**0.5).astype(dtype))
    return Inputs(Factors(*factors), mixing(graph, N), r)


def mixing(graph: str, N: int) -> Host:
    """Return the mixing matrix of a topology; "unequal" is the mean of complete and ring.

    "merge" is one row [1, N], whose weights are in the ratio 1 : 2 : ... : N.
    """
    if graph == "merge":
        return np.arange(1.0, N + 1)[None, :] / (N * (N + 1) / 2)
    if graph == "unequal":
        return (mixing("complete", N) + mixing("ring", N)) / 2
    Pi: Host = TOPOLOGIES[graph](N)
    return Pi


def on_torch(inputs: Inputs, device: str) -> Inputs:
    """Return the inputs with factors as torch tensors on a device."""
    import torch

    B, A = (torch.from_numpy(X).to(device) for X in inputs.factors)
    return inputs._replace(factors=Factors(B, A))
