"""T18: how far DeCAF's mix can be from DLoRA's, in units of the interference."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import NORMS, interference_norm, product_distance
from decaf_theory.methods import METHODS
from decaf_theory.tsvd import tsvd
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import at_most, ulps
from verification.instances.mixes import Mix, allowance, isometry, load, mixes, stochastic, stored

SHARPEST = {"fro": (1 + sqrt(5)) / 2, "op": 2.0, "nuc": 1.0}  # Q = q e_2 e_2' that is worst
TIE = 2.0**-30  # M = diag(1 + TIE, 1): the truncation is unique, the ratio within 1e-9 of the limit


def rows(ctx: Context) -> Iterator[Row]:
    r"""DeCAF's and DLoRA's mixes differ by at most the golden ratio times the interference.

    $\|P - \bar B \bar A\|_F \le \varphi \|I\|_F$ with $P = \mathrm{TSVD}_r(M)$ and
    $\varphi = (1 + \sqrt 5)/2$; in operator and nuclear norm the constant is 2. More generally
    $\|\mathrm{TSVD}_r(M) - Q\|_F \le \varphi \|M - Q\|_F$ for every $Q$ of rank at most $r$. All
    three constants are best possible. Where $\sigma_1(A_j), \sigma_1(B_j) \le c$, also
    $\|P - \bar B \bar A\|_F \le \sqrt r\, c^2$ for all weights, best possible too.

    Assumptions: weights $\pi_j \ge 0$ with sum one; inner dimension $r$; for the last bound
    Assumption 2 with constant $c$.

    Proof: constant 2 is the triangle inequality with $\|M - P\| \le \|I\|$ (T17). Frobenius: let
    $s = \sigma_r(M) > 0$ and write $M = \mathrm{diag}(S_1, S_2)$, $P = \mathrm{diag}(S_1, 0)$ and
    the blocks $Q_{ij}$ in the singular bases of $M$; $\tau_i = \sigma_i(Q_{22})$. Let
    $x = \|P - Q\|_F^2 - \|Q_{22}\|_F^2 = \|\mathrm{diag}(S_1, Q_{22}) - Q\|_F^2$. By Eckart-Young
    $x$ is at least the sum of the squares of all but the $r$ largest among the
    $\sigma_i(S_1) \ge s$ and the $\tau_i$, so $x \ge \sum_i \min(\tau_i, s)^2$. By Mirsky
    $\|S_2 - Q_{22}\|_F^2 \ge \sum_i (\tau_i - s)_+^2$. With $\nu = \varphi^2$, which solves
    $\nu^2 - 3\nu + 1 = 0$, the difference $\nu \|M - Q\|_F^2 - \|P - Q\|_F^2 =
    (\nu - 1) x + \nu \|S_2 - Q_{22}\|_F^2 - \|Q_{22}\|_F^2$ is at least a sum over $i$ of
    $(\nu - 2) \tau_i^2 \ge 0$ where $\tau_i \le s$, else of
    $(\nu - 1) \tau_i^2 - 2 \nu s \tau_i + (2 \nu - 1) s^2 = (\nu - 1)(\tau_i - \varphi s)^2 \ge 0$.
    Last bound, with $c = 1$, $P = UU'MVV'$ and $Q = \bar B \bar A$: with the panels of T9,
    $I = XY$, $\|P - Q\|_F^2 = \|U'XYV\|_F^2 + \|Q\|_F^2 - \|U'QV\|_F^2 \le \sum_i x_i y_i +
    \sum_i b_i a_i$, where $x, y, b, a \in [0, 1]$ are the squared singular values of
    $U'X, YV, \bar B, \bar A$; and $\sum_i (x_i + b_i) \le \sum_j \pi_j \|B_j\|_F^2 \le r$, likewise
    $y$ and $a$. Then $2xy \le x^2 + y^2 \le x + y$.

    Extremal: $M = I_2$ with the tie broken toward $e_1 e_1'$, $r = 1$, $Q = q e_2 e_2'$ with
    $q = \varphi$ (Frobenius), 2 (operator), 1 (nuclear). Three agents with weights 1/3 realise it:
    $B_j = q^{1/2} e_2 + \sqrt 3 (u_j e_1 + w_j e_2)$ and
    $A_j' = q^{1/2} e_2 + \sqrt 3 (u_j e_1 + (1 - q) w_j e_2)$ with $u = (1, -1, 0)/\sqrt 2$,
    $w = (1, 1, -2)/\sqrt 6$. Last bound: $c$-isometries $(B, A)$ and $(-B, -A)$, weights 1/2.

    Source: derived here.
    """
    for mix in mixes(ctx, instances=ctx.pick(60, 1000)):
        yield from _differences(mix)
    for r, n in ((1, 2), (1, 5), (2, 4), (3, 5), (4, 6)):
        yield from _against_rank(ctx, r, r, n)
    for norm in NORMS:
        yield replay(extremal(norm))
    for mix in _bounded(ctx):
        yield _worst_case(mix)


def _differences(mix: Mix) -> Iterator[Row]:
    decaf, dlora = (METHODS[name].mix(mix.factors, mix.Pi, 0) for name in ("decaf", "dlora"))
    for norm in NORMS:
        factor = bounds.decaf_dlora_difference(interference=1.0, norm=norm)
        case = f"|P - Bbar Abar| <= const |I|, {norm}"
        yield at_most(
            case,
            product_distance(decaf, dlora, norm),
            factor * interference_norm(mix.factors, mix.Pi, norm),
            rounding=4 * allowance(mix),
            norm=norm,
            **mix.params,
        )


def _against_rank(ctx: Context, K: int, r: int, n: int) -> Iterator[Row]:
    """Q of rank K at random, then close to the extremal one; both in random bases, d > k = n."""
    rng = ctx.rng("Q", K, r, n)
    count = ctx.pick(100, 3000)
    d = n + 2
    k = n
    M = rng.standard_normal((count, d, k))
    Q = rng.standard_normal((count, d, K)) @ rng.standard_normal((count, K, k))
    yield _ratio_row("any Q", M, Q, ctx, K=K, r=r)

    p = min(K, n - r)
    place = np.arange(n)
    nu = bounds.decaf_dlora_lower_rank(K=K, r=r, n=n) ** 2
    kept = place < r
    dropped = (place >= r) & (place < r + p)
    shared = place >= r - K + p
    left = isometry(rng, count, d, n)
    right = isometry(rng, count, n, k)
    # the first instance is the extremal one up to TIE, the others are 10^-8 ... 1 away from it
    away = 10.0 ** rng.uniform(-8, 0, (count - 1, 1, 1))
    gap = np.concatenate([np.full((1, 1, 1), TIE), away])
    noise = rng.standard_normal((count, d, k))
    M = left * ((1 + gap) * kept + dropped) @ right + gap**2 * noise
    Q = left * ((kept & shared) + nu / (nu - 1) * dropped) @ right
    yield _ratio_row("Q near the extremal one", M, Q, ctx, K=K, r=r)


def _ratio_row(case: str, M: Any, Q: Any, ctx: Context, *, K: int, r: int) -> Row:
    M = ctx.array(M)
    Q = ctx.array(Q)
    xp = namespace(M)
    d, k = M.shape[-2:]
    P = product(tsvd(M, r).factors)
    gap, apart = (xp.linalg.matrix_norm(X - Q, ord="fro") for X in (P, M))
    # two SVDs and a product, each max(d, k) eps |M|
    slip = ulps(10 * max(d, k), xp.linalg.matrix_norm(M, ord="fro") + apart)
    constant = bounds.decaf_dlora_lower_rank(K=K, r=r, n=min(d, k))
    case = f"|TSVD_r(M) - Q|_F <= const |M - Q|_F, {case}"
    size = {"constant": constant, "d": d, "k": k, "r": r, "K": K}
    return at_most(case, gap, constant * apart, rounding=slip, **size)


def _bounded(ctx: Context) -> Iterator[Mix]:
    """Factors with sigma_1 <= 1: random contractions, isometries, and the sign flip."""
    count = ctx.pick(100, 3000)
    for r, d, k, m in ((1, 3, 2, 2), (2, 5, 4, 3), (3, 7, 8, 4)):
        rng = ctx.rng("bounded", r)
        B = isometry(rng, count, m, d, r)
        A = isometry(rng, count, m, r, k)
        Pi = ctx.array(stochastic(rng, 4, m))
        yield Mix("isometries", Factors(ctx.array(B), ctx.array(A)), Pi)
        shrink_B, shrink_A = rng.uniform(size=(2, count, m, 1, r))
        smaller = Factors(B * shrink_B, A * shrink_A.swapaxes(-1, -2)).map(ctx.array)
        yield Mix("contractions", smaller, Pi)
        sign = np.array([1.0, -1.0])[:, None, None]
        flip = Factors(sign * B[:, :1], sign * A[:, :1]).map(ctx.array)
        heavier = np.array([0.5, 0.6, 0.9])
        weights = np.stack([heavier, 1 - heavier], axis=-1)
        yield Mix("sign flip", flip, ctx.array(weights))


def _worst_case(mix: Mix) -> Row:
    decaf, dlora = (METHODS[name].mix(mix.factors, mix.Pi, 0) for name in ("decaf", "dlora"))
    gap = product_distance(decaf, dlora)
    r = mix.factors.rank
    bound = bounds.decaf_dlora_worst_case(c=1.0, r=r, norm="fro")
    case = "|P - Bbar Abar|_F <= sqrt(r) c^2"
    return at_most(case, gap, bound, rounding=4 * allowance(mix), c=1.0, **mix.params)


def extremal(norm: str = "fro") -> Instance:
    """Return three agents with M = diag(1 + TIE, 1) and Bbar Abar = q e_2 e_2'."""
    q = SHARPEST[norm]
    u = np.array([1, -1, 0]) / sqrt(2)
    w = np.array([1, 1, -2]) / sqrt(6)
    # coordinates along e_1, e_2; u and w have mean 0, so that the means are sqrt(q) e_2
    columns = [sqrt(3) * u, sqrt(q) + sqrt(3) * w]
    rows = [sqrt(3) * (1 + TIE) * u, sqrt(q) + sqrt(3) * (1 - q) * w]
    B = np.stack(columns, axis=-1)[:, :, None]
    A = np.stack(rows, axis=-1)[:, None, :]
    return stored(Factors(B, A), np.full(3, 1 / 3), norm=norm)


