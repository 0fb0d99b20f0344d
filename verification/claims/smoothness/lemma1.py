"""T2: Lemma 1, in the paper's form and without its sqrt(r)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product as cartesian
from typing import Any

from decaf_theory import bounds
from verification.claim import Claim, Context, Row
from verification.curves.smoothness import over_ranks
from verification.instances.pairs import pairs
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
SHAPES = [(3, 2, 1), (2, 4, 2), (4, 5, 4), (2, 3, 6)]  # d, k, r
Constant = Callable[[Slope], float]


def paper(ctx: Context) -> Iterator[Row]:
    r"""Lemma 1: on Omega_c the factor gradient is Lipschitz with $s(2 L C \sqrt r c + G)$.

    $|\nabla \varphi(w) - \nabla \varphi(w')| \le \hat L |w - w'|$ for $\varphi(A, B) =
    f(W_0 + s B A)$, $\hat L = s(2 L C \sqrt r c + G)$; Euclidean norm on both sides, or sum norm on
    both sides.

    Assumptions: $\sigma_1$ of $A, A', B, B'$ at most $c$; $f$ is $L$-smooth in Frobenius norm and
    $|\nabla f|_{op} \le G$ on the image of Omega_c; $C \ge s c$, the least constant of T1.
    Proof: The sharp form, T2-sharp, with $C$ for $s c$ and $\sqrt r \ge 1$.
    Extremal: that of T2-sharp for $r = 1$ and $C = s c$; for $r > 1$ the constant is too large by
    the factor of T3.
    Counterexample (to other readings): see T4a, T4b, T4c.
    Source: arXiv 2505.21382, Lemma 1 (paraphrased); proof derived here.
    """
    constants = {"s c": partial(lemma1, share=1.0), "sqrt(2) s c": partial(lemma1, share=2**0.5)}
    yield from evidence(ctx, constants, ("euclid", "sum"))
    yield from over_ranks(ctx, constants["s c"])
    yield replay(partial(lemma1, share=1.0), instance(1))


def sharp(ctx: Context) -> Iterator[Row]:
    r"""On Omega_c the factor gradient is Lipschitz with $L^* = s(2 s L c^2 + G)$, whatever $r$.

    The two blocks may be combined in any $l_p$ norm, the same on both sides.

    Assumptions: $\sigma_1$ of $A, A', B, B'$ at most $c$; $f$ is $L$-smooth in Frobenius norm and
    $|\nabla f|_{op} \le G$ on the image of Omega_c. Nothing else about $f$ is used: the evidence
    takes any two matrices $g, g'$ with $|g - g'|_F \le L |W - W'|_F$ and $|g|_{op} \le G$.
    Proof: With midpoints $B_m, A_m, g_m$ and steps $dB, dA, dg$ from $w'$ to $w$, exactly
    $d\nabla_A = s(B_m' dg + dB' g_m)$, $d\nabla_B = s(dg A_m' + g_m dA')$ and
    $dW = s(dB A_m + B_m dA)$. With $h = s^2 L c^2$ therefore
    $|d\nabla_A| \le h(|dA| + |dB|) + s G |dB|$, $|d\nabla_B| \le h(|dA| + |dB|) + s G |dA|$. The
    matrix of these inequalities has rows and columns that sum to $2 h + s G = L^*$, its $l_p$ norm
    for $p = 1$ and $p = \infty$, which bounds that for every $p$ in between (Riesz-Thorin).
    Extremal: T3's function at $A = B = c E_{11}$, both moving towards 0: a supremum.
    Source: derived here; sharpens arXiv 2505.21382, Lemma 1 (paraphrased).
    """
    yield from evidence(ctx, {"s c": least}, ("euclid", "sum", "max"))
    yield from over_ranks(ctx, least)
    yield replay(least, instance(2))


def lemma1(slope: Slope, share: float) -> float:
    """Return the paper's constant at C = share * s c."""
    C = share * bounds.product_lipschitz(s=slope.s, c=slope.c, norm="sum")
    return bounds.lemma1_smoothness(L=slope.L, C=C, c=slope.c, G=slope.G, s=slope.s, r=slope.r)


def least(slope: Slope) -> float:
    """Return L*."""
    return bounds.smoothness_sharp(L=slope.L, c=slope.c, G=slope.G, s=slope.s)


def evidence(
    ctx: Context, constants: Mapping[str, Constant], norms: tuple[str, ...]
) -> Iterator[Row]:
    """Yield random and structured slopes, searched ones and the extremal one, in each norm."""

    def judged(case: str, slope: Slope, norm: str) -> Iterator[Row]:
        for C_of, constant in constants.items():
            yield steepness(case, slope, constant(slope), norm, C=C_of, G=slope.G)

    for pair in pairs(ctx, ctx.pick(20, 400), C):
        slope = random_slopes(ctx.rng("gradients", pair.family, pair.start.rank), pair, L, G, S)
        for norm in norms:
            yield from judged("random", slope, norm)
    for (d, k, r), norm, share in cartesian(SHAPES, norms, (0.1, 1.0, 10.0)):
        # share: of G against 2 s L c^2, the two parts of L*
        steep = share * 2 * S * L * C**2
        rng = ctx.rng("climb", d, k, r, norm)
        found = climb(ctx, rng, (d, k, r), norm, ctx.pick(8, 100), L=L, c=C, G=steep, s=S)
        yield from judged("searched", found, norm)
        yield from judged("extremal", extremal(ctx, d, k, r, L=L, c=C, G=steep, s=S), norm)


def instance(r: int) -> Mapping[str, Any]:
    """Return T3's extremal at s = L = G = 1, c = 2, d = 3, k = 2."""
    top = extremal(Context("stored"), 3, 2, r, L=1.0, c=2.0, G=1.0, s=1.0)
    return stored(top, norm="euclid")


def replay(constant: Constant, stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored slope against a constant, in its norm."""
    slope = load(stored_instance)
    return steepness("stored", slope, constant(slope), stored_instance["norm"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T2."""
    from verification.attacks.smoothness import GS, lemma1

    G = GS["small G"]
    return {
        **{f"{norm}, r = 1": lemma1(norm, G, 1) for norm in ("euclid", "sum")},
        "euclid, r = 2": lemma1("euclid", G, 2),
    }


def attacks_sharp() -> dict[str, Any]:
    """Return the attacks on T2-sharp."""
    from verification.attacks.smoothness import GS, sharp

    norms = ("euclid", "sum", "max")
    return {f"{norm}, {size}": sharp(norm, G, 2) for norm in norms for size, G in GS.items()}


CLAIMS = [
    Claim(
        "T2",
        "smoothness",
        "paraphrased",
        paper,
        bounds=(bounds.lemma1_smoothness,),
        attacks=attacks,
        replay=partial(replay, partial(lemma1, share=1.0)),
        instance=partial(instance, 1),
        reaches={
            "random euclid, s c": 0.83,
            "random euclid, sqrt(2) s c": 0.83,
            "random sum, s c": 0.8,
            "random sum, sqrt(2) s c": 0.8,
            "searched euclid, s c": 1,
            "searched euclid, sqrt(2) s c": 0.96,
            "extremal euclid, s c": 1,
            "extremal euclid, sqrt(2) s c": 0.96,
            "searched sum, s c": 1,
            "searched sum, sqrt(2) s c": 0.96,
            "extremal sum, s c": 1,
            "extremal sum, sqrt(2) s c": 0.96,
            "quotient, eta/r": 1,
            "quotient, eta/sqrt(r)": 1,
            "quotient, constant": 1,
            "stored euclid": 1,
        },
    ),
    Claim(
        "T2-sharp",
        "smoothness",
        "derived",
        sharp,
        bounds=(bounds.smoothness_sharp,),
        attacks=attacks_sharp,
        replay=partial(replay, least),
        instance=partial(instance, 2),
        reaches={
            "random euclid, s c": 0.85,
            "random sum, s c": 0.85,
            "random max, s c": 0.9,
            "searched euclid, s c": 1,
            "extremal euclid, s c": 1,
            "searched sum, s c": 1,
            "extremal sum, s c": 1,
            "searched max, s c": 1,
            "extremal max, s c": 1,
            "quotient, eta/r": 1,
            "quotient, eta/sqrt(r)": 1,
            "quotient, constant": 1,
            "stored euclid": 1,
        },
    ),
]
