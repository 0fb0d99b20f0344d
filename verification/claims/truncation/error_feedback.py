"""T22-feedback, T22-agreement: gossip by truncated products that keep what they drop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import Clock, State, error_feedback
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config
from decaf_theory.stats import richardson
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd
from verification.claim import Claim, Context, Instance, Row, Value
from verification.claims.truncation.gossip import competing, weights
from verification.claims.truncation.open_set import TILT
from verification.evidence import at_least, at_most, same, ulps
from verification.instances.mixes import gaussian, stored
from verification.instances.targets import last_visit, prescribed

W = 0.6
HALVED = 2 ** (-1 / 4)  # four rounds of this self weight halve a product, to a tie


def fed_back(start: Factors, Pi: Any, rounds: int) -> State:
    """Return the state after rounds of mixing alone, with a residual of every rank."""
    method = error_feedback(min(start.shape))
    state = method.begin(start)
    for t in range(rounds):
        state = method.exchange(state, Pi, Clock(t)).state
    return state


def rows(ctx: Context) -> Iterator[Row]:
    r"""With error feedback gossip by truncated products cannot die out.

    $M_i = \sum_j \pi_{ij} P_j + E_i$, $P_i^+ = \mathrm{TSVD}_r(M_i)$, $E_i^+ = M_i - P_i^+$, from
    $E_i = 0$, mixing only. The mean over agents of the sum of the $r$ singular values of $P_i$
    stays at least that sum of the $r$ largest of the mean product $\bar P_0$. Where the agents come
    to agree on a product of rank $r$, it is $\mathrm{TSVD}_r(\bar P_0)$, the best there is: with
    $\delta = \max_i |P_i - P_1|_F$ and $\eta = \delta (|P_1|_{op} + \max_i |E_i|_{op})$,
    $|P_1 - \mathrm{TSVD}_r(\bar P_0)|_F \le \kappa\, \sqrt2\, \eta/\sigma_r(P_1)$, $\kappa$ the
    factor of T19. T22's two agents, which die out in DeCAF, keep products of size
    $z \leftarrow \max(wz, 1 - wz) \ge \frac12$, $z \to 1/(1 + w)$; P6's tend to size 1/2 and the
    loss 3/8 at each agent as the step size falls, for $w = 3/5$ at which DeCAF dies.

    Assumptions: $\Pi$ doubly stochastic; $E_i$ of rank up to $\min(d, k) - r$, so that nothing is
    lost; for the distance, $\bar P_0$ has a gap after $\sigma_r$ of more than
    $2\delta + 2 \sqrt2\, \eta/\sigma_r(P_1)$.

    Proof: $\sum_i (P_i + E_i)$ does not change. $P_i$ holds the $r$ largest singular values of
    $M_i$, and their sum is a norm, hence convex. In singular bases of $P_1 = diag(S, 0)$ let
    $F = \bar P_0 - P_1 = \frac1N \sum_i (P_i - P_1) + \bar E$. As $P_i'E_i = 0$,
    $P_1'F = P_1' \frac1N \sum_i (P_i - P_1) + \frac1N \sum_i (P_1 - P_i)'E_i$ is at most $\eta$,
    and so is $F P_1'$: all blocks of $F$ but the last add to a matrix $G$ of at most $\sqrt2\,
    \eta/\sigma_r(P_1)$. The last block is at most $\delta + \max_i \sigma_r(P_i) \le \sigma_r(P_1)
    + 2\delta$, by the gap even at most $\sigma_r(P_1)$; so $P_1 = \mathrm{TSVD}_r(\bar P_0 - G)$.
    Two agents: $P_1 + E_1 = diag(x, y)$, $P_2 + E_2 = diag(y, x)$, $x + y = 1$, and the larger
    entry $z$ is the product; a mix takes $(1 - w) z$ of it to the other one.

    Extremal: equal products; two agents at $w^4 = 1/2$ after four rounds.

    Source: derived here; P6's limits by extrapolation to step size 0.
    """
    for graph in ("ring", "star"):
        yield from _alive(ctx, graph)
    for w in (0.6, 0.75, 0.9, HALVED):
        yield from _two_agents(ctx, w)
    yield _settled(ctx)
    yield from _agreed(ctx)
    yield from _competing(ctx)


def _alive(ctx: Context, graph: str) -> Iterator[Row]:
    """Random starts, all equal ones among them."""
    N, r, d, k = 5, 2, 4, 5
    start = gaussian(ctx.rng("alive", graph), ctx.pick(10, 100), N, d, k, r)
    for X in start:
        X[0] = X[0, :1]
    start = start.map(ctx.array)
    P0 = host(product(start))
    least = np.linalg.svd(P0.mean(axis=1), compute_uv=False)[:, :r].sum(axis=-1)
    for rounds in (1, 4, 12):
        state = fed_back(start, TOPOLOGIES[graph](N), rounds)
        S = np.linalg.svd(host(product(state.factors)), compute_uv=False)
        # a round decomposes sums of N products of rank r: 20 (d + k + N r) roundings
        slip = ulps(20 * (d + k + N * r) * rounds, np.abs(P0).max())
        kept = S[..., :r].sum(axis=-1).mean(axis=-1)
        where: dict[str, Value] = {"topology": graph, "N": N, "d": d, "k": k, "r": r}
        where["rounds"] = rounds
        yield at_least("mean sum of sigma >= that of the mean", kept, least, rounding=slip, **where)


def _two_agents(ctx: Context, w: float) -> Iterator[Row]:
    """T22's start: the size of the products, and that they stay on the axes."""
    z = 1.0
    for rounds in range(1, 5):
        z = max(w * z, 1 - w * z)
        state = fed_back(competing(ctx), weights(w), rounds)
        # as in T22, 20 roundings a round
        slip = ulps(20 * rounds)
        S = np.linalg.svd(host(product(state.factors)), compute_uv=False)[:, 0]
        where = {"w": w, "rounds": rounds, "d": 3, "k": 2, "r": 1}
        yield same("z <- max(w z, 1 - w z)", np.max(np.abs(S - z)), rounding=slip, **where)
        yield at_least("two agents: z >= 1/2", np.min(S), 0.5, rounding=slip, **where)


