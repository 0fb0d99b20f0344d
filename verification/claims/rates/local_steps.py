"""T35: several local steps a round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decaf_theory import bounds, moments
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import attained
from verification.instances.consensus import (
    Spread,
    amplified,
    consensus_row,
    shortened,
    spread_along,
)
from verification.instances.quadratics import Case, Network, cases, load, noise_on_a_path, stored

ROUNDS = 24


def rows(ctx: Context) -> Iterator[Row]:
    r"""K local steps a round: the consensus bound holds with q and S that grow with K.

    In order MS, at all points where gradients are taken: $E \Xi \le \alpha^2 (\sigma \sqrt{S/N} +
    \kappa q)^2/(1 - \alpha L q)^2$ with $q = K \frac{\lambda}{1-\lambda} + K - 1$ and
    $S = K \sum_{i \ge 2} \frac{l_i^2}{1 - l_i^2} + (K-1)(N-1)$.

    Assumptions: those of T25's consensus bound; $\kappa$ bounds the heterogeneity at the mean of
    every point where gradients are taken.

    Proof: at the j-th local step of a round, $0 \le j < K$, deviations are
    $-\alpha \sum_{r \ge 1} \tilde\Pi^r \sum_{K\ \mathrm{steps}} \tilde g - \alpha \sum_{j\
    \mathrm{steps}} \tilde g$. The norms of the weights sum to at most $K q_1 + K - 1$ with
    $q_1 = \lambda/(1-\lambda)$; the noise has variance at most $\sigma^2 (K \sum_r
    \mathrm{tr}\, \tilde\Pi^{2r} + (K-1)\, \mathrm{tr}(I-J))$. The rest is that of T25.

    Extremal: the last local step; $N = 2$ with constant opposite slopes, any $K$, without
    curvature; and noise alone on any graph, both after many rounds. With curvature the bound is
    not attained for $K > 1$, as earlier local steps deviate less: see R6.

    Source: derived here.
    """
    for K in (1, 2, 5):
        for case in cases(ctx, "MS", instances=ctx.pick(3, 24)):
            yield judged(shortened(case, network_of(case, K)), K, ROUNDS)
        for extremal in (slopes_alone(K), noise_alone(K)):
            yield from attained(replay(extremal))


def network_of(case: Case, K: int) -> Network:
    """Return the network with the q and S of K local steps."""
    return amplified(case.Pi, bounds.local_steps_q_S, N=len(case.Pi), K=K)


def judged(case: Case, K: int, rounds: int) -> Row:
    """Return the largest E Xi over all local steps against its bound."""
    found = local_steps(case, K, rounds)
    return consensus_row("E Xi at every step", case, network_of(case, K), found, K=K)


def local_steps(case: Case, K: int, rounds: int) -> Spread:
    """Return the largest E Xi and kappa of K local steps a round."""
    step = moments.local_step(case.problem, case.lr)
    last = moments.compose(step, moments.mixing(case.Pi, case.problem))
    return spread_along(case.problem, case.start, ([step] * (K - 1) + [last]) * rounds)


def slopes_alone(K: int = 5) -> Instance:
    """Return two agents with f = +-x and lr = 1."""
    Pi = [[0.75, 0.25], [0.25, 0.75]]
    case = stored([[[0.0]], [[0.0]]], [[1.0], [-1.0]], Pi, 1.0, [0.0])
    return {**case, "K": K, "rounds": 40}


def noise_alone(K: int = 5) -> Instance:
    """Return three agents on a path with unit noise alone."""
    return noise_on_a_path(K=K, rounds=40)


def replay(instance: Instance) -> Row:
    """Return the row of one stored case."""
    return judged(load(instance), instance["K"], instance["rounds"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T35."""
    from verification.attacks.quadratics import TRIPLE, network, pair
    from verification.attacks.rounds import local_steps

    return {
        "K = 2": local_steps(pair(0.5), 2),
        "K = 3": local_steps(pair(0.5), 3),
        "K = 3, noise": local_steps(network(TRIPLE), 3, drift=False),
    }


CLAIMS = [
    Claim(
        "T35",
        "rates",
        "derived",
        rows,
        bounds=(bounds.consensus_bound, bounds.local_steps_q_S),
        attacks=attacks,
        replay=replay,
        instance=slopes_alone,
        regimes=("K",),
        reaches={
            "E Xi at every step, K = 1": 1,
            "E Xi at every step, K = 2": 1,
            "E Xi at every step, K = 5": 1,
        },
    )
]
