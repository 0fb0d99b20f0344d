"""T28: with step size sqrt(N/T) the mean squared gradient falls as 1/sqrt(NT)."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from decaf_theory.stats import local_slopes, log_log_slope, richardson
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_least, at_most, attained, ulps
from verification.instances.consensus import kappa_ceiling
from verification.instances.omega import each
from verification.instances.quadratics import Case, constants, load, network, size, stored

HORIZONS = (10**3, 10**4, 10**5)
GRAPHS = (
    ("complete", 4),
    ("ring", 4),
    ("ring", 10),
    ("path", 5),
    ("star", 6),
    ("bipartite", 10),
    ("exponential", 8),
)
NEARNESS = (1 / 24, 1 / 60)  # by decade: a quarter and a tenth of the way from -1/2 to -1/3


def rows(ctx: Context) -> Iterator[Row]:
    r"""At step size sqrt(N/T) decentralized SGD has the rate O(1/sqrt(NT)), whatever the graph.

    For $\alpha = \sqrt{N/T}$: $\frac1T \sum_{t<T} E|\nabla F(\bar x_t)|^2 \le
    \frac{2 (F(\bar x_0) - F^*) + L \sigma^2}{\sqrt{NT}} +
    \frac{4 N L^2}{T} \left( \sigma \sqrt{S/N} + \kappa q \right)^2$; the graph enters in the
    $O(N/T)$ term alone. On quadratics with positive definite $\bar H$ the left side times
    $\sqrt{NT}$ tends to $F(\bar x_0) - F^* + \frac12 \mathrm{tr}(\bar H \bar\Sigma)$ with
    $\bar\Sigma = \frac1N \sum_i \Sigma_i$: the local slope in $T$ tends to -1/2, not to -1/3.

    Assumptions: those of T25, and $T \ge N \max(L^2, 4 L^2 q^2)$, by which $\alpha L \le 1$ and
    $\alpha L q \le 1/2$.

    Proof: T25 with $(1 - \alpha L q)^{-2} \le 4$ and $\alpha^2 = N/T$. Leading term: for small
    $\alpha$ the mean follows the gradient flow, along which
    $\int |\nabla F|^2 = F(\bar x_0) - F^*$, and the covariance of $\bar x$ tends to
    $C$ with $\bar H C + C \bar H = \alpha \bar\Sigma/N$, so $\mathrm{tr}(\bar H C \bar H) =
    \frac{\alpha}{2N} \mathrm{tr}(\bar H \bar\Sigma)$; deviations enter with $\alpha^2$.

    Extremal: the least horizon $T = N L^2$, $\alpha L = 1$, $f_i = L |x|^2/2$ in order MS: one
    step lands on the minimizer. As $T$ grows the ratio tends to at most 1/2 on quadratics.

    Source: derived here; the recursion is exact, nothing is fitted.
    """
    for name, N in GRAPHS:
        for order in moments.ORDERS:
            for T in HORIZONS:
                yield bounded(_random(ctx, name, N), order, T)
            yield from _slopes(specified(ctx, name, N), order)
            yield _leading_term(specified(ctx, name, N), order)
    yield from attained(replay(at_the_horizon()))
    yield from _curves(ctx)


def _curves(ctx: Context) -> Iterator[Row]:
    """Yield the mean gradient around one mean problem against T and N, and slopes."""
    times = [round(10 ** (3 + i / 2)) for i in range(ctx.pick(5, 7))]
    for name, N in (("complete", 2), ("complete", 8), ("ring", 8)):
        case = _labelled(_around(ctx, name, N), "horizon")
        rows = [bounded(case, "MS", T) for T in times]
        yield from rows
        yield _fitted(case, times[-3:], [row.measured for row in rows[-3:]], T=times[-1])
    for name in ("complete", "ring"):
        sizes = [2**i for i in range(1, ctx.pick(5, 7))]
        cases = [_labelled(_around(ctx, name, N), "agents") for N in sizes]
        rows = [bounded(case, "MS", times[-1]) for case in cases]
        yield from rows
        if name == "complete":  # where the graph's term of order N/T vanishes
            yield _fitted(cases[0], sizes, [row.measured for row in rows], T=times[-1])


def _around(ctx: Context, name: str, N: int) -> Case:
    """Return agents around one mean problem, whose F and noise are the same for all N > 1.

    With v = 2 pi i/N: H_i = diag(1/2 + cos(v)/4, 1/8 + sin(v)/16), b_i = (cos v, sin v), noise
    covariance diag(1, 1/2), start (2, -2).
    """
    v = 2 * np.pi * np.arange(N) / N
    b = np.stack([np.cos(v), np.sin(v)], axis=-1)
    curvatures = np.array([1 / 2, 1 / 8]) + b * [1 / 4, 1 / 16]
    H = curvatures[..., None] * np.eye(2)
    noise = np.tile(np.diag([1.0, 0.5]), (1, N, 1, 1))
    return _case(ctx, name, H[None], b[None], noise, np.array([[2.0, -2.0]]))


def _labelled(case: Case, part: str) -> Case:
    """Return the case with the curve that it belongs to among its params."""
    return case._replace(params={**case.params, "curve": "rate", "part": part})


def _fitted(case: Case, x: Any, y: Any, T: int) -> Row:
    """Return the row of a fitted log-log slope, with its interval: at most -1/2 + 1/24."""
    slope, low, high = log_log_slope(x, y)
    params = {"order": "MS", **case.params, "T": T, "part": f"slope, {case.params['part']}"}
    return at_most(
        "fitted slope", slope, -1 / 2 + NEARNESS[0], low=low, high=high, rounding=0, **params
    )


def _random(ctx: Context, name: str, N: int, p: int = 2) -> Case:
    """Return heterogeneous problems with curvatures in [1/16, 1/2] on a graph."""
    rng = ctx.rng("problem", name, N)
    count = ctx.pick(3, 20)
    V = np.linalg.qr(rng.standard_normal((count, N, p, p)))[0]
    H = (V * 8.0 ** rng.uniform(-1, 0, (count, N, 1, p)) / 2) @ V.mT
    root = rng.standard_normal((count, N, p, p)) / 2
    b = rng.standard_normal((count, N, p)) / 2
    x0 = rng.standard_normal((count, p))
    return _case(ctx, name, (H + H.mT) / 2, b, root @ root.mT, x0)


def specified(ctx: Context, name: str, N: int) -> Case:
    """Return the problem of the slopes, curvatures between 1/8 and 1/2, for any N.

    With u = i/N: H_i = diag(1/2 - u/4, 1/8 + u/8), b_i = (cos 2 pi u, u - 1/2), noise covariance
    diag(1/2 + u, 1/4)/2, start (2, -2).
    """
    u = np.arange(N) / N
    curvatures = np.stack([1 / 2 - u / 4, 1 / 8 + u / 8], axis=-1)
    variances = np.stack([1 / 4 + u / 2, np.full(N, 1 / 8)], axis=-1)
    H = curvatures[..., None] * np.eye(2)
    b = np.stack([np.cos(2 * np.pi * u), u - 1 / 2], axis=-1)
    noise = variances[..., None] * np.eye(2)
    return _case(ctx, name, H[None], b[None], noise[None], np.array([[2.0, -2.0]]))


def _case(ctx: Context, name: str, H: Any, b: Any, noise: Any, x0: Any) -> Case:
    problem = moments.quadratics(ctx.array(H), b=ctx.array(b), noise=ctx.array(noise))
    params: dict[str, Value] = {"topology": name, "N": problem.N, "p": problem.p}
    return Case(problem, TOPOLOGIES[name](problem.N), 0.0, ctx.array(x0), params)


def _slopes(case: Case, order: str) -> Iterator[Row]:
    """Yield the local slopes of one problem, decade by decade."""
    found = [at_horizon(case, order, T) for T in HORIZONS]
    params: dict[str, Value] = {"order": order, **case.params}
    for i, slope in enumerate(local_slopes(HORIZONS, [value for value, _ in found])):
        slip = sum(error / value for value, error in found[i : i + 2])
        more = {"rounding": slip, "T": HORIZONS[i], **params}
        yield at_most("|slope + 1/2|", abs(slope + 1 / 2), NEARNESS[i], **more)
        yield at_least("|slope + 1/3|", abs(slope + 1 / 3), 1 / 6 - NEARNESS[i], **more)


def _leading_term(case: Case, order: str) -> Row:
    """Return how far LHS sqrt(NT), extrapolated in T^(-1/2), is from its limit in closed form.

    Five values, at step sizes halved four times; T stays below 1e6 because rounding grows with it.
    """
    times = [2000 * 4**i for i in range(5)]
    found = [at_horizon(case, order, T) for T in times]
    N = case.problem.N
    scaled = [value * sqrt(N * T) for (value, _), T in zip(found, times, strict=True)]
    law = leading_constant(case)
    slip = 10 * max(error / value for value, error in found)
    distance = abs(richardson(scaled).value / law - 1)
    name = "|limit of mean gradient sqrt(NT) / law - 1|"
    return at_most(name, distance, 1e-5, rounding=slip, order=order, **case.params)


def leading_constant(case: Case) -> float:
    """Return the limit of LHS sqrt(NT) as T -> infinity, F(x_0) - F* + tr(Hbar Sigbar) / 2."""
    H, noise = (host(x).mean(axis=-3) for x in (case.problem.H, case.problem.noise))
    return float(constants(case).F_gap.item() + np.sum(H * noise) / 2)


def at_horizon(case: Case, order: str, T: int) -> tuple[float, float]:
    """Return the mean squared gradient of one problem at step size sqrt(N/T), and its rounding."""
    found, slip = _mean_gradient(case._replace(lr=sqrt(case.problem.N / T)), order, T)
    return found.item(), slip.item()


def _mean_gradient(case: Case, order: str, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (1/T) sum E|grad F|^2 by doubling, and its rounding (derived in `attainment.rate`)."""
    recursion = case.recursion(order)
    n = case.problem.N * case.problem.p
    squares = {"gradient": moments.mean_gradient(case.problem), "size": size(case.problem)}
    found = moments.average(recursion, case.start, squares, T)
    gap = np.abs(1 - np.linalg.eigvals(host(recursion.A))).min(axis=-1)
    largest = constants(case).L ** 2 * host(found["size"])
    largest += (host(case.problem.b) ** 2).sum(axis=-1).max(axis=-1)
    return host(found["gradient"]), ulps(8 * n, T.bit_length() + 1 / gap, largest)


