"""T11 by all weights: the largest interference at rank one and at odd rank.

delta = min over signs of |sum_j +-pi_j| is how far the weights are from splitting evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product as cartesian
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import convert, host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference_norm
from verification.claim import Claim, Context, Row
from verification.evidence import at_least, at_most, attained, ulps
from verification.instances.mixes import Mix, isometry, load, stored
from verification.instances.omega import (
    closing_angles,
    closing_rotations,
    inside_omega,
    mix_of,
    polar,
)

C = 1.5
# at r = 3 T11's value is attained: by signs, by rotations, and not at all
EVEN = ((0.4, 0.3, 0.2, 0.1), (0.3, 0.25, 0.2, 0.15, 0.1))
CLOSING = (
    (0.2, 0.2, 0.2, 0.2, 0.2),
    (0.46, 0.45, 0.03, 0.03, 0.03),
    (0.253, 0.246, 0.2455, 0.2455, 0.01),
)
UNEVEN = (
    (1 / 3, 1 / 3, 1 / 3),
    (0.45, 0.35, 0.2),
    (0.3, 0.3, 0.25, 0.15),
    (0.45, 0.1833, 0.1833, 0.1834),
    (0.32, 0.27, 0.19, 0.14, 0.08),
)
HEAVY = ((0.6, 0.3, 0.1), (1.0,))


def rank_one(ctx: Context) -> Iterator[Row]:
    r"""At rank one interference on Omega_c is at most $c^2 (1 - \delta^2)$, in every norm alike.

    $\delta = \min_\pm |\sum_j \pm \pi_j|$; sharper than T11 for $\pi_{max} < 1/2$.

    Assumptions: $r = 1$, $\pi_j \ge 0$, $\sum_j \pi_j = 1$, $|a_j|, |b_j| \le c$.

    Proof: operator norm: $u' I v$ is the covariance of the numbers $x_j = u' b_j$, $y_j = v' a_j$
    in $[-c, c]$, at most $(Var\, x\, Var\, y)^{1/2}$. A variance is convex in each number, so
    largest at signs $\pm c$: $c^2 - c^2(\sum_j \pm \pi_j)^2$. Frobenius norm: T11-odd, as
    $\zeta_1 = \delta$; for $\pi_{max} > 1/2$ T11's $\tau$ is $1 - \delta^2$.

    Extremal: $b_j = \pm c u$, $a_j = \pm c v$ with the best signs, both norms at once.

    Source: derived here.
    """
    for weights in EVEN + CLOSING + UNEVEN + HEAVY:
        for d, k in ((3, 4), (5, 2)):
            rng = ctx.rng("rank one", *map(str, weights), d)
            found = climb(ctx, rng, weights, (d, k, 1), ctx.pick(6, 100))
            for norm in ("op", "fro"):
                yield from attained(limited("extremal", turned(ctx, rng, weights, d, k, 1), norm))
                yield limited("searched", found, norm)
    yield replay(instance())


def odd(ctx: Context) -> Iterator[Row]:
    r"""At odd rank and $\pi_{max} \le 1/2$ the Frobenius worst case of T11 need not be attained.

    With $\zeta_r = \min |\sum_j \pi_j O_j|_{op}$ over orthogonal $O_j$ of size $r$:
    $|I|_F \le c^2 (r - 1 + (1 - \zeta_r^2)^2)^{1/2}$, and T11's value $c^2 \sqrt r$ is attained iff
    $\zeta_r = 0$. At $r = 1$, and for three agents at odd $r$, $\zeta_r = \delta$, and the bound is
    attained. For four agents and odd $r$, $\zeta_r \ge \delta/r$. At $r = 3$ and for five agents
    $\zeta_3$ is at least a third of the least of $\delta$, $4\pi_{max} - 1$ and
    $\min_j (1 - 2\pi_j - 4\min_{i \ne j} \pi_i)$, negative ones counted as 0; and it is 0 if this
    is. So at $r = 3$ T11's value is attained by four agents iff $\delta = 0$; by five iff
    $\delta = 0$, or no weight exceeds 1/4, or $\min_{i \ne j} \pi_i \ge (1 - 2\pi_j)/4$ for some j.

    Assumptions: those of T11, and $\pi_{max} \le 1/2$.

    Proof: bound, $c = 1$: with $w = diag(\pi) - \pi\pi'$, $|I|_F^2 = \langle G_B, (w \otimes 1) G_A
    (w \otimes 1) \rangle$ is a semidefinite form in the Gram matrices $(B_i'B_j)$ and $(A_iA_j')$;
    by Cauchy-Schwarz the worst has $A_j = B_j'$, so $I = \sum \pi_j B_jB_j' - \bar B \bar B' \ge 0$
    and $|I|_F = \langle H, I \rangle$, $H = I/|I|_F$ of eigenvalues $h_1 \ge h_2 \ge \ldots$. Let
    $X_j$ be $B_j$ in the first $r$ eigenvectors, $y = \sum \pi_j (r - |X_j|_F^2)$, $x = |\bar
    X|_{op}$, $D = h_r - h_{r+1}$. As $B_jB_j' \le 1$ has trace $\le r$, $|I|_F \le \sum_{k \le r}
    h_k - D y - h_r x^2$. The polar factors $O_j$ of $X_j$ are within $1 - \sigma_r(X_j)^2$ of it,
    so $\zeta_r \le x + y$. It remains that $h_r - D (\zeta - x)_+ - h_r x^2 \le (h_r^2 +
    h_{r+1}^2)^{1/2} (1 - \zeta^2)$; then Cauchy-Schwarz over $h_1, \ldots, h_{r-1}$ and this root.
    For $x \ge \zeta$ that is clear. Below, the left side is concave in $x$; if $v = D/h_r \ge
    2\zeta$ it is largest at $x = \zeta$, else at $x = v/2$, where with $h_r = \cos f$, $h_{r+1} =
    \sin f$ right less left is $1 - \zeta^2 - \cos f\, (1 - v \zeta + v^2/4)$: concave in $\zeta$,
    $(1 - \cos f)(1 - v^2/4)$ at $\zeta = v/2$, and positive at $\zeta = 1/3$. And $\zeta \le \delta
    \le 1/3$: if $\pi_{max} \ge 1/3$, $\delta \le 1 - 2\pi_{max}$; else signs that turn each weight
    against the sum of those before it keep it within $\pi_{max}$.

    $\zeta_r$ at odd $r$: among the singular values of $\pi_1 O_1 + \pi_2 O_2$, those of $\pi_1 +
    \pi_2 O_1'O_2$, one of $|\pi_1 \pm \pi_2|$ is single and all others come in equal pairs. Three
    agents: by Weyl $\zeta \ge ||\pi_1 \pm \pi_2| - \pi_3| \ge \delta$. Four: the sorted values of
    $\pi_1 O_1 + \pi_2 O_2$ and of $\pi_3 O_3 + \pi_4 O_4$ differ by at most $\zeta$; the walk that
    alternates between this matching and the equal pairs leads from one single value to the other in
    at most $r$ such steps, so $r \zeta \ge \delta$.

    At $r = 3$, $O_j = s_j R(q_j)$, $q_j$ a unit quaternion, and $R(q)$ is linear in $qq'$ with
    kernel $R \cdot 1$; a matrix of singular values $\le \zeta$ is the image of a traceless $E$ with
    $|E|_{op} \le 3\zeta/4$. So $\sum s_j \pi_j q_jq_j' = t + E$ with $4t = \sum s_j \pi_j \ge 0$
    (else all signs change). If at most three $s_j$ are 1, $t + E$ plus the other terms has rank 3,
    so that $3\zeta/4 \ge t \ge \delta/4$. If all five are, $\pi_{max}$ is at most the largest
    eigenvalue of $1/4 + E$. If all but $j$, the least of $\sum_{i \ne j} \pi_i q_iq_i' \ge t + E$
    is at most $\min_{i \ne j} \pi_i$. By Schur-Horn the conditions of the last two cases suffice
    for $E = 0$.

    Extremal: one turned plane for each pair of directions and signs in the last one.

    Source: derived here.
    """
    for weights in EVEN + CLOSING + UNEVEN:
        rng = ctx.rng("odd", *map(str, weights))
        for r in (3, 5):
            row = limited("signs", turned(ctx, rng, weights, r + 2, r + 1, r), "fro")
            yield from attained(row) if weights in EVEN or len(weights) == 3 else (row,)
        restarts, rounds = ctx.pick((6, 60), (60, 400))
        found = limited("searched", climb(ctx, rng, weights, (4, 5, 3), restarts, rounds), "fro")
        yield found
        if weights in CLOSING:
            closed = held_by(ctx, rng, closing_rotations(weights), weights, 5, 4)
            yield from attained(limited("rotations", closed, "fro"))
        if weights in UNEVEN:
            yield short_of(found)
    yield replay(instance_odd())


def limited(case: str, mix: Mix, norm: str, c: float = C) -> Row:
    """Return the worst row of |I| against the bound by all weights; rounding as in T11."""
    d, k = mix.factors.shape
    r = mix.factors.rank
    m = mix.Pi.shape[-1]
    held = namespace(mix.factors.B).all(inside_omega(mix.factors, c), axis=-1)[:, None]
    weights = host(mix.Pi)[0].tolist()
    n = min(d, k)
    p = max(d, k, m * r)
    return at_most(
        f"{case} {norm}, {mix.family}",
        interference_norm(mix.factors, mix.Pi, norm),
        bounds.interference_by_weights(c=c, r=r, pi=weights),
        rounding=ulps((4 * n + 8) * p, r, c**2),
        held=held,
        **mix.params,
        norm=norm,
        delta=bounds.sign_gap(pi=weights),
        zeta=bounds.orthogonal_gap(r=r, pi=weights),
        pi_max=max(weights),
    )


def short_of(found: Row) -> Row:
    """Return that the largest |I|_F found stays below T11's value by more than its rounding."""
    r = int(found.params["r"])
    worst = bounds.interference_worst_case(c=C, q=r, pi_max=0.5, norm="fro")
    room = worst - found.measured
    slip = ulps(8, worst)
    return at_least("room below T11", room, found.rounding, rounding=slip, **found.params)


