"""T4: readings under which Lemma 1 is false, and the constant that holds in mixed norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.lowrank import product
from decaf_theory.problems import PROBLEMS
from verification.claim import Claim, Context, Row
from verification.evidence import same
from verification.instances.omega import each
from verification.instances.pairs import pair_of, pairs
from verification.instances.slopes import (
    Slope,
    climb,
    extremal,
    load,
    random_slopes,
    steepness,
    stored,
)

S = 0.75
C = 1.5
L = 1.25
G = 0.5
SHAPES = [(3, 2, 1), (2, 4, 2), (4, 5, 4)]  # d, k, r
Rows = Callable[[Context], Iterator[Row]]


def mixed(ctx: Context) -> Iterator[Row]:
    r"""Gradients in the sum norm, steps in the Euclidean norm: the constant is $\sqrt2 L^*$.

    $L^* = s(2 s L c^2 + G)$. It exceeds Lemma 1's constant with $C = s c$ for $r \le 2$ always, for
    $r \ge 3$ iff $2 s L c^2(\sqrt r - \sqrt 2) < (\sqrt 2 - 1) G$.

    Assumptions: those of T2; for the comparison $G > 0$.
    Proof: The sum of two blocks is at most $\sqrt 2$ times their Euclidean norm; then T2-sharp.
    Extremal: T3's function, where both blocks change by the same amount: a supremum.
    Source: derived here.
    """
    for pair in pairs(ctx, ctx.pick(20, 400), C):
        slope = random_slopes(ctx.rng("gradients", pair.family, pair.start.rank), pair, L, G, S)
        yield in_mixed_norms("random", slope, least_mixed(slope))
    for d, k, r in SHAPES:
        for share in (0.1, 1.0, 10.0):
            steep = share * 2 * S * L * C**2
            rng = ctx.rng("climb", d, k, r)
            restarts = ctx.pick(8, 100)
            found = climb(
                ctx, rng, (d, k, r), "sum", restarts, L=L, c=C, G=steep, s=S, displacement="euclid"
            )
            top = extremal(ctx, d, k, r, L=L, c=C, G=steep, s=S)
            for case, slope in (("searched", found), ("extremal", top)):
                yield in_mixed_norms(case, slope, least_mixed(slope), G=slope.G)
    yield replay_mixed(instance_at_corner())
    yield exceeded_iff()


def sum_against_euclid(ctx: Context) -> Iterator[Row]:
    r"""Lemma 1 holds with gradients in the sum norm and displacements in the Euclidean norm.

    $|d\nabla_A| + |d\nabla_B| \le s(2 L C \sqrt r c + G) (|dA|^2 + |dB|^2)^{1/2}$ with $C = s c$.

    Assumptions: those of T2.
    Proof (of the contrary): the least constant is $\sqrt 2 L^*$ (T4-mixed), so the statement is
    false for $r \le 2$, and for $r \ge 3$ iff $2 s L c^2(\sqrt r - \sqrt 2) < (\sqrt 2 - 1) G$.
    Counterexample: T3's function at $r = s = c = L = G = 1$, factors scaled from 1 to 7/8.
    Source: reading of Lemma 1 of arXiv 2505.21382 (paraphrased); refuted here.
    """
    for r in (1, 2):
        for share in (0.1, 1.0, 10.0):
            slope = extremal(ctx, 3, 4, r, L=L, c=C, G=share * 2 * S * L * C**2, s=S)
            yield in_mixed_norms("extremal", slope, lemma1(slope, slope.s * slope.c), G=slope.G)
    slope = extremal(ctx, 3, 4, 3, L=L, c=C, G=10 * 2 * S * L * C**2, s=S)
    yield in_mixed_norms("extremal", slope, lemma1(slope, slope.s * slope.c), G=slope.G)
    yield replay(instance_mixed())


def scale_forgotten(ctx: Context) -> Iterator[Row]:
    r"""Lemma 1 holds with $C = c$, the scale $s$ of the adapter left out.

    Assumptions: those of T2, Euclidean norm on both sides.
    Proof (of the contrary): the statement is false iff $s > \sqrt r$, for every $G > 0$: then
    $L^* = s(2 s L c^2 + G)$ exceeds $s(2 L \sqrt r c^2 + G)$, up to $s/\sqrt r$ times as $G \to 0$.
    Extremal: at $s = \sqrt r$ the two constants agree.
    Counterexample: T3's function at $r = 1$, $s = 2$, $c = L = 1$, $G = 1/4$, factors scaled from 1
    to 7/8. The excess grows with $s$, which is free.
    Source: reading of Lemma 1 of arXiv 2505.21382 (paraphrased); refuted here.
    """
    for r, s in ((1, 2.0), (1, 1.01), (2, 2.0), (4, 8.0)):
        for G_share in (0.01, 1.0, 10.0):
            slope = extremal(ctx, 3, 5, r, L=L, c=C, G=G_share * 2 * s * L * C**2, s=s)
            constant = lemma1(slope, slope.c)
            yield steepness("extremal", slope, constant, "euclid", s=s, G=slope.G)
    yield replay(instance_scale())


def no_assumption_2(ctx: Context) -> Iterator[Row]:
    r"""Lemma 1's constant at one $c$ also holds outside Omega_c, where Assumption 2 fails.

    Assumptions: $f$ is $L$-smooth and $|\nabla f| \le G$ on the whole space; no bound on $A$, $B$.
    Proof (of the contrary): the statement is false for every $c$: with T3's $h$ at $x_0 = 0$,
    $A = a E_{11}$ and a small $B$ moved to 0, $\nabla_B$ changes by $s^2 L a^2 |dB|$, however
    large $a$ is.
    Counterexample: $c = s = L = G = 1$, $a = 2$, $B$ from 1/4 to 0: slope 4.03 against 3. The
    excess grows like $a^2$, which is free.
    Source: reading of Lemma 1 of arXiv 2505.21382 (paraphrased); refuted here.
    """
    for a in (2.0, 10.0, 1000.0):
        slope = outside(ctx, 3, 2, a)
        constant = lemma1(slope, 1.0, 1.0)
        yield steepness("outside Omega_1", slope, constant, "euclid", lemma_c=1.0)
    yield replay(instance_outside())


def in_mixed_norms(case: str, slope: Slope, constant: float, **params: float) -> Row:
    """Return the row: sum norm of the gradient against the Euclidean norm of the step."""
    return steepness(case, slope, constant, "sum", "euclid", displacement_norm="euclid", **params)


def least_mixed(slope: Slope) -> float:
    """Return sqrt(2) L*."""
    return bounds.smoothness_mixed_norm(L=slope.L, c=slope.c, G=slope.G, s=slope.s)


def instance_at_corner() -> Mapping[str, Any]:
    """Return T3's slope at s = L = G = 1, c = 2, d = 3, k = 2, r = 2."""
    return stored(extremal(Context("stored"), 3, 2, 2, L=1.0, c=2.0, G=1.0, s=1.0))


