"""Small networks on which gossip descent can be solved for its worst case, and what bounds it.

L = 1 and F(xbar_0) - F* = 1 throughout, no noise, a start at consensus.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np

from decaf_theory import bounds


class Case(NamedTuple):
    """A network, a horizon, a step size (in units of 1/L) and an order of the round."""

    name: str
    Pi: tuple[tuple[float, ...], ...]
    T: int
    lr: float
    kappa: float
    order: str

    @property
    def N(self):
        """The number of agents."""
        return len(self.Pi)

    @property
    def lam(self):
        """The operator norm of Pi - J."""
        return float(np.linalg.norm(np.array(self.Pi) - 1 / self.N, 2))


def pair(w):
    """Return two agents of self weight w; the other eigenvalue is 2 w - 1."""
    return ((w, 1 - w), (1 - w, w))


def ring(w):
    """Return three agents of self weight w; both other eigenvalues are (3 w - 1) / 2."""
    v = (1 - w) / 2
    return ((w, v, v), (v, w, v), (v, v, w))


ONE = ((1.0,),)
PATH = ((2 / 3, 1 / 3, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.0, 1 / 3, 2 / 3))
UNEVEN = ((0.625, 0.25, 0.125), (0.25, 0.5, 0.25), (0.125, 0.25, 0.625))

CASES = (
    Case("one agent, lr = 1/L", ONE, 6, 1.0, 0.0, "MS"),
    Case("one agent", ONE, 4, 0.5, 0.0, "MS"),
    Case("pair 3/4", pair(0.75), 3, 0.5, 0.5, "MS"),
    Case("pair 3/4", pair(0.75), 3, 0.2, 1.0, "CB"),
    Case("pair 11/20, lr = 1/L", pair(0.55), 3, 1.0, 1.0, "MS"),
    Case("complete pair, lr = 1/L", pair(0.5), 3, 1.0, 1.0, "MS"),
    Case("complete pair", pair(0.5), 3, 0.1, 2.0, "CB"),
    Case("pair 2/5", pair(0.4), 3, 0.5, 4.0, "MS"),
    Case("pair 1/4", pair(0.25), 3, 0.25, 1.0, "CB"),
    Case("ring 1/2", ring(0.5), 2, 0.5, 1.0, "MS"),
    Case("ring 1/4", ring(0.25), 2, 0.25, 2.0, "CB"),
    Case("path", PATH, 2, 0.25, 2.0, "MS"),
    Case("path", PATH, 2, 0.125, 1.0, "CB"),
    Case("uneven", UNEVEN, 2, 0.5, 4.0, "MS"),
)
LONGER = (
    Case("pair 3/4", pair(0.75), 5, 0.5, 0.5, "MS"),
    Case("pair 1/4", pair(0.25), 5, 0.25, 1.0, "CB"),
    Case("pair 11/20, lr = 1/L", pair(0.55), 6, 1.0, 4.0, "MS"),
    Case("ring 1/2", ring(0.5), 4, 0.5, 1.0, "MS"),
    Case("path", PATH, 4, 0.125, 1.0, "CB"),
    Case("uneven", UNEVEN, 3, 0.5, 4.0, "MS"),
)


def spread_bound(case):
    """Return the library's bound on Xi_t, for every t."""
    q = bounds.network_q(lam=case.lam, order=case.order)
    return bounds.consensus_bound(
        lr=case.lr, L=1.0, sigma=0.0, kappa=case.kappa, N=case.N, q=q, S=0.0
    )


def gradient_bound(case, Xi):
    """Return the library's bound on the averaged gradient, given the averaged Xi."""
    return bounds.dsgd_rate(F_gap=1.0, lr=case.lr, T=case.T, L=1.0, sigma=0.0, N=case.N, Xi=Xi)


def spread_horizon(case):
    """Return the bounds on Xi_0 .. Xi_{T-1} that the proof gives before it sums to t = infinity.

    D_t = sqrt(Xi_t) obeys D+ = lam (D + lr (D + kappa)) in order MS and lam D + lr (D + kappa) in
    CB: mixing shrinks deviations by lam, and |(I - J) grad(y)| <= sqrt(N) (D + kappa).
    """
    D = [0.0]
    for _ in range(case.T - 1):
        step = case.lr * (D[-1] + case.kappa)
        D.append(case.lam * (D[-1] + step) if case.order == "MS" else case.lam * D[-1] + step)
    return [x**2 for x in D]


def gradient_sharp(case, Xi):
    """Return a smaller bound than `gradient_bound`, from the same inequalities, for lr < 2.

    With a = lr L, h the mean step, |grad F - h|^2 <= E_t = L^2 Xi_t and D = 2 F_gap / (lr T), the
    descent lemma F+ - F <= -lr <grad F, h> + lr a |h|^2 / 2, averaged over t, is

        (2 - a) g^2 - 2 |1 - a| g e - a e^2 <= D,   g^2 = avg |grad F|^2,  e^2 = avg E_t

    (Cauchy-Schwarz for the middle term), whose larger root is
    g = (|1 - a| e + sqrt(e^2 + (2 - a) D)) / (2 - a), as (1 - a)^2 + a (2 - a) = 1. For a <= 1 it
    is at most sqrt(D + e^2), the root of `gradient_bound`.
    """
    a, D = case.lr, 2 / (case.lr * case.T)
    return ((abs(1 - a) * sqrt(Xi) + sqrt(Xi + (2 - a) * D)) / (2 - a)) ** 2