def turned(
    ctx: Context, rng: np.random.Generator, weights: tuple[float, ...], d: int, k: int, r: int
) -> Mix:
    """Return (c U O_j, c O_j' V): planes turned as the weights close, signs in the last direction.

    With a weight above 1/2, by which no polygon closes, signs in all directions.
    """
    signs = min(cartesian((1, -1), repeat=len(weights)), key=lambda s: abs(np.dot(weights, s)))
    turns = np.array(signs)[:, None, None] * np.eye(r)
    if max(weights) <= 0.5:
        cos, sin = np.cos(closing_angles(weights)), np.sin(closing_angles(weights))
        for first in range(0, r - 1, 2):
            turns[:, first, first], turns[:, first, first + 1] = cos, -sin
            turns[:, first + 1, first], turns[:, first + 1, first + 1] = sin, cos
    return held_by(ctx, rng, turns, weights, d, k)


def held_by(
    ctx: Context,
    rng: np.random.Generator,
    turns: np.ndarray,
    weights: tuple[float, ...],
    d: int,
    k: int,
) -> Mix:
    """Return the agents (c U O_j, c O_j' V) for orthogonal O_j [m, r, r]: they hold one product."""
    r = turns.shape[-1]
    U, V = isometry(rng, d, r), isometry(rng, r, k)
    return mix_of(ctx, "turned", C * U @ turns, C * turns.mT @ V, weights)


