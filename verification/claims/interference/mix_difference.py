"""T13: "the DLoRA-DeCAF difference vanishes as the rank grows", in its readings.

P = TSVD_r(M) is DeCAF's mix, Q = Bbar Abar is DLoRA's; both are computed for every row.

Rows of claim T13, by their params: `r` in `RANKS`; `scaling` "eta/r", "eta/sqrt(r)" or "constant"
(s = ETA / r, ETA / sqrt(r), ETA); `norm` "fro", "op", "nuc"; `quantity` "difference" (s |P - Q|),
"relative difference" (|P - Q| / |M|), "adapter" (s |B_1 A_1|), or "exponent" (of r, no curve);
`family` "sign pair" (the worst case, all three quantities), "random" (the largest difference of
`instances` random mixes) or "fitted target" (difference, c grown with r). Rows without `scaling`
are small structured mixes. `measured` is the curve,
`bound` the law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product as cartesian
from math import log, sqrt
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mix_factors, spectrum, subtract
from decaf_theory.measure import NORMS, schatten
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Row, Value
from verification.evidence import at_least, at_most, same, ulps
from verification.instances.mixes import Mix, gaussian, isometry, load, mixes, stochastic, stored
from verification.instances.omega import inside_omega, mix_of, mix_on_omega, signed

ETA = 2.0
C = 1.5
RANKS = (1, 2, 4, 8, 16, 32, 64)
D = 72
K = 66
SCALE: dict[str, Callable[[float, int], float]] = {
    "eta/r": lambda eta, r: eta / r,
    "eta/sqrt(r)": lambda eta, r: eta / sqrt(r),
    "constant": lambda eta, r: eta,
}
POWER = {"eta/r": -1.0, "eta/sqrt(r)": -0.5, "constant": 0.0}  # of r in s
WIDTH = {"nuc": 1.0, "fro": 0.5, "op": 0.0}  # of r in the norm of an isometry of rank r


class Spectra(NamedTuple):
    """Singular values of one batch of mixes, [instances, n, .]: of P - Q, M and B_1 A_1."""

    difference: Any
    mix: Any
    adapter: Any

    def norms(self, norm: str) -> Spectra:
        """Return the three norms, [instances, n]."""
        return Spectra(*(host(schatten(values, norm)) for values in self))


def rows(ctx: Context) -> Iterator[Row]:
    r"""On Omega_c DeCAF's and DLoRA's mix differ by at most $c^2 (r, \sqrt r, 1)$: nuc, Fro, op.

    $|P - Q|$ with $P = TSVD_r(M)$, $Q = \bar B \bar A$; all three values are attained at once, for
    every $r$. Times the scale $s$ the exponents of $r$ in (nuclear, Frobenius, operator) norm are
    $(0, -1/2, -1)$ for $s = \eta/r$, $(1/2, 0, -1/2)$ for $s = \eta/\sqrt r$ and $(1, 1/2, 0)$ for
    constant $s$. The largest adapter $s |B A|$ on Omega_c has the same exponents.

    Assumptions: $\pi_j \ge 0$, $\sum_j \pi_j = 1$, $\sigma_1(A_j), \sigma_1(B_j) \le c$, the same
    $c$ for every $r \le \min(d, k)$.
    Proof: Let $U$ span the left singular vectors of $P$, so that $P = U U' M$. With the reflection
    $S = 2 U U' - 1$, $P - Q = ((M - 2 Q) + S M)/2$. Take the panels $F = [\sqrt{\pi_j} B_j]_j$,
    $H = [\sqrt{\pi_j} A_j]_j$ and $R = 1 - 2 e e'$, the reflection of the agents along
    $e = (\sqrt{\pi_j})_j$: $M = F H$ and $M - 2 Q = F R H$. As $F F' = \sum_j \pi_j B_j B_j'$,
    $|F|_{op} \le c$ and $|F|_F^2 \le r c^2$; likewise $H$. So both $M$ and $M - 2 Q$ are at most
    $c^2 (r, \sqrt r, 1)$, by Hölder's inequality.
    Extremal: the sign pair $\pm(B, A)$ of $c$-isometries with weights 1/2: $Q = 0$, $P = M = B A$,
    so that the difference is as large as the adapter itself.
    Counterexample (to other readings): see T13-nuclear, T13-relative, T13-rslora, T13-constant and
    T13-fixed-products. Where the difference vanishes so does the
    adapter: to hold an update of $|s B A|_{op} = \varsigma$ at $s = \eta/r$ takes
    $c^2 \ge r \varsigma/\eta$, and then the worst difference $\sqrt r \varsigma$ grows (rows
    "fitted target").
    Source: the wording is that of arXiv 2505.21382 (paraphrased); analysis derived here.
    """
    pairs = {r: sign_pair(ctx, r, C) for r in RANKS}
    for r, pair in pairs.items():
        yield from curves(pair, r)
        yield from random_mixes(ctx, r)
        yield fitted_target(ctx, r)
    yield from exponents(pairs[RANKS[0]], pairs[RANKS[-1]])
    for mix in mixes(ctx, ctx.pick(20, 400)):
        for norm in NORMS:
            yield structured(mix_on_omega(mix, C), C, norm)


def spectra(mix: Mix, r: int) -> Spectra:
    """Return the singular values: P by the library's kernel, Q by averaging the factors."""
    truncated = tsvd_of_mix(mix.factors, mix.Pi, r)
    Q = mix_factors(mix.factors, mix.Pi)
    kept = truncated.singular_values
    tail = truncated.tail
    return Spectra(
        spectrum(subtract(truncated.factors, Q)),
        namespace(kept).concat([kept, tail], axis=-1),
        spectrum(mix.factors.map(lambda X: X[:, :1])),
    )


