"""T3: L* cannot be improved, and how much Lemma 1 loses by its sqrt(r)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory import bounds
from verification.claim import Claim, Context, Row
from verification.evidence import at_least, at_most, same, ulps
from verification.instances.pairs import blocks
from verification.instances.slopes import STEP, Slope, extremal, load, stored

SHRINKS = (0.5, 0.125, STEP)
SHARES = (0.1, 1.0, 24.0)  # 2 s L c^2 / G


def attained(ctx: Context) -> Iterator[Row]:
    r"""The constant $L^* = s(2 s L c^2 + G)$ is the best possible, for every $r$.

    For every $(L, G, s, c, r)$ some $f$ has difference quotients arbitrarily near $L^*$.

    Assumptions: $L, G, s, c > 0$.
    Proof: $f(W) = h(W_{11})$ with $h'(x) = clip(L(x - x_0), -G, G)$, $x_0 = s c^2 - G/L$, is
    $L$-smooth and $|\nabla f| \le G$ everywhere. Move $A = c E_{11}$, $B = c E_{11}$ to $t A$,
    $t B$: while $L s c^2(1 - t^2) \le 2 G$, both blocks change by
    $s c (1 - t)(G + t(1 + t) s L c^2)$, so the quotient is $s(G + t(1 + t) s L c^2)$ in every $l_p$
    norm, and at least $L^* - 3(1 - t) s^2 L c^2$: it tends to $L^*$ as $t \to 1$.
    Extremal: this $f$, for every $r$.
    Source: derived here.
    """
    for r in ctx.pick((1, 2, 3, 4, 8, 16), range(1, 17)):
        for share in SHARES:
            for shrink in SHRINKS:
                d = 17 + r % 2
                k = 16
                c = 1.5
                L = 1.25
                s = 2.0 / r
                G = 2 * s * L * c**2 / share
                if L * s * c**2 * (1 - (1 - shrink) ** 2) <= 2 * G:
                    slope = extremal(ctx, d, k, r, L=L, c=c, G=G, s=s, shrink=shrink)
                    for norm in ("euclid", "sum"):
                        yield from quotient_rows(slope, shrink, norm)
    yield replay(instance())


def quotient_rows(slope: Slope, shrink: float, norm: str) -> Iterator[Row]:
    """Yield: the difference quotient in closed form, and its distance from L*."""
    L = slope.L
    c = slope.c
    G = slope.G
    s = slope.s
    t = 1 - shrink
    params = {**slope.pair.params, "norm": norm, "G": G, "step": shrink}
    residual = quotient(slope, norm) - s * (G + t * (1 + t) * s * L * c**2)
    yield same("closed form", residual, rounding=rounding(slope, shrink), **params)
    yield distance("distance from L*", slope, shrink, norm)


def quotient(slope: Slope, norm: str) -> float:
    """Return |grad phi(w) - grad phi(w')| / |w - w'| of one slope."""
    return float((blocks(slope.change, norm) / blocks(slope.pair.step, norm))[0])


def rounding(slope: Slope, shrink: float) -> float:
    """Return the rounding of the quotient.

    Each block has one nonzero entry, s c times a difference of gradients of size G and L s c^2,
    off by a few eps of these; it is divided by the step c * shrink.
    """
    return ulps(16, slope.s, slope.G + slope.L * slope.s * slope.c**2) / shrink


def distance(case: str, slope: Slope, shrink: float, norm: str) -> Row:
    """Return the row: the quotient is at least L* - 3 (1 - t) s^2 L c^2, t = 1 - shrink."""
    L = slope.L
    c = slope.c
    G = slope.G
    s = slope.s
    bound = bounds.smoothness_sharp(L=L, c=c, G=G, s=s) - 3 * shrink * s**2 * L * c**2
    params = {**slope.pair.params, "norm": norm, "G": G, "step": shrink}
    measured = quotient(slope, norm)
    held = bool(slope.held[0])
    slip = rounding(slope, shrink)
    return at_least(case, measured, bound, rounding=slip, held=held, **params)


def gap(ctx: Context) -> Iterator[Row]:
    r"""Lemma 1 exceeds $L^*$ by the factor $(K/\sqrt r + 1)/(K/r + 1)$ at $s = \eta/r$.

    $K = 2 L \eta c^2/G$. The factor is 1 at $r = 1$, at most $(1 + \sqrt{1 + K})/2$, attained at
    $r = (1 + \sqrt{1 + K})^2$, and tends to 1 as $r$ grows. At $s = \eta/\sqrt r$ it increases to
    $K + 1$; at constant $s$ it grows like $\sqrt r$.

    Assumptions: $C = s c$, the least constant of T1; $G > 0$.
    Proof: Divide $\hat L = s(2 L s c \sqrt r c + G)$ by $L^* = s(2 s L c^2 + G)$. With
    $u = \sqrt r$ the factor is $u(K + u)/(K + u^2)$; its derivative vanishes where
    $u^2 = 2 u + K$, and there it is $u/2$.
    Extremal: $K = 3$, $r = 9$: 3/2; $K = 8$, $r = 16$: 2; $K = 24$, $r = 36$: 3.
    Source: derived here.
    """
    L = 1.25
    eta = 2.0
    c = 1.5
    ranks = np.arange(1, ctx.pick(200, 5000))
    for K in (0.1, 1.0, 3.0, 8.0, 24.0, 1e4):
        letters = {"L": L, "eta": eta, "c": c, "G": 2 * L * eta * c**2 / K}
        factors = {name: np.array([ratio(name, r, **letters) for r in ranks]) for name in LAWS}
        # a factor and its law are quotients of sums of two: at most 8 roundings each
        relative = ulps(16)
        for name, law in LAWS.items():
            residual = factors[name] / law(K, ranks) - 1
            yield same(f"factor at s = {name}", residual, rounding=relative, K=K)
        formula = np.array([bounds.lemma1_gap(r=float(r), **letters) for r in ranks])
        residual = formula / factors["eta/r"] - 1
        yield same("lemma1_gap", residual, rounding=relative, K=K)
        r_worst, most = bounds.lemma1_gap_worst(**letters)
        yield at_most("at most", factors["eta/r"], most, rounding=relative * most, K=K)
        at_worst = bounds.lemma1_gap(r=r_worst, **letters)
        yield same("at the maximizer", at_worst - most, rounding=relative * most, K=K)
        rs = factors["eta/sqrt(r)"]
        yield at_most("rsLoRA, at most", rs, K + 1, rounding=relative * (K + 1), K=K)
        yield at_most("rsLoRA, increasing", rs[:-1], rs[1:], rounding=relative * rs[1:], K=K)


# the factor L_hat / L* in each scaling, with K = 2 L eta c^2 / G
LAWS: dict[str, Callable[[float, np.ndarray], np.ndarray]] = {
    "eta/r": lambda K, r: (K / np.sqrt(r) + 1) / (K / r + 1),
    "eta/sqrt(r)": lambda K, r: (K + 1) / (K / np.sqrt(r) + 1),
    "constant": lambda K, r: (K * np.sqrt(r) + 1) / (K + 1),
}


def ratio(scaling: str, r: int, *, L: float, eta: float, c: float, G: float) -> float:
    """Return L_hat / L* from the two bounds themselves."""
    s = {"eta/r": eta / r, "eta/sqrt(r)": eta / sqrt(r), "constant": eta}[scaling]
    sharp = bounds.smoothness_sharp(L=L, c=c, G=G, s=s)
    return bounds.lemma1_smoothness(L=L, C=s * c, c=c, G=G, s=s, r=int(r)) / sharp


def instance() -> Mapping[str, Any]:
    """Return the extremal slope at s = L = G = 1, c = 2, d = 3, k = 2, r = 2."""
    top = extremal(Context("stored"), 3, 2, 2, L=1.0, c=2.0, G=1.0, s=1.0)
    return stored(top, shrink=STEP, norm="euclid")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored slope: how far its quotient is from L*."""
    slope = load(stored_instance)
    return distance("stored", slope, stored_instance["shrink"], stored_instance["norm"])


CLAIMS = [
    Claim(
        "T3",
        "smoothness",
        "derived",
        attained,
        bounds=(bounds.smoothness_sharp,),
        not_attacked="says that a bound is attained; the attack on T2-sharp finds such slopes",
        replay=replay,
        instance=instance,
        reaches={
            "distance from L*, euclid": 1,
            "distance from L*, sum": 1,
            "stored, euclid": 1,
        },
    ),
    Claim(
        "T3-gap",
        "smoothness",
        "derived",
        gap,
        bounds=(bounds.lemma1_gap, bounds.lemma1_gap_worst),
        not_attacked="a closed form in the rank alone, evaluated at every rank",
        reaches={
            "at most": 1,
            "rsLoRA, at most": 0.99,
            "rsLoRA, increasing": 0.99,
        },
    ),
]
