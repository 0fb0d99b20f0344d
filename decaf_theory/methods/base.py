"""What a method is: how it mixes, which factors train, and what it sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd import TSVD


@dataclass(frozen=True)
class Method:
    """A decentralized method, as the small pure functions in which it differs from the others.

    mix(state, Pi_rows, t): the mixed factors of the agents of the rows Pi [n, N], from the factors
    of all N agents (B [..., N, d, r], A [..., N, r, k]) at round t. The same function serves a
    simulation with all rows, one rank of a distributed run with its own row, and a merge.
    trains: the factors that take gradient steps. sends: the factors that travel.
    meets: whom an agent mixes with: its neighbours on the "graph", all agents by a "server", or
    "none".
    truncate(state, Pi_rows, t): for methods that mix the products, the truncation behind `mix`,
    whose tail is the error made. What they preserve is the mean product up to that error, not the
    mean factors.
    full_matrix: the state is W - W0 itself, as B with A = I, and the LoRA scale is one.
    pools_gradients: every agent steps along the network's mean gradient.
    """

    name: str
    mix: Callable[[Factors, Array, int], Factors]
    trains: tuple[str, ...] = ("B", "A")
    sends: tuple[str, ...] = ("B", "A")
    meets: Literal["graph", "server", "none"] = "graph"
    truncate: Callable[[Factors, Array, int], TSVD] | None = None
    full_matrix: bool = False
    pools_gradients: bool = False

    @property
    def product(self) -> bool:
        """Whether mixing acts on the products: on gauge classes, not on factors."""
        return self.truncate is not None

    def outgoing_bytes(self, state: Factors) -> int:
        """Return the bytes that one agent sends to one neighbour in one round of mixing."""
        total = 0
        for name in self.sends:
            X = getattr(state, name)
            total += int(X.shape[-2]) * int(X.shape[-1]) * namespace(X).finfo(X.dtype).bits // 8
        return total
