"""Part C: how far a truncated SVD and its balanced factors move with their matrix (T19, T20, T30).

sigma_r and sigma_next are the r-th and the next singular value; lengths are in units of M.
"""

from __future__ import annotations

from math import inf, log1p, sqrt

from decaf_theory.bounds._checks import known, nonnegative
from decaf_theory.bounds.truncation import GOLDEN_RATIO


def tsvd_condition(*, sigma_r: float, sigma_next: float) -> float:
    """Return the local Lipschitz constant of TSVD_r at M in the Frobenius norm.

        sigma_r / (sigma_r - sigma_{r+1});   inf at a tie

    Tight: the direction u_r v_{r+1}' + u_{r+1} v_r'. Where both vanish (rank M < r) phi_g is
    returned, an upper bound on |TSVD_r(M') - M|_F / |M' - M|_F by T18. Source: derived (T19).
    """
    gap = _gap(sigma_r, sigma_next)
    if sigma_r == 0:
        return GOLDEN_RATIO
    return sigma_r / gap if gap > 0 else inf


def tsvd_perturbation(*, sigma_r: float, sigma_next: float, e: float) -> float:
    """Return the upper bound on |TSVD_r(M + dM) - TSVD_r(M)|_F / |dM|_F for |dM|_op = e.

        (sigma_r - e) / (sigma_r - sigma_{r+1} - 2 e)

    Of the spectrum of M; inf where e is half the gap or more. Tight as e -> 0, where it is
    `tsvd_condition`. Source: derived (T19), along the segment from M to M + dM.
    """
    gap = _gap(sigma_r, sigma_next)
    nonnegative(e=e)
    return (sigma_r - e) / (gap - 2 * e) if gap > 2 * e else inf


def tsvd_perturbation_integrated(*, sigma_r: float, sigma_next: float, e: float) -> float:
    """Return the upper bound of `tsvd_perturbation` with the condition integrated over the change.

        1/2 + (sigma_r + sigma_{r+1}) / (4 e) ln(gap / (gap - 2 e)),   gap = sigma_r - sigma_{r+1}

    Never the larger of the two; inf where e is half the gap or more. Tight as e -> 0, where it is
    `tsvd_condition`. Source: derived (T19).
    """
    gap = _gap(sigma_r, sigma_next)
    nonnegative(e=e)
    if gap <= 2 * e:
        return inf
    share = 2 * e / gap
    if share == 0:
        return sigma_r / gap
    # ln(gap / (gap - 2 e)) / (4 e)
    return 0.5 + (sigma_r + sigma_next) * -log1p(-share) / (2 * gap * share)


def wedin(*, e_fro: float, gap: float) -> float:
    """Return the upper bound on |(sin Theta_U, sin Theta_V)|_F of the leading singular spaces.

        sqrt(2) e_fro / gap,   e_fro = |M' - M|_F, gap = sigma_r(M') - sigma_{r+1}(M)

    inf where gap <= 0. Tight: diag(e, 0) -> diag(e, 1), 0 < e < 1, r = 1. Source: derived (T19).
    """
    nonnegative(e_fro=e_fro)
    known(gap=gap)
    return sqrt(2) * e_fro / gap if gap > 0 else inf


def factor_distance(*, product_distance: float, sigma_r: float) -> float:
    """Return the upper bound on min over orthogonal O of |Z - Z'O|_F, Z = [B; A'] balanced.

        sqrt((1 + sqrt 2) / sigma_r) |P - P'|_F,   sigma_r = max(sigma_r(P), sigma_r(P'))

    0 for equal products, else inf where sigma_r = 0. Tight: P = E_11, P' = (sqrt 2 - 1) E_22,
    r = 1. Source: derived (T20), from Kittaneh's inequality and the Procrustes lemma.
    """
    nonnegative(product_distance=product_distance, sigma_r=sigma_r)
    if product_distance == 0:
        return 0.0
    return sqrt((1 + sqrt(2)) / sigma_r) * product_distance if sigma_r > 0 else inf


def aligned_interference(*, spread: float, mean_square: float, sigma_r: float) -> float:
    """Return the upper bound on |M - Bbar Abar|_F of balanced factors turned onto a reference.

        min(sqrt(2) spread, (1 + sqrt 2) mean_square / (2 sigma_r))
        spread = sum pi_j |P_j - P_0|_F, mean_square with squares, sigma_r = sigma_r(P_0)

    Each turned by the rotation of `lowrank.align` onto balanced factors of P_0, any matrix of rank
    r. Two agents, P_0 one of theirs: pi_1 pi_2 |P_1 - P_2|_F (squared) instead of the sums, and the
    larger sigma_r. Tight for these: E_11 and E_22 (first form), (sqrt 2 - 1) E_22 (second), r = 1.
    Source: derived (T20-aligned).
    """
    nonnegative(spread=spread, mean_square=mean_square, sigma_r=sigma_r)
    linear = sqrt(2) * spread
    return min(linear, (1 + sqrt(2)) * mean_square / (2 * sigma_r)) if sigma_r > 0 else linear


def decaf_mixing_error(
    *, product_distance: float, sigma_P: float, sigma_Q: float, imbalance: float
) -> float:
    """Return the upper bound on |e|, the balanced factors of P = TSVD_r(M) less DLoRA's mix.

        sqrt((1 + sqrt 2) / max(sigma_P, sigma_Q)) |P - Q|_F + |K|_F / sqrt(8 sigma_Q)
        Q = Bbar Abar,   K = Bbar'Bbar - Abar Abar' ("imbalance"),   sigma_P = sigma_r(P), ...

    With the balanced factors rotated onto (Bbar, Abar). inf where sigma_Q = 0. Each term is tight
    alone: the first as `factor_distance`, the second for one agent with scalars a/b -> 1.
    Source: derived (T30), by way of the balanced factors of Q.
    """
    nonnegative(sigma_P=sigma_P, sigma_Q=sigma_Q, imbalance=imbalance)
    near = factor_distance(product_distance=product_distance, sigma_r=max(sigma_P, sigma_Q))
    return near + imbalance / sqrt(8 * sigma_Q) if sigma_Q > 0 else inf


def _gap(sigma_r: float, sigma_next: float) -> float:
    nonnegative(sigma_r=sigma_r, sigma_next=sigma_next)
    if sigma_next > sigma_r:
        raise ValueError(f"sigma_next must be <= sigma_r = {sigma_r}, got {sigma_next}")
    return sigma_r - sigma_next
