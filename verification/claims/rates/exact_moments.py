"""T27: exact moments of decentralized SGD on quadratics, without Monte Carlo."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import moments
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import (
    consensus_distance,
    factor_gradients,
    interference_norm,
    truncation_error,
)
from decaf_theory.methods import METHODS
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Row, Value
from verification.evidence import same, ulps
from verification.instances.quadratics import FAMILIES, draw, size

N = 2
P = 2
ROUNDS = 3  # 2^12 noise paths
LR = 0.3
TINY = float(np.finfo(np.float64).tiny)


def rows(ctx: Context) -> Iterator[Row]:
    r"""Mean and covariance of decentralized SGD on quadratics obey a closed linear recursion.

    $f_i = \frac12 x' H_i x - b_i' x$ ($b_i = H_i x_i^*$ where a minimizer exists), noise of
    covariance $\Sigma_i$. Stacked, with $H = \mathrm{diag}(H_i)$ and $P = \Pi \otimes I$:
    $m^+ = A m + a$ and $C^+ = A C A' + Q$, where
    order CB has $A = P - \alpha H$, $a = \alpha b$, $Q = \alpha^2 \Sigma$ and
    order MS, at the mixed points, $A = P (I - \alpha H)$, $a = \alpha P b$,
    $Q = \alpha^2 P \Sigma P'$. Every $E|R x - q|^2 = |R m - q|^2 + \mathrm{tr}(R C R')$: so
    $E|\nabla F(\bar x)|^2$, $E \Xi$, heterogeneity and the gap are exact. DLoRA-FA on matrix
    approximation is this with $H_i = s^2 (A A') \otimes I$, $b_i = \mathrm{vec}(s D_i A')$,
    $\Sigma_i = s^2 \tau^2 (A A') \otimes I$, vec by columns.

    Assumptions: noise has mean 0, is independent of the past and across agents, and its covariance
    does not depend on the point. $\Pi$ need not be symmetric.

    Proof: the step is affine in the points and the noise; noise of mean 0 that is independent of
    the past adds its covariance. $\mathrm{vec}(s (s B A - D) A') = s^2 (A A' \otimes I)
    \mathrm{vec}(B) - \mathrm{vec}(s D A')$.

    Counterexample (for sampled rows): for a least-squares problem the covariance of their noise
    depends on the point, and the recursion does not apply (see P10-noise).

    Source: derived here.
    """
    for family in FAMILIES:
        for order in moments.ORDERS:
            yield _against_all_paths(ctx, family, order)
            yield from _doubling(ctx, family, order)
    for d, k, r in ((3, 2, 1), (2, 4, 2), (4, 3, 3)):
        yield from _frozen_factor(ctx, d, k, r)


def _normal(ctx: Context, rng: np.random.Generator, family: str, count: int, agents: int) -> Any:
    """Return H, b, noise covariances and starts of a family, each with largest entry 1 or 0."""

    def scaled(x: np.ndarray) -> Any:
        own_axes = tuple(range(1, x.ndim))
        largest = np.abs(x).max(axis=own_axes, keepdims=True)
        return ctx.array(x / np.maximum(largest, TINY))

    return [scaled(x) for x in draw(rng, family, count, agents, P)]


def _against_all_paths(ctx: Context, family: str, order: str) -> Row:
    """Average over every path of sign noise: the moments must be those of the recursion."""
    rng = ctx.rng("paths", family)
    H, b, _, x0 = (x[0] for x in _normal(ctx, rng, family, 1, N))
    root = ctx.array(rng.uniform(-1, 1, (N, P, P)))
    Pi = ctx.array(rng.dirichlet(np.ones(N), N))
    signs = itertools.product([-1.0, 1.0], repeat=N * P * ROUNDS)
    noise = ctx.array(np.reshape(list(signs), (-1, ROUNDS, N, P)))
    problem = moments.quadratics(H, b=b, noise=root @ root.mT)
    state = moments.consensus_start(problem, x0)
    recursion = moments.decentralized_sgd(problem, Pi, LR, order=order)
    x = x0 + 0 * noise[:, 0]
    error = 0.0
    largest = 1.0
    for t in range(ROUNDS):
        step = LR * (_apply(H, x) - b + _apply(root, noise[:, t]))
        x = Pi @ (x - step) if order == "MS" else Pi @ x - step
        state = moments.advance(recursion, state)
        error = max(error, *_errors(problem, x, state))
        largest = max(largest, float(abs(x).max()))
    # 2^12 paths summed in pairs, rounds of n products; entries of H, b are at most 1, P of them
    rounding = ulps(8 * (12 + ROUNDS * N * P), (P * largest + 1) ** 2)
    return same("all noise paths", error, rounding=rounding, order=order, family=family)


def _apply(M: Any, x: Any) -> Any:
    """Return M_i x_i for each agent, [paths, N, p]."""
    return (M @ x[..., None])[..., 0]


def _errors(problem: moments.Quadratics, x: Any, state: moments.State) -> Iterator[float]:
    """Yield the distances of mean, covariance and quantities from averages over paths x."""
    xp = namespace(x)
    cloud = xp.reshape(x, (x.shape[0], -1))
    mean = xp.mean(cloud, axis=0)
    yield float(abs(mean - state.mean).max())
    spread = (cloud - mean).mT @ (cloud - mean) / cloud.shape[0]
    yield float(abs(spread - state.cov).max())
    xbar = xp.mean(x, axis=1)[:, None]
    slopes = _apply(problem.H, xbar) - problem.b
    gradient = xp.mean(slopes, axis=1, keepdims=True)
    per_path = {
        "gradient": gradient[:, 0] ** 2,
        "consensus": xp.sum((x - xbar) ** 2, axis=1) / problem.N,
        "heterogeneity": xp.sum((slopes - gradient) ** 2, axis=1) / problem.N,
    }
    for name, values in per_path.items():
        exact = moments.expectation(moments.quantities(problem)[name], state)
        yield abs(float(xp.mean(xp.sum(values, axis=-1)) - exact))


def _doubling(ctx: Context, family: str, order: str) -> Iterator[Row]:
    """Yield that averages by doubling are those of the loop, and that the limit is at rest."""
    rng = ctx.rng("doubling", family)
    agents = 4
    steps = 37
    H, b, noise, x0 = _normal(ctx, rng, family, ctx.pick(4, 40), agents)
    problem = moments.quadratics(H, b=b, noise=noise)
    n = agents * P
    Pi = ctx.array(rng.dirichlet(np.ones(agents), agents))
    recursion = moments.decentralized_sgd(problem, Pi, LR, order=order)
    start = moments.consensus_start(problem, x0)
    squares = moments.quantities(problem)
    looped = moments.trace(recursion, start, {**squares, "size": size(problem)}, steps)
    averaged = moments.average(recursion, start, squares, steps)
    scale = host(looped["size"]).max(axis=-1) * P + 1
    params: dict[str, Value] = {"order": order, "family": family}
    for name, value in averaged.items():
        error = host(value) - host(looped[name]).mean(axis=-1)
        # n products a step, as in `quadratics.run`, on either side
        slip = ulps(8 * n * steps, scale)
        yield same(f"average of {name}", error, rounding=slip, **params)

    gap = 1 - np.abs(np.linalg.eigvals(host(recursion.A))).max(axis=-1)
    if gap.min() > 0:
        rest = moments.limit(recursion)
        after = moments.advance(recursion, rest)
        largest_cov = np.abs(host(rest.cov)).max(axis=(-2, -1))
        largest_mean = np.abs(host(rest.mean)).max(axis=-1)
        scale = largest_cov + largest_mean
        # log2 of the steps to rest, and the decay of the powers, multiply n eps
        slip = ulps(8 * n, 60 + 1 / gap, scale)
        pairs = zip(after, rest, strict=True)
        moved = [np.abs(host(x - y)).reshape(len(gap), -1).max(axis=-1) for x, y in pairs]
        yield same("limit", np.maximum(*moved), rounding=slip, **params)


def _frozen_factor(ctx: Context, d: int, k: int, r: int) -> Iterator[Row]:
    """Yield that DLoRA-FA, run on its factors, is the recursion; and that it has no I and no E."""
    rng = ctx.rng("frozen", d, k, r)
    agents = 3
    s = 0.5
    A = ctx.array(rng.uniform(-1, 1, (r, k)))
    D = ctx.array(rng.uniform(-1, 1, (agents, d, k)))
    X = ctx.array(rng.uniform(-1, 1, (agents, k, k)) / k)
    Pi = ctx.array(rng.dirichlet(np.ones(agents), agents))
    B = ctx.array(rng.uniform(-1, 1, (agents, d, r)))
    K = X @ X.mT
    problem = moments.frozen_factor_problem(A, D, s=s, tau=1.0, curvature=K)
    quiet = problem._replace(noise=0 * problem.noise)
    exact = moments.trajectory(quiet, Pi, LR, start=moments.stack_columns(B), steps=8)
    frozen = namespace(B).stack([A] * agents)
    error = 0.0
    lost = 0.0
    for t in range(8):
        state = Factors(B, frozen)
        mean = namespace(B).mean(B, axis=0)
        slope = namespace(B).mean(factor_gradients((s * mean @ A - D) @ K, state, s).B, axis=0)
        pairs = (
            (moments.unstack_columns(exact.mean[t], d), B),
            (exact.consensus[t], consensus_distance(B)),
            (exact.gradient[t], (slope**2).sum()),
        )
        error = max(error, *(float(abs(x - y).max()) for x, y in pairs))
        lost = max(lost, float(interference_norm(state, Pi).max()))
        lost = max(lost, float(truncation_error(tsvd_of_mix(state, Pi, r)).max()))
        step = factor_gradients((s * B @ A - D) @ K, state, s).B
        B = METHODS["dlora_fa"].mix(Factors(B - LR * step, frozen), Pi, t).B
    # 8 rounds of sums of at most n = 3 d r products of numbers of at most d k in size
    rounding = ulps(8 * 8 * agents * d * r, d, k)
    yield same("DLoRA-FA as a recursion", error, rounding=rounding, d=d, k=k, r=r)
    yield same("I = E = 0 with a common A", lost, rounding=rounding, d=d, k=k, r=r)

    signs = np.reshape(list(itertools.product([-1.0, 1.0], repeat=d * k)), (-1, d, k))
    cloud = moments.stack_columns(s * ctx.array(signs) @ A.mT)
    error = abs(cloud.mT @ cloud / len(signs) - problem.noise[0]).max()
    # 2^(d k) squares summed in pairs, of sums of k products; entries of A A' are at most k
    yield same("noise of vec(B)", error, rounding=ulps(8 * (d * k + k) * k), d=d, k=k, r=r)


CLAIMS = [Claim("T27", "rates", "derived", rows, not_attacked="exact moments")]