def bounded(case: Case, order: str, T: int) -> Row:
    """Return the row of the corollary at one horizon, the worst of the problems."""
    case = case._replace(lr=sqrt(case.problem.N / T))
    letters = constants(case)
    net = network(case.Pi, order)
    found, slip = _mean_gradient(case, order, T)
    bound = each(
        bounds.dsgd_corollary,
        F_gap=letters.F_gap,
        L=letters.L,
        sigma=letters.sigma,
        kappa=kappa_ceiling(case, order, T),
        N=net.N,
        T=T,
        q=net.q,
        S=net.S,
    )
    # before the horizon the bound is infinite
    held = each(bounds.corollary_horizon, L=letters.L, N=net.N, q=net.q) <= T
    params = {"T": T, "order": order, **case.params}
    return at_most(
        "mean gradient", found, np.where(held, bound, 0.0), rounding=slip, held=held, **params
    )


def at_the_horizon() -> Instance:
    """Return four agents, f = x^2/2, on the complete graph from 1, T = N: lr = 1."""
    one = np.ones((4, 1, 1))
    quarter = np.full((4, 4), 0.25)
    return stored(one, [[0.0]] * 4, quarter, 1.0, [1.0], order="MS", steps=4)


def replay(instance: Instance) -> Row:
    """Return the row of the corollary for one stored case, at lr = sqrt(N/T)."""
    return bounded(load(instance), instance["order"], instance["steps"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T28."""
    from verification.attacks.quadratics import pair
    from verification.attacks.rates import corollary

    loose = "as T grows the ratio tends to at most 1/2 (T28-sharp)"
    return {
        "T = N": corollary(pair(0.25), 2),
        "T = 32 N": corollary(pair(0.25), 64, loose),
    }


CLAIMS = [
    Claim(
        "T28",
        "rates",
        "derived",
        rows,
        bounds=(bounds.dsgd_corollary,),
        attacks=attacks,
        replay=replay,
        instance=at_the_horizon,
        reaches={
            "mean gradient, MS": 1,
            "|slope + 1/2|, MS": 0.15,
            "|slope + 1/3|, MS": 0.89,
            "mean gradient, CB": 0.02,
            "|slope + 1/2|, CB": 0.17,
            "|slope + 1/3|, CB": 0.89,
            "mean gradient, MS, horizon": 0.42,
            "mean gradient, MS, agents": 0.42,
        },
    )
]
