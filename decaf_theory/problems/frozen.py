"""Problems in B alone, A frozen: P5 (isotropic) and P10 (heterogeneous curvature), both quadratic.

`quadratic` is the loss in W, `frozen` the same loss in B. Running a method that trains and mixes
only B on the first is the same as running full-matrix DSGD on the second, noise included.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, convert, transpose
from decaf_theory.problems.approximation import heterogeneous, planted, spread
from decaf_theory.problems.base import Constants, Noise, NoiseKind, Problem, require, sizes
from decaf_theory.problems.quadratic import quadratic, quadratic_minimum
from decaf_theory.rng import generator

Real: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def frozen(
    problem: Problem,
    A: Real,
    *,
    s: float = 1.0,
    name: str,
    L: float,
    kappa: float,
    sigma: float,
    F_star: float,
    within: float = math.inf,
) -> Problem:
    """Return the problem B -> f_i(W0 + s B A) in B [d, r] for a frozen A [r, k].

    The gradient is s grad f_i(W) A' and the noise s (noise) A': the same draws as in W. Of the
    constants, those given are the caller's; G(s', c') = s |A|_op G_W(s |A|_op s', c'), because
    adapters s' B' A' of B in Omega_c' make W - W0 = (s |A|_op s') B' (A' A / |A|_op) with both
    factors in Omega_c', upper; m is s^2 |A|_op^2 times that in W.
    """
    A = np.array(A, dtype=np.float64)
    r, k = A.shape
    size = float(np.linalg.norm(A, ord=2))

    def weights(B: Array) -> Array:
        return convert(problem.W0, B) + s * (B @ convert(A, B))

    def grad(B: Array) -> Array:
        return s * problem.grad(weights(B)) @ transpose(convert(A, B))

    base = problem.noise

    def pulled_back(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        assert base is not None
        return s * base(rng, (*shape[:-1], k)) @ A.T

    noise: Noise | None = None if base is None else pulled_back
    G_W, m = problem.constants.G, problem.constants.m
    assert G_W is not None  # of the problems here
    constants = Constants(
        L,
        lambda s_, c: s * size * G_W(s * size * s_, c),
        kappa,
        sigma,
        F_star,
        within,
        upper=("G",) if within == math.inf else ("G", "kappa"),
        m=None if m is None else m * (s * size) ** 2,
    )
    return Problem(
        name,
        problem.N,
        problem.d,
        r,
        lambda B: problem.loss(weights(B)),
        grad,
        constants,
        np.zeros((problem.d, r)),
        noise,
    )


def frozen_A(*, r: int, k: int, seed: int = 0) -> Real:
    """Return the seeded Gaussian A [r, k] of variance 1/k that P5 and P10 freeze."""
    sizes(r=r, k=k)
    A: Real = generator(seed, "problem", "frozen A").standard_normal((r, k)) / np.sqrt(k)
    return A


def curvatures(*, N: int, k: int, ratio: float, seed: int = 0) -> Real:
    """Return the seeded curvatures h [N, k] of P10, log-uniform in [1/ratio, 1]."""
    sizes(N=N, k=k)
    require("ratio", ratio, ">= 1", ratio >= 1)
    h: Real = ratio ** -generator(seed, "problem", "curvature").random((N, k))
    return h


def frozen_heterogeneous(
    *,
    N: int = 4,
    d: int = 6,
    k: int = 5,
    rank: int = 2,
    r: int = 2,
    s: float = 1.0,
    kappa: float = 0.5,
    tau: float = 0.0,
    noise: NoiseKind = "gauss",
    seed: int = 0,
) -> Problem:
    """Return P5: P3 (same parameters) with A = `frozen_A(r, k, seed)` frozen, as a problem in B.

    The Hessian of f_i(s B A) in B is s^2 A A' for each row: L = s^2 sigma_1(A)^2, attained along
    A's leading left singular vector. grad f_i - grad F = -s D_i A' for all B: kappa^2 =
    (s^2/N) sum_i |D_i A'|_F^2. E|s noise A'|_F^2 = s^2 tau^2 d |A|_F^2 = sigma^2, attained.
    F_star = |Wbar (I - A^+ A)|_F^2 / 2 + (1/N) sum_i |D_i|_F^2 / 2: B A ranges over the matrices
    whose rows lie in A's row space.
    """
    A = frozen_A(r=r, k=k, seed=seed)
    problem = heterogeneous(N=N, d=d, k=k, rank=rank, kappa=kappa, tau=tau, noise=noise, seed=seed)
    mean = planted(d=d, k=k, rank=rank, seed=seed)
    D = spread(N=N, d=d, k=k, kappa=kappa, seed=seed)
    missed = mean - mean @ np.linalg.pinv(A) @ A
    return frozen(
        problem,
        A,
        s=s,
        name="P5",
        L=float(s**2 * np.linalg.norm(A, ord=2) ** 2),
        kappa=float(s * np.sqrt(np.sum((D @ A.T) ** 2) / N)),
        sigma=float(s * tau * np.sqrt(d) * np.linalg.norm(A)),
        F_star=float(np.sum(missed**2) + kappa**2) / 2,
    )


def frozen_curvature(
    *,
    N: int = 4,
    d: int = 6,
    k: int = 5,
    r: int = 2,
    s: float = 1.0,
    kappa: float = 0.5,
    ratio: float = 4.0,
    radius: float = 2.0,
    tau: float = 0.0,
    noise: NoiseKind = "gauss",
    seed: int = 0,
) -> Problem:
    """Return P10: `quadratic` with A = `frozen_A(r, k, seed)` frozen, as a problem in B.

    Targets as in P3 (rank r, |D|^2 = kappa^2); curvatures h = `curvatures`.
    The Hessian in B is s^2 A S_i A' for each row: L = max_i s^2 |A S_i A'|_op, attained.
    grad f_i - grad F = s^2 B R_i - s (C_i - Cbar) A' with R_i = A (S_i - Sbar) A': kappa has no
    global bound. On |B|_F <= radius, by Minkowski, kappa = s^2 radius |(1/N) sum_i R_i^2|_op^(1/2)
    + s ((1/N) sum_i |(C_i - Cbar) A'|_F^2)^(1/2), upper. sigma^2 = s^2 tau^2 d |A|_F^2, attained.
    F_star by the normal equations.
    """
    A = frozen_A(r=r, k=k, seed=seed)
    targets = planted(d=d, k=k, rank=min(r, d, k), seed=seed) + spread(
        N=N, d=d, k=k, kappa=kappa, seed=seed
    )
    h = curvatures(N=N, k=k, ratio=ratio, seed=seed)
    S = h[:, None, :] * np.eye(k)
    problem = quadratic(h, targets, tau=tau, noise=noise)
    C, H = targets @ S, A @ S @ A.T
    bend = np.mean((H - H.mean(axis=0)) @ (H - H.mean(axis=0)), axis=0)
    pull = np.sqrt(np.sum(((C - C.mean(axis=0)) @ A.T) ** 2) / N)
    return frozen(
        problem,
        A,
        s=s,
        name="P10",
        L=float(s**2 * np.max(np.linalg.norm(H, ord=2, axis=(1, 2)))),
        kappa=float(s**2 * radius * np.sqrt(np.linalg.norm(bend, ord=2)) + s * pull),
        sigma=float(s * tau * np.sqrt(d) * np.linalg.norm(A)),
        F_star=quadratic_minimum(targets, S, A, s),
        within=radius,
    )
