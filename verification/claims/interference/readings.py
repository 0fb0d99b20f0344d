"""The readings of "the DLoRA-DeCAF difference vanishes as the rank grows" that are false.

No finite number of ranks refutes a limit: the proofs do, by a value that is the same at every rank.
The rows refute a finite stand-in: at rank `MANY` the quantity is at most half of what it is at rank
`FEW`, as it would be if it fell like r^-p with any p >= 1/6. The factor by which they exceed it was
so chosen, and is no measure of how false a reading is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors, balance, gauge, pad_rank
from verification.claim import Claim, Context, Row, Value
from verification.claims.interference.mix_difference import ETA, SCALE, C, sign_pair, slip, spectra
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import Mix, gaussian, isometry
from verification.instances.omega import mix_of, signed

FEW = 1
MANY = 64


def nuclear(ctx: Context) -> Iterator[Row]:
    r"""At $s = \eta/r$ the DLoRA-DeCAF difference vanishes in nuclear norm as $r$ grows.

    No finite number of ranks refutes a limit; the proof does. The rows refute a finite stand-in,
    which a decay like $r^{-1/6}$ would satisfy: the largest $s |P - Q|_*$ on Omega_c at $r = 64$ is
    at most half of that at $r = 1$. They exceed it by a factor of 2, which is this half.

    Assumptions: $\sigma_1(A_j), \sigma_1(B_j) \le c$ with one $c$ for all $r$.
    Proof (of the contrary): by T13 the largest value is $\eta c^2$ at every $r$.
    Counterexample: the sign pair $\pm(B, A)$ with $B = c [I_r; 0]$, $A = c [I_r, 0]$.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    yield from halvings(ctx, READINGS["nuclear"])


def relative(ctx: Context) -> Iterator[Row]:
    r"""The DLoRA-DeCAF difference relative to the mixed product vanishes as $r$ grows.

    No finite number of ranks refutes a limit; the proof does. The rows refute a finite stand-in,
    which a decay like $r^{-1/6}$ would satisfy: the $|P - Q|_F/|M|_F$ of the instance at $r = 64$
    is at most half of that at $r = 1$. They exceed it by a factor of 2, which is this half.

    Assumptions: $\sigma_1(A_j), \sigma_1(B_j) \le c$; any scale, which cancels.
    Proof (of the contrary): the ratio is 1 for the sign pair at every $r$; and for
    random factors the root mean square of $|I|/|M|$ is $\sqrt{(m-1)/m}$ at every $r$ (T12).
    Counterexample: the sign pair $\pm(B, A)$ with $B = c [I_r; 0]$, $A = c [I_r, 0]$.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    yield from halvings(ctx, READINGS["relative"])


def rslora(ctx: Context) -> Iterator[Row]:
    r"""At the rsLoRA scale $s = \eta/\sqrt r$ the difference vanishes in Frobenius norm.

    No finite number of ranks refutes a limit; the proof does. The rows refute a finite stand-in,
    which a decay like $r^{-1/6}$ would satisfy: the largest $s |P - Q|_F$ on Omega_c at $r = 64$ is
    at most half of that at $r = 1$. They exceed it by a factor of 2, which is this half.

    Assumptions: $\sigma_1(A_j), \sigma_1(B_j) \le c$ with one $c$ for all $r$.
    Proof (of the contrary): by T13 the largest value is $\eta c^2$ at every $r$. (In
    operator norm it does vanish, as $r^{-1/2}$; in nuclear norm it grows.)
    Counterexample: the sign pair $\pm(B, A)$ with $B = c [I_r; 0]$, $A = c [I_r, 0]$.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    yield from halvings(ctx, READINGS["rslora"])


