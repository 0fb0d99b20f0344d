"""P12: the start B = 0 with a first gradient of rank one, and an optimum of rank two."""

from __future__ import annotations

import numpy as np

from decaf_theory.arrays import Array, convert, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.problems.base import Constants, NoiseKind, Problem, entry_noise, require, sizes


def rank_trap(
    *, N: int = 2, d: int = 3, k: int = 2, tau: float = 0.0, noise: NoiseKind = "gauss"
) -> Problem:
    """Return P12: f(W) = ((W_11 - 1)^2 + (W_22 - W_11)^2 + sum of all other W_ij^2) / 2.

    Equal at all agents, so kappa = 0. The Hessian on (W_11, W_22) is [[2, -1], [-1, 1]], identity
    elsewhere: L = (3 + sqrt5)/2, attained, mu = (3 - sqrt5)/2 and m = 0. The one minimizer
    is E_11 + E_22: F_star = 0. |grad f|_op <= |grad f|_F <= L |W - E_11 - E_22|_F, so G(s, c) =
    L (s c^2 sqrt(min(d, k)) + sqrt2), upper. sigma^2 = tau^2 d k.

    The start is LoRA's, B = 0, with A = [E_11; E_22] of rank 2; the gradient at 0 is -E_11, so the
    first step makes a product of rank one. A method that drops zero directions keeps rank one
    forever (T23) and does no better than the least loss there, 1/4 at W = E_11 / 2: with
    W_12 W_21 = W_11 W_22 = a b, W_12^2 + W_21^2 >= 2 |a b|, and
    (a - 1)^2 + (b - a)^2 + 2 |a b| >= (a - 1)^2 + a^2 + b^2 >= 1/2. Factor averaging reaches 0.
    """
    sizes(N=N, d=d, k=k)
    require("min(d, k)", min(d, k), ">= 2", min(d, k) >= 2)
    E_11, E_22 = np.zeros((2, d, k))
    E_11[0, 0] = E_22[1, 1] = 1.0
    free = 1.0 - E_11 - E_22

    def residuals(W: Array) -> tuple[Array, Array, Array]:
        first = W[..., 0, 0] - 1.0
        second = W[..., 1, 1] - W[..., 0, 0]
        return first, second, convert(free, W) * W

    def spread_out(x: Array) -> Array:
        """Return x [..., 1 or N] as [..., N]."""
        return namespace(x).broadcast_to(x, (*x.shape[:-1], N))

    def loss(W: Array) -> Array:
        first, second, rest = residuals(W)
        squares = namespace(W).sum(rest**2, axis=(-2, -1))
        return spread_out((first**2 + second**2 + squares) / 2)

    def grad(W: Array) -> Array:
        first, second, rest = residuals(W)
        at = (first - second)[..., None, None] * convert(E_11, W)
        g = rest + at + second[..., None, None] * convert(E_22, W)
        return namespace(W).broadcast_to(g, (*g.shape[:-3], N, d, k))

    L = (3 + 5**0.5) / 2
    drawn = entry_noise(tau, noise)
    constants = Constants(
        L,
        lambda s, c: L * (s * c**2 * min(d, k) ** 0.5 + 2**0.5),
        0.0,
        tau * (d * k) ** 0.5,
        0.0,
        upper=("G",),
        m=0.0,
        mu=(3 - 5**0.5) / 2,
    )
    A = np.broadcast_to(np.eye(2, k), (N, 2, k)).copy()
    start = Factors(np.zeros((N, d, 2)), A)
    W0 = np.zeros((d, k))
    return Problem("P12", N, d, k, loss, grad, constants, W0, drawn, start=start)
