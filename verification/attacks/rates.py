"""Attacks on the rates of decentralized SGD: T25, T28, T29 and their sharper forms, T34, T38.

Quadratics in a few dimensions with L = 1, all their data free: curvatures, slopes, noise, start and
step size. The bounds are those of `decaf_theory.bounds`, written for tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, sqrt
from typing import Any, NamedTuple

import torch

from decaf_theory.adversary import Attack
from verification.attacks import quadratics as q
from verification.attacks.quadratics import Domain, Network, Problem
from verification.attacks.tensors import Tensors, plain, root, single

STEPS = 64


def longest(net: Network, largest: float = 1.0, feedback: float = 0.999) -> float:
    """Return the longest step that is searched: inside lr <= `largest`, lr q <= `feedback`."""
    return (1 - 2.0**-20) * min(largest, feedback / max(net.q, 1e-3))


def fixed(problem: Problem, net: Network, steps: int) -> torch.Tensor:
    """Return 2 (F(x0) - F*) / (lr T) + lr sigma^2 / N: what a rate pays without disagreement."""
    return 2 * problem.gap / (problem.lr * steps) + problem.lr * problem.variance / net.N


def sharp(u: torch.Tensor, R: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
    """Return the rate of T25-sharp for R and the disagreement D^2."""
    return (((1 - u).abs() * D + root(D**2 + (2 - u) * R)) / (2 - u)) ** 2


def consensus(net: Network, p: int = 1, **more: bool) -> Attack:
    """T25: the largest E Xi_t against its bound."""
    domain = Domain(net.N, p, longest(net), **more)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        W = q.path(q.sgd(problem, net), q.start(problem), STEPS)
        Xi, kappa = q.largest(problem, W)
        return Xi / q.consensus_limit(problem, net, kappa)

    return Attack(domain.shapes, ratio, domain.instance(net, order=net.order, steps=STEPS))


def rate(net: Network, part: str, p: int = 1, steps: int = STEPS, **more: bool) -> Attack:
    """T25: the mean squared gradient against the rate with one form of its last term."""
    step = longest(net, feedback=0.5 if part == "textbook" else 0.999)
    domain = Domain(net.N, p, step, bounded=True, **more)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        W = q.path(q.sgd(problem, net), q.start(problem), steps)
        Xi = q.square(q.disagreement(problem), W)
        kappa = root(q.square(q.heterogeneity(problem), W).amax(-1))
        last = {
            "measured Xi": Xi.mean(-1),
            "bound on Xi": q.consensus_limit(problem, net, kappa),
            "textbook": 8
            * problem.lr**2
            * (problem.variance * net.S / net.N + (kappa * net.q) ** 2),
        }
        found = q.square(q.gradient(problem), W).mean(-1)
        return found / (fixed(problem, net, steps) + last[part])

    extra = {"order": net.order, "steps": steps, "part": f"mean gradient, {part}"}
    return Attack(domain.shapes, ratio, domain.instance(net, **extra))


def sharp_rate(net: Network, doublings: int, step: float = 0.0, **more: bool) -> Attack:
    """T25-sharp, and T28-sharp for a fixed step: averages over 2^doublings rounds."""
    domain = Domain(net.N, 1, step or longest(net, 1.9), bounded=True, any_step=not step, **more)
    steps = 2**doublings

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        W = q.average(q.sgd(problem, net), q.start(problem), doublings)
        D = root(q.square(q.disagreement(problem), W))
        bound = sharp(problem.lr, fixed(problem, net, steps), D)
        return q.square(q.gradient(problem), W) / bound

    return Attack(domain.shapes, ratio, domain.instance(net, order=net.order, steps=steps))


def corollary(net: Network, steps: int, loose: str = "") -> Attack:
    """T28: the mean squared gradient at lr = sqrt(N/T) against the corollary."""
    domain = Domain(net.N, 1, sqrt(net.N / steps), bounded=True, any_step=False)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        W = q.path(q.sgd(problem, net), q.start(problem), steps)
        # a ceiling of kappa, as in the claim: the largest of the means and the last covariance
        R = q.heterogeneity(problem)
        mean = W[..., -1]
        offset = ((R[:, None] @ mean[..., None]) ** 2).sum((-2, -1)).amax(-1)
        last = W[:, -1] - mean[:, -1, :, None] * mean[:, -1, None, :]
        kappa = root(offset + q.square(R, last))
        drift = root(problem.variance * net.S / net.N) + kappa * net.q
        leading = (2 * problem.gap + problem.variance) / sqrt(net.N * steps)
        found = q.square(q.gradient(problem), W).mean(-1)
        return found / (leading + 4 * net.N / steps * drift**2)

    instance = domain.instance(net, order=net.order, steps=steps)
    return Attack(domain.shapes, ratio, instance, loose=loose)


def rest(net: Network) -> Attack:
    """T34: the squared gradient at rest against the rate for Hessians >= -m, T -> infinity."""
    domain = Domain(net.N, 1, longest(net), noise=False, bounded=True, range=8.0)
    steps = 2**60

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        M = q.sgd(problem, net).M
        eye = torch.eye(M.shape[-1] - 1, dtype=M.dtype)
        rest = torch.linalg.solve(eye - M[:, :-1, :-1], M[:, :-1, -1:])
        w = torch.cat([rest, torch.ones_like(rest[:, :1])], 1)
        kappa = root(((q.heterogeneity(problem) @ w) ** 2).sum((-2, -1)))
        m = (-problem.H.flatten(1).amin(-1)).clamp_min(0.0)
        bound = fixed(problem, net, steps)
        bound = bound + ((1 + m) / 2) ** 2 * q.consensus_limit(problem, net, kappa)
        return ((q.gradient(problem) @ w) ** 2).sum((-2, -1)) / bound

    instance = domain.instance(net, order=net.order, steps=steps)
    return Attack(domain.shapes, ratio, instance, _stable(domain, net))


def settled(net: Network, **more: bool) -> Attack:
    """T38: the gap at rest against its floor."""
    domain = Domain(net.N, 1, longest(net, feedback=inf), bounded=True, range=8.0, **more)
    doublings = 40

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        mu = problem.H.mean(1)[:, 0, 0]
        W = q.late(q.sgd(problem, net), q.start(problem), doublings)
        Xi = q.square(q.disagreement(problem), W)
        floor = (Xi + problem.lr * problem.variance / net.N) / (2 * mu)
        # of a quadratic in one dimension
        return q.square(q.gradient(problem), W) / (2 * mu) / floor

    instance = domain.instance(net, order=net.order, steps=2**doublings)
    return Attack(domain.shapes, ratio, instance, _stable(domain, net))


def _stable(domain: Domain, net: Network) -> Callable[[Tensors], Tensors]:
    """Return the projection that shortens the step until the recursion is stable."""

    def project(free: Tensors) -> Tensors:
        length = free["length"]
        for _ in range(int(domain.range)):
            with torch.no_grad():
                M = q.sgd(domain.problem({**free, "length": length}), net).M
                stable = torch.linalg.eigvals(M[:, :-1, :-1]).abs().amax(-1) < 1 - 1e-9
            if stable.all():
                break
            length = torch.where(stable, length, length.abs() + 1.0)
        return {**free, "length": length}

    return project


class Erring(NamedTuple):
    """A problem whose mixing adds e = K y + k + G noise, and one round of it."""

    problem: Problem
    net: Network
    error: torch.Tensor  # of w -> K y + k, [s, N, N + 1]
    noise: torch.Tensor  # G times the root of the noise covariance, [s, N, N]
    turn: q.Round

    def mean_square(self, R: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        """Return E|R e|^2 for R [1, m, N], [s, (T)]."""
        drawn = ((R @ self.noise) ** 2).sum((1, 2))
        return q.square(R @ self.error, W) + (drawn if W.dim() == 3 else drawn[:, None])


def _erring(problem: Problem, net: Network, errors: tuple[torch.Tensor, ...]) -> Erring:
    K, k, G = errors
    Z = torch.diag_embed(problem.Z[..., 0, 0])
    push = (G - problem.lr[:, None, None] * net.Pi) @ Z
    error = q.bordered(K, k, 0.0)
    M = q.sgd(problem, net).M + error
    turn = q.Round(M, q.bordered(push @ push.mT, 0 * k, 0.0))
    return Erring(problem, net, error[:, :-1], G @ Z, turn)


def _mean_of(N: int) -> torch.Tensor:
    return torch.full((1, 1, N), 1 / N, dtype=torch.float64)


def _spread_ratio(run: Erring, steps: int) -> torch.Tensor:
    """Return the largest E Xi_t against its bound with errors."""
    problem = run.problem
    net = run.net
    W = q.path(run.turn, q.start(problem), steps)
    Xi, kappa = q.largest(problem, W)
    apart = torch.eye(net.N, dtype=torch.float64)[None] - _mean_of(net.N)
    spread = run.mean_square(apart, W).amax(-1)
    drift = root(problem.variance * net.S / net.N) + kappa * net.q
    drift = problem.lr * drift + root(spread) / (sqrt(net.N) * (1 - net.lam))
    return Xi / (drift / (1 - problem.lr * net.q)) ** 2


def _gradient_ratio(run: Erring, part: str, doublings: int, dependent: bool) -> torch.Tensor:
    """Return the mean squared gradient against one form of the rate with errors."""
    problem = run.problem
    net = run.net
    W = q.average(run.turn, q.start(problem), doublings)
    D = root(q.square(q.disagreement(problem), W))
    ebar = root(run.mean_square(_mean_of(net.N), W))
    bias = ebar / problem.lr
    found = q.square(q.gradient(problem), W)
    descent = 2 * problem.gap / (problem.lr * 2**doublings)
    floor = problem.lr * problem.variance / net.N
    if part in ("sharp", "joint"):
        noise = root(problem.variance / net.N)
        # the joint form counts noise and disagreement together against the errors
        grown = noise if part == "sharp" else root(D**2 + noise**2) - D
        cross = dependent * 2 * ebar * grown
        return found / sharp(problem.lr, descent + floor + cross, D + bias)
    limit: torch.Tensor = descent + floor + (D + bias) ** 2
    if dependent:
        limit = descent + 2 * floor + 2 * D**2 + 2 * bias**2
    return found / limit


def erring(net: Network, part: str, doublings: int, dependent: bool = False) -> Attack:
    """T29, T29-sharp, T29-joint: rates and Xi when mixing adds e = K y + k + G xi."""
    step = longest(net, 1.9 if part in ("sharp", "joint") else 1.0)
    domain = Domain(net.N, 1, step, bounded=part != "E Xi_t")
    N = net.N
    steps = 2**doublings

    def errors(free: Tensors, problem: Problem) -> tuple[torch.Tensor, ...]:
        lr = problem.lr[:, None, None]
        return lr * free["K"], lr[..., 0] * free["k"], dependent * lr * free["G"]

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        run = _erring(problem, net, errors(free, problem))
        if part == "E Xi_t":
            return _spread_ratio(run, steps)
        return _gradient_ratio(run, part, doublings, dependent)

    written = domain.instance(net, steps=steps, dependent=dependent, part=part)

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        free = single(p)
        K, k, G = (X[0] for X in errors(free, domain.problem(free)))
        return {**written(p), **plain({"K": K, "k": k, "G": G})}

    shapes = {**domain.shapes, "K": (N, N), "k": (N,), "G": (N, N)}
    return Attack(shapes, ratio, instance)
