"""T1: how far the product moves when the factors move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import namespace
from verification.claim import Claim, Context, Row
from verification.evidence import at_most, ulps
from verification.instances.mixes import isometry
from verification.instances.pairs import Pair, blocks, load, pair_of, pairs, stored

S = 0.75
C = 1.5  # scale and Omega_c
NEAR = 1 - 2.0**-22


def rows(ctx: Context) -> Iterator[Row]:
    r"""On Omega_c the product moves by at most $s c$ times the sum of the factors' moves.

    $|W - W'|_F \le s c (|A - A'|_F + |B - B'|_F) \le \sqrt 2 s c\, |(A - A', B - B')|_F$ for
    $W = W_0 + s B A$: Assumption 3 follows from Assumption 2, with $C = s c$ for the sum norm and
    $C = \sqrt 2 s c$ for the Euclidean norm.

    Assumptions: $\sigma_1$ of $A, A', B, B'$ at most $c$.
    Proof: $B A - B' A' = (B - B') A_m + B_m (A - A')$ with the midpoints $A_m = (A + A')/2$,
    $B_m$, whose $\sigma_1 \le c$. Then $|X|_F + |Y|_F \le \sqrt 2\, (|X|_F^2 + |Y|_F^2)^{1/2}$.
    Extremal: $A = c\, e_1 v'$, $B = c\, u e_1'$ with unit vectors: scaling $A$ alone by $t$ gives
    exactly $s c$; scaling both by $t$ gives $\sqrt 2 s c (1 + t)/2$, a supremum as $t \to 1$.
    Source: Assumption 3 of arXiv 2505.21382 (paraphrased) asks for such a $C$; derived here.
    """
    for pair in pairs(ctx, ctx.pick(40, 1000), C):
        for norm in ("sum", "euclid"):
            yield moved("random", pair, S, norm)
    for d, k, r in ((4, 3, 2), (2, 5, 1), (6, 6, 6)):
        for t, norm in ((0.5, "sum"), (0.0, "sum"), (NEAR, "euclid")):
            B, A = aligned(ctx.rng("extremal", d, k, r), d, k, r)
            end = (B if norm == "sum" else t * B, t * A)
            yield moved("extremal", pair_of(ctx, f"scaled by {t:.7f}", C, (B, A), end), S, norm)
    yield replay(instance())


def moved(case: str, pair: Pair, s: float, norm: str) -> Row:
    """Return the worst row |W - W'|_F <= C |w - w'|.

    Rounding: that of the product's step, and p r eps of the bound for norms of p x r entries.
    """
    length = blocks(pair.step, norm)
    p = max(*pair.start.shape, pair.start.rank)
    return at_most(
        f"{case} {norm}, {pair.family}",
        s * namespace(length).linalg.matrix_norm(pair.product_step, ord="fro"),
        bounds.product_lipschitz(s=s, c=pair.c, norm=norm) * length,
        rounding=s * pair.slip + ulps(8 * p * pair.start.rank, s, pair.c, length),
        held=pair.held,
        **pair.params,
        norm=norm,
    )


def aligned(rng: np.random.Generator, d: int, k: int, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Return B = C u e', A = C e v' with random unit vectors."""
    u, e, v = (isometry(rng, n, 1) for n in (d, r, k))
    return C * u @ e.T, C * e @ v.T


def instance() -> Mapping[str, Any]:
    """Return the extremal of the sum norm at c = 2: A is halved."""
    B = np.array([[2.0], [0.0], [0.0]])
    A = np.array([[2.0, 0.0]])
    pair = pair_of(Context("stored"), "", 2.0, (B, A), (B, A / 2))
    return stored(pair, s=0.5, norm="sum")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored pair, its scale and its norm."""
    return moved("stored", load(stored_instance), stored_instance["s"], stored_instance["norm"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T1."""
    from verification.attacks.smoothness import product_moves

    return {norm: product_moves(norm) for norm in ("sum", "euclid")}


CLAIMS = [
    Claim(
        "T1",
        "smoothness",
        "derived",
        rows,
        bounds=(bounds.product_lipschitz,),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "random sum": 0.95,
            "random euclid": 0.73,
            "extremal sum": 1,
            "extremal euclid": 1,
            "stored sum": 1,
        },
    )
]
