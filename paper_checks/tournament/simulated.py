"""Tasks of the simulator: problems of `decaf_theory.problems`, one data set per seed.

Scores are log10 of the gap F - F*: "mean" at the mean point Wbar, "own" of the mean over the agents
of F at their own points, F = (1/N) sum_i f_i. F* = inf F over all matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, Host
from decaf_theory.problems import Problem
from decaf_theory.simulate import Config, SimulationError, Visit, simulate
from paper_checks.tournament.tasks import Found, Scores, Task, graph_of, task_of

Build: TypeAlias = Callable[[int], Problem]  # seed -> its data set
SCORE = "log10 of F - F*"
LEAST = float(np.finfo(np.float64).eps)  # a gap below it is rounding: losses are of size one


class Setting(NamedTuple):
    """What is simulated: a data set per seed, the rank of the adapters, K."""

    build: Build
    rank: int
    local_steps: int


def problem_task(name: str, title: str, setting: Setting, **plan: Any) -> Task:
    """Return the task of a problem; plan: the fields of `Task` that say how it is played."""
    about = {"name": name, "title": title, "score": SCORE, "lower": True}
    return task_of(setting, trial, sent, described(setting), **about, **plan)


def trial(
    setting: Setting,
    method: str,
    network: str,
    lr: float,
    seeds: Sequence[int],
    stops: Sequence[int],
) -> Found:
    """Return the scores after the rounds `stops`, those before a run diverged."""
    least = np.array([setting.build(seed).constants.F_star for seed in seeds])
    found: dict[int, Scores] = {}

    def watch(visit: Visit) -> None:
        if visit.step in stops:
            found[visit.step] = scores(visit, least)

    with suppress(SimulationError):  # the rounds before it are scored
        simulate(config(setting, method, network, lr, seeds, max(stops)), watch)
    return found


def sent(setting: Setting, method: str, network: str, rounds: int) -> list[int]:
    """Return the bytes that all agents sent until the end of each round."""
    total: list[int] = []
    still = config(setting, method, network, 0.0, [0], rounds)
    simulate(still, lambda visit: total.append(int(visit.comm_bytes)))
    return total


def config(
    setting: Setting, method: str, network: str, lr: float, seeds: Sequence[int], steps: int
) -> Config:
    """Return the simulation of a run per seed. ValueError: the method cannot run there."""
    problem = together([setting.build(seed) for seed in seeds])
    return Config(
        problem=problem,
        method=method,
        Pi=graph_of(network, problem.N),
        rank=setting.rank,
        lr=lr,
        steps=steps,
        local_steps=setting.local_steps,
        runs=len(seeds),
        seed=seeds[0],  # of start and noise; runs of one seed have streams of their own
        record=("loss",),
        record_every=max(steps, 1),
    )


def described(setting: Setting) -> dict[str, float | int | str]:
    """Return the settings of a task; of its data sets that of seed 0 stands for all."""
    problem = setting.build(0)
    sigma = problem.constants.sigma
    assert sigma is not None  # of the problems here
    return {
        "problem": problem.name,
        "N": problem.N,
        "d": problem.d,
        "k": problem.k,
        "r": setting.rank,
        "local_steps": setting.local_steps,
        "sigma": round(sigma, 6),
    }


def together(problems: Sequence[Problem]) -> Problem:
    """Return the problem whose run i is that of problem i, all of one size, noise and start."""

    def each(functions: Sequence[Callable[[Array], Array]]) -> Callable[[Array], Array]:
        # one point for all runs, as the simulator asks for at W0, is W of length one
        return lambda W: np.stack([f(W[i % len(W)]) for i, f in enumerate(functions)])

    return replace(
        problems[0],
        loss=each([problem.loss for problem in problems]),
        grad=each([problem.grad for problem in problems]),
    )


def scores(visit: Visit, least: Host) -> Scores:
    """Return the scores of a visit by run; least: F* by run."""
    loss = visit.config.problem.loss
    points = range(visit.config.problem.N)
    own = np.mean([loss(visit.W[:, [i]]).mean(axis=-1) for i in points], axis=0)
    return Scores(log_gap(own - least), log_gap(visit.loss_at_mean.mean(axis=-1) - least))


def log_gap(gap: Host) -> list[float]:
    """Return log10 of the gaps, those below rounding at rounding."""
    return [float(x) for x in np.log10(np.maximum(gap, LEAST))]
