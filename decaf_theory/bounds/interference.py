r"""Part B: interference I = sum_j pi_j B_j A_j - Bbar Abar of a weighted average (T9-T14).

In units of the factor product; multiply by s for weight units. One neighbourhood has weights
pi_j >= 0 with sum 1; V_A = sum_j pi_j |A_j - Abar|_F^2, V_B likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import fsum, sqrt

from decaf_theory.bounds._checks import (
    at_most_one,
    below_one,
    count,
    largest_weight,
    nonnegative,
    one_of,
    shares,
)
from decaf_theory.bounds.consensus import consensus_bound
from decaf_theory.bounds.smoothness import factor_kappa, factor_sigma


def interference_nuclear(*, V_A: float, V_B: float) -> float:
    """Return the upper bound on |I|_* by the spreads of the factors.

        sqrt(V_A V_B)

    Tight iff the panels of weighted deviations obey Y = t X'Q with t >= 0, Q a contraction and
    |X'Q|_F = |X|_F, e.g. A_j = B_j'. Source: derived (T9).
    """
    nonnegative(V_A=V_A, V_B=V_B)
    return sqrt(V_A * V_B)


def interference_frobenius(*, X_op: float, X_fro: float, Y_op: float, Y_fro: float) -> float:
    """Return the upper bound on |I|_F by the panels X, Y of weighted deviations, I = X Y.

        min(|X|_op |Y|_F, |X|_F |Y|_op)

    Tight for A_j = B_j' with all singular values of X equal. Source: derived (T9).
    """
    nonnegative(X_op=X_op, X_fro=X_fro, Y_op=Y_op, Y_fro=Y_fro)
    return min(X_op * Y_fro, X_fro * Y_op)


def interference_operator(*, X_op: float, Y_op: float) -> float:
    """Return the upper bound on |I|_op by the panels X, Y of weighted deviations, I = X Y.

        |X|_op |Y|_op

    Tight for A_j = B_j'. Source: derived (T9).
    """
    nonnegative(X_op=X_op, Y_op=Y_op)
    return X_op * Y_op


def interference_network(*, spread_A: float, spread_B: float, N: int) -> float:
    """Return the upper bound on (1/N) sum_i |I_i|_* by the spreads over all neighbourhoods.

        sqrt(spread_A spread_B) / N,   spread_A = tr A~'(I - Pi^2) A~ = sum_i V_A of row i

    Tight: B_i = A_i'. Source: derived (T10).
    """
    nonnegative(spread_A=spread_A, spread_B=spread_B)
    count(N=N)
    return sqrt(spread_A * spread_B) / N


def interference_consensus(*, lam_min: float, Xi_A: float, Xi_B: float) -> float:
    """Return the upper bound on (1/N) sum_i |I_i|_* by the consensus distances.

        (1 - lam_min^2) sqrt(Xi_A Xi_B),   lam_min the least |eigenvalue| of Pi

    Tight: A_i = c_i A, B_i = A_i' with c an eigenvector of that eigenvalue. Source: derived (T10).
    """
    at_most_one(lam_min=lam_min)
    nonnegative(Xi_A=Xi_A, Xi_B=Xi_B)
    return (1 - lam_min**2) * sqrt(Xi_A * Xi_B)


def interference_half(*, Xi_w: float) -> float:
    """Return the upper bound on (1/N) sum_i |I_i|_* that needs to know nothing of Pi.

        Xi_w / 2,   Xi_w = Xi_A + Xi_B

    Tight where Pi has the eigenvalue 0, as `interference_consensus`. Source: derived (T10).
    """
    nonnegative(Xi_w=Xi_w)
    return Xi_w / 2


def mixed_deviation(*, lam: float, t: int, deviation: float) -> float:
    """Return the upper bound on the norm over agents |A~_t|_F of a factor that mixes untrained.

        lam^t |A~_0|_F,   A~ = A_i - Abar for every i,   lam = sqrt(rho)

    Tight: A_i = c_i A with c an eigenvector of |eigenvalue| lam. Source: derived (R5).
    """
    below_one(lam=lam)
    count(least=0, t=t)
    nonnegative(deviation=deviation)
    return lam**t * deviation


def interference_phase(
    *, lam: float, t: int, N: int, deviation_A: float, deviation_B: float
) -> float:
    """Return the upper bound on (1/N) sum_i |I_i|_* when A has mixed untrained for t rounds.

        lam^t |A~_0|_F |B~_t|_F / N,   B moving in any way

    Tight at t = 0: B_i = A_i' opposite, two agents, Pi = J. Source: derived (R5): T10 with
    `mixed_deviation`.
    """
    nonnegative(deviation_A=deviation_A, deviation_B=deviation_B)
    count(N=N)
    return mixed_deviation(lam=lam, t=t, deviation=deviation_A) * deviation_B / N


def tau(*, pi_max: float) -> float:
    """Return the largest weighted variance of vectors in the unit ball.

        1 if pi_max <= 1/2, else 4 pi_max (1 - pi_max)

    Tight: the variance is 1 - |sum_j pi_j v_j|^2 for unit vectors, and unit vectors with weights
    pi can close a polygon iff pi_max <= 1/2, else their sum is at least 2 pi_max - 1.
    Source: derived (T11).

    Examples:
        >>> from decaf_theory import bounds
        >>> bounds.tau(pi_max=1 / 3), bounds.tau(pi_max=0.75)
        (1.0, 0.75)
    """
    largest_weight(pi_max)
    return 1.0 if pi_max <= 0.5 else 4 * pi_max * (1 - pi_max)


def interference_worst_case(*, c: float, q: int, pi_max: float, norm: str) -> float:
    """Return the upper bound on |I| under Assumption 2, q = min(r, d, k).

        sqrt(q) c^2 tau ("fro"),   c^2 tau ("op"),   q c^2 tau ("nuc"),   tau = tau(pi_max)

    Tight, all three at once: two agents (B, A), (-B, -A) with c-isometries and weights 1/2, or the
    heavy agent against the rest where pi_max >= 1/2. For pi_max < 1/2 and odd r the Frobenius
    norm may stay below it: `interference_by_weights`. Source: derived (T11).

    Examples:
        >>> from decaf_theory import bounds
        >>> bounds.interference_worst_case(c=2.0, q=4, pi_max=1 / 3, norm="nuc")
        16.0
    """
    nonnegative(c=c)
    count(q=q)
    one_of(("fro", "op", "nuc"), norm=norm)
    size = {"fro": sqrt(q), "op": 1, "nuc": q}[norm]
    return size * c**2 * tau(pi_max=pi_max)


def sign_gap(*, pi: Sequence[float]) -> float:
    """Return delta, how far the weights are from splitting into two halves.

        min over signs of |sum_j +-pi_j|

    Exact, by all 2^(m-1) choices of signs; at most 1/3 if pi_max <= 1/2. Source: derived (T11-odd).
    """
    shares(pi)
    first, *others = pi
    signs = product((1, -1), repeat=len(others))
    return min(abs(fsum((first, *(x * p for x, p in zip(s, others, strict=True))))) for s in signs)


def orthogonal_gap(*, r: int, pi: Sequence[float]) -> float:
    """Return a lower bound on zeta_r = min over orthogonal O_j, r x r, of |sum_j pi_j O_j|_op.

        delta = sign_gap(pi)    r = 1, or pi_max >= 1/2, or r odd and at most three agents (exact)
        0                       r even and pi_max <= 1/2 (exact: planes turned as a polygon closes)
        delta / r               r odd and four agents
        min(delta, (4 pi_max - 1)_+, min_j (1 - 2 pi_j - 4 min_{i != j} pi_i)_+) / 3
                                r = 3 and five agents (zero only if zeta_3 = 0)
        0                       else, where nothing better is known

    Agents of weight zero do not count. Source: derived (T11-odd).
    """
    count(r=r)
    delta, held = sign_gap(pi=pi), [p for p in pi if p > 0]
    largest = max(held)
    if r == 1 or largest >= 0.5:
        return delta
    if r % 2 == 1 and len(held) <= 4:
        return delta if len(held) <= 3 else delta / r
    if r != 3 or len(held) != 5:
        return 0.0
    least, next_least = sorted(held)[:2]
    fifth = min(1 - 2 * p - 4 * (next_least if p == least else least) for p in held)
    return min(delta, max(0.0, 4 * largest - 1), max(0.0, fifth)) / 3


def interference_by_weights(*, c: float, r: int, pi: Sequence[float]) -> float:
    """Return the upper bound on |I|_F under Assumption 2 that knows all weights.

        c^2 sqrt(r - 1 + (1 - zeta^2)^2),   zeta = orthogonal_gap(r, pi)      if pi_max <= 1/2
        c^2 sqrt(r) tau(pi_max)                                               else

    Never above `interference_worst_case`. Tight wherever zeta is exact: pairs of directions turned
    so that the weights close a polygon, and the best signs in the last direction if r is odd. At
    r = 1 it is c^2 (1 - delta^2) for all weights. Source: derived (T11-odd).
    """
    nonnegative(c=c)
    zeta = orthogonal_gap(r=r, pi=pi)
    if max(pi) > 0.5:
        return interference_worst_case(c=c, q=r, pi_max=max(pi), norm="fro")
    return c**2 * sqrt(r - 1 + (1 - zeta**2) ** 2)


def interference_mean_square(
    *, d: int, k: int, r: int, tau_A: float, tau_B: float, pi: Sequence[float]
) -> float:
    """Return E |I|_F^2 exactly, for independent zero-mean entries of variance tau_A^2, tau_B^2.

        d k r tau_A^2 tau_B^2 (|pi|_2^2 - 2 |pi|_3^3 + |pi|_2^4)

    Only second moments enter. Source: derived (T12): I = sum_ij (diag(pi) - pi pi')_ij B_i A_j.
    """
    # the squared Frobenius norm of diag(pi) - pi pi', by terms none of which is negative
    diagonal = fsum((p - p**2) ** 2 for p in pi)
    rest = _power_sum(pi, 2) ** 2 - _power_sum(pi, 4)
    return _entry_variance(d, k, r, tau_A, tau_B, pi) * (diagonal + rest)


def mix_mean_square(
    *, d: int, k: int, r: int, tau_A: float, tau_B: float, pi: Sequence[float]
) -> float:
    """Return E |M|_F^2 exactly, for the mixed product M of the same factors.

        d k r tau_A^2 tau_B^2 |pi|_2^2

    For m equal weights E |I|_F^2 / E |M|_F^2 = (m - 1)/m, whatever r. Source: derived (T12).
    """
    return _entry_variance(d, k, r, tau_A, tau_B, pi) * _power_sum(pi, 2)


def interference_trajectory(
    *,
    lr: float,
    s: float,
    c: float,
    N: int,
    L_hat: float,
    sigma_W: float,
    kappa_W: float,
    q: float,
    S: float,
) -> float:
    """Return the upper bound on E (1/N) sum_i s |I_i|_* along a DLoRA run that stays in Omega_c.

        lr^2 s^3 c^2 (sigma_W sqrt(S/N) + kappa_W q)^2 / (1 - lr L_hat q)^2

    L_hat is the smoothness in the factors; q and S are those of order "CB" in every order of the
    run: what interferes are the points about to be mixed. Common initial factors; inf where
    lr L_hat q >= 1. Tight as lr -> 0: the first step of two scalar agents a = b = c with Pi = J.
    Source: derived (T14): s times `interference_half` of `consensus_bound`, with T5's constants.
    """
    nonnegative(L_hat=L_hat)
    sigma, kappa = factor_sigma(s=s, c=c, sigma_W=sigma_W), factor_kappa(s=s, c=c, kappa_W=kappa_W)
    Xi_w = consensus_bound(lr=lr, L=L_hat, sigma=sigma, kappa=kappa, N=N, q=q, S=S)
    return s * interference_half(Xi_w=Xi_w)


def _entry_variance(
    d: int, k: int, r: int, tau_A: float, tau_B: float, pi: Sequence[float]
) -> float:
    count(d=d, k=k, r=r)
    nonnegative(tau_A=tau_A, tau_B=tau_B)
    shares(pi)
    return d * k * r * (tau_A * tau_B) ** 2


def _power_sum(pi: Sequence[float], power: int) -> float:
    return fsum(p**power for p in pi)