def _settled(ctx: Context) -> Row:
    """T22's start after 80 rounds."""
    state = fed_back(competing(ctx), weights(W), 80)
    S = np.linalg.svd(host(product(state.factors)), compute_uv=False)[:, 0]
    # the map contracts by w: roundings do not add up beyond 1/(1 - w), and w^80 is 2e-18
    slip = ulps(20 / (1 - W))
    off = np.max(np.abs(S - 1 / (1 + W)))
    return same("z -> 1/(1 + w)", off, rounding=slip, w=W, d=3, k=2, r=1)


def _agreed(ctx: Context) -> Iterator[Row]:
    """On a complete graph with much self weight: the distance to the best product."""
    N, r, d, k = 4, 1, 3, 4
    start = gaussian(ctx.rng("agreed"), ctx.pick(20, 100), N, d, k, r).map(ctx.array)
    Pi = 0.5 * np.eye(N) + 0.5 / N
    mean = host(product(start)).mean(axis=1)
    S = np.linalg.svd(mean, compute_uv=False)
    best = product(tsvd(mean, r).factors)
    for rounds in (10, 25, 60):
        state = fed_back(start, Pi, rounds)
        P, E = (host(product(x)) for x in (state.factors, state.memory["residual"]))
        apart = np.linalg.norm(P - P[:, :1], axis=(-2, -1)).max(axis=1)
        size, dropped = (np.linalg.norm(X, ord=2, axis=(-2, -1)) for X in (P, E))
        moved = np.sqrt(2) * apart * (size[:, 0] + dropped.max(axis=1)) / size[:, 0]
        gap = S[:, r - 1] - S[:, r]
        factor = [
            bounds.tsvd_perturbation_integrated(sigma_r=kept, sigma_next=after, e=e)
            for kept, after, e in zip(S[:, r - 1], S[:, r], moved, strict=True)
        ]
        held = (gap > 2 * apart + 2 * moved) & np.isfinite(factor)
        far = np.linalg.norm(P[:, 0] - best, axis=(-2, -1))
        # roundings of all rounds, as in `_alive`, move the mean, and the truncation by T19
        slip = ulps(40 * (d + k + N * r) * rounds, size.max(), S[:, r - 1] / gap)
        bound = np.where(held, factor, 0.0) * moved
        where: dict[str, Value] = {"topology": "complete, lazy", "N": N, "d": d, "k": k, "r": r}
        where["rounds"] = rounds
        yield at_most("distance to the best product", far, bound, rounding=slip, held=held, **where)


def _competing(ctx: Context) -> Iterator[Row]:
    """P6 from the start that dies in DeCAF: size and loss of the products at step size 0."""
    problem = PROBLEMS["P6"](w=W)
    start = prescribed(ctx, problem)
    where: dict[str, Value] = {"w": W, "d": problem.d, "k": problem.k, "r": 1}
    for rounds in (1, 2, 3, 12):
        config = Config(problem=problem, method="decaf_ef", lr=0.2, steps=rounds, start=start)
        P = product(last_visit(config).factors)[0]
        z = float(np.linalg.norm(host(P), ord=2, axis=(-2, -1)).max())
        # a round multiplies by few numbers and decomposes 2 x 2 entries: 20 roundings
        slip = ulps(20 * rounds)
        off = z - on_the_axes(0.2, rounds)
        yield same("P6: size by the scalar map", off, rounding=slip, **where, rounds=rounds)
        # the product of an agent at all agents
        losses = problem.loss(namespace(P).stack([P, P], axis=1))
        excess = float(host(losses).mean(axis=1).max()) - 3 / 8 - (z - 1 / 2) ** 2 / 2
        case = "P6: an agent's loss = 3/8 + (z - 1/2)^2/2"
        yield same(case, excess, rounding=slip, **where, rounds=rounds)
    lrs = (0.04, 0.02, 0.01, 0.005)
    # x + y contracts by about 1 - lr/(1 + w) a round, e^-25 in all; an even number of rounds
    limit = richardson([on_the_axes(lr, 2 * int(20 / lr)) for lr in lrs])
    off = limit.value - 1 / 2
    yield same("P6: size at step size 0 = 1/2", off, rounding=limit.error, **where)


