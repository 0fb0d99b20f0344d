"""One run as it stands between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from decaf_theory.arrays import Host
from paper_checks.batches import Batches
from paper_checks.beginning import Memory
from paper_checks.config import Config
from paper_checks.rounds import Rounds
from paper_checks.stacked import Stacked
from paper_checks.tasks import Task
from paper_checks.turns import Turns

if TYPE_CHECKING:  # which is about runs
    from paper_checks.ranks import Ranks


@dataclass
class Run:
    """The whole state of a run. `step` and the fields after it change; a checkpoint holds those."""

    config: Config
    task: Task
    shards: list[Host]
    batches: Batches
    stacked: Stacked
    optimizer: torch.optim.Optimizer
    Pi: Host | None
    rounds: Rounds  # the steps from mix to mix
    turns: Turns  # the tasks that are learned one after the other
    device: str
    memory: Memory  # the method's state of each site
    stamp: dict[str, Any]  # what must agree where it is resumed
    scaler: torch.amp.GradScaler | None = None  # of the loss, with float16 autocast
    ranks: Ranks | None = None  # where it holds some of the agents only
    overflowed: bool = False  # this step's gradients, of the scaled loss
    step: int = 0
    sent: int = 0  # bytes, by all agents so far
    skipped: int = 0  # steps that overflowed under the scale of the loss, and were not taken
    losses: list[list[float]] = field(default_factory=list)  # of this round's steps, by agent
    seen: dict[str, Any] = field(default_factory=dict)  # at this round's mix
    records: list[dict[str, Any]] = field(default_factory=list)  # one per round
    rows: list[dict[str, Any]] = field(default_factory=list)  # the theory's, at each mix
    unplanned: dict[str, Any] = field(default_factory=dict)  # seen only as the mix is the last
    longer: dict[str, Any] = field(default_factory=dict)  # what a longer run holds at the last step
    best: dict[str, Any] = field(default_factory=dict)  # score on validation, and its step
    waited: int = 0  # such scores since the best
    seconds: dict[str, float] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)  # other code that made a part of it
    stopped_by: int = 0  # the signal, if one ended it early

    @property
    def own(self) -> Sequence[int]:
        """The numbers of the agents that are stacked here."""
        return range(self.stacked.agents) if self.ranks is None else self.ranks.own

    @property
    def first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.ranks is None or self.ranks.rank == 0

    @property
    def early(self) -> bool:
        """Whether the run has ended by its patience."""
        patience = self.config.observe.patience
        return patience is not None and self.waited >= patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.config.train.steps or self.early

    @property
    def every(self) -> int:
        """K, the steps of every round but perhaps the first."""
        return self.rounds.every
