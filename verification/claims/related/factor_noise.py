"""R7: noise on transmitted factors, for privacy or over the air."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as cartesian

import numpy as np

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, product
from verification.claim import Claim, Context, Row
from verification.evidence import same, ulps

SIZES = ((1, 2, 1), (2, 1, 2), (3, 2, 2), (2, 3, 2), (4, 3, 1))  # d, k, r
TAU_B = 0.5
TAU_A = 0.75


def rows(ctx: Context) -> Iterator[Row]:
    r"""Noise on both factors moves the product by a mean square that is exact, in three terms.

    $E|(B + N_B)(A + N_A) - BA|_F^2 = d \tau_B^2 |A|_F^2 + k \tau_A^2 |B|_F^2 +
    d k r \tau_A^2 \tau_B^2$. With a frozen factor, $N_A = 0$, the first term alone is left.

    Assumptions: entries of $N_B$ and $N_A$ are independent, of mean 0 and variances $\tau_B^2$,
    $\tau_A^2$; only second moments enter.

    Proof: the change is $N_B A + B N_A + N_B N_A$; the three terms are uncorrelated, and
    $E|N_B A|^2 = \tau_B^2 d |A|^2$, $E|B N_A|^2 = \tau_A^2 k |B|^2$,
    $E|N_B N_A|^2 = d k r \tau_A^2 \tau_B^2$.

    Source: derived here; the setting is that of DP-LoRA and of over-the-air aggregation. The
    expectation is computed over all signs of all entries.
    """
    for d, k, r in SIZES:
        for tau_A in (TAU_A, 0.0):
            yield _mean_square(ctx, d, k, r, tau_A)


def _mean_square(ctx: Context, d: int, k: int, r: int, tau_A: float) -> Row:
    """Return the mean over all signs of the noise against the three terms."""
    rng = ctx.rng("factors", d, k, r)
    count = ctx.pick(3, 20)
    B = ctx.array(rng.standard_normal((count, 1, d, r)))
    A = ctx.array(rng.standard_normal((count, 1, r, k)))
    entries = d * r + (r * k if tau_A else 0)
    signs = np.array(list(cartesian([-1.0, 1.0], repeat=entries)))
    N_B = ctx.array(TAU_B * signs[:, : d * r].reshape(-1, d, r))
    N_A = ctx.array(tau_A * signs[:, d * r :].reshape(-1, r, k)) if tau_A else 0 * A
    xp = namespace(B)
    moved = product(Factors(B + N_B, A + N_A)) - product(Factors(B, A))
    mean = xp.mean(xp.sum(moved**2, axis=(-2, -1)), axis=-1)
    size_A, size_B = (xp.sum(X**2, axis=(-2, -1))[:, 0] for X in (A, B))
    of_B = d * TAU_B**2 * size_A
    of_A = k * tau_A**2 * size_B
    of_both = d * k * r * (tau_A * TAU_B) ** 2
    exact = of_B + of_A + of_both
    # sums of r products an entry, of the square of d k entries, in pairs over 2^entries paths
    slip = ulps(8 * (r + d * k + entries), 1 + size_A, 1 + size_B)
    return same("E|dP|^2", mean - exact, rounding=slip, d=d, k=k, r=r, tau_A=tau_A)


CLAIMS = [Claim("R7", "methods", "derived", rows, not_attacked="an exact expectation")]
