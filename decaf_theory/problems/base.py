"""What a problem is: N losses on d x k matrices, their gradients, and proved constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from decaf_theory.arrays import Array


@dataclass(frozen=True)
class Constants:
    """The constants of the assumptions, each proved in the docstring of its problem.

    L: every f_i has L-Lipschitz gradient in Frobenius norm. G(s, c): a bound on the operator norm
    of grad f_i(W0 + s B A) over Omega_c (quadratics have no global one). kappa: the square root
    of sup_W (1/N) sum_i |grad f_i(W) - grad F(W)|_F^2 over the domain stated by the problem.
    sigma: the square root of the bound on E|noise|_F^2 of one agent's gradient. F_star: inf F.
    """

    L: float
    G: Callable[[float, float], float]
    kappa: float
    sigma: float
    F_star: float


@dataclass(frozen=True)
class Problem:
    """N agents' losses f_i on W [d, k], W0 included by the caller.

    loss(W): [..., N, d, k] -> [..., N], each agent's own loss at its own point.
    grad(W): [..., N, d, k] -> [..., N, d, k]. noise(rng, shape): draws additive, zero-mean,
    independent gradient noise of shape [..., N, d, k] as a NumPy array, None where there is none.
    """

    name: str
    N: int
    d: int
    k: int
    loss: Callable[[Array], Array]
    grad: Callable[[Array], Array]
    constants: Constants
    W0: Array
    noise: Callable[..., Array] | None = None
