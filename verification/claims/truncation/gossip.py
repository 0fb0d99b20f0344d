"""T22: one-step optimality of DeCAF's mix does not survive iteration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors, mix_products, product
from decaf_theory.measure import product_norm
from decaf_theory.methods import METHODS
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import stored


def gossip(method: str, factors: Factors, Pi: Any, rounds: int) -> Factors:
    """Return the factors after rounds of mixing alone."""
    for t in range(rounds):
        factors = METHODS[method].mix(factors, Pi, t)
    return factors


def competing(ctx: Context, *, d: int = 3, k: int = 2, tilt: float = 0.0) -> Factors:
    """Return two agents with products e_1 e_1' and e_2 e_2', each tilted toward the other."""
    B = np.zeros((2, d, 1))
    A = np.zeros((2, 1, k))
    B[:, :2, 0] = A[:, 0, :2] = [[1.0, tilt], [tilt, 1.0]]
    return Factors(ctx.array(B), ctx.array(A))


def weights(w: float) -> np.ndarray:
    """Return the mixing matrix of two agents with self weight w."""
    return np.array([[w, 1 - w], [1 - w, w]])


def rows(ctx: Context) -> Iterator[Row]:
    r"""Gossip by truncated products may die out without consensus, from an unstable start.

    Two agents with products $e_1 e_1'$ and $e_2 e_2'$, $r = 1$, self weight $w \in (1/2, 1)$,
    mixing only: DeCAF's products are $P_i = w^t e_i e_i'$, never agree in direction and tend to 0,
    at distance $1/\sqrt 2$ from the mean product. DLoRA tends to the best rank-one approximation,
    at distance 1/2. The set of such starts is unstable: a common tilt grows by $1/(2w - 1)$ a
    round.

    Assumptions: none beyond the instance.

    Proof: $w\, p\, e_1 e_1' + (1 - w)\, p\, e_2 e_2'$ has the singular values $wp > (1 - w)p$, so
    its truncation is $wp\, e_1 e_1'$. Tilted, with $e_1 + \theta e_2$ and $e_2 + \theta e_1$: to
    first order the mix has off-diagonal entries $\theta p$ and the eigenvalue gap
    $(2w - 1) p$, so its leading vector is tilted by $\theta/(2w - 1)$.

    Counterexample (for the iterates): see T22-iterates; from an open set of starts: T22-open.

    Source: derived here.
    """
    for w in (0.6, 0.75, 0.9):
        for rounds in (1, 10, ctx.pick(40, 200)):
            P = host(product(gossip("decaf", competing(ctx), weights(w), rounds)))
            expected = np.zeros_like(P)
            expected[0, 0, 0] = expected[1, 1, 1] = w**rounds
            residual = np.max(np.abs(P - expected)) / w**rounds
            # a round multiplies p by few numbers, each by a TSVD of 2 x 2 entries: 20 roundings
            slip = ulps(20 * rounds)
            case = "P_i = w^t e_i e_i', relative"
            yield same(case, residual, rounding=slip, w=w, rounds=rounds, d=3, k=2, r=1)
        yield _growth(ctx, w)
        yield _averaged(ctx, w)


def _growth(ctx: Context, w: float) -> Row:
    """One round from a tilt of 2^-20."""
    tilt = 2.0**-20
    P = host(product(gossip("decaf", competing(ctx, tilt=tilt), weights(w), 1)))[0]
    growth = P[1, 0] / P[0, 0] / tilt
    # the first-order value is off by tilt^2 / (2w - 1)^3, entries by eps / tilt; ten times both
    slip = 10 * (tilt**2 / (2 * w - 1) ** 3 + ulps(1) / tilt)
    case = "growth of a common tilt = 1/(2w - 1)"
    return same(case, growth - 1 / (2 * w - 1), rounding=slip, w=w, d=3, k=2, r=1)


def _averaged(ctx: Context, w: float) -> Row:
    """DLoRA after 200 rounds: the deviations fall by 2w - 1 a round, to 4e-20 at w = 0.9."""
    P = host(product(gossip("dlora", competing(ctx), weights(w), 200)))
    mean = np.zeros_like(P[0])
    mean[0, 0] = mean[1, 1] = 0.5
    off = np.max(np.abs(np.linalg.norm(P - mean, axis=(-2, -1)) - 0.5))
    # a round rounds each entry of the factors once; a norm of four entries adds less
    slip = ulps(2 * 200)
    case = "DLoRA's distance from the mean product = 1/2"
    return same(case, off, rounding=slip, w=w, rounds=200, d=3, k=2, r=1)


def one_step_optimality_iterates(ctx: Context) -> Iterator[Row]:
    r"""What DeCAF's gossip tends to is at least as near the mean product as DLoRA's limit.

    Truncated products beat averaged factors in every single mix (T17); so repeating the mix should
    leave DeCAF at most as far from $\frac1N \sum_i B_i A_i$ as DLoRA. FALSE: errors of single mixes
    add up.

    Assumptions: mixing only, $\Pi$ symmetric doubly stochastic and connected.

    Counterexample: two agents with products $e_1 e_1'$ and $e_2 e_2'$, $r = 1$, self weight 3/4.
    After 200 rounds DeCAF is at 0, at distance $1/\sqrt 2$ from the mean $I/2$; DLoRA is at
    distance 1/2, the least of rank one.

    Source: derived here.
    """
    yield replay(instance())


def instance() -> Instance:
    """Return the two agents, the mixing matrix and the rounds."""
    start = competing(Context("T22-iterates"), d=2, k=2)
    return {**stored(start, [0.5, 0.5]), "Pi": weights(0.75).tolist(), "rounds": 200}


def replay(instance: Mapping[str, Any]) -> Row:
    """Return the row: the largest distance of DeCAF's products from the mean, against DLoRA's."""
    B, A, Pi = (np.asarray(instance[name], dtype=np.float64) for name in ("B", "A", "Pi"))
    start = Factors(B, A)
    N = len(Pi)
    mean = mix_products(start, np.full((1, N), 1 / N))
    far = {}
    for method in ("decaf", "dlora"):
        end = product(gossip(method, start, Pi, instance["rounds"]))
        far[method] = float(np.max(np.linalg.norm(end - mean, axis=(-2, -1))))
    # 20 roundings a round, as in `rows`, of the largest product
    slip = ulps(20 * instance["rounds"], float(np.max(product_norm(start))))
    case = "DeCAF's distance from the mean product <= DLoRA's"
    d, k = start.shape
    return at_most(case, far["decaf"], far["dlora"], rounding=slip, d=d, k=k, r=start.rank)


CLAIMS = [
    Claim("T22", "truncation", "derived", rows, not_attacked="the exact path of one instance"),
    Claim(
        "T22-iterates",
        "truncation",
        "derived",
        one_step_optimality_iterates,
        expected="violated",
        replay=replay,
        instance=instance,
        script="T22-iterates",
    ),
]
