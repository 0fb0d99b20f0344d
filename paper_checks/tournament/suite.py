"""The tasks of the tournament, in full or quick."""

from __future__ import annotations

from functools import cache
from typing import Any

from decaf_theory.problems import PROBLEMS, Problem, quadratic
from decaf_theory.problems.approximation import planted, spread
from decaf_theory.problems.frozen import curvatures
from paper_checks.tournament import trained
from paper_checks.tournament.simulated import Build, Setting, problem_task
from paper_checks.tournament.tasks import Task

SHAPE = {"N": 8, "d": 10, "k": 8}
NOISE = 0.1  # standard deviation of an entry of an agent's gradient
KAPPA = 1.0  # size of the agents' deviations from the mean target


def bent(seed: int) -> Problem:
    """Return targets as those of P3, with curvatures that differ by agent and column."""
    mean = planted(d=SHAPE["d"], k=SHAPE["k"], rank=2, seed=seed)
    return quadratic(
        curvatures(N=SHAPE["N"], k=SHAPE["k"], ratio=10.0, seed=seed),
        mean + spread(**SHAPE, kappa=KAPPA, seed=seed),
        name="curvature",
        tau=NOISE,
    )


def built(number: str, **parameters: Any) -> Build:
    """Return seed -> the problem of this number and size."""
    return lambda seed: PROBLEMS[number](**SHAPE, tau=NOISE, kappa=KAPPA, seed=seed, **parameters)


# name -> title, data set of a seed, rank of the adapters
OF_PROBLEMS: dict[str, tuple[str, Build, int]] = {
    "heterogeneous": ("P3: targets of all ranks about a mean of rank 2", built("P3", rank=2), 2),
    "out_of_reach": ("P4: a mean target of full rank, adapters of rank 2", built("P4"), 2),
    "spare_rank": ("P3: a mean target of rank 1, adapters of rank 3", built("P3", rank=1), 3),
    "curvature": ("P3's targets, columns of curvature 1/10 to 1, by agent", bent, 2),
    "rank_trap": (
        "P12: the first gradient has rank 1, the optimum rank 2",
        lambda seed: PROBLEMS["P12"](**SHAPE, tau=NOISE / 10),
        2,
    ),
}
GRAPHS = ("ring", "complete", "one_peer")
FULL: dict[str, Any] = {
    "networks": (*GRAPHS, "server"),
    "rounds": 40,
    "grid": tuple(0.0025 * 2**i for i in range(10)),
    "tuning": tuple(range(4)),
    "reported": tuple(range(4, 28)),
}
TRAINED = "vit-digits"  # by the harness
QUICK: dict[str, Any] = {
    **FULL,
    "networks": ("ring", "server"),
    "rounds": 20,
    "grid": FULL["grid"][3::2],
    "tuning": FULL["tuning"][:2],
    "reported": FULL["reported"][:10],
}


@cache
def tasks(size: str) -> dict[str, Task]:
    """Return the tasks of the full or quick tournament by name; the quick one trains nothing."""
    choice = FULL if size == "full" else QUICK
    found = [
        problem_task(name, title, Setting(build, rank, local_steps=4), longest=4, **choice)
        for name, (title, build, rank) in OF_PROBLEMS.items()
    ]
    if size == "full":
        found.append(digits())
    return {task.name: task for task in found}


def digits() -> Task:
    """Return the fine-tuning of a small vision transformer, agents with 80 % of one class each."""
    return trained.harness_task(
        TRAINED,
        "a pretrained vision transformer on new digits, label skew, AdamW",
        trained.Setting(TRAINED, {"data.partition": "skew", "mix.every": 5}),
        networks=("ring", "server"),
        rounds=6,
        longest=2,
        grid=tuple(0.002 * 2**i for i in range(4)),
        tuning=(0, 1),
        reported=tuple(range(2, 12)),
    )
