"""What a method is: how it mixes, which factors train, and what it sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors


@dataclass(frozen=True)
class Method:
    """A decentralized method, as the small pure functions in which it differs from the others.

    mix(state, Pi_rows, t): the mixed factors of the agents of the rows Pi [n, N], from the factors
    of all N agents (B [..., N, d, r], A [..., N, r, k]) at round t. The same function serves a
    simulation with all rows, one rank of a distributed run with its own row, and a merge.
    trains: the factors that take gradient steps. sends: the factors that travel.
    product: what mixing preserves is the mean product (up to truncation), not the mean factors.
    full_matrix: the state is W - W0 itself, as B with A = I, and the LoRA scale is one.
    pools_gradients: every agent steps along the network's mean gradient.
    """

    name: str
    mix: Callable[[Factors, Array, int], Factors]
    trains: tuple[str, ...] = ("B", "A")
    sends: tuple[str, ...] = ("B", "A")
    product: bool = False
    full_matrix: bool = False
    pools_gradients: bool = False

    def outgoing_bytes(self, state: Factors) -> int:
        """Return the bytes that one agent sends to one neighbour in one round of mixing."""
        total = 0
        for name in self.sends:
            X = getattr(state, name)
            total += int(X.shape[-2]) * int(X.shape[-1]) * namespace(X).finfo(X.dtype).bits // 8
        return total
