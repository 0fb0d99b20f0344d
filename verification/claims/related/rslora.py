"""R8: rsLoRA's scaling keeps interference of random factors at one size for every rank."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as cartesian
from math import sqrt

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference, interference_norm
from decaf_theory.problems.frames import FRAMES
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_most, same, ulps

ETA = 2.0
SMALL = (((2, 1, 1), (1, 2, 3)), ((2, 1, 2), (1, 2)), ((3, 1, 1), (1, 2)))  # (m, d, k), ranks


def rows(ctx: Context) -> Iterator[Row]:
    r"""With s = eta/sqrt(r) the interference of random factors has the same size at every rank.

    Entries of variance $\tau^2$, $m$ equal weights: $E|s I|_F^2 = \eta^2 d k \tau^4 (m-1)/m^2$ for
    every $r$. Under Assumption 2 the worst case is $|s I|_F \le \eta c^2$ for every
    $r \le \min(d, k)$. With $s = \eta/r$ both have another factor $1/r$ and $1/\sqrt r$.

    Assumptions: independent entries of mean 0 (first part); $\sigma_1(A_j), \sigma_1(B_j) \le c$
    (second part).

    Proof: T12 times $s^2 = \eta^2/r$; T11 times $s = \eta/\sqrt r$.

    Extremal: the sign flip of $c$-isometries attains the second part at every rank.

    Counterexample (to the reading that it vanishes): see T13-rslora.

    Source: derived here; the scaling is that of rsLoRA.
    """
    for (m, d, k), ranks in SMALL:
        for r in ranks:
            yield _mean_square(ctx, m, d, k, r)
    for r in (1, 2, 4, 8):
        yield replay({"r": r, "d": 9, "k": 8})


def _mean_square(ctx: Context, m: int, d: int, k: int, r: int) -> Row:
    """Return the mean of |s I|_F^2 over all signs of all entries against its closed form."""
    entries = m * r * (d + k)
    signs = np.array(list(cartesian([-1.0, 1.0], repeat=entries)))
    cut = m * d * r
    B = signs[:, :cut].reshape(-1, m, d, r)
    A = signs[:, cut:].reshape(-1, m, r, k)
    lost = interference(Factors(ctx.array(B), ctx.array(A)), ctx.array(np.full((1, m), 1 / m)))
    xp = namespace(lost)
    found = ETA**2 / r * float(xp.mean(xp.sum(lost**2, axis=(-3, -2, -1))))
    exact = ETA**2 * d * k * (m - 1) / m**2
    weights = [1 / m] * m
    of_signs = bounds.interference_mean_square(d=d, k=k, r=r, tau_A=1.0, tau_B=1.0, pi=weights)
    law = ETA**2 / r * of_signs
    # sums of m r products, of d k squares, in pairs over 2^entries signs
    slip = ulps(8 * (m * r + d * k + entries), ETA**2, d, k, r)
    error = max(abs(found - exact), abs(law - exact))
    return same("E|s I|_F^2", error, rounding=slip, m=m, d=d, k=k, r=r)


def rank_eight() -> Instance:
    """Return the size of the extremal sign flip at rank 8."""
    return {"r": 8, "d": 9, "k": 8}


def replay(instance: Instance) -> Row:
    """Return |s I|_F of the sign flip at one rank against eta c^2, c = 1."""
    r = instance["r"]
    d = instance["d"]
    k = instance["k"]
    factors, weights = FRAMES["sign_flip"](d=d, k=k, r=r)
    s = ETA / sqrt(r)
    found = s * float(interference_norm(factors, weights[None])[0])
    bound = s * bounds.interference_worst_case(c=1.0, q=r, pi_max=0.5, norm="fro")
    params: dict[str, Value] = {"r": r, "d": d, "k": k, "constant": ETA}
    # a norm by QR and SVD of c-isometries, c = 1
    slip = ulps(10 * max(d, k), ETA)
    return at_most("|s I|_F <= eta c^2", found, bound, rounding=slip, **params)


CLAIMS = [
    Claim(
        "R8",
        "methods",
        "derived",
        rows,
        bounds=(bounds.interference_worst_case, bounds.interference_mean_square),
        not_attacked="T11 and T12 at one scale; T11 is attacked",
        replay=replay,
        instance=rank_eight,
        reaches={
            "|s I|_F <= eta c^2": 1,
        },
    )
]
