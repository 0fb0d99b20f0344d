"""T33: under heterogeneous targets DLoRA's factors drift along the gauge orbit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import ceil, log, sqrt
from typing import Any

import numpy as np

from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors
from decaf_theory.rng import generator
from decaf_theory.simulate import Visit, visits
from decaf_theory.small_steps import gauge_drift, slow_flow
from decaf_theory.stats import richardson
from decaf_theory.topology import sqrt_rho
from verification.claim import Claim, Context, Row
from verification.evidence import at_least, at_most, ulps
from verification.instances.targets import Setting, at_all_agents, fitted, setting

R = 2
S = 0.75
STEPS = 2.0 ** -np.arange(7, 11)


def rows(ctx: Context) -> Iterator[Row]:
    r"""DLoRA's mean imbalance drifts at second order in the step, at a rate in closed form.

    $f_i = |s B A - \bar W - D_i|_F^2/2$, $\sum_i D_i = 0$, rank of $\bar W$ at most $r$, no noise.
    With $s B A = \bar W$, $\bar K = \bar B'\bar B - \bar A \bar A'$ changes per step by
    $-\frac{2 \alpha^2 s^2}{N} \sum_{jl} \Gamma'_{jl} [A D_l' D_j A' - B' D_j D_l' B]$ up to
    $O(\alpha^3)$, $\Gamma' = \Pi (I - \Pi)^+$; by nothing on the complete graph. In the slow time
    $\tau = \alpha^2 t$ the gauge follows this flow along $B A = \bar W/s$: for $r = 1$,
    $K = b^2 - a^2$, $\dot K = 2 s^2 (b^2 y - a^2 x)$ with
    $y = \frac1N \sum_{jl} \Gamma'_{jl} u' D_j D_l' u$,
    $x = \frac1N \sum_{jl} \Gamma'_{jl} v' D_l' D_j v$. For $x, y > 0$ the feedback is positive:
    no $c$ bounds the factors uniformly in $(\alpha, t)$.

    Assumptions: order MS; small steps; a common start fitted to $\bar W$, after the transient of
    consensus.

    Proof: to leading order only. Let $K_i = B_i'B_i - A_i A_i'$, $V = \frac1N \sum_i (\tilde
    B_i'\tilde B_i - \tilde A_i \tilde A_i')$, so $\frac1N \sum_i K_i = \bar K + V$. From $y$ a
    step leads to $x$ and changes $K_i$ by $\alpha^2 s^2 (A g_i'g_i A' - B' g_i g_i' B)$ (T30) with
    $g_i = -D_i + O(\alpha)$; a mix keeps the mean factors. So $\bar K^+ - \bar K = V(y) - V(x) +
    \frac{\alpha^2 s^2}{N} \sum_i (A D_i'D_i A' - B' D_i D_i' B)$. With the stationary deviations
    of T14, $\tilde B(x) = \alpha s (I - \Pi)^+ D A'$, $\tilde A(x) = \alpha s (I - \Pi)^+ B' D$
    and those of $y$ mixed by $\Pi$, $V(x) - V(y)$ is the same sum with the kernel
    $(I - \Pi^2)(I - \Pi)^{+2} = \Gamma$ for the identity, and off the constants
    $I - \Gamma = -2 \Pi (I - \Pi)^+$.

    Source: derived here to leading order; judged by extrapolation to $\alpha = 0$, within 1 %.
    """
    yield from _drift(ctx)
    yield from _slow_flow(ctx)


def imbalance_of_mean(visit: Visit) -> Any:
    """Return Kbar = Bbar'Bbar - Abar Abar' of the mean factors, [runs, r, r]."""
    B, A = (X.mean(-3) for X in visit.factors)
    return B.mT @ B - A @ A.mT


def _drift(ctx: Context) -> Iterator[Row]:
    """Yield the extrapolated drift per step against its rate, graph by graph."""
    case = setting(ctx)
    common = fitted(case.Wbar, R, S)
    lam = max(sqrt_rho(P) for P in case.Pi)
    settle = ceil(log(1e-13) / log(lam))
    on_each = common.map(lambda X: np.stack([X] * len(case.Pi)))
    predicted = gauge_drift(case.Pi, case.D, *on_each, S)
    scale = np.linalg.norm(predicted, axis=(-2, -1)).max()
    start = at_all_agents(ctx, common, case.N)
    options = {"method": "dlora", "start": start, "s": S, "steps": settle}
    simulations = case.simulations(lr=STEPS, runs=len(STEPS), **options)
    for rate, (name, config) in zip(predicted, simulations, strict=True):
        before, after = deque(map(imbalance_of_mean, visits(config)), maxlen=2)
        entries = (host(after - before) / STEPS[:, None, None] ** 2).reshape(len(STEPS), -1).T
        limit = np.array([richardson(values.tolist()).value for values in entries])
        error = np.linalg.norm(limit - rate.ravel())
        # relative to the rate itself, or to the largest of them where it is 0
        size = scale if name == "complete" else np.linalg.norm(rate)
        # Kbar is a sum of d + k = 7 products of size 1, its change a difference of two, over lr^2;
        # 8 for the sums within a round
        slip = ulps(8 * 2 * 7) / STEPS[-1] ** 2 / size
        yield at_most(
            "drift per step: |measured - predicted|",
            error / size,
            0.01,
            rounding=slip,
            topology=name,
            rate=float(np.linalg.norm(rate)),
        )


# ---------------------------------------------------------------- the slow flow, r = 1


def _slow_flow(ctx: Context) -> Iterator[Row]:
    """Yield sigma_1 at a slow time, extrapolated, against the slow flow."""
    tau, steps = ctx.pick((1.0, (0.04, 0.02, 0.01)), (2.0, (0.04, 0.02, 0.01, 0.005)))
    case, u, v = ring_of_four()
    size = 1.5 / S
    b = sqrt(size) * u[:, None]
    a = sqrt(size) * v[None, :]
    start = at_all_agents(ctx, Factors(b, a), case.N)
    times = np.linspace(0, tau, 9)[1:]
    columns = [_largest_factors(case, start, lr, times / lr**2) for lr in steps]
    # tau/lr^2 steps, each of sums of at most 4 + 3 + 3 terms of size one: below 100 eps
    slip = ulps(100, tau) / steps[-1] ** 2
    for i, time in enumerate(times.tolist()):
        found = [column[i] for column in columns]
        expected = slow_flow(case.Pi[0], case.D, u, v, size=size, s=S, tau=time)
        limit = richardson(found)
        params = {"tau": time, "finest_lr": steps[-1], "finest": found[-1], "slow_flow": expected}
        params |= {"coarsest_lr": steps[0], "coarsest": found[0]}
        case_name = "sigma_1: |measured/slow flow - 1|"
        yield at_most(
            case_name,
            abs(limit.value / expected - 1),
            0.01,
            rounding=slip,
            curve="slow flow",
            **params,
        )
    growth = expected / sqrt(size) - 1
    yield at_least(
        "sigma_1 has grown", found[-1] / sqrt(size) - 1, growth / 2, rounding=slip, tau=tau
    )


def ring_of_four() -> tuple[Setting, np.ndarray, np.ndarray]:
    """Return one instance, whatever the run's seed, and u, v.

    Wbar = 1.5 u v', Gaussian deviations of size 0.45, ring with self weight 1/2.
    """
    rng = generator(0, "T33", "ring of four")
    u, v = (x / np.linalg.norm(x) for x in rng.standard_normal((2, 3)))
    D = 0.45 * rng.standard_normal((4, 3, 3))
    D = D - D.mean(axis=0)
    one = np.eye(4)
    ring = one / 2 + (np.roll(one, 1, axis=0) + np.roll(one, -1, axis=0)) / 4
    case = Setting(("ring",), 1.5 * np.outer(u, v), D, ring[None])
    return case, u, v


def _largest_factors(case: Setting, start: Factors, lr: float, times: np.ndarray) -> list[float]:
    """Return sigma_1 of the mean factors along a run of DLoRA, after each number of steps."""
    wanted = set(np.round(times).astype(int).tolist())
    options = {"method": "dlora", "start": start, "s": S, "lr": lr, "steps": max(wanted)}
    ((_, config),) = case.simulations(**options)
    found = []
    for visit in visits(config):
        if visit.step in wanted:
            B, A = (host(X).mean(axis=-3)[0] for X in visit.factors)
            found.append(float(max(np.linalg.norm(B, 2), np.linalg.norm(A, 2))))
    return found


CLAIMS = [
    Claim(
        "T33",
        "rates",
        "numerical",
        rows,
        loose="its bound is the accuracy to which a limit is known",
        chosen_bound=True,
        not_attacked="an asymptotic law",
    )
]
