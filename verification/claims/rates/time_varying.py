"""T37: a mixing matrix that changes from round to round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.topology import TOPOLOGIES, sqrt_rho
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import attained
from verification.instances.consensus import consensus_row, spread_along
from verification.instances.quadratics import (
    FAMILIES,
    Case,
    Network,
    draw,
    load,
    stored,
)

STEPS = 60
SEQUENCES = {
    "one ring, renamed": ("ring",),
    "ring, star, path": ("ring", "star", "path"),
    "hypercube, complete": ("hypercube", "complete"),
}


def rows(ctx: Context) -> Iterator[Row]:
    r"""Mixing matrices that change with time: the consensus bound holds with the largest lambda.

    If $\|\Pi_t - J\|_{op} \le \lambda < 1$ for all $t$, $\Pi_t$ symmetric and doubly stochastic,
    order MS: $E \Xi_t \le \alpha^2 (\sigma \sqrt{S/N} + \kappa q)^2/(1 - \alpha L q)^2$ with
    $q = \lambda/(1-\lambda)$ and $S = (N-1) \rho/(1-\rho)$, $\rho = \lambda^2$.

    Assumptions: those of T25's consensus bound; the sequence $\Pi_t$ is independent of the
    noise.

    Proof: the weight of the gradient of $k$ steps ago is a product of $k$ matrices
    $\tilde\Pi_t$, each of norm at most $\lambda$ and all of rank at most $N - 1$: its norm is at
    most $\lambda^k$, its squared Frobenius norm at most $(N-1) \lambda^{2k}$. The rest is that of
    T25.

    Extremal: $\Pi_t = \lambda I + (1-\lambda) J$ at all times, whose other eigenvalues are all
    $\lambda$: noise alone, or $f_i = -L x^2/2 \pm \kappa x$ for the two halves of the agents.

    Source: derived here.
    """
    for name, graphs in SEQUENCES.items():
        yield judged(*random_sequence(ctx, name, graphs), sequence=name)
    for extremal in (drift_alone(), noise_alone()):
        yield from attained(replay(extremal))


def random_sequence(
    ctx: Context, name: str, graphs: Sequence[str]
) -> tuple[Case, list[np.ndarray]]:
    """Return problems of all families and a sequence of graphs of 8 agents, renamed each time."""
    rng = ctx.rng("sequence", name)
    N = 8
    p = 2
    Pis = []
    for t in range(STEPS):
        order = rng.permutation(N)
        Pis.append(TOPOLOGIES[graphs[t % len(graphs)]](N)[np.ix_(order, order)])
    parts = [draw(rng, family, ctx.pick(4, 40), N, p) for family in FAMILIES]
    H, b, noise, x0 = (np.concatenate(group) for group in zip(*parts, strict=True))
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    lr = 30.0 ** rng.uniform(-1, 0, len(L)) / (L * max(1.0, network_of(Pis).q))
    problem = moments.quadratics(ctx.array(H), b=ctx.array(b), noise=ctx.array(noise))
    return Case(problem, Pis[0], ctx.array(lr), ctx.array(x0), {"N": N, "p": p}), Pis


def network_of(Pis: Sequence[np.ndarray]) -> Network:
    """Return N, the largest lambda, q and S of a sequence of mixing matrices."""
    N = len(Pis[0])
    lam = max(sqrt_rho(Pi) for Pi in Pis)
    q = bounds.network_q(lam=lam, order="MS")
    return Network(N, lam, q, bounds.time_varying_S(lam=lam, N=N))


def judged(case: Case, Pis: Sequence[np.ndarray], **params: Any) -> Row:
    """Return the largest E Xi_t against its bound."""
    recursions = [moments.decentralized_sgd(case.problem, Pi, case.lr) for Pi in Pis]
    found = spread_along(case.problem, case.start, recursions)
    return consensus_row("E Xi_t", case, network_of(Pis), found, T=len(Pis), **params)


def drift_alone(N: int = 4, lam: float = 0.5) -> Instance:
    """Return two camps, f_i = -x^2/2 +- x, on lam I + (1 - lam) J, lr = 1/4."""
    sign = np.where(np.arange(N) < N // 2, 1.0, -1.0)[:, None]
    Pi = lam * np.eye(N) + (1 - lam) / N
    return stored(-np.ones((N, 1, 1)), sign, Pi, 0.25, [0.0], steps=80)


def noise_alone(N: int = 4, lam: float = 0.5) -> Instance:
    """Return unit noise alone on lam I + (1 - lam) J, lr = 1."""
    one = np.ones((N, 1, 1))
    Pi = lam * np.eye(N) + (1 - lam) / N
    return stored(0 * one, np.zeros((N, 1)), Pi, 1.0, [0.0], one, steps=80)


def replay(instance: Instance) -> Row:
    """Return the row of one stored case, with a matrix that stays or with those in `Pis`."""
    case = load(instance)
    stays = [instance["Pi"]] * instance.get("steps", 0)
    return judged(case, [np.asarray(Pi) for Pi in instance.get("Pis", stays)])


def attacks() -> dict[str, Any]:
    """Return the attacks on T37."""
    from verification.attacks.rounds import changing

    return {"any sequence": changing(0.4, 3, 10)}


CLAIMS = [
    Claim(
        "T37",
        "rates",
        "derived",
        rows,
        bounds=(bounds.consensus_bound, bounds.time_varying_S, bounds.network_q),
        attacks=attacks,
        replay=replay,
        instance=drift_alone,
        reaches={
            "E Xi_t": 1,
        },
    )
]
