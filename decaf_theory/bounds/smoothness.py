r"""Part A: how smooth a loss is in the factors of W(A, B) = W0 + s B A (T1-T6).

Omega_c is the set {sigma_1(A) <= c, sigma_1(B) <= c} (Assumption 2). f is L-smooth in W with
|grad f|_op <= G on the image of Omega_c; phi(A, B) = f(W0 + s B A).
"""

from __future__ import annotations

from math import sqrt

from decaf_theory.bounds._checks import at_least_one, count, nonnegative, one_of, positive


def product_lipschitz(*, s: float, c: float, norm: str) -> float:
    """Return the least C with |W - W'|_F <= C |(A, B) - (A', B')| on Omega_c.

        C = s c          norm "sum":    |dA|_F + |dB|_F
        C = sqrt(2) s c  norm "euclid": sqrt(|dA|_F^2 + |dB|_F^2)

    Tight: s c is attained by scaling one factor of A = c e v', B = c u e'; sqrt(2) s c is the limit
    of scaling both, as the scalings tend to one. Source: derived (T1); Assumption 3 of
    arXiv 2505.21382 (paraphrased) asks for such a C.
    """
    nonnegative(s=s, c=c)
    one_of(("sum", "euclid"), norm=norm)
    return s * c if norm == "sum" else sqrt(2) * s * c


def lemma1_smoothness(*, L: float, C: float, c: float, G: float, s: float, r: int) -> float:
    """Return L_hat, the paper's upper bound on the smoothness of phi in (A, B) on Omega_c.

        L_hat = s (2 L C sqrt(r) c + G)

    Holds with the Euclidean norm on both sides or the sum norm on both sides, for every C >= s c.
    Tight for r = 1 only; see `lemma1_gap`. Source: arXiv 2505.21382, Lemma 1 (paraphrased).

    Examples:
        >>> from decaf_theory import bounds
        >>> bounds.lemma1_smoothness(L=1.0, C=1.0, c=2.0, G=3.0, s=0.5, r=4)
        5.5
    """
    nonnegative(L=L, C=C, c=c, G=G, s=s)
    count(r=r)
    return s * (2 * L * C * sqrt(r) * c + G)


def lemma1_without_rank(*, L: float, C: float, c: float, G: float, s: float) -> float:
    """Return Lemma 1's upper bound without its sqrt(r), valid on Omega_c for every C >= s c.

        s (2 L C c + G)

    Tight for C = s c, where it is `smoothness_sharp`. Source: derived (T2).
    """
    nonnegative(L=L, C=C, c=c, G=G, s=s)
    return s * (2 * L * C * c + G)


def smoothness_sharp(*, L: float, c: float, G: float, s: float) -> float:
    """Return L*, the least constant of smoothness of phi on Omega_c, over all such f.

        L* = s (2 s L c^2 + G)

    Valid when both blocks are combined in one l_p norm on both sides, 1 <= p <= inf. Tight for
    every (L, G, s, c, r): f(W) = h(W_11), h'(x) = clip(L (x - s c^2) + G, -G, G), from
    A = B = c E_11 a small step of both towards 0. Source: derived (T2, T3).

    Examples:
        >>> from decaf_theory import bounds
        >>> bounds.smoothness_sharp(L=1.0, c=2.0, G=3.0, s=0.5)  # s (2 s L c^2 + G)
        3.5
    """
    nonnegative(L=L, c=c, G=G, s=s)
    return s * (2 * s * L * c**2 + G)


def smoothness_mixed_norm(*, L: float, c: float, G: float, s: float) -> float:
    """Return the constant for gradients in the sum norm, displacements in the Euclidean norm.

        sqrt(2) L*

    Tight as a supremum: on the symmetric path of `smoothness_sharp` both blocks are equal, and
    the sum of two equal blocks is sqrt(2) times their Euclidean norm. Source: derived (T4a).
    """
    return sqrt(2) * smoothness_sharp(L=L, c=c, G=G, s=s)


