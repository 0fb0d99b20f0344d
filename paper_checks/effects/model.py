"""The model problems of the effects: agents with different quadratics, many draws at a time.

    isotropic    f_i = |W - W_i*|_F^2 / 2                    (P3)
    curved       f_i = |(W - W_i*) S_i^{1/2}|_F^2 / 2        (P10 in W, all factors trained)

S_i = diag(h_i), h_i log-uniform in [1/RATIO, 1]. The targets are W_i* = Wbar + D_i, Wbar of rank
RANK with singular values 1, 3/4, 1/2, 1/4, sum_i D_i = 0 and (1/N) sum_i |D_i|_F^2 = KAPPA^2; a
gradient has independent entries +-TAU as noise. Each seed draws all of these, and the start, anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.lowrank import product
from decaf_theory.methods import Method
from decaf_theory.problems import Problem, entry_noise
from decaf_theory.problems.approximation import planted, spread
from decaf_theory.problems.frozen import curvatures
from decaf_theory.simulate import Config, SimulationError, simulate

AGENTS, D, K, RANK = 10, 8, 6, 4
KAPPA, TAU, RATIO = 1.0, 0.3, 4.0
ROUNDS, LOCAL_STEPS = 40, 10
KINDS = ("isotropic", "curved")
Schedule = Callable[[int], Array]  # of a round
# one matrix for all seeds, or the schedule of a seed; None for a server
Graph = Array | Callable[[int], Schedule] | None


class Draws(NamedTuple):
    """Problems of several seeds as the runs of one, and the minimizer of each run's mean loss."""

    problem: Problem
    minimizer: Array  # [runs, 1, d, k]
    curvature: Array  # of the mean loss by column, [runs, 1, 1, k]

    def excess(self, W: Array) -> Array:
        """Return F(W_i) - min F, F the mean of all agents' losses, [runs, N].

        W [runs, N, d, k]. The minimum is over all matrices, whatever their rank.
        """
        gaps = self.curvature * (W - self.minimizer) ** 2 / 2
        return gaps.sum(axis=(-2, -1))


def draw(kind: str, seeds: Sequence[int]) -> Draws:
    """Return the problems of a kind, one run for each seed. ValueError: another kind."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    sizes = {"N": AGENTS, "k": K}
    targets = np.stack(
        [
            planted(d=D, k=K, rank=RANK, seed=seed) + spread(**sizes, d=D, kappa=KAPPA, seed=seed)
            for seed in seeds
        ]
    )
    h = np.ones((len(seeds), AGENTS, 1, K))
    if kind == "curved":
        h = np.stack([curvatures(**sizes, ratio=RATIO, seed=seed) for seed in seeds])[:, :, None]

    def grad(W: Array) -> Array:
        return h * (W - targets)

    def loss(W: Array) -> Array:
        return (h * (W - targets) ** 2).sum(axis=(-2, -1)) / 2

    curvature = h.mean(axis=1, keepdims=True)
    minimizer = (h * targets).mean(axis=1, keepdims=True) / curvature
    noise = entry_noise(TAU, "rademacher")
    return Draws(Problem(kind, AGENTS, D, K, loss, grad, noise=noise), minimizer, curvature)


def excess(
    kind: str, method: Method, graph: Graph, lr: float, seeds: Sequence[int], **others: Any
) -> Array:
    """Return the excess of each agent's model after the last round, [seeds, N]; inf: diverged.

    others: parameters of the simulation in place of those of `config_of`.
    """
    if callable(graph):  # what it returns depends on the seed, so that each is a run of its own
        parts = [_excess(kind, method, graph(seed), lr, [seed], others) for seed in seeds]
        return np.concatenate(parts)
    return _excess(kind, method, graph, lr, seeds, others)


def _excess(
    kind: str,
    method: Method,
    Pi: Array | Schedule | None,
    lr: float,
    seeds: Sequence[int],
    others: Mapping[str, Any],
) -> Array:
    draws = draw(kind, seeds)
    try:
        trace = simulate(config_of(draws, method, Pi, lr, seeds, **others))
    except SimulationError:
        return np.full((len(seeds), AGENTS), np.inf)
    if trace.status != "finished":
        return np.full((len(seeds), AGENTS), np.inf)
    return draws.excess(product(trace.final))


def config_of(
    draws: Draws,
    method: Method,
    Pi: Array | Schedule | None,
    lr: float,
    seeds: Sequence[int],
    **others: Any,
) -> Config:
    """Return the simulation of a method, one run for each seed.

    Start and noise are streams of the first seed and the run, not of the method: pairs.
    """
    size = {"rank": RANK, "steps": ROUNDS, "local_steps": LOCAL_STEPS, "record": ["loss"]}
    size |= {"runs": len(seeds), "seed": seeds[0], "record_every": ROUNDS}
    return Config(problem=draws.problem, method=method, Pi=Pi, lr=lr, **{**size, **others})
