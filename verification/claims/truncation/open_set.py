"""T22-open, T22-share: gossip by truncated products that ends worse than averaging the factors."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, sqrt

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors, product
from decaf_theory.stats import bonferroni, share_interval
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Row
from verification.claims.truncation.gossip import competing, gossip, weights
from verification.evidence import at_least, at_most, ulps

W = 0.75
TILT = 0.05
FARTHER = {0.002: 1.005, 0.001: 1.04}  # radius of a ball of starts -> least ratio of the distances
WATCHED = 8  # rounds followed on the path of the centre: by then the agents nearly agree


def rows(ctx: Context) -> Iterator[Row]:
    r"""From an open set of starts DeCAF's gossip ends farther from the mean than DLoRA's.

    Two agents, $r = 1$, self weight 3/4, $B_1 = A_1' = e_1 + e_2/20$, $B_2 = A_2' = e_2 + e_1/20$,
    mixing only. Both methods reach consensus; DeCAF's end is over 1.07 times as far from the mean
    of the agents' products as DLoRA's. From every start whose factors are each within 1/1000 of
    these it is at least 1.04 times as far, within 1/500 at least 1.005 times. For a tilt $\theta$
    instead of 1/20 the ratio tends to $\sqrt 2$ as $\theta \to 0$.

    Assumptions: none beyond the instance.

    Proof: perturb each factor by at most $\epsilon$; the products move by $e_0 = \epsilon (|B| +
    |A|) + \epsilon^2$ at most, the mean product too, $\bar B \bar A$ by $\epsilon (|\bar B| +
    |\bar A|) + \epsilon^2$. A mean moves no more than what it is taken of, and a truncation by
    T19's factor at the centre's own singular values: after $t$ rounds the agents' products are
    within $e_t$ of those of the centre, which are computed. From round 8 on the distance $D$ of the
    two products obeys $D^+ \le (2w - 1) D + 2E$, where each mix loses at most $E$ by T21 around the
    agent's own product, $\sigma_1$ falls by at most $(1 - w) D$, and the mean of the two products
    moves by $E$ at most. Here $D^+ \le \frac34 D$: consensus, within $e_8 + \sum E$ of the mean
    product of round 8. Limit: the first $t$ rounds tend to those of T22 as $\theta \to 0$, and a
    round enlarges no product, so that DeCAF's end is at most of size $w^t$ in the limit, for every
    $t$: its distance tends to that of 0, $1/\sqrt 2$, and DLoRA's to 1/2.

    Source: derived here.
    """
    start = competing(ctx, d=2, k=2, tilt=TILT)
    for radius, least in FARTHER.items():
        low, high, e = certified(start, radius)
        where = {"radius": radius, "w": W, "tilt": TILT}
        # some dozen roundings a round, on products of size one
        slip = ulps(50 * WATCHED)
        case = "every start in the ball: DeCAF's end >= const DLoRA's"
        yield at_least(case, low, least * high, rounding=slip, least_ratio=least, **where)
        case = f"drawn in the ball: products after {WATCHED} rounds, from the centre's"
        yield at_most(case, strayed(ctx, start, radius), e, rounding=slip, **where)
    centre = ends(start.map(lambda X: X[None]), weights(W), 60)
    yield at_least("ratio at tilt 1/20", centre, 1.07, rounding=ulps(50 * 60), w=W, tilt=TILT)
    tilted = competing(ctx, d=2, k=2, tilt=2.0**-24)
    # a round moves the tilt by some roundings of size one, and all that follows in proportion
    slip = 2.0**24 * ulps(20)
    ratio = ends(tilted.map(lambda X: X[None]), weights(W), 100)
    yield at_least("ratio at tilt 2^-24 >= 0.99 sqrt(2)", ratio, 0.99 * sqrt(2), rounding=slip, w=W)


def certified(start: Factors, radius: float) -> tuple[float, float, float]:
    """Return bounds over a ball of starts: factors within `radius` of those of `start`, each.

    The least distance of DeCAF's end from the mean product, the largest of DLoRA's, and how far a
    product is from the centre's after `WATCHED` rounds.
    """
    B, A = start.map(host)
    size_B, size_A = (float(np.linalg.norm(X, axis=(-2, -1)).max()) for X in (B, A))
    moved = radius * (size_B + size_A) + radius**2
    P = B @ A
    mean = P.mean(axis=0)
    e = moved
    for _ in range(WATCHED):
        sigma = np.linalg.svd(np.einsum("ij,jdk->idk", weights(W), P), compute_uv=False)
        e *= max(
            bounds.tsvd_perturbation_integrated(sigma_r=kept, sigma_next=dropped, e=e)
            for kept, dropped in sigma.tolist()
        )
        start = gossip("decaf", start, weights(W), 1)
        P = host(product(start))
    apart = float(np.linalg.norm(P[0] - P[1])) + 2 * e
    least = float(np.linalg.norm(P, ord=2, axis=(-2, -1)).min()) - e
    low = float(np.linalg.norm(P.mean(axis=0) - mean)) - e - drift(apart, least) - moved
    Bbar, Abar = (X.mean(axis=0) for X in (B, A))
    averaged = radius * float(np.linalg.norm(Bbar) + np.linalg.norm(Abar)) + radius**2
    return low, float(np.linalg.norm(Bbar @ Abar - mean)) + averaged + moved, e


def drift(D: float, sigma: float) -> float:
    """Return how far the mean of two products of rank one may still move until they agree.

    They are D apart, their sigma_1 is at least `sigma`; inf unless D falls by a quarter a round.
    """
    total = 0.0
    for _ in range(100):
        if not D < sigma:
            return inf
        squares = {"mean_square": (1 - W) * D**2, "square_mean": ((1 - W) * D) ** 2}
        E = bounds.truncation_second_order(**squares, sigma_r=sigma, delta=D)
        nearer = (2 * W - 1) * D + 2 * E
        if nearer > 0.75 * D:
            return inf
        total += E
        sigma -= (1 - W) * D
        D = nearer
    # what is left: E <= D/8, as nearer <= 3/4 D, and the D to come sum to at most 4 D
    return total + D / 2


def strayed(ctx: Context, start: Factors, radius: float) -> np.ndarray:
    """Return how far DeCAF's products are from the centre's, for starts drawn on the sphere."""
    rng = ctx.rng("ball", str(radius))
    count = ctx.pick(100, 3000)

    def around(X: np.ndarray) -> np.ndarray:
        away = rng.standard_normal((count, *X.shape))
        # the first one tilts all factors alike, the direction that grows
        away[0] = X[::-1]
        near: np.ndarray = X + radius * away / np.linalg.norm(away, axis=(-2, -1), keepdims=True)
        return near

    drawn = start.map(host).map(around).map(ctx.array)
    ways = (gossip("decaf", x, weights(W), WATCHED) for x in (drawn, start))
    P, centre = (host(product(way)) for way in ways)
    far: np.ndarray = np.linalg.norm(P - centre, axis=(-2, -1))
    return far


def ends(start: Factors, Pi: np.ndarray, rounds: int) -> np.ndarray:
    """Return the distance of DeCAF's products from the mean product, over DLoRA's limit's, [n].

    The agent that is farthest; starts B [n, N, d, r], A [n, N, r, k].
    """
    P = host(product(gossip("decaf", start, Pi, rounds)))
    before = host(product(start))
    mean = before.mean(axis=1, keepdims=True)
    Bbar, Abar = (host(X).mean(axis=1) for X in start)
    decaf = np.linalg.norm(P - mean, axis=(-2, -1)).max(axis=1)
    ratio: np.ndarray = decaf / np.linalg.norm(Bbar @ Abar - mean[:, 0], axis=(-2, -1))
    return ratio


def often(ctx: Context) -> Iterator[Row]:
    r"""From a share of random starts DeCAF's gossip ends farther from the mean product.

    Rank one, Gaussian factors, mixing only, on a ring of six agents with $d = k = 4$, and for two
    agents with self weight 9/10 and $d = k = 2$: from more than one start in 1000 DeCAF ends at
    least 1 % farther from the mean product than DLoRA, and from some 5 %. From starts whose entries
    are within 1/200 of T22-open's it ends 6 % farther.

    Assumptions: enough rounds for the agents to agree.

    Source: derived here; evidence only, by drawn starts. A full run finds 1.7 % of 6,000 on the
    ring and 2.2 % of 6,000 for two agents, and a largest ratio of 1.4.
    """
    yield from shares(ctx, "ring", TOPOLOGIES["ring"](6), d=4, rounds=24)
    yield from shares(ctx, "two agents", weights(0.9), d=2, rounds=40)
    start = competing(ctx, d=2, k=2, tilt=TILT)
    rng = ctx.rng("near")
    count = ctx.pick(100, 3000)
    near = start.map(host).map(lambda X: X + rng.uniform(-5e-3, 5e-3, (count, *X.shape)))
    ratio = ends(near.map(ctx.array), weights(W), 40)
    case = "entries within 1/200 of T22-open's: ratio"
    yield at_least(case, ratio, 1.06, rounding=ulps(50 * 40), w=W, tilt=TILT)


def shares(ctx: Context, name: str, Pi: np.ndarray, *, d: int, rounds: int) -> Iterator[Row]:
    """Yield the share of random starts from which DeCAF ends 1 % farther, and the largest ratio."""
    N = len(Pi)
    rng = ctx.rng("starts", name)
    count = ctx.pick(500, 6000)
    start = Factors(*(rng.standard_normal((count, N, *size)) for size in ((d, 1), (1, d))))
    ratio = ends(start.map(ctx.array), Pi, rounds)
    # both shares at once, at 95 %
    share = share_interval(int(np.sum(ratio > 1.01)), count, bonferroni(0.95, 2))
    where = {"topology": name, "N": N, "d": d, "k": d, "r": 1, "starts": count}
    case = "share of starts from which DeCAF ends 1 % farther"
    interval = {"low": share.low, "high": share.high}
    yield at_least(case, share.estimate, 1 / 1000, rounding=0.0, **interval, **where)
    case = "largest ratio of the distances"
    yield at_least(case, ratio.max(), 1.05, rounding=ulps(50 * rounds), **where)


CLAIMS = [
    Claim(
        "T22-open",
        "truncation",
        "derived",
        rows,
        loose="its constants are rounded down: 0.99 of its bound",
        not_attacked="a whole ball of starts is bounded at once",
        reaches={
            "every start in the ball: DeCAF's end >= const DLoRA's": 0.99,
            "drawn in the ball: products after 8 rounds, from the centre's": 0.39,
            "ratio at tilt 1/20": 0.99,
            "ratio at tilt 2^-24 >= 0.99 sqrt(2)": 0.99,
        },
    ),
    Claim(
        "T22-share",
        "truncation",
        "numerical",
        often,
        loose="a drawn start need not be the worst: 0.99 of its bound",
        not_attacked="a frequency",
        reaches={
            "share of starts from which DeCAF ends 1 % farther": 0,
            "largest ratio of the distances": 0.58,
            "entries within 1/200 of T22-open's: ratio": 0.98,
        },
    ),
]
