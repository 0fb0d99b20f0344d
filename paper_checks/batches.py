"""The batches of training: which examples a step takes, read while the step before it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from decaf_theory.arrays import Host
from decaf_theory.rng import generator
from paper_checks.tasks import Data


@dataclass
class Batches:
    """The batches of all steps; `at` gives those of one step.

    data: the training examples, of which each agent takes `size` of its shard at a step. apart: one
    batch for each agent, instead of one of all agents. shards: of all steps, or a function of the
    step. agents: those whose batches are wanted, None: all.
    """

    data: Data
    shards: Sequence[Host] | Callable[[int], Sequence[Host]]
    seed: int
    size: int
    apart: bool = False
    agents: Sequence[int] | None = None
    _ahead: tuple[int, Future[list[Data]]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Read ahead only if it takes long: images, but not tensors."""
        slow = any(not isinstance(x, Tensor) for x in self.data.inputs.values())
        self._reader = ThreadPoolExecutor(1, "batches") if slow else None

    def at(self, t: int) -> list[Data]:
        """Return the batches of step t, agent-major or one for each agent."""
        if self._reader is None:
            return self._read(t)
        if self._ahead is None or self._ahead[0] != t:
            self._ahead = t, self._reader.submit(self._read, t)
        found = self._ahead[1].result()
        self._ahead = t + 1, self._reader.submit(self._read, t + 1)
        return found

    def _read(self, t: int) -> list[Data]:
        shards = self.shards(t) if callable(self.shards) else self.shards
        agents = range(len(shards)) if self.agents is None else self.agents
        rows = batch(shards, self.seed, t, self.size, agents)
        draws = [generator(self.seed, "augment", agent, t) for agent in agents]
        if self.apart:
            return [self.data.take(row, [draw]) for row, draw in zip(rows, draws, strict=True)]
        return [self.data.take(rows.flatten(), draws)]


def batch(
    shards: Sequence[Host], seed: int, t: int, size: int, agents: Sequence[int] | None = None
) -> Tensor:
    """Return the examples [n, size] of step t: each agent goes through its shard in its own order.

    agents: whose, None: of all.

    If a shard is smaller than the batch, the next passes fill it up: examples occur again.
    """
    rows = []
    for agent in range(len(shards)) if agents is None else agents:
        shard = shards[agent]
        at = np.arange(t * size, (t + 1) * size)
        passes = range(at[0] // len(shard), at[-1] // len(shard) + 1)
        orders = [generator(seed, "order", agent, e).permutation(len(shard)) for e in passes]
        rows.append(shard[np.concatenate(orders)[at - passes[0] * len(shard)]])
    return torch.from_numpy(np.stack(rows))
