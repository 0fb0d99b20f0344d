"""Tasks of the simulator: problems of `decaf_theory.problems`, one data set per seed.

Scores are log10 of the gap F - F*: "mean" at the mean point Wbar, "own" of the mean over the agents
of F at their own points, F = (1/N) sum_i f_i. F* = inf F over all matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, Host
from decaf_theory.problems import Problem
from decaf_theory.simulate import Config, SimulationError, Visit, simulate
from paper_checks.tournament.tasks import Found, Scores, Task, graph_of

Build = Callable[[int], Problem]  # seed -> its data set
SCORE = "log10 of F - F*"
LEAST = float(np.finfo(np.float64).eps)  # a gap below it is rounding: losses are of size one


def problem_task(
    name: str,
    title: str,
    build: Build,
    *,
    rank: int,
    networks: tuple[str, ...],
    rounds: int,
    longest: int,
    local_steps: int,
    grid: tuple[float, ...],
    tuning: tuple[int, ...],
    reported: tuple[int, ...],
) -> Task:
    """Return the task of adapters of this rank on a problem."""

    def config(method: str, network: str, lr: float, seeds: Sequence[int], steps: int) -> Config:
        problem = together([build(seed) for seed in seeds])
        return Config(
            problem=problem,
            method=method,
            Pi=graph_of(network, problem.N),
            rank=rank,
            lr=lr,
            steps=steps,
            local_steps=local_steps,
            runs=len(seeds),
            seed=seeds[0],  # of start and noise; runs of one seed have streams of their own
            record=("loss",),
            record_every=max(steps, 1),
        )

    def trial(
        method: str, network: str, lr: float, seeds: Sequence[int], stops: Sequence[int]
    ) -> Found:
        least = np.array([build(seed).constants.F_star for seed in seeds])
        found: dict[int, Scores] = {}

        def watch(visit: Visit) -> None:
            if visit.step in stops:
                found[visit.step] = scores(visit, least)

        try:
            simulate(config(method, network, lr, seeds, max(stops)), watch)
        except SimulationError:
            pass  # the rounds before it are scored
        return found

    def sent(method: str, network: str, rounds: int) -> list[int]:
        bytes_: list[int] = []
        still = config(method, network, 0.0, tuning[:1], rounds)
        simulate(still, lambda visit: bytes_.append(int(visit.comm_bytes)))
        return bytes_

    return Task(
        name=name,
        title=title,
        score=SCORE,
        lower=True,
        networks=networks,
        rounds=rounds,
        longest=longest,
        grid=grid,
        tuning=tuning,
        reported=reported,
        settings=described(build(reported[0]), rank, local_steps),
        trial=trial,
        sent=sent,
    )


def described(problem: Problem, rank: int, local_steps: int) -> dict[str, float | int | str]:
    """Return a task's settings: of the problem that of its first reported seed stands for all."""
    sizes = {"N": problem.N, "d": problem.d, "k": problem.k}
    sigma = problem.constants.sigma
    assert sigma is not None  # of the problems here
    return {"problem": problem.name, **sizes, "r": rank, "local_steps": local_steps, "sigma": sigma}


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