def constant(ctx: Context) -> Iterator[Row]:
    r"""At a constant scale the DLoRA-DeCAF difference vanishes in operator norm.

    No finite number of ranks refutes a limit; the proof does. The rows refute a finite stand-in,
    which a decay like $r^{-1/6}$ would satisfy: the largest $s |P - Q|_{op}$ on Omega_c at $r = 64$
    is at most half of that at $r = 1$; the operator norm is the least of the three. They
    exceed it by a factor of 2, which is this half.

    Assumptions: $\sigma_1(A_j), \sigma_1(B_j) \le c$ with one $c$ for all $r$.
    Proof (of the contrary): by T13 the largest value is $s c^2$ at every $r$, and
    $s \sqrt r c^2$ in Frobenius norm.
    Counterexample: the sign pair $\pm(B, A)$ with $B = c [I_r; 0]$, $A = c [I_r, 0]$.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    yield from halvings(ctx, READINGS["constant"])


# scaling, norm, relative to |M|
READINGS = {
    "nuclear": ("eta/r", "nuc", False),
    "relative": ("eta/r", "fro", True),
    "rslora": ("eta/sqrt(r)", "fro", False),
    "constant": ("constant", "op", False),
}


def halvings(ctx: Context, reading: tuple[str, str, bool]) -> Iterator[Row]:
    """Yield the reading's row for the sign pair of random isometries, and for the stored one."""
    few, many = (sign_pair(ctx, r, C) for r in (FEW, MANY))
    yield halving("random isometries", few, many, ETA, reading)
    yield replay(instance(reading))


def halving(case: str, few: Mix, many: Mix, eta: float, reading: tuple[str, str, bool]) -> Row:
    """Return the row: the quantity of the mix of high rank is at most half of the other's.

    Rounding: `slip` is relative to c^2, and no norm of the two differences is less than c^2.
    """
    scaling, norm, is_relative = reading
    values = []
    for mix in (few, many):
        r = mix.factors.rank
        found = spectra(mix, r).norms(norm)
        size = SCALE[scaling](eta, r) * float(found.difference[0, 0])
        values.append(float(found.difference[0, 0] / found.mix[0, 0]) if is_relative else size)
    rounding = 4 * slip(many) * max(values)
    params: dict[str, Value] = {"r": many.factors.rank, "scaling": scaling, "norm": norm}
    name = "relative difference" if is_relative else "difference"
    return at_most(case, values[1], values[0] / 2, rounding=rounding, **params, quantity=name)


def instance(reading: tuple[str, str, bool]) -> Mapping[str, Any]:
    """Return the sizes of the sign pair of (padded) identities, and the quantity."""
    scaling, norm, is_relative = reading
    letters = {"eta": 1.0, "c": 1.0, "d": 65, "k": 64, "few": FEW, "many": MANY}
    return {**letters, "scaling": scaling, "norm": norm, "relative": is_relative}


def replay(stored: Mapping[str, Any]) -> Row:
    """Return the row of a stored pair of ranks."""
    c, d, k = (stored[name] for name in ("c", "d", "k"))
    few, many = (
        mix_of(
            Context("replay"),
            "sign pair",
            *signed(c * np.eye(d, r), c * np.eye(r, k), (1, -1)),
            [0.5, 0.5],
        )
        for r in (stored["few"], stored["many"])
    )
    reading = (stored["scaling"], stored["norm"], stored["relative"])
    return halving("stored", few, many, stored["eta"], reading)


