"""T11 at odd rank: what is known of the largest interference where no weight exceeds 1/2.

delta = min over signs of |sum_j +-pi_j| is how far the weights are from splitting evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product as cartesian
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory.arrays import convert, host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference_norm
from verification.claim import Claim, Context, Row
from verification.evidence import at_most, ulps
from verification.instances.mixes import Mix, isometry, load, stored
from verification.instances.omega import inside_omega, mix_of, polar, signed

C = 1.5
WEIGHTS = (
    (1 / 3, 1 / 3, 1 / 3),
    (0.45, 0.35, 0.2),
    (0.3, 0.3, 0.25, 0.15),
    (0.2, 0.2, 0.2, 0.2, 0.2),
    (0.4, 0.3, 0.2, 0.1),
    (0.6, 0.3, 0.1),
    (1.0,),
)


def rank_one(ctx: Context) -> Iterator[Row]:
    r"""At rank one interference on Omega_c is at most $c^2 (1 - \delta^2)$ in operator norm.

    $\delta = \min_\pm |\sum_j \pm \pi_j|$, and
    $|I|_F \le c^2 ((1 - \delta^2)^2 + \delta^4)^{1/2}$; sharper than T11 for $\pi_{max} < 1/2$.

    Assumptions: $r = 1$, $\pi_j \ge 0$, $\sum_j \pi_j = 1$, $|a_j|, |b_j| \le c$.
    Proof: $u' I v$ is the covariance of the numbers $x_j = u' b_j$, $y_j = v' a_j$ in $[-c, c]$, at
    most $(Var\, x\, Var\, y)^{1/2}$. A variance is convex in each number, so largest at signs
    $\pm c$: $c^2 - c^2(\sum_j \pm \pi_j)^2$. By T11 the singular values sum to at most $c^2$; with
    the largest at most $(1 - \delta^2) c^2$, which is at least $c^2/2$ for $\pi_{max} \le 1/2$
    ($\delta \le \pi_{max}$), their squares sum to at most those of $(1 - \delta^2, \delta^2) c^2$.
    For $\pi_{max} > 1/2$ T11 itself gives $(1 - \delta^2) c^2$.
    Extremal: $b_j = \pm c u$, $a_j = \pm c v$ with the best signs (operator norm; Frobenius norm
    for $\delta = 0$).
    Source: derived here.
    """
    for weights in WEIGHTS:
        for d, k in ((3, 4), (5, 2)):
            rng = ctx.rng("rank one", *map(str, weights), d)
            agents = mix_of(ctx, "best signs", *split(rng, weights, d, k), weights)
            found = climb(ctx, rng, weights, (d, k, 1), ctx.pick(6, 100))
            for case, mix in (("extremal", agents), ("searched", found)):
                for norm in ("op", "fro"):
                    yield limited(case, mix, norm, rank_one_limit(weights, norm))
    yield replay(instance())


def odd(ctx: Context) -> Iterator[Row]:
    r"""At odd rank and $\pi_{max} < 1/2$ the Frobenius worst case of T11 need not be attained.

    It is attained iff $\sum_j \pi_j O_j = 0$ for some orthogonal $O_j$ of size $r$: for three or
    four agents iff $\delta = 0$ ($r$ odd). The maxima found are $1 - \delta^2$ at $r = 1$ and
    $(r - 1 + (1 - \delta^2)^2)^{1/2}$ for three agents, times $c^2$; for five agents T11's value.

    Assumptions: those of T11.
    Proof: numerical for the maxima. For the criterion: equality in T11 needs
    $\bar A = \bar B = 0$, $c$-isometries and equal products, hence $B_j = B O_j'$, $A_j = O_j A$.
    With four agents (or three, $\pi_4 = 0$) $\pi_1 O_1 + \pi_2 O_2 = -(\pi_3 O_3 + \pi_4 O_4)$.
    At odd $r$ the values $\pi_1 + \pi_2$ and $|\pi_1 - \pi_2|$ have together odd multiplicity
    among the singular values of the left side (real eigenvalues of $O_1' O_2$), all others even;
    likewise on the right. So $\pi_1 \pm \pi_2 = \pm(\pi_3 \pm \pi_4)$ for some signs: $\delta = 0$.
    Extremal: one turned plane for each pair of directions and signs in the last one.
    Source: derived here; numerical evidence for the maxima.
    """
    for weights in WEIGHTS:
        if len(weights) in (3, 4, 5) and max(weights) < 0.5:
            for r in (1, 3):
                shape = (r + 1, r + 2, r)
                restarts = ctx.pick(10, 200)
                rng = ctx.rng("odd", *map(str, weights), r)
                found = climb(ctx, rng, weights, shape, restarts)
                yield limited("searched", found, "fro", odd_limit(weights, r))


def delta(weights: tuple[float, ...]) -> float:
    """Return min over signs of |sum_j +-pi_j|."""
    return min(abs(float(np.dot(weights, s))) for s in cartesian((1, -1), repeat=len(weights)))


def rank_one_limit(weights: tuple[float, ...], norm: str) -> float:
    """Return the bound at c = 1, r = 1."""
    top = 1 - delta(weights) ** 2
    return top if norm == "op" or max(weights) > 0.5 else sqrt(top**2 + (1 - top) ** 2)


def odd_limit(weights: tuple[float, ...], r: int) -> float:
    """Return the largest |I|_F found at c = 1; for more than three agents T11's own value."""
    top = 1 - delta(weights) ** 2
    return sqrt(r - 1 + top**2) if r == 1 or len(weights) == 3 else sqrt(r)


def limited(case: str, mix: Mix, norm: str, limit: float, c: float = C) -> Row:
    """Return the worst row |I| <= limit c^2; rounding as in T11."""
    d, k = mix.factors.shape
    r = mix.factors.rank
    m = mix.Pi.shape[-1]
    held = namespace(mix.factors.B).all(inside_omega(mix.factors, c), axis=-1)[:, None]
    weights = host(mix.Pi)[0]
    n = min(d, k)
    p = max(d, k, m * r)
    return at_most(
        f"{case} {norm}, {mix.family}",
        interference_norm(mix.factors, mix.Pi, norm),
        limit * c**2,
        rounding=ulps((4 * n + 8) * p, r, c**2),
        held=held,
        **mix.params,
        norm=norm,
        delta=delta(tuple(weights)),
        pi_max=float(weights.max()),
    )


def split(
    rng: np.random.Generator, weights: tuple[float, ...], d: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rank-one agents (+-c u, +-c v') with the signs that split the weights best."""
    signs = min(cartesian((1, -1), repeat=len(weights)), key=lambda s: abs(np.dot(weights, s)))
    return signed(C * isometry(rng, d, 1), C * isometry(rng, 1, k), signs)


def climb(
    ctx: Context,
    rng: np.random.Generator,
    weights: tuple[float, ...],
    shape: tuple[int, int, int],
    restarts: int,
    rounds: int = 100,
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
    agents = Factors(*signed(2 * np.eye(3, 1), 2 * np.eye(1, 2), (1, -1, -1)))
    return stored(agents, [0.5, 0.25, 0.25], c=2.0, norm="fro")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored rank-one mix, its c and its norm."""
    norm = stored_instance["norm"]
    weights = tuple(stored_instance["weights"])
    limit = rank_one_limit(weights, norm)
    return limited("stored", load(stored_instance), norm, limit, stored_instance["c"])


def instance_odd() -> Mapping[str, Any]:
    """Return three equal weights with the best signs (+, -, -), r = 1, c = 2: delta = 1/3."""
    agents = Factors(*signed(2 * np.eye(3, 1), 2 * np.eye(1, 2), (1, -1, -1)))
    return stored(agents, [1 / 3] * 3, c=2.0)


def replay_odd(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored mix against the largest |I|_F found."""
    mix = load(stored_instance)
    weights = tuple(stored_instance["weights"])
    limit = odd_limit(weights, mix.factors.rank)
    return limited("stored", mix, "fro", limit, stored_instance["c"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T11-rank-one."""
    from verification.attacks.mixes import THIRDS, odd_rank

    return {
        **{f"{norm}, thirds": odd_rank(norm, THIRDS, 1) for norm in ("op", "fro")},
        "fro, split": odd_rank("fro", (0.5, 0.3, 0.2), 1),
    }


def attacks_odd() -> dict[str, Any]:
    """Return the attacks on T11-odd."""
    from verification.attacks.mixes import THIRDS, odd_rank

    return {
        "r = 3, thirds": odd_rank("fro", THIRDS, 3),
        "r = 3, unequal": odd_rank("fro", (0.45, 0.35, 0.2), 3),
        "r = 3, five agents": odd_rank("fro", (0.2,) * 5, 3),
    }


CLAIMS = [
    Claim(
        "T11-rank-one",
        "interference",
        "derived",
        rank_one,
        attacks=attacks,
        replay=replay,
        instance=instance,
    ),
    Claim(
        "T11-odd",
        "interference",
        "numerical",
        odd,
        attacks=attacks_odd,
        replay=replay_odd,
        instance=instance_odd,
    ),
]
