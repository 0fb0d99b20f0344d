"""Forgetting on sequences of quadratic tasks: three ways to overlap, four forms, three ways to mix.

All seeds of a cell run at once, each with its own sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decaf_theory import continual
from decaf_theory.arrays import Array, Host, convert, namespace
from decaf_theory.methods import METHODS, Form, keeping_directions, rank1_pool, sd_lora
from decaf_theory.methods.form import LORA
from decaf_theory.problems import Problem, TaskSequence, planted_sequence
from decaf_theory.simulate import learn
from decaf_theory.topology import TOPOLOGIES

SEEDS = tuple(range(20))
SIZES: dict[str, Any] = {"T": 4, "N": 6, "d": 16, "k": 16, "rank": 2, "shared": 0.0, "kappa": 0.5}
OVERLAPS = (0.0, 0.5, 1.0)
RANK, LR, STEPS, GRAPH = 8, 0.4, 80, "ring"
WAYS = ("local", "dlora", "decaf")
FORMS: dict[str, Form] = {
    "lora": LORA,
    "sd_lora": sd_lora(SIZES["T"]),
    "sd_lora, carried on": sd_lora(SIZES["T"], carried=True),
    "rank1_pool": rank1_pool(SIZES["T"], active=4, merged=2),
}
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Several(TaskSequence):
    """Sequences of the same inputs, one for each run of a simulation."""

    of_run: tuple[TaskSequence, ...] = ()

    def losses(self, W: Host) -> Host:
        """Return the excess losses at points W [runs, N, d, k], [runs, N, T]."""
        return np.stack([one.losses(X) for one, X in zip(self.of_run, W, strict=True)])


def several(overlap: float, seeds: Sequence[int], **sizes: Any) -> Several:
    """Return the planted sequences of these seeds."""
    found = tuple(
        planted_sequence(overlap=overlap, seed=seed, **{**SIZES, **sizes}) for seed in seeds
    )
    tasks = tuple(
        _of_all(task, np.stack([one.targets[t] for one in found]), found[0].inputs[t])
        for t, task in enumerate(found[0].tasks)
    )
    return Several(tasks, found[0].targets, found[0].inputs, found)


def _of_all(task: Problem, targets: Host, inputs: Host) -> Problem:
    """Return a task whose targets are those of each run, [runs, N, d, k]."""

    def grad(W: Array) -> Array:
        return (W - convert(targets, W)) * convert(inputs, W)

    def loss(W: Array) -> Array:
        xp = namespace(W)
        return xp.sum((W - convert(targets, W)) ** 2 * convert(inputs, W), axis=(-2, -1)) / 2

    return replace(task, grad=grad, loss=loss)


def rows(overlap: float, form: str, seeds: Sequence[int] = SEEDS, **others: Any) -> list[Row]:
    """Return the rows of a form, one for each way to mix and seed.

    Losses in units of that at W = 0, the mean over the tasks: average, forgetting, and learned, the
    mean right after each task. others: `rank`, `steps` or sizes of the sequences.
    """
    run = {"rank": RANK, "steps": STEPS} | {n: others.pop(n) for n in {"rank", "steps"} & {*others}}
    tasks = several(overlap, seeds, **others)
    nothing = np.stack([one.losses(np.zeros(one.means.shape[1:])) for one in tasks.of_run])
    unit = nothing.mean(axis=-1)[:, None, None]
    found = []
    for way in WAYS:
        method = keeping_directions(METHODS[way])
        Pi = TOPOLOGIES[GRAPH](tasks.targets.shape[1])
        learned = learn(
            tasks, method=method, form=FORMS[form], runs=len(seeds), lr=LR, Pi=Pi, **run
        )
        table = learned.losses / unit
        numbers = {
            "average": continual.average(table),
            "forgetting": continual.forgetting(table, lower=True),
            "learned": np.diagonal(table, axis1=-2, axis2=-1).mean(axis=-1),
        }
        for at, seed in enumerate(seeds):
            about = {"what": "quadratics", "overlap": overlap, "form": form, "way": way}
            values = {name: float(x[at]) for name, x in numbers.items()}
            found.append(about | {"seed": seed} | values)
    return found