def replay(instance: Instance) -> Row:
    """Return the row of one stored mix in its norm, against the constant of that norm."""
    norm = instance["norm"]
    return next(row for row in _differences(load(instance)) if row.params["norm"] == norm)


def of_lower_rank(ctx: Context) -> Iterator[Row]:
    r"""The constant falls below the golden ratio where the compared matrix has rank below r.

    For $Q$ of rank at most $K \le r$ and $n = \min(d, k) > r$:
    $\|\mathrm{TSVD}_r(M) - Q\|_F \le \sqrt{1 + u}\, \|M - Q\|_F$ with
    $u = (h + \sqrt{h^2 + 4h})/2$, $h = p/(r - K + p)$, $p = \min(K, n - r)$. At $K = r$ it is the
    golden ratio. With $Q = \bar B \bar A$, $K$ is the rank of DLoRA's mix.

    Assumptions: rank of $Q$ at most $K$, $1 \le K \le r < n$.

    Proof: as for T18, with $\nu = 1 + u$, so that $u^2 = h (1 + u)$. $Q$ has rank $K$, so
    Eckart-Young gives $x \ge (r - K) s^2 + \sum_i \min(\tau_i, s)^2$; $Q_{22}$ has at most $p$
    singular values, so each $i$ may be given $(1/h - 1) s^2$ of the first term. What is left for
    each $i$ is, for $\tau_i \ge s$, a quadratic with leading coefficient $u$ and discriminant
    $4 (\nu - u^2/h) s^2 = 0$; for $\tau_i < s$ it is linear in $\tau_i^2$, nonnegative at 0 and, as
    $u \ge h$, at $s^2$.

    Extremal: $M$ the identity on $r + p$ directions, the tie broken toward the first $r$, zero on
    the others; $Q$ the identity on $K - p$ of the first $r$ and $\nu/u$ times the identity on the
    $p$ others.

    Source: derived here; the constant is that of hard thresholding of sparse vectors.
    """
    for K, r, n in ((1, 2, 3), (1, 3, 7), (2, 3, 4), (2, 4, 9), (3, 5, 6)):
        yield from _against_rank(ctx, K, r, n)
    yield replay_rank(extremal_rank())


