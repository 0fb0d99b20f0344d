"""Decentralized SGD on quadratics as differentiable recursions: the domain of the rates' attacks.

The points of all agents, a momentum where there is one, and a last entry 1 are one vector w; a
round is w+ = M w + noise of covariance V, so that W = E w w' obeys W+ = M W M' + V. Steps, mixing
and what is measured are those of `decaf_theory.moments`; paths are found by doubling, in about
half the time of its `trace`. Everything is batched over restarts, [s, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from decaf_theory import bounds, moments
from verification.attacks.tensors import Tensors, plain, root, single


class Network(NamedTuple):
    """A mixing matrix and the letters of its bounds in one order."""

    Pi: torch.Tensor  # [N, N]
    order: str
    lam: float
    q: float
    S: float

    @property
    def N(self) -> int:
        """The number of agents."""
        return len(self.Pi)


class Problem(NamedTuple):
    """f_i(x) = x'H_i x / 2 - b_i'x, |H_i| <= L = 1, noise covariance Z_i Z_i', a common start."""

    H: torch.Tensor  # [s, N, p, p]
    b: torch.Tensor  # [s, N, p]
    Z: torch.Tensor  # [s, N, p, p]
    x0: torch.Tensor  # [s, p]
    lr: torch.Tensor  # [s]

    @property
    def quadratics(self) -> moments.Quadratics:
        """The losses and their noise as `moments` reads them."""
        return moments.Quadratics(self.H, self.b, self.Z @ self.Z.mT)

    @property
    def variance(self) -> torch.Tensor:
        """sigma^2 = max_i tr Z_i Z_i', [s]."""
        return (self.Z**2).sum((-2, -1)).amax(-1)

    @property
    def slope(self) -> torch.Tensor:
        """grad F(x0), [s, p]."""
        return (self.H.mean(1) @ self.x0[..., None])[..., 0] - self.b.mean(1)

    @property
    def gap(self) -> torch.Tensor:
        """F(x0) - F*, for a positive definite mean Hessian, [s]."""
        step = torch.linalg.solve(self.H.mean(1), self.slope[..., None])[..., 0]
        twice: torch.Tensor = (self.slope * step).sum(-1)
        return twice / 2


class Round(NamedTuple):
    """w+ = M w + noise of covariance V; leading axes [s]."""

    M: torch.Tensor
    V: torch.Tensor


def network(Pi: Any, order: str = "MS") -> Network:
    """Return a mixing matrix with its q and S."""
    eigenvalues = np.sort(np.linalg.eigvalsh(np.asarray(Pi, dtype=np.float64)))[:-1]
    lam = float(np.abs(eigenvalues).max(initial=0.0))
    q = bounds.network_q(lam=lam, order=order)
    S = bounds.network_S(eigenvalues=eigenvalues.tolist(), order=order)
    return Network(torch.tensor(Pi, dtype=torch.float64), order, lam, q, S)


def pair(lam: float, order: str = "MS") -> Network:
    """Return two agents with the second eigenvalue lam."""
    return network([[(1 + lam) / 2, (1 - lam) / 2], [(1 - lam) / 2, (1 + lam) / 2]], order)


ALONE = network([[1.0]])
TRIPLE = [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]

# ---------------------------------------------------------------- the domain


LEAST = 1e-3  # mean curvature of F, relative to L, before the other curvatures are scaled


def _unit(H: torch.Tensor) -> torch.Tensor:
    """Return H [s, N, p, p] scaled to the largest |eigenvalue| 1; zero stays zero."""
    largest = torch.linalg.eigvalsh(H).abs().amax((1, 2)).clamp_min(1e-300)
    scale: torch.Tensor = largest[:, None, None, None]
    return H / scale