def replay_mixed(instance: Mapping[str, Any]) -> Row:
    """Return the row of a stored slope against sqrt(2) L*."""
    slope = load(instance)
    return in_mixed_norms("stored", slope, least_mixed(slope))


def lemma1(slope: Slope, C: float, c: float | None = None) -> float:
    """Return Lemma 1's constant at C, at the slope's own c unless another is given."""
    c = slope.c if c is None else c
    return bounds.lemma1_smoothness(L=slope.L, C=C, c=c, G=slope.G, s=slope.s, r=slope.r)


def exceeded_iff() -> Row:
    """Return the identity of two predicates: sqrt(2) L* > Lemma 1's constant, and the criterion."""
    r, G = np.meshgrid(np.arange(1, 40), 10.0 ** np.linspace(-3, 3, 61))
    most = each(partial(bounds.smoothness_mixed_norm, L=L, c=C, s=S), G=G)
    paper = each(partial(bounds.lemma1_smoothness, L=L, C=S * C, c=C, s=S), G=G, r=r)
    curved = 2 * S * L * C**2 * (np.sqrt(r) - sqrt(2))
    criterion = (r <= 2) | (curved < (sqrt(2) - 1) * G)
    differ = 1.0 * ((most > paper) != criterion)
    return same("exceeds Lemma 1 iff", differ, rounding=0.0)