def slip(mix: Mix) -> float:
    """Return the rounding of a norm relative to c^2.

    With p = max(d, k, m r): the norm of a matrix of size at most 2 r c^2 by QR and SVD, 4 p eps of
    that in each of at most 2 r directions; sigma_1 above c by 4 p eps. The kernel's P is the exact
    truncation of M + E, |E|_op <= p eps c^2, which adds |E| to the bound whatever the gap of M.
    """
    r = mix.factors.rank
    p: int = max(*mix.factors.shape, mix.Pi.shape[-1] * r)
    return ulps(8 * p * 2 * r)


def held(mix: Mix, c: float) -> Any:
    """Return a mask [instances, 1]: every agent's factors lie in Omega_c."""
    inside = inside_omega(mix.factors, c)
    return namespace(inside).all(inside, axis=-1)[:, None]


def law(scaling: str, norm: str, r: int, c: float) -> float:
    """Return the largest s |P - Q|."""
    return SCALE[scaling](ETA, r) * bounds.decaf_dlora_worst_case(c=c, r=r, norm=norm)


def sign_pair(ctx: Context, r: int, c: float) -> Mix:
    """Return the worst case of rank r: c-isometries and their negatives."""
    rng = ctx.rng("pair", r)
    B = c * isometry(rng, D, r)
    A = c * isometry(rng, r, K)
    return mix_of(ctx, "sign pair", *signed(B, A, (1, -1)), [0.5, 0.5])


def curves(pair: Mix, r: int) -> Iterator[Row]:
    """Yield the three quantities of the worst case in every scaling and norm."""
    found = spectra(pair, r)
    for scaling, norm in cartesian(SCALE, NORMS):
        difference, mix, adapter = (float(x[0, 0]) for x in found.norms(norm))
        s = SCALE[scaling](ETA, r)
        params: dict[str, Value] = {"r": r, "scaling": scaling, "norm": norm}
        params["family"] = pair.family
        bound = law(scaling, norm, r, C)
        rounding = s * C**2 * slip(pair)
        for quantity, value in (("difference", difference), ("adapter", adapter)):
            case = f"{quantity}, sign pair"
            names = params | {"quantity": quantity}
            yield at_most(case, s * value, bound, rounding=rounding, **names)
        names = params | {"quantity": "relative difference"}
        case = "relative difference, sign pair"
        relative = difference / mix
        yield at_least(case, relative, 1.0, rounding=2 * slip(pair), **names)


def random_mixes(ctx: Context, r: int) -> Iterator[Row]:
    """Yield the largest difference of random mixes of three agents on the boundary of Omega_c."""
    rng = ctx.rng("random", r)
    B, A = gaussian(rng, ctx.pick(2, 20), 3, D, K, r)
    Pi = ctx.array(stochastic(rng, 2, 3))
    mix = mix_on_omega(Mix("random", Factors(ctx.array(B), ctx.array(A)), Pi), C)
    found = spectra(mix, r)
    for scaling, norm in cartesian(SCALE, NORMS):
        s = SCALE[scaling](ETA, r)
        yield at_most(
            "difference, random",
            s * found.norms(norm).difference,
            law(scaling, norm, r, C),
            rounding=s * C**2 * slip(mix),
            held=held(mix, C),
            r=r,
            scaling=scaling,
            norm=norm,
            quantity="difference",
            family="random",
        )


