r"""Part D: how far agents drift apart, Xi = (1/N) sum_i |x_i - xbar|^2 (T25, T29, T35-T37, R6).

Order "MS": mix, then step at the mixed point (y = Pi x, x+ = y - lr g(y)). Order "CB": combine
(x+ = Pi x - lr g(x)). The constants of one are false for the other. lam = sqrt(rho) = |Pi - J|_op;
`eigenvalues` are those of Pi without the leading 1. sigma^2 bounds the noise variance of each
agent, kappa^2 = (1/N) sum_i |grad f_i - grad F|^2 at the mean; all agents start equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt, ulp

from decaf_theory.bounds._checks import (
    below_one,
    count,
    network_order,
    nonnegative,
    not_applicable,
    shares,
)


def network_q(*, lam: float, order: str) -> float:
    """Return q, how much a bounded drift is amplified by the network.

        sum_{j>=1} lam^j = lam / (1 - lam)  "MS",     sum_{j>=0} lam^j = 1 / (1 - lam)  "CB"

    Tight: N = 2 with constant opposite drifts, lam the other eigenvalue. Source: derived (T25).

    Examples:
        >>> from decaf_theory import bounds
        >>> bounds.network_q(lam=0.5, order="MS"), bounds.network_q(lam=0.5, order="CB")
        (1.0, 2.0)
    """
    network_order(order)
    below_one(lam=lam)
    return (lam if order == "MS" else 1) / (1 - lam)


def network_S(*, eigenvalues: Sequence[float], order: str) -> float:
    """Return S, how much white noise is amplified by the network.

        sum_mu sum_{j>=1} mu^{2j} = sum_mu mu^2 / (1 - mu^2)  "MS",   sum_mu 1 / (1 - mu^2)  "CB"

    Over the eigenvalues mu without the leading 1; 0 for N = 1. Exact as t -> infinity for noise
    alone (L = 0). Source: derived (T25).
    """
    network_order(order)
    _check_eigenvalues(eigenvalues)
    return fsum((mu**2 if order == "MS" else 1) / (1 - mu**2) for mu in eigenvalues)


def consensus_bound(
    *, lr: float, L: float, sigma: float, kappa: float, N: int, q: float, S: float
) -> float:
    """Return the upper bound on E Xi_t at the points of evaluation, for every t.

        lr^2 (sigma sqrt(S/N) + kappa q)^2 / (1 - lr L q)^2

    inf where lr L q >= 1. Tight as t -> infinity: N = 2, f_i = -L x^2/2 +- kappa x without noise;
    any Pi for noise alone. Source: derived (T25).

    Examples:
        >>> from decaf_theory import bounds
        >>> q = bounds.network_q(lam=0.5, order="MS")
        >>> S = bounds.network_S(eigenvalues=[0.5, 0.5, 0.0], order="MS")
        >>> bound = bounds.consensus_bound(lr=0.01, L=4.0, sigma=1.0, kappa=1.0, N=4, q=q, S=S)
        >>> f"{bound:.3e}"
        '2.152e-04'
    """
    nonnegative(lr=lr, L=L, sigma=sigma, kappa=kappa, q=q, S=S)
    count(N=N)
    return _consensus(lr * (sigma * sqrt(S / N) + kappa * q), lr * L * q)


def mixing_error_consensus(
    *,
    lr: float,
    L: float,
    sigma: float,
    kappa: float,
    N: int,
    q: float,
    S: float,
    lam: float,
    eps: float,
) -> float:
    """Return the upper bound on E Xi_t when mixing adds errors with (E |e~|_F^2)^(1/2) <= eps.

        ([lr (sigma sqrt(S/N) + kappa q) + eps / (sqrt(N) (1 - lam))] / (1 - lr L q))^2

    inf where lr L q >= 1; `consensus_bound` at eps = 0. Tight as t -> infinity: its example with
    constant opposite errors along the drift. Source: derived (T29).
    """
    nonnegative(lr=lr, L=L, sigma=sigma, kappa=kappa, q=q, S=S, eps=eps)
    below_one(lam=lam)
    count(N=N)
    drift = lr * (sigma * sqrt(S / N) + kappa * q)
    return _consensus(drift + eps / (sqrt(N) * (1 - lam)), lr * L * q)


def local_steps_q_S(
    *, lam: float, eigenvalues: Sequence[float], N: int, K: int
) -> tuple[float, float]:
    """Return (q, S) of `consensus_bound` for K local steps a round, order MS, at every local point.

        q = K lam/(1 - lam) + K - 1,   S = K S_MS + (K - 1)(N - 1)

    Tight as lr L -> 0: N = 2, f_i = +- kappa x, at the last local point. Source: derived (T35).
    """
    count(N=N, K=K)
    if len(eigenvalues) != N - 1:
        raise ValueError(f"eigenvalues must be the N - 1 = {N - 1} others, got {len(eigenvalues)}")
    q = K * network_q(lam=lam, order="MS") + K - 1
    return q, K * network_S(eigenvalues=eigenvalues, order="MS") + (K - 1) * (N - 1)


def local_drift(*, lam: float, lr: float, L: float, kappa: float, N: int, K: int) -> float:
    """Return the upper bound on |X~|_F after a mix, for K local steps a round without noise.

        lam sqrt(N) (kappa / L) (g - 1) / (1 - lam g),   g = (1 + lr L)^K

    (g - 1)/L is K lr at L = 0; inf where lam g >= 1. kappa bounds the heterogeneity at the mean of
    all points, and all agents start equal. Tight after many rounds: N = 2, f_i = -L x^2/2
    +- kappa x. Source: derived (R6), fixed point of |X~| <- lam (g |X~| + sqrt(N) kappa (g - 1)/L).
    """
    below_one(lam=lam)
    nonnegative(lr=lr, L=L, kappa=kappa)
    count(N=N, K=K)
    if L == 0:
        return lam * sqrt(N) * kappa * K * lr / (1 - lam)
    growth = (1 + lr * L) ** K
    if lam * growth >= 1:
        return not_applicable(f"lam (1 + lr L)^K = {lam * growth:.4g} must be below 1")
    return lam * sqrt(N) * kappa / L * (growth - 1) / (1 - lam * growth)


def momentum_q_S(*, lam: float, eigenvalues: Sequence[float], beta: float) -> tuple[float, float]:
    """Return (q, S) of `consensus_bound` for local heavy-ball momentum, order MS.

        v+ = beta v + g,  x+ = Pi (x - lr v+);   q = q_MS / (1 - beta)
        S = sum_mu mu^2 (1 + mu beta) / ((1 - mu^2)(1 - beta^2)(1 - mu beta))

    S sums the squares of mu^{j+1} convolved with beta^i, exact for noise alone.
    Source: derived (T36).
    """
    below_one(beta=beta)
    _check_eigenvalues(eigenvalues)
    S = fsum(
        mu**2 * (1 + mu * beta) / ((1 - mu**2) * (1 - beta**2) * (1 - mu * beta))
        for mu in eigenvalues
    )
    return network_q(lam=lam, order="MS") / (1 - beta), S


def time_varying_S(*, lam: float, N: int) -> float:
    """Return the S of `consensus_bound` for matrices Pi_t with |Pi_t - J|_op <= lam, order MS.

        (N - 1) rho / (1 - rho),   rho = lam^2

    Or for Pi_t drawn at random with |E Pi_t'Pi_t - J|_op <= rho, lam = sqrt(rho). q is that of
    `network_q`. Tight: a constant Pi_t whose |eigenvalues| are all lam.
    Source: derived (T37, T37-random).
    """
    below_one(lam=lam)
    count(N=N)
    return (N - 1) * lam**2 / (1 - lam**2)


def reversible_S(*, lam: float, pi: Sequence[float]) -> float:
    """Return S of `consensus_bound` with N = 1 for mixing that is reversible for weights pi, "MS".

        (1 - sum_i pi_i^2) rho / (1 - rho),   rho = lam^2

    Xi = sum_i pi_i |x_i - xbar|^2 and kappa have the weights pi, lam is the second largest
    |eigenvalue| and q that of `network_q`. Tight for noise alone: P = lam I + (1 - lam) 1 pi'.
    Equal weights give `time_varying_S` / N. Source: derived (T37-reversible).
    """
    below_one(lam=lam)
    shares(pi)
    return (1 - fsum(p**2 for p in pi)) * lam**2 / (1 - lam**2)


def _check_eigenvalues(eigenvalues: Sequence[float]) -> None:
    # what a computed 1 may be off by: a graph that does not mix has more than one
    rounding = 2 * sqrt(len(eigenvalues) + 1) * ulp(1)
    for mu in eigenvalues:
        if not abs(mu) < 1 - rounding:
            raise ValueError(
                f"eigenvalues must lie in (-1, 1), got {mu}; leave out the leading 1 of Pi, "
                f"and take a graph that mixes"
            )


def _consensus(drift: float, feedback: float) -> float:
    if feedback < 1:
        return (drift / (1 - feedback)) ** 2
    return not_applicable(f"lr L q = {feedback:.4g} must be below 1")