def fixed_products(ctx: Context) -> Iterator[Row]:
    r"""For fixed products, in whatever gauge, the DLoRA-DeCAF difference vanishes as $r$ grows.

    No finite number of ranks refutes a limit; the proof does. The rows refute a finite stand-in,
    which a decay like $r^{-1/6}$ would satisfy: at $r = 64$ the difference is at most half of that
    at the least rank at which the truncation error is 0, $r = m r_0$ for $m$ products of rank $r_0$
    ($r = r_0$ for equal ones). The signs exceed it by a factor of 2, which is
    this half.

    Assumptions: the same products $B_j A_j$ at every $r$; the factors are balanced ones, padded
    with zeros to rank $r$ and turned by any rotation of $O(r)$ each.
    Proof (of the contrary): the truncation error is 0 at $r \ge m r_0$, but $\bar B$
    and $\bar A$ depend on the gauges: opposite signs give $\bar B = 0$ at every $r$, and for random
    rotations $\bar B \bar A \to \sum_j \pi_j^2 B_j A_j$, a share of $1/m$ for equal weights.
    Counterexample: the product $E_{11}$ held as $(e_1, e_1')$ and as $(-e_1, -e_1')$.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    rng = ctx.rng("fixed products")
    m = 4
    r0 = 1
    draws = ctx.pick(3, 20)
    fixed = balance(gaussian(rng, 1, m, 66, 65, r0))
    few, many = (random_gauges(ctx, fixed, r, draws) for r in (m * r0, MANY))
    for r, mix in ((m * r0, few), (MANY, many)):
        tail = host(spectra(mix, r).mix)[..., r:].max(initial=0.0)
        yield same(f"truncation error at r = {r}", tail, rounding=zero_tail(mix), r=r)
    high, low = (
        host(spectra(mix, mix.factors.rank).norms("fro").difference) for mix in (few, many)
    )
    case = "random gauges, least draw at r = 64"
    rounding = 2 * zero_tail(many)
    yield at_most(case, low.min(), high.max() / 2, rounding=rounding, r=MANY, instances=draws)
    yield replay_fixed(instance_fixed())


def zero_tail(mix: Mix) -> float:
    """Return the rounding of the spectrum of M: 4 p eps max |B_j| |A_j|, p = max(d, k, m r)."""
    B, A = (float(np.linalg.norm(host(X), axis=(-2, -1)).max()) for X in mix.factors)
    p: int = max(*mix.factors.shape, mix.factors.rank * mix.Pi.shape[-1])
    return ulps(4 * p, B, A)


def random_gauges(ctx: Context, fixed: Factors, r: int, draws: int) -> Mix:
    """Return the same products padded to rank r, each agent turned by its own random rotation."""
    m = fixed.B.shape[-3]
    padded = pad_rank(fixed, r).map(lambda X: np.repeat(X, draws, axis=0))
    B, A = gauge(padded, isometry(ctx.rng("gauges", r), draws, m, r, r))
    return mix_of(ctx, "random gauges", B, A, np.full(m, 1 / m))


def instance_fixed() -> Mapping[str, Any]:
    """Return the fixed product b a' held with opposite signs, and the two ranks."""
    return {
        "b": [1.0] + [0.0] * 64,
        "a": [1.0] + [0.0] * 63,
        "signs": [1, -1],
        "few": FEW,
        "many": MANY,
    }


def replay_fixed(stored: Mapping[str, Any]) -> Row:
    """Return the row of the stored product at two ranks."""
    product = Factors(np.array(stored["b"])[:, None], np.array(stored["a"])[None, :])
    sizes = []
    for r in (stored["few"], stored["many"]):
        B, A = signed(*pad_rank(product, r), tuple(stored["signs"]))
        mix = mix_of(Context("replay"), "signs", B, A, np.full(len(B), 1 / len(B)))
        sizes.append(float(spectra(mix, r).norms("fro").difference[0, 0]))
    rounding = 2 * zero_tail(mix)
    return at_most("stored", sizes[1], sizes[0] / 2, rounding=rounding, r=stored["many"])


def reading_claim(name: str, rows: Callable[[Context], Iterator[Row]]) -> Claim:
    """Return the claim of one reading of the table."""
    stored = partial(instance, READINGS[name])
    return Claim(
        f"T13-{name}",
        "interference",
        "paraphrased",
        rows,
        expected="violated",
        chosen_bound=True,
        replay=replay,
        instance=stored,
        script="T13",
    )


CLAIMS = [
    reading_claim("nuclear", nuclear),
    reading_claim("relative", relative),
    reading_claim("rslora", rslora),
    reading_claim("constant", constant),
    Claim(
        "T13-fixed-products",
        "interference",
        "paraphrased",
        fixed_products,
        expected="violated",
        chosen_bound=True,
        replay=replay_fixed,
        instance=instance_fixed,
        script="T13-fixed-products",
    ),
]