def climb(
    ctx: Context,
    rng: np.random.Generator,
    weights: tuple[float, ...],
    shape: tuple[int, int, int],
    restarts: int,
    rounds: int = 60,
) -> Mix:
    """Return mixes of large |I|_F on Omega_c from random starts, by alternating maximization.

    I = sum_ij w_ij B_i A_j, w = diag(pi) - pi pi'. |I|_F is convex in all B together; they are
    replaced by the maximizers over Omega_c of the linearization, then all A: never a step down.
    """
    d, k, r = shape
    m = len(weights)
    B, A = (ctx.array(isometry(rng, restarts, m, *size) * C) for size in ((d, r), (r, k)))
    w = convert(np.diag(weights) - np.outer(weights, weights), B)
    xp = namespace(B)
    for _ in range(rounds):
        apart = xp.einsum("ij,njrk->nirk", w, A)
        B = C * polar(xp.einsum("nab,nirb->niar", _sum(B, apart), apart))
        apart = xp.einsum("ij,njdr->nidr", w, B)
        A = C * polar(xp.einsum("nidr,ndk->nirk", apart, _sum(apart, A)))
    return Mix("searched", Factors(B, A), ctx.array(weights)[None])


def _sum(B: Any, A: Any) -> Any:
    """Return sum_i B_i A_i, [instances, d, k]."""
    return namespace(B).sum(B @ A, axis=1)