def lemma1_gap(*, L: float, eta: float, c: float, G: float, r: float) -> float:
    """Return L_hat / L* at s = eta / r and C = s c, by how much Lemma 1 is too large.

        (K / sqrt(r) + 1) / (K / r + 1),   K = 2 L eta c^2 / G

    Exact; 1 at r = 1 and as r -> infinity. G > 0; r may be real. Source: derived (T3).
    """
    at_least_one(r=r)
    K = _curvature_share(L=L, eta=eta, c=c, G=G)
    return (K / sqrt(r) + 1) / (K / r + 1)


def lemma1_gap_worst(*, L: float, eta: float, c: float, G: float) -> tuple[float, float]:
    """Return (r, gap): the real r >= 1 at which `lemma1_gap` is largest, and its value there.

        r = (1 + sqrt(1 + K))^2,   gap = (1 + sqrt(1 + K)) / 2,   K = 2 L eta c^2 / G

    Exact: with u = sqrt(r) the derivative vanishes where u^2 = 2 u + K. Source: derived (T3).
    """
    u = 1 + sqrt(1 + _curvature_share(L=L, eta=eta, c=c, G=G))
    return u**2, u / 2


def _curvature_share(*, L: float, eta: float, c: float, G: float) -> float:
    nonnegative(L=L, eta=eta, c=c)
    positive(G=G)
    return 2 * L * eta * c**2 / G


def factor_gradient(*, s: float, c: float, g: float) -> float:
    """Return the upper bound on |grad phi| on Omega_c for |grad f|_F = g.

        sqrt(2) s c g

    Tight: A = c e v', B = c u e', grad f = g u v'. Source: derived (T5).
    """
    nonnegative(s=s, c=c, g=g)
    return sqrt(2) * s * c * g


def factor_sigma(*, s: float, c: float, sigma_W: float) -> float:
    """Return the upper bound on sigma_w, the gradient noise in the factors, on Omega_c.

        sqrt(2) s c sigma_W,   sigma_W^2 >= E |grad f(W; xi) - grad f(W)|_F^2

    Tight as `factor_gradient`, for noise along u v'. Source: derived (T5).
    """
    nonnegative(sigma_W=sigma_W)
    return factor_gradient(s=s, c=c, g=sigma_W)


def factor_kappa(*, s: float, c: float, kappa_W: float) -> float:
    """Return the upper bound on kappa_w, the heterogeneity in the factors, on Omega_c.

        sqrt(2) s c kappa_W,   kappa_W^2 >= (1/N) sum_i |grad f_i(W) - grad F(W)|_F^2

    Tight as `factor_gradient`, for differences along u v'. Source: derived (T5).
    """
    nonnegative(kappa_W=kappa_W)
    return factor_gradient(s=s, c=c, g=kappa_W)


def isotropic_factor_variance(
    *, s: float, tau: float, A_norm: float, B_norm: float, d: int, k: int
) -> float:
    """Return sigma_w^2 exactly, for independent noise of variance tau^2 in each entry of grad f.

        s^2 tau^2 (k |B|_F^2 + d |A|_F^2),   A_norm = |A|_F, B_norm = |B|_F

    Source: derived (T5): the noise of grad_A is s B' xi with k columns, of grad_B s xi A'.
    """
    nonnegative(s=s, tau=tau, A_norm=A_norm, B_norm=B_norm)
    count(d=d, k=k)
    return (s * tau) ** 2 * (k * B_norm**2 + d * A_norm**2)


def frozen_smoothness(*, s: float, L: float, sigma_max_A: float) -> float:
    """Return the smoothness of B -> phi(A, B) with A frozen, everywhere (no Omega_c, no G).

        s^2 L sigma_1(A)^2

    Tight: f(W) = L |W|_F^2 / 2, B moved along the first left singular vector of A.
    Source: derived (T6).
    """
    nonnegative(s=s, L=L, sigma_max_A=sigma_max_A)
    return L * (s * sigma_max_A) ** 2
