"""Tasks in turn: which classes are learned when, and what is scored after each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from decaf_theory import continual
from decaf_theory.arrays import Host
from decaf_theory.rng import generator
from paper_checks.config import Config
from paper_checks.partition import partition
from paper_checks.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

AVERAGE, FORGOTTEN, TRANSFER = "average_score", "forgetting", "backward_transfer"


@dataclass(frozen=True)
class Turns:
    """The tasks of a run; of most runs one, of all classes and all steps.

    classes: of each task. shards: who holds which of its examples, [task][agent]. steps: of a task.
    """

    classes: tuple[range, ...]
    shards: tuple[list[Host], ...]
    steps: int

    def at(self, step: int) -> int:
        """Return which task a step belongs to, from 0."""
        return min(step // self.steps, len(self.classes) - 1)

    def begins(self, step: int) -> bool:
        """Whether a step is the first of a task after another."""
        return step > 0 and self.at(step) != self.at(step - 1)

    def ends(self, step: int) -> bool:
        """Whether a task of several is over after so many steps."""
        return len(self.classes) > 1 and step % self.steps == 0

    def held(self) -> list[Host]:
        """Return the examples that each agent holds in all tasks."""
        return [np.concatenate(own) for own in zip(*self.shards, strict=True)]

    def shards_at(self, step: int) -> list[Host]:
        """Return the shards that a step takes its batches from."""
        return self.shards[self.at(step)]


def turns_of(config: Config, task: Task) -> Turns:
    """Return the tasks of a run, the examples of each dealt to the agents by themselves."""
    data, agents, seed = config.data, config.mix.agents, config.train.seed
    kind, labels = data.partition, np.asarray(task.train.labels)
    if task.parts == 1:
        dealt = partition(labels, agents, kind=kind, seed=seed, **data.settings)
        return Turns((range(task.classes),), (dealt,), config.train.steps)
    each = task.classes // task.parts
    classes = tuple(range(t * each, (t + 1) * each) for t in range(task.parts))
    shards = []
    for t, own in enumerate(classes):
        places = np.flatnonzero((labels >= own.start) & (labels < own.stop))
        drawn = int(generator(seed, "shards of task", t).integers(2**32))
        dealt = partition(
            labels[places] - own.start, agents, kind=kind, seed=drawn, **data.settings
        )
        shards.append([places[shard] for shard in dealt])
    return Turns(classes, tuple(shards), config.train.steps // task.parts)


def of_classes(scores: Tensor, labels: Tensor, classes: range) -> tuple[Tensor, Tensor]:
    """Return scores [..., classes] and labels among these classes alone."""
    if len(classes) == scores.shape[-1]:
        return scores, labels
    return scores[..., classes.start : classes.stop], labels - classes.start


def scored(scores: Tensor, labels: Tensor, classes: Sequence[range]) -> dict[str, float]:
    """Return the accuracies after the last of these tasks, means over the agents.

    scores [agent, example, class], labels [example]. score_task_1, ...: of the examples of each
    task, among its own classes. score_seen: of all of them, among all classes seen so far.
    """
    found = {}
    for t, own in enumerate(classes):
        found[name_of(t)] = _accuracy(scores, labels, own)
    found["score_seen"] = _accuracy(scores, labels, range(classes[-1].stop))
    return found


def name_of(t: int) -> str:
    """Return the name of the score of task t, from 0."""
    return f"score_task_{t + 1}"


def _accuracy(scores: Tensor, labels: Tensor, classes: range) -> float:
    there = (labels >= classes.start) & (labels < classes.stop)
    own, wanted = of_classes(scores[:, there], labels[there], classes)
    return float((own.argmax(-1) == wanted).double().mean())


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return average, forgetting and backward transfer of the records of a run that has ended.

    Of the scores of each task among its own classes; see `continual`.
    """
    rows = [record for record in records if name_of(0) in record]
    table = np.zeros((len(rows), len(rows)))
    for t, row in enumerate(rows):
        table[t, : t + 1] = [row[name_of(j)] for j in range(t + 1)]
    return {
        AVERAGE: float(continual.average(table)),
        FORGOTTEN: float(continual.forgetting(table)),
        TRANSFER: float(continual.backward_transfer(table)),
    }