def extremal_rank() -> Instance:
    """Return M = diag(1 + TIE, 1 + TIE, 1) and Q = (nu / u) e_3 e_3', K = 1, r = 2."""
    nu = bounds.decaf_dlora_lower_rank(K=1, r=2, n=3) ** 2
    e = np.eye(3)[2:]
    M = np.diag([1 + TIE, 1 + TIE, 1.0])
    B = nu / (nu - 1) * e.T
    return {"M": M.tolist(), "B": B.tolist(), "A": e.tolist(), "rank": 2}


def replay_rank(instance: Instance) -> Row:
    """Return the row of one stored M [d][k] and Q = B A against TSVD_rank(M)."""
    M, B, A = (np.asarray(instance[name], dtype=np.float64) for name in ("M", "B", "A"))
    letters = {"K": B.shape[1], "r": instance["rank"]}
    return _ratio_row("stored", M[None], (B @ A)[None], Context("stored"), **letters)


def golden_everywhere(ctx: Context) -> Iterator[Row]:
    r"""In operator and nuclear norm, too, the golden ratio bounds the DeCAF-DLoRA difference.

    $\|P - \bar B \bar A\| \le \varphi \|I\|$ with $\varphi = (1 + \sqrt 5)/2$ in operator norm and
    in nuclear norm. FALSE: the constant 2 of the triangle inequality is best possible there.

    Assumptions: weights $\pi_j \ge 0$ with sum one; inner dimension $r$.

    Counterexample: $M = \mathrm{diag}(1 + \epsilon, 1)$, $r = 1$, $\bar B \bar A = q e_2 e_2'$,
    three agents with weights 1/3 as in T18. Operator norm, $q = 2$: $\|I\| = 1 + \epsilon$ and the
    difference is 2. Nuclear norm, $q = 1$: $\|I\| = 1 + \epsilon$ and the difference is
    $2 + \epsilon$. As $\epsilon$ tends to 0 both ratios tend to 2.

    Source: derived here.
    """
    for norm in ("op", "nuc"):
        yield replay_false(extremal(norm))


