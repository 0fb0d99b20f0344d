"""Problems in one entry of W, with every constant in closed form: P7, P8, P9, P11."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decaf_theory.arrays import Array, convert, namespace
from decaf_theory.problems.approximation import approximation
from decaf_theory.problems.base import (
    Constants,
    Noise,
    NoiseKind,
    Problem,
    entry_noise,
    require,
    sizes,
)


def scalar_lora(
    *, w: float = -1.0, N: int = 1, tau: float = 0.0, noise: NoiseKind = "gauss"
) -> Problem:
    """Return P7: f(W) = (W - w)^2 / 2 on 1 x 1 matrices, the same for all agents.

    Constants of `approximation`: L = 1, G(s, c) = s c^2 + |w|, kappa = F_star = 0. The factor loss
    (s a b - w)^2 / 2 on [-c, c]^2 has largest Hessian eigenvalue s (2 s c^2 + G), so L* of Lemma 1
    is attained: at a = c, b = -sign(w) c the Hessian is [[p, q], [q, p]], p = s^2 c^2 and
    |q| = s (2 s c^2 + |w|), and p + |q| = s (3 s c^2 + |w|). No point has more: its diagonal is at
    most p and its off-diagonal at most |q|.
    """
    sizes(N=N)
    problem = approximation(np.full((N, 1, 1), float(w)), name="P7", tau=tau, noise=noise)
    return replace(problem, name="P7")


def bernoulli_logit(*, p: Sequence[float] = (1 / 4, 1 / 2, 3 / 4, 9 / 10)) -> Problem:
    """Return P8: f_i(w) = log(1 + e^w) - p_i w on 1 x 1 matrices, with the noise of one label.

    f_i' = sig(w) - p_i with sig' = sig (1 - sig) <= 1/4, attained at w = 0: L = 1/4. |f_i'| stays
    below max(p_i, 1 - p_i), its limit at one end: G = max_i of it, for all s and c.
    f_i' - F' = pbar - p_i: kappa^2 = Var p at every w. A label y ~ Bernoulli(p_i) gives the
    gradient sig(w) - y, so the noise p_i - y does not depend on w and has variance p_i (1 - p_i):
    sigma^2 = max_i. F' = 0 at w* = logit(pbar), where F is the entropy of pbar: F_star =
    -pbar log pbar - (1 - pbar) log(1 - pbar). |f_i^(3)| = sig (1 - sig) |1 - 2 sig| <= 1/(6 sqrt3).
    f_i is convex: m = 0. All of these hold on the whole line.
    """
    share = np.array(p, dtype=np.float64)
    if share.ndim != 1 or share.size == 0 or not np.all((share > 0) & (share < 1)):
        raise ValueError(f"p must be probabilities strictly between 0 and 1, got {p}")
    column = share[:, None, None]
    mean = float(share.mean())

    def grad(W: Array) -> Array:
        xp = namespace(W)
        # by tanh, which no large |w| overflows
        return (1 + xp.tanh(W / 2)) / 2 - convert(column, W)

    def loss(W: Array) -> Array:
        xp = namespace(W)
        w = W[..., 0, 0]
        positive = xp.where(w > 0, w, xp.zeros_like(w))
        return positive + xp.log1p(xp.exp(-xp.abs(w))) - convert(share, W) * w

    def labels(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return column - (rng.random(shape) < column)

    constants = Constants(
        L=0.25,
        G=lambda s, c: float(np.max(np.maximum(share, 1 - share))),
        kappa=float(np.std(share)),
        sigma=float(np.sqrt(np.max(share * (1 - share)))),
        F_star=-mean * math.log(mean) - (1 - mean) * math.log1p(-mean),
        upper=("G",),
        m=0.0,
    )
    noise: Noise = labels
    return Problem("P8", share.size, 1, 1, loss, grad, constants, np.zeros((1, 1)), noise)


def huber(
    *,
    N: int = 1,
    d: int = 3,
    k: int = 2,
    L: float = 1.0,
    G: float = 1.0,
    x0: float = -2.0,
    tau: float = 0.0,
    noise: NoiseKind = "gauss",
) -> Problem:
    """Return P9: f(W) = h(W_11) with h' = clip(L (x - x0), -G, G), the same for all agents.

    L and G hold on the whole space (h' is L-Lipschitz and bounded by G, and the gradient is
    h' E_11, of rank one), both attained; kappa = m = 0; F_star = h(x0) = 0. With x0 = s c^2 - G/L
    this is the extremal of the sharp smoothness constant s (2 s L c^2 + G) at A = B' = c e_1 u'.
    """
    sizes(N=N, d=d, k=k)
    require("L", L, "> 0", L > 0)
    require("G", G, "> 0", G > 0)
    knee = G / L

    def clipped(W: Array) -> tuple[Array, Array]:
        xp = namespace(W)
        x = W[..., 0, 0] - x0
        return x, xp.clip(L * x, -G, G)

    def grad(W: Array) -> Array:
        xp = namespace(W)
        E_11 = convert(np.eye(d, 1) @ np.eye(1, k), W)
        return xp.broadcast_to(clipped(W)[1][..., None, None] * E_11, points(W, N))

    def loss(W: Array) -> Array:
        xp = namespace(W)
        x, slope = clipped(W)
        quadratic, linear = L * x**2 / 2, G * (xp.abs(x) - knee / 2)
        value = xp.where(xp.abs(slope) < G, quadratic, linear)
        return xp.broadcast_to(value, points(W, N)[:-2])

    drawn = entry_noise(tau, noise)
    constants = Constants(L, lambda s, c: G, 0.0, tau * (d * k) ** 0.5, 0.0, m=0.0)
    middle = x0 * (np.eye(d, 1) @ np.eye(1, k))
    return Problem("P9", N, d, k, loss, grad, constants, noise=drawn, stiffest=middle)


def points(W: Array, N: int) -> tuple[int, ...]:
    """Return the shape of W with N agents, where an agent axis of length one serves all."""
    *batch, _, d, k = W.shape
    return (*batch, N, d, k)


def indefinite_pair(
    *, L: float = 1.0, eps: float = 0.03, b: float = 1.0, radius: float = 1.0
) -> Problem:
    """Return P11: f_1 = L x^2/2 + b x, f_2 = -(L - eps) x^2/2 - b x on 1 x 1 matrices.

    0 < eps <= L, so that both are L-smooth (f_1 attains it), and m = L - eps. F = eps x^2 / 4:
    strongly convex, mu = eps / 2, with F_star = 0 at x = 0, where both agents pull apart with +-b.
    kappa(x) = |f_1' - f_2'|/2 = |(L - eps/2) x + b| has no bound on the whole line: kappa is its
    supremum over |x| <= radius, (L - eps/2) radius + |b|, attained at the end of b's sign.
    G(s, c) = L s c^2 + |b|, attained by f_1. No noise. With lr small, two agents settle at
    deviations of size y about x with F'(x)^2 = (L - eps/2)^2 y^2: the term L^2 Xi of the rate bound
    is attained up to (1 - eps/(2L))^2.
    """
    require("eps", eps, "in (0, L]", 0 < eps <= L)
    require("radius", radius, "> 0", radius > 0)
    curvature = np.array([L, eps - L])[:, None, None]
    slope = np.array([b, -b])[:, None, None]

    def grad(W: Array) -> Array:
        return convert(curvature, W) * W + convert(slope, W)

    def loss(W: Array) -> Array:
        return (convert(curvature, W) * W**2 / 2 + convert(slope, W) * W)[..., 0, 0]

    constants = Constants(
        L=L,
        G=lambda s, c: L * s * c**2 + abs(b),
        kappa=(L - eps / 2) * radius + abs(b),
        sigma=0.0,
        F_star=0.0,
        within=radius,
        upper=("kappa",),
        m=L - eps,
        mu=eps / 2,
    )
    return Problem("P11", 2, 1, 1, loss, grad, constants, np.zeros((1, 1)))
