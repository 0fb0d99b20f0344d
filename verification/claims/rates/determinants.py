"""T30-det: DeCAF cannot cross a determinant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from decaf_theory.lowrank import Factors, balance, product
from decaf_theory.measure import factor_gradients
from decaf_theory.problems.approximation import approximation
from decaf_theory.problems.base import Problem
from decaf_theory.simulate import Config, visits
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_least, at_most, same, ulps

N = 8


def determinant(ctx: Context) -> Iterator[Row]:
    r"""DeCAF cannot cross a determinant, nor leave the semidefinite cone; DLoRA can.

    $N = 1$, $r = d = k$ (a mix re-balances): for any loss, any stochastic gradient $g$ and balanced
    $B = U \sqrt S$, $A = \sqrt S V'$, $P = BA$, $O = UV'$: $P^+ = (I - \alpha s g O') P (I - \alpha
    s O' g)$ and $\det P^+ = \det(I - \alpha s g O')^2 \det P$. So where $\det P_0 \ge 0 > \det
    W^*$, the loss $|sP - W^*|_F^2/2$ never falls below $\sigma_{min}(W^*)^2/2$. For any $N$, $r$
    and graph, losses $|sP - W_i|_F^2/2$ with symmetric targets $W_i$ of mean $\bar W$ and symmetric
    noise, from $B_i = A_i'$: all $P_i$ stay positive semidefinite, so $F - F^*$ at their mean is at
    least $\frac12 \sum \lambda^2$ over the negative eigenvalues of $\bar W$. There $F^* = F(\bar
    W)$ is the least over all matrices, whatever their rank.

    Assumptions: exact arithmetic for the cone: where an eigenvalue falls below its rounding its
    sign is left to chance.

    Proof: $A' = O'B$ and $B' = AO'$, so $B^+ = B - \alpha s g A' = (I - \alpha s g O') B$ and $A^+
    = A (I - \alpha s O' g)$; $\det(I - \alpha s O'g) = \det(I - \alpha s g O')$. A segment from
    $W^*$ to a matrix of determinant $\ge 0$ meets a singular one, at least $\sigma_{min}(W^*)$
    away. Cone: balanced factors of a semidefinite product have $A = B'$ in their frame, where $O =
    I$ and $P^+ = (I - \alpha s g) P (I - \alpha s g)$; averages and truncations of semidefinite
    matrices are semidefinite, and $|sP - \bar W|_F$ is at least its distance from the cone.

    Extremal: scalars, target $-1$, start $(b, a) = (1/2, 2)$: DeCAF tends to 0, loss 1/2, DLoRA to
    $-1$, loss 0.

    Source: derived here.
    """
    for size in (1, 2, 3):
        yield from one_round(ctx, size, ctx.pick(20, 1000))
    yield replay_scalar(scalar())
    crossed = final_loss("dlora", scalar())
    yield at_most("loss of DLoRA, which crosses", crossed, 0.0, rounding=ulps(8), d=1, k=1, r=1)
    for graph in ("ring", "star"):
        yield from in_the_cone(ctx, graph)


def one_round(ctx: Context, n: int, count: int) -> Iterator[Row]:
    """Yield, of rounds of one agent along any g, the product and its determinant."""
    rng = ctx.rng("determinant", n)
    P, g = rng.standard_normal((2, count, n, n))
    U, _, Vh = np.linalg.svd(P)
    lr, s = 0.3, 0.7
    turn = np.eye(n) - lr * s * g @ (U @ Vh).mT
    other = np.eye(n) - lr * s * (U @ Vh).mT @ g
    held = balance(Factors(P, np.broadcast_to(np.eye(n), P.shape)))
    slope = factor_gradients(g, held, s)
    moved = product(Factors(held.B - lr * slope.B, held.A - lr * slope.A))
    norms = np.linalg.norm(P, axis=(1, 2)) * np.linalg.norm(turn, axis=(1, 2)) ** 2
    # two decompositions and four products of size n; polar factors err by 1/(sigma_n + sigma_n-1)
    worst = np.linalg.cond(P)
    slip = ulps(100 * n**2, norms * worst)
    where: dict[str, Value] = {"d": n, "k": n, "r": n}
    far = np.linalg.norm(moved - turn @ P @ other, axis=(1, 2))
    yield same("P+ = (1 - gO') P (1 - O'g)", far, rounding=slip, **where)
    # a determinant is n-linear in its rows
    grown = np.linalg.det(moved) - np.linalg.det(turn) ** 2 * np.linalg.det(P)
    size = np.linalg.norm(moved, axis=(1, 2)) + norms
    yield same("det P+ = det^2 det P", grown, rounding=slip * n * size ** (n - 1), **where)


def scalar() -> Instance:
    """Return the scalar of determinant 1 at the start whose target is -1."""
    return {"target": -1.0, "b": 0.5, "a": 2.0, "lr": 0.1, "steps": 400}


def final_loss(method: str, instance: Instance) -> float:
    """Return the loss of one scalar agent at the end of its run."""
    b, a = (np.full((1, 1, 1), instance[name]) for name in ("b", "a"))
    problem = approximation(np.full((1, 1, 1), instance["target"]))
    letters = {"Pi": np.ones((1, 1)), "lr": instance["lr"], "steps": instance["steps"]}
    config = Config(method=method, problem=problem, start=Factors(b, a), **letters)
    *_, last = visits(config)
    return float(last.loss_at_mean.mean())


def replay_scalar(instance: Instance) -> Row:
    """Return the row of one stored scalar: DeCAF's loss at the end."""
    held = instance["a"] * instance["b"] >= 0 > instance["target"]
    loss = final_loss("decaf", instance)
    slip = ulps(8, loss)
    where: dict[str, Value] = {"d": 1, "k": 1, "r": 1, "steps": instance["steps"]}
    least = instance["target"] ** 2 / 2
    return at_least("loss of DeCAF, final", loss, least, rounding=slip, held=held, **where)


def in_the_cone(ctx: Context, graph: str) -> Iterator[Row]:
    """Yield the least eigenvalue and loss of DeCAF along a run with symmetric noise."""
    d, steps, tau = 3, ctx.pick(40, 400), 0.3
    mean = np.diag([2.0, 1.0, -0.5])
    apart = ctx.rng("cone", graph).standard_normal((N, d, d))
    apart = (apart + apart.mT) / 2
    problem = symmetric_noise(approximation(mean + apart - apart.mean(axis=0)), tau)
    same_B = np.tile(np.eye(d), (N, 1, 1))
    letters = {"Pi": TOPOLOGIES[graph](N), "lr": 0.05, "steps": steps, "seed": ctx.seed}
    config = Config(method="decaf", problem=problem, start=Factors(same_B, same_B), **letters)
    path = np.concatenate([product(visit.factors) for visit in visits(config)])
    lowest = np.linalg.eigvalsh((path + path.mT) / 2).min()
    far = np.sum((path.mean(axis=1) - mean) ** 2, axis=(1, 2)) / 2
    # a round makes some 40 d roundings of products of size 3
    slip = ulps(40 * d * steps, 3)
    where: dict[str, Value] = {"topology": graph, "N": N, "d": d, "k": d, "r": d, "tau": tau}
    yield at_least("least eigenvalue", lowest, 0.0, rounding=slip, **where)
    yield at_least("F - F*, symmetric noise", far.min(), 0.5**2 / 2, rounding=slip, **where)


def symmetric_noise(problem: Problem, tau: float) -> Problem:
    """Return the problem with symmetric gradient noise."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        noise = tau * rng.standard_normal(shape)
        return (noise + noise.mT) / 2

    return replace(problem, noise=draw)


CLAIMS = [
    Claim(
        "T30-det",
        "rates",
        "derived",
        determinant,
        not_attacked="an invariant of every round, whatever the gradient",
        replay=replay_scalar,
        instance=scalar,
        reaches={
            "loss of DeCAF, final": 1,
            "least eigenvalue": 0,
            "F - F*, symmetric noise": 0.02,
        },
    )
]