def on_the_axes(lr: float, rounds: int) -> float:
    """Return the size of P6's products: P_1 + E_1 = diag(x, y), P_1 the larger entry."""
    x, y = 1.0, 0.0
    for _ in range(rounds):
        if x >= y:
            stepped = x * (1 + lr * (1 - x)) ** 2
            x, y = W * stepped, (1 - W) * stepped + y
        else:
            stepped = y * (1 - lr * y) ** 2
            x, y = (1 - W) * stepped + x, W * stepped
    return max(x, y)


def agreement(ctx: Context) -> Iterator[Row]:
    r"""With error feedback gossip by truncated products leads to agreement.

    As the mean of products and residuals is kept (T22-feedback), repeated mixing should bring all
    agents to $\mathrm{TSVD}_r(\bar P_0)$. FALSE: residuals may turn the agents' products in turns.

    Assumptions: mixing only, $\Pi$ symmetric doubly stochastic and connected, nothing is lost, and
    $\bar P_0$ has a gap after $\sigma_r$.

    Counterexample: T22-open's two agents, $B_1 = A_1' = e_1 + e_2/20$, $B_2 = A_2' = e_2 +
    e_1/20$, $r = 1$, self weight $w = 3/4$: the products stay 0.58 apart, and farther from the mean
    product than DLoRA's limit. Exactly: in the frame of $(1, \pm1)/\sqrt2$, $M_1$ has the diagonal
    $a, b = (1 \pm 1/20)^2/2$ of $\bar P_0$ and $c$ off it, $M_2$ has $-c$. With $m = (a + b)/2$ and
    $R^2 = (a - b)^2/4 + c^2$ the next products are $\sqrt2\, |c|\, (1 + m/R)$ apart, and $c^+ =
    c\, (1 - (1 - w)(1 + m/R))$. Near 0 this factor is -1.76, so that $c$ cannot tend to 0 without
    meeting it. From this start it comes to $c^+ = -c$, $R = m (1 - w)/(1 + w)$, which attracts:
    there $dc^+/dc = (1 + w) c^2/R^2 - 1 \approx -0.1$. In general, to first order around agreement
    with one residual at all agents, a deviation of eigenvalue $\lambda$ of $\Pi$ that turns both
    singular vectors alike is multiplied by $(\sigma_r \lambda - \sigma_{r+1})/(\sigma_r -
    \sigma_{r+1})$ a round: it grows where $\lambda < 2 \sigma_{r+1}/\sigma_r - 1$, here $1/2 <
    0.64$.

    Source: derived here.
    """
    yield replay(instance())


def instance() -> Instance:
    """Return the two agents, the mixing matrix and the rounds."""
    start = competing(Context("T22-agreement"), d=2, k=2, tilt=TILT)
    return {**stored(start, [0.5, 0.5]), "Pi": weights(0.75).tolist(), "rounds": 100}


def replay(instance: Mapping[str, Any]) -> Row:
    """Return the row: the farthest product from the mean product, against DLoRA's limit."""
    B, A, Pi = (np.asarray(instance[name], dtype=np.float64) for name in ("B", "A", "Pi"))
    mean = (B @ A).mean(axis=0)
    state = fed_back(Factors(B, A), Pi, instance["rounds"])
    far = np.linalg.norm(product(state.factors) - mean, axis=(-2, -1)).max()
    limit = float(np.linalg.norm(B.mean(axis=0) @ A.mean(axis=0) - mean))
    case = "distance from the mean product <= that of DLoRA's limit"
    # 20 roundings a round, as in T22, of products of size one
    slip = ulps(20 * instance["rounds"])
    return at_most(case, far, limit, rounding=slip, d=B.shape[1], k=A.shape[2], r=B.shape[2])


CLAIMS = [
    Claim(
        "T22-feedback",
        "truncation",
        "derived",
        rows,
        not_attacked="a convex function of what every mix averages",
        reaches={
            "mean sum of sigma >= that of the mean": 1,
            "two agents: z >= 1/2": 1,
            "distance to the best product": 0,
        },
    ),
    Claim(
        "T22-agreement",
        "truncation",
        "derived",
        agreement,
        expected="violated",
        replay=replay,
        instance=instance,
        script="T22-agreement",
    ),
]