def near_corner(s: float, c: float, G: float) -> Slope:
    """Return T3's slope at r = L = 1, d = 2, k = 3, factors scaled from c to 7/8 c."""
    return extremal(Context("stored"), 2, 3, 1, L=1.0, c=c, G=G, s=s, shrink=0.125)


def outside(ctx: Context, d: int, k: int, a: float) -> Slope:
    """Return the slope at A = a E_11 of h(W_11), h' = clip(x, -1, 1), for B from 1/(2 a) to 0."""
    B = np.eye(d, 1) / (2 * a)
    A = a * np.eye(1, k)
    pair = pair_of(ctx, "outside", a, (B, A), (0 * B, A))
    f = PROBLEMS["P9"](d=d, k=k, L=1.0, G=1.0, x0=0.0)
    g, h = (f.grad(product(point)) for point in (pair.start, pair.end))
    return Slope(pair, g, h, 1.0, 1.0, 1.0)


def counterexample(
    slope: Slope, C: float, c: float, norm: str, displacement: str
) -> Mapping[str, Any]:
    """Return a slope with the letters that a reading puts into Lemma 1's constant."""
    return stored(slope, lemma_C=C, lemma_c=c, norm=norm, displacement=displacement)


def replay(instance: Mapping[str, Any]) -> Row:
    """Return the row of a stored slope against its reading of Lemma 1's constant."""
    slope = load(instance)
    constant = lemma1(slope, instance["lemma_C"], instance["lemma_c"])
    return steepness("stored", slope, constant, instance["norm"], instance["displacement"])


def instance_mixed() -> Mapping[str, Any]:
    """Return the counterexample of T4a."""
    return counterexample(near_corner(1.0, 1.0, 1.0), 1.0, 1.0, "sum", "euclid")


def instance_scale() -> Mapping[str, Any]:
    """Return the counterexample of T4b: C = c = 1 at s = 2."""
    return counterexample(near_corner(2.0, 1.0, 0.25), 1.0, 1.0, "euclid", "euclid")


def instance_outside() -> Mapping[str, Any]:
    """Return the counterexample of T4c: the constant at c = 1, C = s c = 1, a point with a = 2."""
    slope = outside(Context("stored"), 2, 3, 2.0)
    return counterexample(slope, 1.0, 1.0, "euclid", "euclid")


def reading(
    name: str,
    rows: Rows,
    instance: Callable[[], Mapping[str, Any]],
    *,
    chosen_bound: bool = False,
) -> Claim:
    """Return the claim of a false reading."""
    return Claim(
        name,
        "smoothness",
        "paraphrased",
        rows,
        expected="violated",
        chosen_bound=chosen_bound,
        replay=replay,
        instance=instance,
        script="T4",
    )


def attacks() -> dict[str, Any]:
    """Return the attacks on T4-mixed."""
    from verification.attacks.smoothness import GS, mixed_norm

    return {size: mixed_norm(G, 2) for size, G in GS.items()}


CLAIMS = [
    Claim(
        "T4-mixed",
        "smoothness",
        "derived",
        mixed,
        bounds=(bounds.smoothness_mixed_norm,),
        attacks=attacks,
        replay=replay_mixed,
        instance=instance_at_corner,
        reaches={
            "random sum, euclid": 0.82,
            "searched sum, euclid": 1,
            "extremal sum, euclid": 1,
            "stored sum, euclid": 1,
        },
    ),
    reading("T4a", sum_against_euclid, instance_mixed),
    reading("T4b", scale_forgotten, instance_scale, chosen_bound=True),
    reading("T4c", no_assumption_2, instance_outside, chosen_bound=True),
]
