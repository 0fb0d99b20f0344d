"""T13-data: how far DeCAF's mix can be from DLoRA's, by the norms of two measured matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mix_factors, mix_products, product
from decaf_theory.measure import NORMS, mix_norm, product_distance, schatten
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Instance, Row
from verification.claims.truncation import golden_ratio
from verification.evidence import at_most, attained
from verification.instances.mixes import Mix, allowance, gaussian, load, mixes, stored
from verification.instances.omega import each, mix_of, signed


def rows(ctx: Context) -> Iterator[Row]:
    r"""The two mixes differ by at most the mean of the norms of $M$ and $M - 2 \bar B \bar A$.

    With $P = \mathrm{TSVD}_r(M)$ and $Q = \bar B \bar A$: $\|P - Q\| \le (\|M\| + \|M - 2 Q\|)/2$
    in every unitarily invariant norm. Both norms are measured on the mix itself; under Assumption 2
    they are at most $c^2 (r, \sqrt r, 1)$, which is T13.

    Assumptions: none on weights, factors or the rank that is kept; nor on $Q$, which may be any
    matrix.

    Proof: let $U$ span the left singular vectors of $P$, so that $P = U U' M$. With the reflection
    $R = 2 U U' - 1$, $2 (P - Q) = (M - 2 Q) + R M$, and $\|R M\| = \|M\|$.

    Extremal: the pair $\pm(B, A)$ with weights $\pi, 1 - \pi$, whatever $B$ and $A$:
    $Q = (2 \pi - 1)^2 M$ and $P = M$, attained as long as $(2 \pi - 1)^2 \le 1/2$. Three agents
    with $Q = E$: $M = \mathrm{diag}(1 + \epsilon, 1)$, $r = 1$, $Q = e_2 e_2'$.

    Source: derived here; the two lines that prove T13.
    """
    for mix in mixes(ctx, ctx.pick(60, 1000)):
        for norm in NORMS:
            yield _row(mix, norm)
    for mix in _pairs(ctx):
        for norm in NORMS:
            yield from attained(_row(mix, norm))
    dropped = golden_ratio.extremal("nuc")  # Q = E
    for norm in NORMS:
        yield from attained(replay({**dropped, "norm": norm}))


def _row(mix: Mix, norm: str) -> Row:
    """Compare |P - Q| with the bound.

    The computed P is best for M up to an error that moves both sides by itself; Q and the two norms
    err by as much.
    """
    truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
    Q = mix_factors(mix.factors, mix.Pi)
    reflected = mix_products(mix.factors, mix.Pi) - 2 * product(Q)
    values = namespace(reflected).linalg.svdvals(reflected)
    bound = each(
        bounds.decaf_dlora_by_norms,
        mix=host(mix_norm(truncated, norm)),
        reflected=host(schatten(values, norm)),
    )
    return at_most(
        f"|P - Bbar Abar| <= (|M| + |M - 2 Bbar Abar|)/2, {norm}",
        product_distance(truncated.factors, Q, norm),
        bound,
        rounding=4 * allowance(mix),
        norm=norm,
        **mix.params,
    )


def _pairs(ctx: Context) -> Iterator[Mix]:
    """Yield random factors and their negatives, (2 pi - 1)^2 = 0, 0.04, 0.49."""
    for r, d, k in ((1, 2, 3), (2, 5, 4), (4, 6, 9)):
        B, A = gaussian(ctx.rng("pair", r), 1, d, k, r)
        for weight in (0.5, 0.6, 0.85):
            agents = signed(B[0], A[0], (1, -1))
            yield mix_of(ctx, "sign pair", *agents, [weight, 1 - weight])


def extremal() -> Instance:
    """Return the sign pair of weights 0.6 and 0.4 for B = diag(2, 1), A = diag(1, 3)."""
    agents = Factors(*signed(np.diag([2.0, 1.0]), np.diag([1.0, 3.0]), (1, -1)))
    return stored(agents, [0.6, 0.4], norm="fro")


def replay(instance: Instance) -> Row:
    """Return the row of one stored mix in its norm."""
    return _row(load(instance), instance["norm"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T13-data."""
    from verification.attacks.mixes import HALVES, NORMS, THIRDS, measured_mixes

    weights = {"halves": HALVES, "thirds": THIRDS}
    return {
        f"{norm}, {name}": measured_mixes(norm, w) for name, w in weights.items() for norm in NORMS
    }


CLAIMS = [
    Claim(
        "T13-data",
        "interference",
        "derived",
        rows,
        bounds=(bounds.decaf_dlora_by_norms,),
        attacks=attacks,
        replay=replay,
        instance=extremal,
        reaches={
            "|P - Bbar Abar| <= (|M| + |M - 2 Bbar Abar|)/2, fro": 1,
            "|P - Bbar Abar| <= (|M| + |M - 2 Bbar Abar|)/2, op": 1,
            "|P - Bbar Abar| <= (|M| + |M - 2 Bbar Abar|)/2, nuc": 1,
        },
    )
]