def instance() -> Mapping[str, Any]:
    """Return three agents of weights (1/2, 1/4, 1/4), signs (+, -, -), c = 2: delta = 0."""
    sign = np.array([1.0, -1.0, -1.0])[:, None, None]
    agents = Factors(2 * sign * np.eye(3, 1), 2 * sign * np.eye(1, 2))
    return stored(agents, [0.5, 0.25, 0.25], c=2.0, norm="fro")


def instance_odd() -> Mapping[str, Any]:
    """Return three equal weights, r = 3, c = 2: one plane at 0, 120, 240 degrees, signs +, -, -."""
    mix = turned(Context("T11-odd"), np.random.default_rng(0), (1 / 3,) * 3, 4, 3, 3)
    agents = mix.factors.map(lambda X: X[0] * (2 / C))
    return stored(agents, [1 / 3] * 3, c=2.0, norm="fro")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored mix, its c and its norm."""
    return limited("stored", load(stored_instance), stored_instance["norm"], stored_instance["c"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T11-rank-one."""
    from verification.attacks.mixes import THIRDS, odd_rank

    return {
        **{f"{norm}, thirds": odd_rank(norm, THIRDS, 1) for norm in ("op", "fro")},
        "fro, split": odd_rank("fro", (0.5, 0.3, 0.2), 1),
        "fro, five agents": odd_rank("fro", UNEVEN[-1], 1),
    }


def attacks_odd() -> dict[str, Any]:
    """Return the attacks on T11-odd."""
    from verification.attacks.mixes import THIRDS, odd_rank

    return {
        "r = 3, thirds": odd_rank("fro", THIRDS, 3),
        "r = 3, unequal": odd_rank("fro", (0.45, 0.35, 0.2), 3),
        "r = 3, five agents": odd_rank("fro", (0.2,) * 5, 3),
        "r = 3, four uneven": odd_rank("fro", UNEVEN[-2], 3),
        "r = 3, five uneven": odd_rank("fro", UNEVEN[-1], 3),
    }


CLAIMS = [
    Claim(
        "T11-rank-one",
        "interference",
        "derived",
        rank_one,
        bounds=(bounds.interference_by_weights,),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "extremal op": 1,
            "searched op": 1,
            "extremal fro": 1,
            "searched fro": 1,
            "stored fro": 1,
        },
    ),
    Claim(
        "T11-odd",
        "interference",
        "derived",
        odd,
        bounds=(bounds.interference_by_weights,),
        attacks=attacks_odd,
        replay=replay,
        instance=instance_odd,
        reaches={
            "signs fro": 1,
            "searched fro": 1,
            "rotations fro": 1,
            "room below T11, fro": 0,
            "stored fro": 1,
        },
    ),
]
