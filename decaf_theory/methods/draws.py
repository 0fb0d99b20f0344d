"""The random numbers of methods: streams by purpose, round and agent, so that a rank draws its own.

A stream's name holds the shape d x k, too: sites of different shapes, which training mixes one
after another, draw apart. Leading axes, runs or layers of one shape, are drawn in their order from
one stream, so that the first of them draws the same however many there are. A mix before the first
round, of a simulation that mixes first, has the draws of that round's own mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from decaf_theory.arrays import Array, convert, host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods.state import State
from decaf_theory.rng import generator


def numbered(factors: Factors) -> Factors:
    """Return the number of each agent, [..., n, 1, 1], twice: the memory that `agents_of` reads."""
    xp = namespace(factors.B)
    *leading, n, _, _ = factors.B.shape
    each = xp.arange(n, dtype=xp.int32, device=factors.B.device)
    number = xp.broadcast_to(xp.reshape(each, (n, 1, 1)), (*leading, n, 1, 1))
    return Factors(number, number)


def agents_of(state: State) -> list[int]:
    """Return the numbers of the agents, which the state keeps under "agent"."""
    return [int(i) for i in host(state.pair("agent").B).reshape(-1, state.agents)[0]]


def normals(
    factors: Factors, names: Iterable[str], agents: Sequence[int], seed: int, *stream: str | int
) -> dict[str, Array]:
    """Return standard normal numbers for the factors `names`, [..., len(agents), ., .].

    Each agent and each factor has a stream of its own.
    """
    drawn = {}
    for name in names:
        X = getattr(factors, name)
        shape = (*X.shape[:-3], *X.shape[-2:])
        rngs = [generator(seed, *stream, *factors.shape, name, agent) for agent in agents]
        drawn[name] = convert(np.stack([rng.standard_normal(shape) for rng in rngs], axis=-3), X)
    return drawn


def arrivals(factors: Factors, n: int, chance: float, seed: int, *stream: str | int) -> Array:
    """Return one where the message of an agent arrives, by chance, else zero, [..., n, 1, 1]."""
    leading = tuple(factors.B.shape[:-3])
    drawn = generator(seed, *stream, *factors.shape).random((*leading, n, 1, 1))
    return convert((drawn < chance).astype(np.float64), factors.B)