class Domain(NamedTuple):
    """Which problems are searched: N agents in R^p and steps of at most `longest` (L = 1)."""

    N: int
    p: int
    longest: float
    noise: bool = True
    drift: bool = True
    bounded: bool = False  # the mean Hessian is positive definite, the minimizer of F the origin
    at_rest: bool = False  # which then is the start
    any_step: bool = True  # else the step is `longest`
    range: float = 12.0  # steps are at least exp(-range) longest
    shares: Any = ()  # of the agents in F, numbers; equal if none are given

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The free parameters of one problem."""
        N = self.N
        p = self.p
        return {"H": (N, p, p), "b": (N, p), "Z": (N, p, p), "x0": (p,), "length": ()}

    def problem(self, p: Tensors) -> Problem:
        """Return the problem of free parameters: any, at L = 1."""
        H = _unit((p["H"] + p["H"].mT) / 2)
        if self.bounded:
            lift = (LEAST - torch.linalg.eigvalsh(self._mean(H)[:, 0])[:, 0]).clamp_min(0.0)
            H = _unit(H + lift[:, None, None, None] * torch.eye(self.p, dtype=H.dtype))
        shorter = self.any_step * p["length"].abs().clamp_max(self.range)
        mean = self._mean(p["b"])
        b = self.drift * (p["b"] - mean) + (not self.bounded) * mean
        x0 = p["x0"] * (not self.at_rest)
        Z = p["Z"] * self.noise
        return Problem(H, b, Z, x0, self.longest * torch.exp(-shorter))

    def _mean(self, X: torch.Tensor) -> torch.Tensor:
        """Return the mean over agents that F takes, [s, 1, ...]."""
        if not self.shares:
            return X.mean(1, keepdim=True)
        weights = torch.tensor(self.shares, dtype=X.dtype).reshape(-1, *[1] * (X.dim() - 2))
        return (weights * X).sum(1, keepdim=True)

    def instance(self, net: Network, **extra: Any) -> Callable[[Mapping[str, Any]], Any]:
        """Return the function that writes parameters as the claims on quadratics read them."""

        def written(p: Mapping[str, Any]) -> Mapping[str, Any]:
            H, b, Z, x0, lr = (X[0] for X in self.problem(single(p)))
            arrays = {"H": H, "b": b, "noise": Z @ Z.mT, "x0": x0, "Pi": net.Pi}
            return plain(arrays, lr=float(lr), **extra)

        return written


# ---------------------------------------------------------------- rounds


def bordered(A: torch.Tensor, a: torch.Tensor, corner: float = 1.0) -> torch.Tensor:
    """Return [[A, a], [0, corner]], [s, n + 1, n + 1]."""
    last = torch.zeros_like(A[:, :1, :1]) + corner
    top = torch.cat([A, a[..., None]], -1)
    return torch.cat([top, torch.cat([0 * a[:, None], last], -1)], -2)


def moved(problem: Problem) -> Round:
    """Return every agent's step x_i - lr (H_i x_i - b_i + noise)."""
    unit = moments.local_step(problem.quadratics, 1.0)  # x - (H x - b + noise)
    eye = torch.eye(unit.A.shape[-1], dtype=unit.A.dtype)
    lr = problem.lr[:, None, None]
    a = lr[..., 0] * unit.a
    return Round(bordered(eye + lr * (unit.A - eye), a), bordered(lr**2 * unit.Q, 0 * a, 0.0))


def mixed(net: Network, p: int) -> torch.Tensor:
    """Return the matrix that mixes the points and keeps the last entry, [1, n + 1, n + 1]."""
    P = moments.with_identity(net.Pi, p)[None]
    return bordered(P, P[..., 0] * 0)


def heavy_ball(problem: Problem, net: Network, beta: float) -> Round:
    """Return v+ = beta v + H x - b + noise, x+ = Pi (x - lr v+) on w = (x, v, 1)."""
    unit = moved(problem._replace(lr=torch.ones_like(problem.lr)))  # x - (H x - b + noise)
    n = unit.M.shape[-1] - 1
    lr = problem.lr[:, None, None]
    P = mixed(net, problem.H.shape[-1])[:, :n, :n]
    eye = torch.eye(n, dtype=lr.dtype)
    pull = torch.cat([eye - unit.M[:, :n, :n], beta * eye + 0 * lr], -1)  # v+ of (x, v)
    keep = torch.cat([P + 0 * lr, 0 * lr + 0 * P], -1)
    A = torch.cat([keep - lr * P @ pull, pull], 1)
    a = torch.cat([lr * P @ unit.M[:, :n, n:], -unit.M[:, :n, n:]], 1)[..., 0]
    push = torch.cat([-lr * P, eye + 0 * lr], 1)  # of the noise
    return Round(bordered(A, a), bordered(push @ unit.V[:, :n, :n] @ push.mT, 0 * a, 0.0))


