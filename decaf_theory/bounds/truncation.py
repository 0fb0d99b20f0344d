r"""Part C: what the rank-r truncation of a mean product loses (T15-T21).

M = sum_j pi_j B_j A_j, P = TSVD_r(M), E = M - P; in units of the factor product.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import fsum, hypot, inf, log1p, sqrt

from decaf_theory.bounds._checks import count, known, largest_weight, nonnegative, one_of
from decaf_theory.bounds.interference import tau

GOLDEN_RATIO = (1 + sqrt(5)) / 2


def mix_rank(*, m: int, r: int, d: int, k: int) -> int:
    """Return the upper bound on the rank of the mean of m products d x k of rank r.

        min(m r, d, k)

    Tight for generic factors. E = 0 where it is <= r. Source: derived (T15).
    """
    count(m=m, r=r, d=d, k=k)
    return min(m * r, d, k)


def truncation_worst_case(*, c: float, r: int, n: int, pi_max: float, norm: str) -> float:
    """Return the upper bound on |E| for one row of Pi under Assumption 2; 0 where n <= r.

    Assumption 2: sigma_1(A_j), sigma_1(B_j) <= c for every agent j that the row weights, inner
    dimension r. n = min(d, k); pi_max is the largest weight of that row.

        c^2 min(r / (r + 1), 1 - pi_max)                    "op"
        c^2 min(f, sqrt(p) (1 - pi_max))                    "fro"
        c^2 min(r (n - r) / n, p (1 - pi_max))              "nuc"
        p = min(r, n - r),   f = sqrt(r)/2 if n >= 2 r else r sqrt(n - r)/n

    Sharp in (r, n, pi_max): some agents with that largest weight attain it, not those of every list
    of weights. Attained: op by r + 1 agents that each omit one coordinate, fro by
    B_j = A_j' = c u_j (x) I_r with sum_j pi_j exp(2 i theta_j) = 0 (orthogonal products where
    pi_max >= 1/2), nuc by mutually orthogonal products.
    Source: derived (T16): the spectrum sums to at most r c^2, and pi_j B_j A_j is a candidate.

    Examples:
        >>> from decaf_theory import bounds
        >>> bounds.truncation_worst_case(c=1.0, r=4, n=16, pi_max=1 / 3, norm="fro")
        1.0
    """
    nonnegative(c=c)
    count(r=r, n=n)
    largest_weight(pi_max)
    one_of(("fro", "op", "nuc"), norm=norm)
    if n <= r:
        return 0.0
    p, others = min(r, n - r), 1 - pi_max
    if norm == "op":
        return c**2 * min(r / (r + 1), others)
    if norm == "nuc":
        return c**2 * min(r * (n - r) / n, p * others)
    flat = sqrt(r) / 2 if n >= 2 * r else r * sqrt(n - r) / n
    return c**2 * min(flat, sqrt(p) * others)


def decaf_dlora_difference(*, interference: float, norm: str) -> float:
    """Return the upper bound on |TSVD_r(M) - Bbar Abar| for |I| = `interference` in that norm.

        phi_g |I|_F ("fro"),   2 |I| ("op", "nuc"),   phi_g = (1 + sqrt 5)/2

    Tight: fro by M = I_2 (tie broken to E_11), Bbar Abar = phi_g E_22, r = 1.
    Source: derived (T18), for any Q of rank <= r in place of Bbar Abar.

    Examples:
        >>> from decaf_theory import bounds
        >>> round(bounds.decaf_dlora_difference(interference=1.0, norm="fro"), 4)
        1.618
    """
    nonnegative(interference=interference)
    one_of(("fro", "op", "nuc"), norm=norm)
    return (GOLDEN_RATIO if norm == "fro" else 2) * interference


def decaf_dlora_lower_rank(*, K: int, r: int, n: int) -> float:
    """Return the best constant in |TSVD_r(M) - Q|_F <= constant |M - Q|_F for rank Q <= K <= r.

        sqrt(1 + u),   u = (h + sqrt(h^2 + 4 h)) / 2,   h = p / (r - K + p),   p = min(K, n - r)

    n = min(d, k); the golden ratio at K = r < n, and 1 where n <= r, as nothing is truncated then.
    Tight: M = I on r + p directions (tie broken to the first r), Q = I on K - p of those kept and
    (1 + u)/u on the p others. Source: derived (T18-rank); known for hard thresholding.
    """
    count(K=K, r=r, n=n)
    if K > r:
        raise ValueError(f"K must be <= r = {r} (the rank that is kept), got {K}")
    if n <= r:
        return 1.0
    dropped = min(K, n - r)
    h = dropped / (r - K + dropped)
    return sqrt(1 + (h + sqrt(h * h + 4 * h)) / 2)


def decaf_dlora_worst_case(*, c: float, r: int, norm: str) -> float:
    """Return the upper bound on |P - Q| under Assumption 2, for all weights and every r.

        sqrt(r) c^2 ("fro"),   c^2 ("op"),   r c^2 ("nuc");   P = TSVD_r(M), Q = Bbar Abar

    P = U U' M, so with the reflection S = 2 U U' - 1, P - Q = ((M - 2 Q) + S M) / 2. Both M and
    M - 2 Q are a panel [sqrt(pi_j) B_j]_j times one of [sqrt(pi_j) A_j]_j, M - 2 Q with the
    reflection 1 - 2 e e', e = (sqrt(pi_j))_j, between them. Panels have |.|_op <= c and
    |.|_F <= sqrt(r) c, as sum_j pi_j |B_j|_F^2 <= r c^2; then Hoelder's inequality.
    Tight, all three at once: (B, A), (-B, -A) with c-isometries and weights 1/2.
    Source: derived (T13, T18).
    """
    nonnegative(c=c)
    count(r=r)
    one_of(("fro", "op", "nuc"), norm=norm)
    return {"fro": sqrt(r), "op": 1, "nuc": r}[norm] * c**2


def decaf_dlora_heavy(*, c: float, r: int, m: int, pi_max: float, norm: str) -> float:
    """Return the upper bound on |P - Q| under Assumption 2 that knows the largest of m weights.

        c^2 tau ("op"),   c^2 sqrt(r) (tau + x) ("fro"),   c^2 r min(1, tau + y) ("nuc")
        P = TSVD_r(M), Q = Bbar Abar;   tau = tau(pi), pi = pi_max, rho = 1 - pi
        x = rho (sqrt(pi + pi^2) - 1),   y = rho (pi - rho),   0 if negative or for two agents

    Never above `decaf_dlora_worst_case`, which it is where pi <= 1/2. Tight in operator norm, for
    two agents, and where x = 0 in Frobenius norm: c-isometries, the heavy agent's (B, A) against
    (-B, -A). Elsewhere y <= tau/4 and x <= 0.104 tau. Source: derived (T18-heavy).
    """
    nonnegative(c=c)
    count(r=r, m=m)
    largest_weight(pi_max)
    one_of(("fro", "op", "nuc"), norm=norm)
    rest = 1 - pi_max
    beyond = {
        "op": 0.0,
        "fro": rest * (sqrt(pi_max + pi_max**2) - 1),
        "nuc": rest * (pi_max - rest),
    }
    share = tau(pi_max=pi_max) + (max(0.0, beyond[norm]) if m > 2 else 0.0)
    return min(1.0, share) * decaf_dlora_worst_case(c=c, r=r, norm=norm)


def truncation_second_order(
    *, mean_square: float, square_mean: float, sigma_r: float, delta: float
) -> float:
    """Return the upper bound on |E|_F for products near a matrix P0 of rank r.

        (mean_square + square_mean) / (2 (sigma_r - delta))
        mean_square = sum_j pi_j |B_j A_j - P0|_F^2,   square_mean = |sum_j pi_j (B_j A_j - P0)|_F^2
        sigma_r = sigma_r(P0),   delta = max_j |B_j A_j - P0|_op

    inf where delta >= sigma_r. Tight in the limit of two unit vectors at angles +-theta -> 0,
    r = 1; `truncation_by_reference` needs no delta. Source: derived (T21), by Schur complements.
    """
    nonnegative(mean_square=mean_square, square_mean=square_mean, sigma_r=sigma_r, delta=delta)
    if delta >= sigma_r:
        return inf
    return (mean_square + square_mean) / (2 * (sigma_r - delta))


def truncation_by_reference(
    *, mean_square: float, misalignment: float, sigma_r: float, reference_r: float
) -> float:
    """Return the upper bound on |E|_* by the products' distance to any matrix P0 of rank <= r.

        (mean_square + 2 misalignment) / (2 max(sigma_r, reference_r))
        mean_square = sum_j pi_j |B_j A_j - P0|_F^2,   sigma_r = sigma_r(M), reference_r that of P0
        misalignment = sum_{i<=r} sigma_i(M) sigma_i(P0) - <M, P0>, 0 for P0 = TSVD_r(M)

    0 where both sigma_r vanish, as M has rank < r then. Tight: `truncation_by_spread`, its least
    value over P0, is attained at P0 of M's singular vectors. Source: derived (T21-global).
    """
    nonnegative(mean_square=mean_square, misalignment=misalignment)
    nonnegative(sigma_r=sigma_r, reference_r=reference_r)
    larger = max(sigma_r, reference_r)
    return (mean_square + 2 * misalignment) / (2 * larger) if larger > 0 else 0.0


def truncation_by_spread(*, mean_square: float, kept: Sequence[float]) -> float:
    """Return the largest |E|_* of a mean of products of rank <= r, by what can be measured.

        q level - s_{r-q+1} - ... - s_r,   level = sqrt((mean_square + s_{r-q+1}^2 + ... + s_r^2)/q)
        mean_square = sum_j pi_j |B_j A_j - TSVD_r(M)|_F^2,   kept = sigma_1(M) >= ... >= sigma_r(M)

    q is the least with q = r or level <= s_{r-q}. sqrt(mean_square + s_1^2) - s_1 at r = 1; never
    above mean_square / (2 sigma_r). Tight for every r and spectrum: agents that share a part and
    hold q of n' > q orthogonal directions besides. Source: derived (T21-global).
    """
    nonnegative(mean_square=mean_square)
    _check_spectrum(kept)
    r = len(kept)
    for q in range(1, r + 1):
        block = kept[r - q :]
        mean = fsum(block) / q
        # q level - q mean without its cancellation: (x^2 - y^2) / (x + y)
        square = mean_square + fsum((s - mean) ** 2 for s in block)
        level = hypot(mean, sqrt(square / q))
        if q == r or level <= kept[r - q - 1]:
            break
    return square / (level + mean) if 0 < square < inf else square


def decaf_dlora_by_norms(*, mix: float, reflected: float) -> float:
    """Return the upper bound on |TSVD_r(M) - Q| in a unitarily invariant norm, for any matrix Q.

        (mix + reflected) / 2,   mix = |M|, reflected = |M - 2 Q|, in that norm

    P = U U' M, so with the reflection S = 2 U U' - 1, P - Q = ((M - 2 Q) + S M) / 2.
    Tight: Q = 0 for M of rank <= r (DLoRA's mix of a sign pair), Q = E. Source: derived (T13-data).
    """
    nonnegative(mix=mix, reflected=reflected)
    return (mix + reflected) / 2


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


def _check_spectrum(kept: Sequence[float]) -> None:
    if len(kept) == 0:  # of an array, too
        raise ValueError("kept must hold the r largest singular values of M, got none")
    for s in kept:
        nonnegative(kept=s)
    if any(later > s for s, later in pairwise(kept)):
        raise ValueError(f"kept must not increase, got {list(kept)}; sort it, largest first")
