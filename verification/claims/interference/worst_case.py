"""T11: the largest interference on Omega_c."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mix_factors, product
from decaf_theory.measure import NORMS, interference_norm
from decaf_theory.problems.frames import rotations
from verification.claim import Claim, Context, Row
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import Mix, isometry, load, mixes, stored
from verification.instances.omega import (
    closing_angles,
    each,
    inside_omega,
    mix_of,
    mix_on_omega,
    signed,
)

C = 1.5
SHAPES = [(1, 2, 1), (3, 2, 2), (4, 6, 3), (9, 8, 8), (2, 5, 3), (6, 3, 4)]  # d, k, r


def rows(ctx: Context) -> Iterator[Row]:
    r"""Under Assumption 2 interference is at most $c^2 \tau (q, \sqrt q, 1)$: nuc, Fro, op norm.

    $q = \min(r, d, k)$; $\tau = 1$ if $\pi_{max} \le 1/2$, else $4 \pi_{max}(1 - \pi_{max})$.

    Assumptions: $\pi_j \ge 0$, $\sum_j \pi_j = 1$, $\sigma_1(A_j), \sigma_1(B_j) \le c$.
    Proof: By T9 with panels $X, Y$. $|X|_{op}^2$ is the largest weighted variance of vectors
    $v_j = B_j' u$, $|u| = 1$, of a ball of radius $c$. It is convex in each $v_j$, so largest where
    all $|v_j| = c$, and is $c^2 - |\sum_j \pi_j v_j|^2$ there; the sum's length is at least
    $(2 \pi_{max} - 1) c$. So $|X|_{op}^2 \le \tau c^2$ and, with $B_j$ for $v_j$ in the ball of
    radius $\sqrt{\min(r, d)} c$, $|X|_F^2 \le \min(r, d) \tau c^2$; likewise for $Y$ with $k$.
    Operator and Frobenius norm follow by T9; the nuclear norm is at most $|X|_F |Y|_F$ and at
    most $\min(d, k)$ operator norms.
    Extremal: (i) weights 1/2, agents $\pm(B, A)$ of $c$-isometries; (ii) $\pi_{max} \ge 1/2$: one
    agent $(B, A)$, all others $(-B, -A)$; (iii) $\pi_{max} \le 1/2$, even $r$: gauge rotations
    $(B R_j', R_j A)$ by angles that close the polygon of sides $\pi_j$ (0, 120, 240 degrees for
    three equal weights). In (iii) all agents hold the same product, and DLoRA's mix of it is 0.
    Source: derived here.
    """
    for mix in mixes(ctx, ctx.pick(20, 400)):
        for norm in NORMS:
            yield bounded("random", mix_on_omega(mix, C), C, norm)
    for d, k, r in SHAPES:
        for mix in extremals(ctx, d, k, r):
            for norm in NORMS:
                yield bounded("extremal", mix, C, norm)
            if mix.family == "rotations":
                yield from same_product_but_no_mean(mix)
    yield replay(instance())


def bounded(case: str, mix: Mix, c: float, norm: str) -> Row:
    """Return the worst row |I| <= worst case, over all instances and rows of Pi.

    Rounding, with p the largest and n the least size: 4 p n eps q c^2 for the norm as in T9, and
    8 p eps q c^2 because sigma_1 is allowed to exceed c by 4 p eps c in either factor.
    """
    d, k = mix.factors.shape
    r = mix.factors.rank
    q = min(d, k, r)
    pi_max = host(mix.Pi).max(axis=-1)
    n = min(d, k)
    p = max(d, k, r * mix.Pi.shape[-1])
    bound = each(partial(bounds.interference_worst_case, c=c, q=q, norm=norm), pi_max=pi_max)
    return at_most(
        f"{case} {norm}, {mix.family}",
        interference_norm(mix.factors, mix.Pi, norm),
        bound,
        rounding=ulps((4 * n + 8) * p, q, c**2),
        held=namespace(mix.factors.B).all(inside_omega(mix.factors, c), axis=-1)[:, None],
        **mix.params,
        norm=norm,
        c=c,
        heavy=bool((pi_max > 0.5).all()),
        **({"pi_max": float(pi_max[0])} if len(pi_max) == 1 else {}),
    )


def extremals(ctx: Context, d: int, k: int, r: int) -> Iterator[Mix]:
    """Yield the three extremal families of one shape."""
    rng = ctx.rng("extremal", d, k, r)
    B = C * isometry(rng, d, r)
    A = C * isometry(rng, r, k)
    if r > min(d, k):  # isometries of a common q-dimensional inner space
        B = C * np.eye(d, r)
        A = C * np.eye(r, k)
    yield mix_of(ctx, "sign pair", *signed(B, A, (1, -1)), [0.5, 0.5])
    for p in (0.5, 0.6, 0.9, 1 - 1e-6):
        weights = [p, (1 - p) / 4, 3 * (1 - p) / 4]
        yield mix_of(ctx, "heavy agent", *signed(B, A, (1, -1, -1)), weights)
    if r % 2 or r > min(d, k):
        return
    U = isometry(rng, d, d)
    V = isometry(rng, k, k)
    for weights in ([1 / 3] * 3, [0.45, 0.35, 0.2], [0.3, 0.25, 0.2, 0.15, 0.1]):
        angles = closing_angles(weights)
        (B, A), _ = rotations(d=d, k=k, r=r, c=C, angles=angles, weights=np.array(weights))
        yield mix_of(ctx, "rotations", U @ B, A @ V, weights)


def same_product_but_no_mean(mix: Mix) -> Iterator[Row]:
    """Yield: all agents hold one product, and factor averaging returns zero.

    Rounding: entries of size c^2 after sums of r and of m terms, and angles right to a few eps.
    """
    xp = namespace(mix.factors.B)
    held = product(mix.factors)
    mean = product(mix_factors(mix.factors, mix.Pi))
    rounding = ulps(8 * (mix.factors.rank + mix.Pi.shape[-1]) ** 1.5, C**2)
    for case, residual in (("equal products", held - held[:, :1]), ("mixed product 0", mean)):
        size = xp.linalg.matrix_norm(residual, ord="fro")
        yield same(f"{case}, {mix.family}", size, rounding=rounding, **mix.params)


def instance() -> Mapping[str, Any]:
    """Return the sign pair (E, E), (-E, -E) at c = 2, d = 3, k = 2, r = 2."""
    B = 2 * np.eye(3, 2)
    A = 2 * np.eye(2, 2)
    return stored(Factors(np.stack([B, -B]), np.stack([A, -A])), [0.5, 0.5], c=2.0, norm="nuc")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored mix, its c and its norm."""
    return bounded("stored", load(stored_instance), stored_instance["c"], stored_instance["norm"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T11."""
    from verification.attacks.mixes import HEAVY, NORMS, THIRDS, interference_in_a_ball

    return {
        **{f"{norm}, thirds": interference_in_a_ball(norm, THIRDS) for norm in NORMS},
        **{f"{norm}, heavy": interference_in_a_ball(norm, HEAVY) for norm in NORMS},
        **{f"fro, thirds, r = {r}": interference_in_a_ball("fro", THIRDS, r) for r in (1, 3)},
    }


CLAIMS = [
    Claim(
        "T11",
        "interference",
        "derived",
        rows,
        bounds=(bounds.interference_worst_case,),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "random fro": 0.42,
            "random op": 0.86,
            "random nuc": 0.49,
            "random fro, heavy": 0.2,
            "random op, heavy": 0.22,
            "random nuc, heavy": 0.2,
            "extremal fro": 1,
            "extremal op": 1,
            "extremal nuc": 1,
            "extremal fro, heavy": 1,
            "extremal op, heavy": 1,
            "extremal nuc, heavy": 1,
            "stored nuc": 1,
        },
    )
]