def sgd(problem: Problem, net: Network) -> Round:
    """Return one round of decentralized SGD in the order of the network."""
    step = moved(problem)
    P = mixed(net, problem.H.shape[-1])
    if net.order == "CB":
        return Round(P + step.M - torch.eye(P.shape[-1], dtype=P.dtype), step.V)
    return Round(P @ step.M, P @ step.V @ P.mT)


def start(problem: Problem) -> torch.Tensor:
    """Return W before the first round: all agents at x0."""
    w = torch.cat(
        [problem.x0.repeat(1, problem.H.shape[1]), torch.ones_like(problem.lr)[:, None]], 1
    )
    return w[:, :, None] * w[:, None, :]


def path(turn: Round, W: torch.Tensor, steps: int) -> torch.Tensor:
    """Return W before each of `steps` = 2^m rounds, by doubling, [s, steps, n + 1, n + 1]."""
    found = W[:, None]
    M, V = turn
    while found.shape[1] < steps:
        later = M[:, None] @ found @ M.mT[:, None] + V[:, None]
        found = torch.cat([found, later], 1)
        M, V = M @ M, M @ V @ M.mT + V
    return found


def average(turn: Round, W: torch.Tensor, doublings: int) -> torch.Tensor:
    """Return the average of W over the first 2^doublings rounds, [s, n + 1, n + 1]."""
    total = W
    M, V = turn
    for i in range(doublings):
        total = total + M @ total @ M.mT + 2**i * V
        M, V = M @ M, M @ V @ M.mT + V
    mean: torch.Tensor = total / 2**doublings
    return mean


def late(turn: Round, W: torch.Tensor, doublings: int) -> torch.Tensor:
    """Return W after 2^doublings - 1 rounds, [s, n + 1, n + 1]."""
    M, V = turn
    for _ in range(doublings):
        W = M @ W @ M.mT + V
        M, V = M @ M, M @ V @ M.mT + V
    return W


# ---------------------------------------------------------------- what is measured


def square(R: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """Return E|R w|^2 for R [s, m, n + 1] and W [s, (T,) n + 1, n + 1], [s, (T)]."""
    R = R if W.dim() == 3 else R[:, None]
    return ((R @ W) * R).sum((-2, -1))


def row_of(square: moments.Square) -> torch.Tensor:
    """Return the matrix [s or 1, m, n + 1] of w -> R x - q."""
    R = torch.cat([square.R, -square.q[..., None]], -1)
    return R if R.dim() == 3 else R[None]


def gradient(problem: Problem) -> torch.Tensor:
    """Return the matrix of w -> grad F(xbar)."""
    return row_of(moments.mean_gradient(problem.quadratics))


def heterogeneity(problem: Problem) -> torch.Tensor:
    """Return the matrix of w -> (grad f_i(xbar) - grad F(xbar))_i / sqrt N."""
    return row_of(moments.heterogeneity(problem.quadratics))


def disagreement(problem: Problem) -> torch.Tensor:
    """Return the matrix of w -> (x_i - xbar)_i / sqrt N, [1, N p, N p + 1]."""
    return row_of(moments.consensus(problem.quadratics))


def largest(problem: Problem, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest E Xi and kappa of W [s, T, n + 1, n + 1], [s] each."""
    Xi = square(disagreement(problem), W).amax(-1)
    return Xi, root(square(heterogeneity(problem), W).amax(-1))


def consensus_limit(problem: Problem, net: Network, kappa: torch.Tensor) -> torch.Tensor:
    """Return the bound of T25 on E Xi for the q and S of `net`, [s]."""
    drift = root(problem.variance * net.S / net.N) + kappa * net.q
    return (problem.lr * drift / (1 - problem.lr * net.q)) ** 2