def replay_false(instance: Instance) -> Row:
    """Return the row of one stored mix against the golden ratio."""
    mix = load(instance)
    norm = instance["norm"]
    decaf, dlora = (METHODS[name].mix(mix.factors, mix.Pi, 0) for name in ("decaf", "dlora"))
    lost = interference_norm(mix.factors, mix.Pi, norm)
    case = f"|P - Bbar Abar| <= phi |I|, {norm}"
    return at_most(
        case,
        product_distance(decaf, dlora, norm),
        bounds.GOLDEN_RATIO * lost,
        rounding=4 * allowance(mix),
        norm=norm,
        **mix.params,
    )


def attacks() -> dict[str, Any]:
    """Return the attacks on T18."""
    from verification.attacks.mixes import NORMS, difference

    return {norm: difference(norm) for norm in NORMS}


def attacks_rank() -> dict[str, Any]:
    """Return the attacks on T18-rank."""
    from verification.attacks.truncation import lower_rank

    return {"K = 1, r = 2": lower_rank(1, 2, 4, 3), "K = 2, r = 3": lower_rank(2, 3, 4, 5)}


CLAIMS = [
    Claim(
        "T18",
        "truncation",
        "derived",
        rows,
        bounds=(bounds.decaf_dlora_difference, bounds.decaf_dlora_worst_case),
        attacks=attacks,
        replay=replay,
        instance=extremal,
        reaches={
            "|P - Bbar Abar| <= const |I|, fro": 1,
            "|P - Bbar Abar| <= const |I|, op": 1,
            "|P - Bbar Abar| <= const |I|, nuc": 1,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, any Q": 0.48,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, Q near the extremal one": 1,
            "|P - Bbar Abar|_F <= sqrt(r) c^2": 1,
        },
    ),
    Claim(
        "T18-rank",
        "truncation",
        "derived",
        of_lower_rank,
        bounds=(bounds.decaf_dlora_lower_rank,),
        attacks=attacks_rank,
        replay=replay_rank,
        instance=extremal_rank,
        regimes=("K",),
        reaches={
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, any Q, K = 1": 0.71,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, Q near the extremal one, K = 1": 1,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, any Q, K = 2": 0.69,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, Q near the extremal one, K = 2": 1,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, any Q, K = 3": 0.74,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, Q near the extremal one, K = 3": 1,
            "|TSVD_r(M) - Q|_F <= const |M - Q|_F, stored, K = 1": 1,
        },
    ),
    Claim(
        "T18-op",
        "truncation",
        "derived",
        golden_everywhere,
        expected="violated",
        replay=replay_false,
        instance=lambda: extremal("op"),
        script="T18-op",
    ),
]
