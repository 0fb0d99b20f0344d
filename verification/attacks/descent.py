"""Attacks on the rates of the mean's descent: T35-rate, T36-rate, T37-rate.

Quadratics with L = 1 as in `rates`, averaged over many periods of rounds by doubling.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch

from decaf_theory import moments
from decaf_theory.adversary import Attack
from decaf_theory.arrays import Host
from verification.attacks import quadratics as q
from verification.attacks.quadratics import Domain, Network, Problem
from verification.attacks.rates import fixed, longest, sharp
from verification.attacks.rounds import mixing_matrices, reversible_network
from verification.attacks.tensors import Tensors, root, single

DOUBLINGS = 8


def _then(first: q.Round, then: q.Round) -> q.Round:
    return q.Round(then.M @ first.M, then.M @ first.V @ then.M.mT + then.V)


def _average(period: list[q.Round], W: torch.Tensor, doublings: int) -> torch.Tensor:
    """Return the average of W before each round of 2^doublings periods."""
    total = torch.zeros_like(W)
    for i, turn in enumerate(period):
        total = total + q.average(reduce(_then, period[i:] + period[:i]), W, doublings)
        W = turn.M @ W @ turn.M.mT + turn.V
    return total / len(period)


def _ratio(problem: Problem, net: Network, W: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the averaged gradient against T25-sharp, for the average W of the points."""
    D = root(q.square(q.disagreement(problem), W))
    bound = sharp(problem.lr, fixed(problem, net, steps), D)
    return q.square(q.gradient(problem), W) / bound


def local_rate(net: Network, K: int) -> Attack:
    """T35-rate: K local steps a round."""
    # no longer than T35 allows: longer ones may diverge beyond all numbers
    domain = Domain(net.N, 1, longest(net._replace(q=K * net.q + K - 1)), bounded=True)
    periods = 2**DOUBLINGS

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        step = q.moved(problem)
        period = [step] * (K - 1) + [q.sgd(problem, net)]
        return _ratio(problem, net, _average(period, q.start(problem), DOUBLINGS), K * periods)

    return Attack(domain.shapes, ratio, domain.instance(net, K=K, periods=periods))


def momentum_rate(net: Network, beta: float) -> Attack:
    """T36-rate: gradients at z = xbar - w vbar, against distances from it."""
    doublings = 16
    # short, where it is attained
    domain = Domain(net.N, 1, 2.0**-8 * (1 - beta), bounded=True, any_step=False)
    N = net.N
    mean = torch.full((N, N), N**-1.5, dtype=torch.float64)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        x = problem.x0.repeat(1, N)
        w = torch.cat([x, 0 * x, torch.ones_like(x[:, :1])], 1)
        W = w[:, :, None] * w[:, None, :]
        W = q.average(q.heavy_ball(problem, net, beta), W, doublings)
        ahead = (problem.lr * beta / (1 - beta))[:, None, None]

        def at_z(R: torch.Tensor, momenta: torch.Tensor) -> torch.Tensor:
            return torch.cat(
                [R[..., :-1] + 0 * ahead, ahead * momenta, R[..., -1:] + 0 * ahead], -1
            )

        gradient = q.gradient(problem)
        D = root(q.square(at_z(q.disagreement(problem), mean), W))
        faster = problem._replace(lr=problem.lr / (1 - beta))
        bound = sharp(faster.lr, fixed(faster, net, 2**doublings), D)
        return q.square(at_z(gradient, -gradient[..., :-1]), W) / bound

    return Attack(domain.shapes, ratio, domain.instance(net, beta=beta, periods=2**doublings))


def changing_rate(lam: float, N: int) -> Attack:
    """T37-rate: two matrices with |Pi_t - J|_op <= lam in turn."""
    net = q.network([[1 / N] * N] * N)
    domain = Domain(N, 1, longest(net._replace(q=lam / (1 - lam)), 1.9), bounded=True)
    periods = 2**DOUBLINGS

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        step = q.moved(problem)
        period = []
        for Pi in mixing_matrices(free["X"], lam).unbind(1):
            P = q.bordered(Pi, 0 * Pi[..., 0])
            period.append(q.Round(P @ step.M, P @ step.V @ P.mT))
        return _ratio(problem, net, _average(period, q.start(problem), DOUBLINGS), 2 * periods)

    written = domain.instance(net, periods=periods)

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**written(p), "Pis": mixing_matrices(single(p)["X"], lam)[0].tolist()}

    return Attack({**domain.shapes, "X": (2, N - 1, N - 1)}, ratio, instance)


def weighted_rate(P: Host, target: list[float]) -> Attack:
    """T37-reversible-rate: gradients of the weighted sum at the weighted mean."""
    net, pi = reversible_network(P, target)
    domain = Domain(net.N, 1, longest(net, 1.9), bounded=True, shares=tuple(pi))
    periods = 2**DOUBLINGS
    own = torch.tensor(pi)
    share = float(net.N * (own**2).sum())  # of the noise, over that of equal weights

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        found = problem.quadratics
        W = _average([q.sgd(problem, net)], q.start(problem), DOUBLINGS)
        D = root(q.square(q.row_of(moments.consensus(found, pi)), W))
        gap = moments.expectation(moments.optimality_gap(found, pi), _at(problem))
        R = 2 * gap / (problem.lr * periods) + share * problem.lr * problem.variance / net.N
        gradient = q.row_of(moments.mean_gradient(found, pi))
        return q.square(gradient, W) / sharp(problem.lr, R, D)

    return Attack(domain.shapes, ratio, domain.instance(net, target=target, periods=periods))


def _at(problem: Problem) -> moments.State:
    """Return the state of all agents at x0."""
    return moments.consensus_start(problem.quadratics, problem.x0)
