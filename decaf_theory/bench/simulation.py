"""The contestants of G5 to G7: our simulator and mixing, and the loops that people write by hand.

A loop by hand is a callable that does one run and computes no losses along the way; the simulator
does all runs, and watches the losses of every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, Host, namespace
from decaf_theory.bench.cases import mixing
from decaf_theory.lowrank import Factors
from decaf_theory.problems import PROBLEMS
from decaf_theory.problems.base import Constants, Problem
from decaf_theory.rng import generator
from decaf_theory.simulate import Config, start_factors


class Runs(NamedTuple):
    """The sizes of some runs of a method on a ring, at once."""

    method: str
    d: int
    k: int
    r: int
    N: int
    runs: int
    steps: int
    noise: float = 0.0

    @property
    def label(self) -> str:
        """The case in words."""
        noise = ", noise" if self.noise else ""
        many = f", {self.runs} runs" if self.runs > 1 else ""
        return f"{self.method} {self.d}x{self.k} r={self.r} N={self.N} ring{many}{noise}"


LR = 0.05


CURVES = ("agent_loss", "gradient", "consensus_factors")


def lora(
    case: Runs, record_every: int | None = None, record: Sequence[str] | None = CURVES
) -> Config:
    """Return the runs of a LoRA method on P2, which record only the first and the last step.

    record: the quantities of `Trace`, by default those of convergence curves; None for all.
    """
    problem = PROBLEMS["P2"](
        N=case.N, d=case.d, k=case.k, rank=case.r, tau=case.noise, noise="rademacher"
    )
    return Config(
        problem=problem,
        method=case.method,
        Pi=mixing("ring", case.N),
        rank=case.r,
        lr=LR,
        steps=case.steps,
        runs=case.runs,
        record_every=record_every or case.steps,
        record=record,
    )


def numpy_loop(config: Config) -> Callable[[], float]:
    """Return DLoRA as anybody would write it: the first run, giving the agents' mean final loss."""
    N, lr = config.problem.N, config.lr
    near = neighbours(N)
    target = targets(config.problem)
    start = [X[0] for X in start_factors(config)]
    tau = config.problem.constants.sigma / target[0].size ** 0.5
    rng = np.random.default_rng(0)

    def run() -> float:
        B, A = list(start[0]), list(start[1])
        for _ in range(config.steps):
            for i in range(N):
                g = B[i] @ A[i] - target[i]
                if tau:
                    g += tau * (2.0 * rng.integers(0, 2, g.shape) - 1.0)
                B[i], A[i] = B[i] - lr * g @ A[i].T, A[i] - lr * B[i].T @ g
            B = [sum(w * B[j] for j, w in near[i]) for i in range(N)]
            A = [sum(w * A[j] for j, w in near[i]) for i in range(N)]
        return float(np.mean([np.sum((B[i] @ A[i] - target[i]) ** 2) / 2 for i in range(N)]))

    return run


def batched_loop(config: Config) -> Callable[[], float]:
    """Return DLoRA for all runs at once, the bare arithmetic without noise: the floor of any loop.

    It watches nothing, records nothing, and serves this one method on this one problem.
    """
    lr, Pi = config.lr, np.asarray(config.graph)
    target = targets(config.problem)
    start = start_factors(config)

    def run() -> float:
        B, A = start.map(np.array)
        for _ in range(config.steps):
            g = B @ A
            g -= target
            B, A = B - lr * (g @ A.mT), A - lr * (B.mT @ g)
            B, A = ((Pi @ X.reshape((*X.shape[:2], -1))).reshape(X.shape) for X in (B, A))
        return float(np.mean(np.sum((B[0] @ A[0] - target) ** 2, axis=(-2, -1)) / 2))

    return run


def torch_loop(config: Config) -> Callable[[], float]:
    """Return the same with torch's autograd, agent by agent, without noise."""
    import torch

    N, lr = config.problem.N, config.lr
    near = neighbours(N)
    target = [torch.from_numpy(W) for W in targets(config.problem)]
    start = [torch.from_numpy(np.array(X[0])) for X in start_factors(config)]

    def loss(B: Array, A: Array, i: int) -> Array:
        return torch.sum((B @ A - target[i]) ** 2) / 2

    def run() -> float:
        B, A = list(start[0]), list(start[1])
        for _ in range(config.steps):
            for i in range(N):
                B[i], A[i] = (X[i].detach().requires_grad_() for X in (B, A))
                loss(B[i], A[i], i).backward()
                with torch.no_grad():
                    B[i], A[i] = (X - lr * X.grad for X in (B[i], A[i]))
            B = [sum(w * B[j] for j, w in near[i]) for i in range(N)]
            A = [sum(w * A[j] for j, w in near[i]) for i in range(N)]
        return float(sum(loss(B[i], A[i], i) for i in range(N)) / N)

    return run


def neighbours(N: int) -> list[list[tuple[int, float]]]:
    """Return each agent's neighbours on the ring and their weights."""
    return [[(int(j), float(row[j])) for j in np.flatnonzero(row)] for row in mixing("ring", N)]


def targets(problem: Problem) -> Host:
    """Return the agents' targets: grad f_i = W - W_i*."""
    found: Host = -problem.grad(np.zeros((problem.N, problem.d, problem.k)))
    return found


# ---------------------------------------------------------------- quadratics


class Quadratics(NamedTuple):
    """Losses f_i(x) = x'H_i x / 2 + b_i'x of N agents, and their starts: [N, p, p] and [N, p]."""

    H: Host
    b: Host
    start: Host


def draw_quadratics(N: int, p: int) -> Quadratics:
    """Return seeded quadratics of Wishart curvature, so that no two agents agree."""
    rng = generator(0, "bench", "quadratics", N, p)
    X = rng.standard_normal((N, p, p))
    return Quadratics(X @ np.swapaxes(X, 1, 2) / p, *rng.standard_normal((2, N, p)))


def dsgd(case: Runs, given: Quadratics) -> Config:
    """Return DSGD x_i <- sum_j pi_ij x_j - lr grad f_i(x_i) on quadratics, for p = d and k = 1."""
    N = len(given.b)
    return Config(
        problem=problem(given),
        method="dsgd",
        order="combine",
        Pi=mixing("ring", N),
        start=Factors(given.start[:, :, None], np.ones((N, 1, 1))),
        lr=LR,
        steps=case.steps,
        runs=case.runs,
        record_every=case.steps,
    )


def problem(given: Quadratics) -> Problem:
    """Return the quadratics as a problem in W [p, 1]; |grad f_i - grad F| has no bound."""
    H, b, _ = given
    N, p = b.shape
    best = np.linalg.solve(H.mean(axis=0), -b.mean(axis=0))

    def slope(W: Array) -> Array:
        """Return H_i W_i, all runs of an agent by one product."""
        x = namespace(W).moveaxis(W.reshape((-1, *W.shape[-3:-1])), 0, -1)
        return namespace(W).moveaxis(H @ x, -1, 0).reshape((*W.shape[:-3], N, p, 1))

    constants = Constants(
        L=float(np.linalg.eigvalsh(H).max()),
        G=lambda s, c: np.inf,
        kappa=None,
        sigma=0.0,
        F_star=float(b.mean(axis=0) @ best) / 2,
    )
    return Problem(
        name="quadratics",
        N=N,
        d=p,
        k=1,
        loss=lambda W: namespace(W).sum(W * (slope(W) / 2 + b[:, :, None]), axis=(-2, -1)),
        grad=lambda W: slope(W) + b[:, :, None],
        constants=constants,
        W0=np.zeros((p, 1)),
    )
