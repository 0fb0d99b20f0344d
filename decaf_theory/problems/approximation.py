"""Isotropic matrix approximation f_i = |W - W_i*|_F^2 / 2 with chosen targets: P1-P4, P6, P13."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, convert, namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.problems.base import (
    Constants,
    NoiseKind,
    Problem,
    entry_noise,
    finite,
    require,
    sizes,
)
from decaf_theory.problems.frames import FRAMES, mercedes, sign_flip
from decaf_theory.rng import generator

Real: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def approximation(
    targets: Real,
    *,
    name: str = "approximation",
    tau: float = 0.0,
    noise: NoiseKind = "gauss",
    Pi: Array | None = None,
    start: Factors | None = None,
) -> Problem:
    """Return f_i(W) = |W - W_i*|_F^2 / 2 for targets W_i* [N, d, k], with W0 = 0.

    With Wbar the mean target, grad f_i = W - W_i* and grad F = W - Wbar. So:
    L = 1, attained by every pair. G(s, c) = s c^2 + max_i |W_i*|_op, attained at
    s B A = -s c^2 u v' with u, v the leading singular vectors of the largest target.
    kappa^2 = (1/N) sum_i |W_i* - Wbar|_F^2 at every W. sigma^2 = tau^2 d k, attained.
    F(W) = |W - Wbar|_F^2 / 2 + kappa^2 / 2, hence F_star = kappa^2 / 2, mu = 1 and m = 0.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import problems
        >>> problem = problems.approximation(np.stack([np.eye(3), -np.eye(3)]))
        >>> problem.N, problem.constants.L, round(problem.constants.kappa, 4)  # kappa = sqrt(3)
        (2, 1.0, 1.7321)
    """
    W_star = finite("targets", targets)
    if W_star.ndim != 3 or 0 in W_star.shape:
        raise ValueError(f"targets must be finite [N, d, k], got shape {W_star.shape}")
    N, d, k = W_star.shape
    kappa_squared = float(np.mean(np.sum((W_star - W_star.mean(axis=0)) ** 2, axis=(1, 2))))
    largest = float(np.max(np.linalg.norm(W_star, ord=2, axis=(1, 2))))

    def grad(W: Array) -> Array:
        return W - convert(W_star, W)

    def loss(W: Array) -> Array:
        g = grad(W)
        flat = namespace(g).reshape(g, (*g.shape[:-2], -1))
        return namespace(g).vecdot(flat, flat) / 2

    drawn = entry_noise(tau, noise)
    constants = Constants(
        L=1.0,
        G=lambda s, c: s * c**2 + largest,
        kappa=kappa_squared**0.5,
        sigma=tau * (d * k) ** 0.5,
        F_star=kappa_squared / 2,
        m=0.0,
        mu=1.0,
    )
    W0 = np.zeros((d, k))
    return Problem(name, N, d, k, loss, grad, constants, W0, drawn, Pi=Pi, start=start)


def least_loss(targets: Real, r: int) -> float:
    """Return F_r*, the least F over adapters of rank r (Eckart-Young; attained by TSVD_r(Wbar)).

    F_r* = (1/2) sum_{i>r} sigma_i(Wbar)^2 + kappa^2 / 2.
    """
    mean = np.mean(targets, axis=0)
    tail = np.linalg.svd(mean, compute_uv=False)[r:]
    kappa_squared = np.mean(np.sum((targets - mean) ** 2, axis=(1, 2)))
    return float((np.sum(tail**2) + kappa_squared) / 2)


def planted(
    *, d: int, k: int, rank: int, size: float = 1.0, seed: int = 0, name: str = "target"
) -> Real:
    """Return a seeded d x k matrix of the given rank with singular values size (rank ... 1)/rank.

    The singular spaces are uniform (QR of Gaussian matrices); all singular values are distinct.
    """
    sizes(d=d, k=k, rank=rank)
    require("rank", rank, f"in 1 ... min(d, k) = {min(d, k)}", 1 <= rank <= min(d, k))
    rng = generator(seed, "problem", name)
    U = np.linalg.qr(rng.standard_normal((d, rank)))[0]
    V = np.linalg.qr(rng.standard_normal((k, rank)))[0]
    target: Real = size * (U * (np.arange(rank, 0, -1) / rank)) @ V.T
    return target


def spread(*, N: int, d: int, k: int, kappa: float, seed: int = 0) -> Real:
    """Return seeded Gaussian deviations D_i [N, d, k] with sum 0 and (1/N) sum |D_i|_F^2 = kappa^2.

    ValueError: N = 1 with kappa > 0, for which none exist.
    """
    sizes(N=N, d=d, k=k)
    require("kappa", kappa, ">= 0, and 0 for one agent", kappa == 0 or (kappa > 0 and N > 1))
    if kappa == 0:
        return np.zeros((N, d, k))
    D: Real = generator(seed, "problem", "deviations").standard_normal((N, d, k))
    D -= D.mean(axis=0)
    D *= kappa / np.sqrt(np.sum(D**2) / N)
    return D


def gauge_flip(
    *, N: int = 2, d: int = 4, k: int = 3, r: int = 2, c: float = 1.0, tau: float = 0.0
) -> Problem:
    """Return P1: agents that hold one product in gauges whose factor mean is zero; Pi = J.

    N = 2: (B, A), (-B, -A). N = 3, r even: rotations by 0, 120, 240 degrees. The common target is
    W* = B A + c^2 (E_11 + ... + E_rr) / 2, whose row and column spaces are those of the start. The
    first DLoRA mix gives (0, 0), where every factor gradient s B'g, s g A' vanishes whatever the
    noise: the loss stays |W*|_F^2 / 2. DeCAF continues from the common product, down to 0. Such
    starts have measure zero: from 1e-12 away DLoRA reaches 0, too.
    Constants of `approximation`: kappa = 0, F_star = 0.
    """
    require("N", N, "2 or 3", N in (2, 3))
    start, _ = sign_flip(d=d, k=k, r=r, c=c) if N == 2 else mercedes(d=d, k=k, r=r, c=c)
    target = product(start)[0] + c**2 * np.eye(d, r) @ np.eye(r, k) / 2
    return approximation(
        np.stack([target] * N), name="P1", tau=tau, Pi=np.full((N, N), 1 / N), start=start
    )


def homogeneous(
    *,
    N: int = 4,
    d: int = 6,
    k: int = 5,
    rank: int = 2,
    size: float = 1.0,
    tau: float = 0.0,
    noise: NoiseKind = "gauss",
    seed: int = 0,
) -> Problem:
    """Return P2: all agents share one planted target of the given rank and |W*|_op = size.

    Constants of `approximation` with kappa = 0 and F_star = 0, attained by adapters of that rank.
    """
    sizes(N=N)
    target = planted(d=d, k=k, rank=rank, size=size, seed=seed)
    return approximation(np.stack([target] * N), name="P2", tau=tau, noise=noise)


def heterogeneous(
    *,
    N: int = 4,
    d: int = 6,
    k: int = 5,
    rank: int = 2,
    size: float = 1.0,
    kappa: float = 0.5,
    tau: float = 0.0,
    noise: NoiseKind = "gauss",
    seed: int = 0,
    name: str = "P3",
) -> Problem:
    """Return P3: targets W_i* = Wbar + D_i, Wbar planted of the given rank, sum_i D_i = 0.

    Constants of `approximation` with kappa as given, at every W. F_star = kappa^2 / 2 is attained
    by the adapter Wbar, so by every rank r >= `rank`.
    """
    mean = planted(d=d, k=k, rank=rank, size=size, seed=seed)
    targets = mean + spread(N=N, d=d, k=k, kappa=kappa, seed=seed)
    return approximation(targets, name=name, tau=tau, noise=noise)


def out_of_reach(*, d: int = 6, k: int = 5, **others: Any) -> Problem:
    """Return P4: as P3, but the mean target has full rank min(d, k).

    Adapters of rank r < min(d, k) reach no less than `least_loss(targets, r)` > F_star.
    Other parameters as in `heterogeneous`.
    """
    return heterogeneous(d=d, k=k, rank=min(d, k), name="P4", **others)


def rank_competition(*, d: int = 3, k: int = 2, w: float = 0.6) -> Problem:
    """Return P6: two agents with targets E_11 and E_22, rank 1, each starting at its own target.

    Pi has self weight w in (1/2, 1). kappa^2 = 1/2, F_star = 1/4; the least loss at rank 1 is 3/8
    and F(0) = 1/2. Each agent's rank-1 truncation keeps its own direction and shrinks it by w:
    with p = sigma_1 a round is p <- w p (1 + lr (1 - p))^2, which tends to 0 iff
    lr <= w^(-1/2) - 1. An arbitrarily small tilt of the start ends at 3/8 instead.
    """
    sizes(d=d, k=k)
    require("w", w, "in (1/2, 1)", 0.5 < w < 1)
    E = np.zeros((2, d, k))
    E[0, 0, 0] = E[1, 1, 1] = 1.0
    B, A = np.zeros((2, d, 1)), np.zeros((2, 1, k))
    B[0, 0, 0] = B[1, 1, 0] = A[0, 0, 0] = A[1, 0, 1] = 1.0
    Pi = np.array([[w, 1 - w], [1 - w, w]])
    return approximation(E, name="P6", Pi=Pi, start=Factors(B, A))


def frame(*, construction: str = "mercedes", tau: float = 0.0, **parameters: Any) -> Problem:
    """Return P13: agents that start at a frame of `FRAMES` of equal weights, each at its optimum.

    W_i* = B_i A_i and Pi = J: the frame attains T11 or T16 in the first mix. Defaults d = 5, k = 4,
    r = 2 may be overridden. ValueError: unknown construction, or one with unequal weights.
    """
    if construction not in FRAMES:
        raise ValueError(f"construction must be one of {sorted(FRAMES)}, got {construction!r}")
    start, weights = FRAMES[construction](**{"d": 5, "k": 4, "r": 2, **parameters})
    if not np.all(weights == weights[0]):
        raise ValueError(f"a problem's frame needs equal weights, got {weights}")
    N = len(weights)
    return approximation(
        product(start), name="P13", tau=tau, Pi=np.full((N, N), 1 / N), start=start
    )
