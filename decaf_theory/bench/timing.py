"""Comparable times: minima of interleaved repeats, round by round.

In a pass every contestant has its turn, so that all meet the same machine; a turn is three runs in
a row, because the first pays for the caches and pages that others have taken. A contestant leaves
the passes of a round when its own time in them is spent. Each round gives one minimum per
contestant, and ratios are formed within a round: their spread over the rounds is that of a
repeated run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

Clock: TypeAlias = Callable[[], float]


class Contestant(NamedTuple):
    """One way to do a round of mixing, or a known part of it."""

    role: str  # a role counts with the fastest of its contestants
    backend: str  # "numpy" or "torch"
    run: Callable[[], object]
    times: float = 1.0  # the whole work, in units of what `run` does
    once: bool = False  # too slow for more than one run in all


class Timed(NamedTuple):
    """The least time of a contestant in each round, for the whole work."""

    contestant: Contestant
    seconds: list[float]
    repeats: list[int]


def clock_of(device: str) -> Clock:
    """Return CPU time of this process, or on CUDA wall time of finished work, in seconds."""
    if device == "cpu":
        return time.process_time
    import torch

    def finished() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return finished


def interleaved(
    contestants: Sequence[Contestant],
    clock: Clock,
    *,
    rounds: int = 3,
    budget: float = 0.1,
    passes: int = 20,
    turn: int = 3,
) -> list[Timed]:
    """Return the minima of every round, of some passes or `budget` seconds per contestant."""
    timed = [Timed(contestant, [], []) for contestant in contestants]
    for number in range(rounds):
        found: list[list[float]] = [[] for _ in contestants]
        for _ in range(passes):
            for contestant, own in zip(contestants, found, strict=True):
                for _ in range(turn):
                    if _goes_on(contestant, own, number, budget):
                        start = clock()
                        contestant.run()
                        own.append(clock() - start)
        for (contestant, seconds, repeats), own in zip(timed, found, strict=True):
            seconds.append(min(own) * contestant.times if own else seconds[0])
            repeats.append(len(own))
    return timed


def _goes_on(contestant: Contestant, own: Sequence[float], number: int, budget: float) -> bool:
    """Return whether a contestant with these times in round `number` runs again."""
    if contestant.once:
        return number == 0 and not own
    return not own or sum(own) + own[-1] <= budget


def fastest(timed: Sequence[Timed], role: str) -> list[float]:
    """Return, for each round, the least time of the contestants of a role."""
    own = [t.seconds for t in timed if t.contestant.role == role]
    return [min(each) for each in zip(*own, strict=True)]


def ratios(timed: Sequence[Timed], over: str, under: str) -> list[float]:
    """Return, for each round, the time of one role over that of another."""
    pairs = zip(fastest(timed, over), fastest(timed, under), strict=True)
    return [a / b for a, b in pairs]
