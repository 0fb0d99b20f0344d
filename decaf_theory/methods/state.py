"""What agents hold, and when: the state and the clock that all methods and their callers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors

Message: TypeAlias = Mapping[str, Array]  # by name, [..., agent, rows, columns]


class Clock(NamedTuple):
    """Where a run stands: in round `round`, at local step `step` of its `steps`, all from 0."""

    round: int = 0
    step: int = 0
    steps: int = 1


class State(NamedTuple):
    """What n agents hold; in every array agents are the third axis from the right.

    factors: B [..., n, d, r], A [..., n, r, k], where agents of smaller rank have zero columns of B
    and rows of A. memory: what a method keeps from step to step, by name, as pairs shaped like the
    factors or as arrays [..., n, a, b]: a tracker, the factors after the last mix, a gate.
    """

    factors: Factors
    memory: Mapping[str, Factors | Array] = MappingProxyType({})

    @property
    def agents(self) -> int:
        """The number n of agents."""
        return int(self.factors.B.shape[-3])

    def pair(self, name: str) -> Factors:
        """Return what the memory keeps under this name, where that is a pair."""
        kept = self.memory[name]
        assert isinstance(kept, Factors)  # as the method's `start` made it
        return kept

    def each(self, change: Callable[[Array], Array]) -> State:
        """Return the state with every array changed alike."""
        return State(
            Factors(*map(change, self.factors)),
            {
                name: Factors(*map(change, kept)) if isinstance(kept, Factors) else change(kept)
                for name, kept in self.memory.items()
            },
        )

    def take(self, agents: Sequence[int]) -> State:
        """Return the state of the agents of these numbers, in this order."""
        chosen = list(agents)
        return self.each(lambda X: X[..., chosen, :, :])


def message_bytes(message: Message) -> int:
    """Return the bytes of the message that one agent sends to one other."""
    return sum(int(X.shape[-2]) * int(X.shape[-1]) * X.dtype.itemsize for X in message.values())


def for_agents(X: Array, n: int) -> Array:
    """Return X [..., n, a, b]; of one row [..., 1, a, b], the same for all, n views of it."""
    if X.shape[-3] == n:
        return X
    return namespace(X).broadcast_to(X, (*X.shape[:-3], n, *X.shape[-2:]))
