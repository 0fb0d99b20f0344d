"""A method in one process with the sums of one that is served by ranks: bit for bit the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.distributed.joining import dense
from decaf_theory.lowrank import Factors
from decaf_theory.methods import Clock, Method, Mixed, State
from decaf_theory.methods.state import Message


def by_blocks(method: Method, blocks: Sequence[Sequence[int]]) -> Method:
    """Return the method on a graph in which each block of agents mixes by itself what it hears.

    It is the method up to rounding, as sums over neighbours have another order than those over all
    agents. What a truncation drops is not returned.
    """

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        Pi, found = dense(weights), []
        for block in blocks:
            rows = Pi[list(block)]
            near = [int(j) for j in np.flatnonzero(rows.any(axis=0))]
            heard = {name: X[..., near, :, :] for name, X in sent.items()}
            mixed = method.receive(own.take(block), heard, rows[:, near], clock)
            found.append(mixed.state)
        return Mixed(_joined(found))

    return replace(method, receive=receive)


def _joined(states: Sequence[State]) -> State:
    """Return the state of all agents, from those of blocks of them."""

    def together(parts: Sequence[Array]) -> Array:
        return namespace(parts[0]).concat(list(parts), axis=-3)

    def pairs(kept: Sequence[Factors]) -> Factors:
        return Factors(together([p.B for p in kept]), together([p.A for p in kept]))

    memory = {}
    for name, first in states[0].memory.items():
        kept = [state.memory[name] for state in states]
        memory[name] = pairs(kept) if isinstance(first, Factors) else together(kept)
    return State(pairs([state.factors for state in states]), memory)