def structured(mix: Mix, c: float, norm: str) -> Row:
    """Return the worst row of one family of small mixes, unscaled."""
    return at_most(
        f"unscaled {norm}, {mix.family}",
        spectra(mix, mix.factors.rank).norms(norm).difference,
        bounds.decaf_dlora_worst_case(c=c, r=mix.factors.rank, norm=norm),
        rounding=c**2 * slip(mix),
        held=held(mix, c),
        **mix.params,
        norm=norm,
    )


def fitted_target(ctx: Context, r: int) -> Row:
    """Return the row of the worst case where c grows so that |s B A|_op stays one at s = eta/r."""
    c = sqrt(r / ETA)
    s = ETA / r
    pair = sign_pair(ctx, r, c)
    difference = s * float(spectra(pair, r).norms("fro").difference[0, 0])
    params: dict[str, Value] = {"r": r, "scaling": "eta/r", "norm": "fro"}
    params["quantity"] = "difference"
    return at_least(
        "difference, fitted target",
        difference,
        sqrt(r),
        rounding=s * c**2 * slip(pair),
        **params,
        family="fitted target",
    )


def exponents(few: Mix, many: Mix) -> Iterator[Row]:
    """Yield the identities: the log-log slopes of the worst case between two ranks."""
    ends = [spectra(pair, pair.factors.rank) for pair in (few, many)]
    ranks = log(many.factors.rank / few.factors.rank)
    for scaling, norm in cartesian(SCALE, NORMS):
        low, high = (
            SCALE[scaling](ETA, pair.factors.rank) * float(end.norms(norm).difference[0, 0])
            for pair, end in zip((few, many), ends, strict=True)
        )
        expected = POWER[scaling] + WIDTH[norm]
        yield same(
            "exponent of r",
            log(high / low) / ranks - expected,
            rounding=2 * slip(many) / ranks,
            scaling=scaling,
            norm=norm,
            quantity="exponent",
            exponent=expected,
        )


def instance() -> Mapping[str, Any]:
    """Return the sign pair of rank 2 at c = 2, d = 3, k = 2."""
    agents = Factors(*signed(2 * np.eye(3, 2), 2 * np.eye(2, 2), (1, -1)))
    return stored(agents, [0.5, 0.5], c=2.0, norm="nuc")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the unscaled row of one stored mix, its c and its norm."""
    return structured(load(stored_instance), stored_instance["c"], stored_instance["norm"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T13."""
    from verification.attacks.mixes import HALVES, HEAVY, NORMS, THIRDS, mixes_apart

    weights = {"halves": HALVES, "thirds": THIRDS, "heavy": HEAVY}
    return {
        f"{norm}, {name}": mixes_apart(norm, w) for name, w in weights.items() for norm in NORMS
    }


CLAIMS = [
    Claim(
        "T13",
        "interference",
        "derived",
        rows,
        bounds=(bounds.decaf_dlora_worst_case,),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "difference, fro, eta/r": 1,
            "adapter, fro, eta/r": 1,
            "relative difference, fro, eta/r": 1,
            "difference, op, eta/r": 1,
            "adapter, op, eta/r": 1,
            "relative difference, op, eta/r": 1,
            "difference, nuc, eta/r": 1,
            "adapter, nuc, eta/r": 1,
            "relative difference, nuc, eta/r": 1,
            "difference, fro, eta/sqrt(r)": 1,
            "adapter, fro, eta/sqrt(r)": 1,
            "relative difference, fro, eta/sqrt(r)": 1,
            "difference, op, eta/sqrt(r)": 1,
            "adapter, op, eta/sqrt(r)": 1,
            "relative difference, op, eta/sqrt(r)": 1,
            "difference, nuc, eta/sqrt(r)": 1,
            "adapter, nuc, eta/sqrt(r)": 1,
            "relative difference, nuc, eta/sqrt(r)": 1,
            "difference, fro, constant": 1,
            "adapter, fro, constant": 1,
            "relative difference, fro, constant": 1,
            "difference, op, constant": 1,
            "adapter, op, constant": 1,
            "relative difference, op, constant": 1,
            "difference, nuc, constant": 1,
            "adapter, nuc, constant": 1,
            "relative difference, nuc, constant": 1,
            "unscaled fro": 0.37,
            "unscaled op": 0.74,
            "unscaled nuc": 0.48,
        },
    )
]
