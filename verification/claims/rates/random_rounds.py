"""T37-random: a mixing matrix that is drawn anew for every round."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import attained
from verification.instances import laws
from verification.instances.consensus import Spread, consensus_row, spread_along
from verification.instances.laws import Law
from verification.instances.quadratics import Case, Network, constants, drawn, load, stored

STEPS = 40
# who meets in each round of a file
MEETINGS = [[(0, 1), (1, 2)], [(2, 3)], [], [(1, 3), (0, 2)]]


def rows(ctx: Context) -> Iterator[Row]:
    r"""Mixing matrices drawn at random: the consensus bound holds with their mean square.

    $\Pi_t$ doubly stochastic, not necessarily symmetric, and
    $\rho = \|E\, \Pi_t'\Pi_t - J\|_{op} < 1$; order MS: $E \Xi_t \le \alpha^2 (\sigma \sqrt{S/N} +
    \kappa q)^2/(1 - \alpha L q)^2$ with $q = \lambda/(1-\lambda)$, $\lambda = \sqrt\rho$ and
    $S = (N-1) \rho/(1-\rho)$. Single rounds need not mix: with one link at a time, random pairs,
    links that fail, agents that miss rounds or rounds drawn from a file of contacts,
    $\|\Pi_t - J\|_{op}$ may always be 1.

    Assumptions: those of T25's consensus bound; each $\Pi_t$ is independent of all that came before
    and of the noise of step $t$, and all have one $\rho$, or none above it.

    Proof: let $\tilde\Pi_t = \Pi_t - J$. As rows and columns sum to one, $\tilde\Pi_t =
    \Pi_t (I-J)$ and $\tilde\Pi_t'\tilde\Pi_t = \Pi_t'\Pi_t - J$. So $E |\tilde\Pi_t X|_F^2 =
    E\, \mathrm{tr}\, X' (E\, \tilde\Pi_t'\tilde\Pi_t) X \le \rho\, E|X|_F^2$ for every $X$
    that is independent of $\Pi_t$. Deviations are
    $-\alpha \sum_k \tilde\Pi_{t-1} \cdots \tilde\Pi_{t-k} (\tilde g + n)$ with gradients of
    $k$ steps ago, which depend on earlier matrices only: take the factors off from the left, one
    at a time. The drift keeps at most the share $\lambda^k$ in the mean square. The noise keeps
    $E|\tilde\Pi_{t-1} \cdots \tilde\Pi_{t-k}|_F^2 \le \rho^k |I - J|_F^2 = \rho^k (N-1)$ times
    $\sigma^2$, and that of different steps is uncorrelated. The rest is that of T25.

    Extremal: noise alone, where $E\, \Pi_t'\Pi_t - J = \rho (I - J)$, as $t \to \infty$: one pair
    of $N$ agents at a time ($\rho = 1 - 1/(N-1)$), or all agents average with probability
    $1 - \rho$. By drift alone the latter has $(1 + \rho)/(1 + \lambda)^2$ of the bound.

    Source: derived here.
    """
    for name, law in various().items():
        yield judged(random_case(ctx, name, law), law, STEPS, sequence=name)
    for extremal in (noise_alone(), one_pair()):
        yield from attained(replay(extremal))


def various() -> dict[str, Law]:
    """Return laws of all kinds, of few agents."""
    ring = TOPOLOGIES["ring"](4)
    links = [(i, (i + 1) % 4) for i in range(4)]
    return {
        "one pair of 3": laws.pairwise_gossip(3),
        "one link of a ring": laws.pairwise_gossip(4, links),
        "random pairs of 6": laws.random_matching(6),
        "random pairs of 5": laws.random_matching(5),
        "ring, half of the links fail": laws.dropped_links(ring, 0.5),
        "random graphs of 3": laws.erdos_renyi(3, 0.5),
        "ring, agents miss rounds": laws.stragglers(ring, 0.25),
        "rounds of a file of contacts": laws.contacts(4, MEETINGS),
        "directed peers of 5": laws.directed_peers(5),
        "all or nothing": laws.all_or_nothing(4, 0.5),
    }


def random_case(ctx: Context, name: str, law: Law) -> Case:
    """Return problems of all families, with lr log-uniform up to what the law allows."""
    rng = ctx.rng("law", name)
    case = drawn(ctx, rng, name, law.Pis[0], ctx.pick(3, 24), 2)
    L = constants(case).L
    lr = 30.0 ** rng.uniform(-1, 0, len(L)) / (L * max(1.0, network_of(law).q))
    return case._replace(lr=ctx.array(lr))


def network_of(law: Law) -> Network:
    """Return N, the root of rho, q and S of a law."""
    N = law.Pis.shape[-1]
    lam = law.rho**0.5
    q = bounds.network_q(lam=lam, order="MS")
    return Network(N, lam, q, bounds.time_varying_S(lam=lam, N=N))


def at_random(case: Case, law: Law, steps: int) -> Spread:
    """Return the largest E Xi and kappa of `steps` rounds, over all draws."""
    outcomes = moments.decentralized_sgd(case.problem, law.Pis[:, None], case.lr)
    step = partial(moments.advance_at_random, chances=law.chances)
    found = spread_along(case.problem, case.start, [outcomes] * steps, step)
    # the mean over the outcomes sums at most 4 n of them
    return found._replace(slip=2 * found.slip)


def judged(case: Case, law: Law, steps: int, **params: Any) -> Row:
    """Return the largest E Xi_t against its bound."""
    found = at_random(case, law, steps)
    return consensus_row("E Xi_t", case, network_of(law), found, T=steps, **params)


def noise_alone(N: int = 4, rho: float = 0.5) -> Instance:
    """Return unit noise alone, all agents average or none, lr = 1."""
    return _noise_alone(laws.all_or_nothing(N, rho), 80)


def one_pair(N: int = 3) -> Instance:
    """Return unit noise alone, one pair of agents averages at a time, lr = 1."""
    return _noise_alone(laws.pairwise_gossip(N), 80)


def _noise_alone(law: Law, steps: int) -> Instance:
    one = np.ones((law.Pis.shape[-1], 1, 1))
    return at_law(stored(0 * one, 0 * one[..., 0], law.Pis[0], 1.0, [0.0], one, steps=steps), law)


def at_law(instance: Instance, law: Law) -> Instance:
    """Return a stored case whose rounds are drawn from this law."""
    return {**instance, "Pis": law.Pis.tolist(), "chances": law.chances.tolist()}


def replay(instance: Instance) -> Row:
    """Return the row of one stored case."""
    law = Law(np.asarray(instance["Pis"]), np.asarray(instance["chances"]))
    return judged(load(instance), law, instance["steps"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T37-random."""
    from verification.attacks.rounds import random_rounds

    three = laws.pairwise_gossip(3)
    ring = laws.pairwise_gossip(4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    drift = "a drift adds up along rounds in which an agent rests, and not in the mean square alone"
    return {
        "one pair of 3, noise": random_rounds(three, drift=False),
        "one pair of 3, drift": random_rounds(three, noise=False, loose=drift),
        "one link of a ring, noise": random_rounds(ring, drift=False, loose="two speeds of decay"),
    }


CLAIMS = [
    Claim(
        "T37-random",
        "rates",
        "derived",
        rows,
        bounds=(bounds.consensus_bound, bounds.time_varying_S),
        attacks=attacks,
        replay=replay,
        instance=noise_alone,
        reaches={
            "E Xi_t": 1,
        },
    )
]
