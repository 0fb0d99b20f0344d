"""Attacks on the consensus bounds of other rounds than one mix a step: T35 - T37-random, R5, R6.

Quadratics with L = 1 as in `rates`; in R5 the factors themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import torch

from decaf_theory import bounds, moments
from decaf_theory.adversary import Attack, clip_singular_values
from decaf_theory.arrays import Host
from decaf_theory.topology import reversible_eigenvalues
from verification.attacks import quadratics as q
from verification.attacks.quadratics import Domain, Network, Problem
from verification.attacks.rates import STEPS, longest
from verification.attacks.tensors import Tensors, norm_of, plain, root, single
from verification.claims.interference.dlora_path import RECORDED
from verification.instances.laws import Law

ROUNDS = 32


def _eigenvalues(net: Network) -> list[float]:
    ascending: list[float] = torch.linalg.eigvalsh(net.Pi)[:-1].tolist()
    return ascending


def _several_steps(problem: Problem, net: Network, K: int) -> torch.Tensor:
    """Return W at every point of K local steps a round, [s, ROUNDS, K, n + 1, n + 1]."""
    step = q.moved(problem)
    P = q.mixed(net, problem.H.shape[-1])
    M, V = step
    for _ in range(K - 1):
        M = step.M @ M
        V = step.M @ V @ step.M.mT + step.V
    W = [q.path(q.Round(P @ M, P @ V @ P.mT), q.start(problem), ROUNDS)]
    for _ in range(K - 1):
        W.append(step.M[:, None] @ W[-1] @ step.M.mT[:, None] + step.V[:, None])
    return torch.stack(W, 2)


def local_steps(net: Network, K: int, **more: bool) -> Attack:
    """T35: the largest E Xi over all local steps against its bound."""
    Q, S = bounds.local_steps_q_S(lam=net.lam, eigenvalues=_eigenvalues(net), N=net.N, K=K)
    wide = net._replace(q=Q, S=S)
    domain = Domain(net.N, 1, longest(wide), **more)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        Xi, kappa = q.largest(problem, _several_steps(problem, net, K).flatten(1, 2))
        return Xi / q.consensus_limit(problem, wide, kappa)

    return Attack(domain.shapes, ratio, domain.instance(net, K=K, rounds=ROUNDS))


def after_a_mix(net: Network, K: int) -> Attack:
    """R6: the largest |X~| after a mix against its bound, without noise."""
    longest_step = 0.9 * (net.lam ** (-1 / K) - 1)
    domain = Domain(net.N, 1, min(1.0, longest_step), noise=False)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        W = _several_steps(problem, net, K)
        Xi, _ = q.largest(problem, W[:, :, 0])
        _, kappa = q.largest(problem, W.flatten(1, 2))
        growth = (1 + problem.lr) ** K
        bound = net.lam * sqrt(net.N) * kappa * (growth - 1) / (1 - net.lam * growth)
        return root(net.N * Xi) / bound

    return Attack(domain.shapes, ratio, domain.instance(net, K=K, rounds=ROUNDS))


def momentum(net: Network, beta: float, **more: bool) -> Attack:
    """T36: the largest E Xi_t with local momentum against its bound."""
    Q, S = bounds.momentum_q_S(lam=net.lam, eigenvalues=_eigenvalues(net), beta=beta)
    wide = net._replace(q=Q, S=S)
    domain = Domain(net.N, 1, longest(wide), **more)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        w = torch.cat([problem.x0.repeat(1, net.N), 0 * problem.x0.repeat(1, net.N)], 1)
        w = torch.cat([w, torch.ones_like(w[:, :1])], 1)
        W = q.path(q.heavy_ball(problem, net, beta), w[:, :, None] * w[:, None, :], STEPS)
        n = net.N
        points = [*range(n), 2 * n]  # without the momenta
        Xi, kappa = q.largest(problem, W[..., points, :][..., points])
        return Xi / q.consensus_limit(problem, wide, kappa)

    return Attack(domain.shapes, ratio, domain.instance(net, beta=beta, steps=STEPS))


def mixing_matrices(X: torch.Tensor, lam: float) -> torch.Tensor:
    """Return Pi = J + U X U' for X symmetrized, clipped to |X|_op <= lam; U a basis off consensus.

    X [s, T, N - 1, N - 1] -> Pi [s, T, N, N].
    """
    N = X.shape[-1] + 1
    basis = torch.linalg.svd(torch.eye(N, dtype=torch.float64) - 1 / N)[0][:, : N - 1]
    X = clip_singular_values((X + X.mT) / 2, lam)
    symmetric: torch.Tensor = 1 / N + basis @ ((X + X.mT) / 2) @ basis.T
    return symmetric


def changing(lam: float, N: int, steps: int) -> Attack:
    """T37: the largest E Xi_t for any sequence of matrices with |Pi_t - J|_op <= lam."""
    S = bounds.time_varying_S(lam=lam, N=N)
    net = q.network([[1 / N] * N] * N)._replace(q=bounds.network_q(lam=lam, order="MS"), S=S)
    domain = Domain(N, 1, longest(net))

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        step = q.moved(problem)
        W = [q.start(problem)]
        for Pi in mixing_matrices(free["X"], lam)[:, : steps - 1].unbind(1):
            P = q.bordered(Pi, 0 * Pi[..., 0])
            W.append(P @ (step.M @ W[-1] @ step.M.mT + step.V) @ P.mT)
        Xi, kappa = q.largest(problem, torch.stack(W, 1))
        return Xi / q.consensus_limit(problem, net, kappa)

    written = domain.instance(net)

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**written(p), "Pis": mixing_matrices(single(p)["X"], lam)[0].tolist()}

    shapes = {**domain.shapes, "X": (steps, N - 1, N - 1)}
    return Attack(shapes, ratio, instance)


def random_rounds(law: Law, loose: str = "", **more: bool) -> Attack:
    """T37-random: the largest E Xi_t over all draws of the matrices against its bound."""
    N = law.Pis.shape[-1]
    lam = law.rho**0.5
    S = bounds.time_varying_S(lam=lam, N=N)
    net = q.network([[1 / N] * N] * N)._replace(q=bounds.network_q(lam=lam, order="MS"), S=S)
    domain = Domain(N, 1, longest(net), **more)
    chances = torch.tensor(law.chances)
    Pis = torch.tensor(law.Pis)
    P = q.bordered(Pis, 0 * Pis[..., 0])[:, None]  # [outcomes, 1, N + 1, N + 1]
    m = N + 1

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        M, V = q.moved(problem)
        # the entries of W obey a linear recursion, found by doubling as in `quadratics.path`
        turn = torch.einsum("n,nsij,nskl->sikjl", chances, P @ M, P @ M).reshape(-1, m * m, m * m)
        turn = q.bordered(turn, torch.tensordot(chances, P @ V @ P.mT, 1).flatten(1))
        w = torch.cat([q.start(problem).flatten(1), torch.ones_like(problem.lr)[:, None]], 1)
        found = w[:, None]
        while found.shape[1] < STEPS:
            found = torch.cat([found, found @ turn.mT], 1)
            turn = turn @ turn
        W = found[..., :-1].unflatten(-1, (m, m))
        Xi, kappa = q.largest(problem, W)
        return Xi / q.consensus_limit(problem, net, kappa)

    written = domain.instance(net, steps=STEPS)

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**written(p), "Pis": law.Pis.tolist(), "chances": law.chances.tolist()}

    return Attack(domain.shapes, ratio, instance, loose=loose)


def reversible_network(P: Host, target: list[float]) -> tuple[Network, Host]:
    """Return P with its letters, S times N as bounds for N equal agents ask, and the shares."""
    pi = np.asarray(target) / np.sum(target)
    lam = float(np.abs(reversible_eigenvalues(P, target)).max())
    S = len(pi) * bounds.reversible_S(lam=lam, pi=pi.tolist())
    return Network(torch.tensor(P), "MS", lam, bounds.network_q(lam=lam, order="MS"), S), pi


def weighted(P: Host, target: list[float], loose: str = "", **more: bool) -> Attack:
    """T37-reversible: the largest weighted E Xi_t against its bound."""
    net, pi = reversible_network(P, target)
    domain = Domain(net.N, 1, longest(net), **more)

    def ratio(free: Tensors) -> torch.Tensor:
        problem = domain.problem(free)
        W = q.path(q.sgd(problem, net), q.start(problem), STEPS)
        apart = q.row_of(moments.consensus(problem.quadratics, pi))
        unlike = q.row_of(moments.heterogeneity(problem.quadratics, pi))
        kappa = root(q.square(unlike, W).amax(-1))
        return q.square(apart, W).amax(-1) / q.consensus_limit(problem, net, kappa)

    written = domain.instance(net, target=target, steps=STEPS)
    return Attack(domain.shapes, ratio, written, loose=loose)


def trajectory(net: Network, d: int, k: int, r: int) -> Attack:
    """T14: the mean |I_i|_* along DLoRA's path from a common start against its bound, no noise."""
    s = 0.75
    rounds = 5
    N = net.N
    singular = float(torch.linalg.eigvalsh(net.Pi).abs().amin()) < 1e-12
    loose = "" if singular else "T10's factor 1 - min l^2 is given away where Pi is invertible"

    def spread(targets: torch.Tensor) -> torch.Tensor:
        return root(((targets - targets.mean(1, keepdim=True)) ** 2).sum((1, 2, 3)) / N)

    def L_hat(c: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return L* for L = 1 and G = s c^2 + max |W_i*|_op."""
        G = s * c**2 + norm_of(targets, "op").amax(-1)
        return s * (2 * s * c**2 + G)

    def step(p: Tensors) -> torch.Tensor:
        """Return lr, at most half of what the start allows."""
        c = torch.maximum(norm_of(p["B"], "op"), norm_of(p["A"], "op"))
        length = p["length"].abs().clamp_max(9.0)
        return torch.exp(-length) / (2 * net.q * L_hat(c, p["targets"]))

    def interference(B: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
        w = net.Pi[..., None, None]
        apart = [X[:, None] - (w * X[:, None]).sum(2, keepdim=True) for X in (B, A)]
        return norm_of((w * (apart[0] @ apart[1])).sum(2), "nuc").mean(-1)

    def ratio(p: Tensors) -> torch.Tensor:
        lr = step(p)[:, None, None, None]
        B = p["B"][:, None]
        A = p["A"][:, None]
        B = B.expand(-1, N, -1, -1)
        A = A.expand(-1, N, -1, -1)
        found = []
        tops = []
        for t in range(rounds):
            tops += [norm_of(B, "op").amax(-1), norm_of(A, "op").amax(-1)]
            g = s * B @ A - p["targets"]
            B, A = B - lr * s * g @ A.mT, A - lr * s * B.mT @ g
            if t in RECORDED:
                found.append(s * interference(B, A))
            B, A = (torch.einsum("ij,sjab->siab", net.Pi, X) for X in (B, A))
        c = torch.stack(tops).amax(0)
        drift = (
            step(p) * spread(p["targets"]) * net.q / (1 - step(p) * L_hat(c, p["targets"]) * net.q)
        )
        return torch.stack(found).amax(0) / (s**3 * c**2 * drift**2)

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        lr = float(step(single(p)))
        data = {name: p[name] for name in ("targets", "B", "A")}
        return plain({**data, "Pi": net.Pi}, lr=lr, s=s, rounds=rounds)

    shapes = {"targets": (N, d, k), "B": (d, r), "A": (r, k), "length": ()}
    return Attack(shapes, ratio, instance, loose=loose)


def decay(net: Network, rounds: int) -> Attack:
    """R5: |A~_t| against lam^t |A~_0|."""
    share = bounds.mixed_deviation(lam=net.lam, t=rounds, deviation=1.0)

    def ratio(p: Tensors) -> torch.Tensor:
        apart = p["A"] - p["A"].mean(1, keepdim=True)
        later = torch.einsum("ij,sjrk->sirk", torch.linalg.matrix_power(net.Pi, rounds), apart)
        size, first = (root((X**2).sum((1, 2, 3))) for X in (later, apart))
        return size / (share * first)

    instance = partial(plain, Pi=net.Pi.tolist(), rounds=rounds)
    return Attack({"A": (net.N, 2, 3)}, ratio, instance)
