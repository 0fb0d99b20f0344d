"""T36: local heavy-ball momentum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decaf_theory import bounds, moments
from decaf_theory.arrays import namespace
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import attained
from verification.instances.consensus import amplified, consensus_row, shortened, spread_along
from verification.instances.quadratics import Case, Network, cases, load, noise_on_a_path, stored

STEPS = 60


def rows(ctx: Context) -> Iterator[Row]:
    r"""Local momentum beta: the consensus bound holds with q/(1 - beta) and a larger S.

    $v^+ = \beta v + \hat g(x)$, $x^+ = \Pi (x - \alpha v^+)$; momenta are not mixed. $E \Xi_t \le
    \alpha^2 (\sigma \sqrt{S/N} + \kappa q)^2/(1 - \alpha L q)^2$ with
    $q = \frac{\lambda}{(1-\lambda)(1-\beta)}$ and $S = \sum_{i \ge 2} \frac{l_i^2 (1 + l_i
    \beta)}{(1 - l_i^2)(1 - \beta^2)(1 - l_i \beta)}$.

    Assumptions: those of T25's consensus bound; $0 \le \beta < 1$, $v_0 = 0$.

    Proof: the gradient of $k \ge 1$ steps ago enters the deviations with the weight
    $c_k = \sum_{i=0}^{k-1} \tilde\Pi^{k-i} \beta^i$, through the momentum of $i$ steps after it.
    $\sum_k |c_k| \le \frac{\lambda}{1-\lambda} \cdot \frac{1}{1-\beta}$, and on an eigenvector
    $c_k = l \frac{l^k - \beta^k}{l - \beta}$, whose squares sum to the terms of $S$. The rest is
    that of T25.

    Extremal: $N = 2$, $f_i = -L x^2/2 \pm \kappa x$ without noise, and noise alone on any graph,
    both as $t \to \infty$.

    Source: derived here.
    """
    for beta in (0.0, 0.5, 0.9):
        for case in cases(ctx, "MS", instances=ctx.pick(3, 24)):
            yield judged(shortened(case, network_of(case, beta)), beta, STEPS)
        for extremal in (drift_alone(beta), noise_alone(beta)):
            yield from attained(replay(extremal))


def network_of(case: Case, beta: float) -> Network:
    """Return the network with the q and S of momentum beta."""
    return amplified(case.Pi, bounds.momentum_q_S, beta=beta)


def heavy_ball(case: Case, beta: float) -> moments.Recursion:
    """Return the recursion of (x, v) [..., 2 n]: v+ = beta v + H x - b + xi, x+ = P (x - lr v+)."""
    problem = case.problem
    gradient = moments.local_step(problem, 1.0)  # x - (H x - b + xi)
    P = moments.mixing(case.Pi, problem).A
    xp = namespace(P)
    eye = namespace(P).eye(P.shape[-1], dtype=P.dtype, device=P.device)
    H = eye - gradient.A
    lr = case.lr[..., None, None]
    zero = 0 * (P + H)
    pull = _blocks([[eye + zero, zero], [H, beta * eye + zero]])  # (x, v+)
    push = _blocks([[P + zero, -lr * P], [zero, eye + zero]])  # (x+, v+)
    a = xp.concat([0 * gradient.a, -gradient.a], axis=-1)
    Q = _blocks([[zero, zero], [zero, gradient.Q]])
    still = moments.Recursion(push, 0 * a, 0 * Q)
    return moments.compose(moments.Recursion(pull, a, Q), still)


def _blocks(blocks: list[list[Any]]) -> Any:
    """Return the matrix of these blocks."""
    xp = namespace(blocks[0][0])
    return xp.concat([xp.concat(row, axis=-1) for row in blocks], axis=-2)


def judged(case: Case, beta: float, steps: int) -> Row:
    """Return the largest E Xi_t against its bound."""
    recursion = heavy_ball(case, beta)
    start = without_momentum(case)
    found = spread_along(case.problem, start, [recursion] * steps)
    return consensus_row("E Xi_t", case, network_of(case, beta), found, beta=beta, T=steps)


def without_momentum(case: Case) -> moments.State:
    """Return the start with v = 0."""
    x = case.start.mean
    mean = namespace(x).concat([x, 0 * x], axis=-1)
    return moments.State(mean, 0 * mean[..., None] * mean[..., None, :])


def drift_alone(beta: float = 0.5) -> Instance:
    """Return two agents, f = -x^2/2 +- x, lr = (1 - beta)/4."""
    Pi = [[0.75, 0.25], [0.25, 0.75]]
    case = stored([[[-1.0]], [[-1.0]]], [[1.0], [-1.0]], Pi, (1 - beta) / 4, [0.0])
    return {**case, "beta": beta, "steps": 400}


def noise_alone(beta: float = 0.5) -> Instance:
    """Return three agents on a path with unit noise alone."""
    return noise_on_a_path(beta=beta, steps=400)


def replay(instance: Instance) -> Row:
    """Return the row of one stored case."""
    return judged(load(instance), instance["beta"], instance["steps"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T36."""
    from verification.attacks.quadratics import TRIPLE, network, pair
    from verification.attacks.rounds import momentum

    return {
        "beta = 1/2": momentum(pair(0.5), 0.5),
        "beta = 1/2, noise": momentum(network(TRIPLE), 0.5, drift=False),
    }


CLAIMS = [
    Claim(
        "T36",
        "rates",
        "derived",
        rows,
        bounds=(bounds.consensus_bound, bounds.momentum_q_S),
        attacks=attacks,
        replay=replay,
        instance=drift_alone,
        regimes=("beta",),
        reaches={
            "E Xi_t, beta = 0.0": 1,
            "E Xi_t, beta = 0.5": 1,
            "E Xi_t, beta = 0.9": 1,
        },
    )
]
