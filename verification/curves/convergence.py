"""Convergence of the base methods on matrix approximation with noise, step by step.

Rows of T25 (D-SGD on the full matrix and DLoRA-FA, exact and simulated; DLoRA, simulated) and of
T30-certificate (DeCAF, simulated), at horizons T = 1, 2, 4, ..., each gradient taken in the
variables that the method trains. All start at the same balanced factors and meet the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from decaf_theory.compare.path import TURNED, Path, path_of, rate_rounding, slopes_at_mean
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import Method
from decaf_theory.problems.approximation import approximation, planted, spread
from decaf_theory.problems.base import Problem
from decaf_theory.simulate import Config, visits
from decaf_theory.stats import bonferroni, mean_interval
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd
from verification.claim import Context, Row, Value
from verification.evidence import at_most, ulps
from verification.instances.quadratics import Case, constants, size
from verification.instances.targets import at_all_agents, loss_gap, smoothness

N, D, K, R = 6, 4, 3, 2
GRAPHS = ("ring", "complete", "bipartite")
KAPPA, TAU, LR = 0.5, 0.2, 2.0**-4
HORIZONS = [2**i for i in range(9)]
STEPS = HORIZONS[-1]
# all rows of simulated runs at once: four methods, three graphs
LEVEL = bonferroni(0.999, 4 * len(GRAPHS) * len(HORIZONS))


def problem() -> Problem:
    """Return the problem, the same in every run of the claims."""
    targets = planted(d=D, k=K, rank=R) + spread(N=N, d=D, k=K, kappa=KAPPA)
    return approximation(targets, tau=TAU, noise="rademacher")


def common_start() -> Factors:
    """Return the factors at which all agents start, B [d, r], A [r, k]."""
    return tsvd(planted(d=D, k=K, rank=R, size=0.5, name="start"), R).factors


def simulation(ctx: Context, method: str | Method, graph: str) -> Config:
    """Return the runs of a method on a graph."""
    return Config(
        problem=problem(),
        method=method,
        Pi=TOPOLOGIES[graph](N),
        start=at_all_agents(ctx, common_start(), N),
        lr=LR,
        steps=STEPS,
        runs=ctx.pick(8, 60),
        seed=ctx.seed,
    )


def running(x: Any) -> np.ndarray:
    """Return the averages over t < T at each horizon, of x [steps, ...]: [horizons, ...]."""
    horizons = np.array(HORIZONS)
    total = np.cumsum(host(x), axis=0)[horizons - 1]
    averages: np.ndarray = total / horizons.reshape(-1, *[1] * (total.ndim - 1))
    return averages


def of_quadratics(ctx: Context) -> Iterator[Row]:
    """Yield T25's rows of D-SGD (which is A = I) and DLoRA-FA: exact moments and simulated runs."""
    start = common_start()
    targets = ctx.array(-problem().grad(np.zeros((N, D, K))))
    whole = Factors(product(start), np.eye(K))
    for method, (B, A) in (("dsgd", whole), ("dlora_fa", start)):
        quadratics = moments.frozen_factor_problem(ctx.array(A), targets, s=1.0, tau=TAU)
        for graph in GRAPHS:
            stacked = ctx.array(moments.stack_columns(B))
            case = Case(quadratics, TOPOLOGIES[graph](N), LR, stacked, {})
            squares = {
                "gradient": moments.mean_gradient(quadratics),
                "Xi": moments.consensus(quadratics),
                "size": size(quadratics),
            }
            found = moments.trace(case.recursion("MS"), case.start, squares, STEPS)
            exact, Xi = running(found["gradient"]), running(found["Xi"])
            letters = {name: float(x) for name, x in constants(case)._asdict().items()}
            limits = [_rate(T, Xi=float(x), **letters) for T, x in zip(HORIZONS, Xi, strict=True)]
            # as in `run`: 4 n T eps of the largest second moment times L^2, and of |b|^2 < T once;
            # a simulated run rounds by less
            n, largest = N * quadratics.p, float(host(found["size"]).max())
            slip = ulps(4 * n * STEPS, letters["L"] ** 2 * largest + 1)
            seen = simulated(ctx, method, graph)
            for T, value, limit, runs in zip(HORIZONS, exact, limits, seen, strict=True):
                where = _where(method, graph, T)
                yield at_most(
                    "mean gradient, exact moments",
                    value,
                    limit,
                    rounding=slip,
                    evidence="exact",
                    **where,
                )
                yield estimated(runs, np.full(len(runs), limit), slip, where)


def _rate(T: int, **letters: float) -> float:
    return bounds.dsgd_rate(lr=LR, T=T, N=N, **letters)


def _where(method: str, graph: str, T: int) -> dict[str, Value]:
    return {"curve": "convergence", "method": method, "topology": graph, "T": T}


def simulated(ctx: Context, method: str, graph: str) -> np.ndarray:
    """Return the running averages of |grad|^2 at the mean factors, in what the method trains."""
    run = islice(visits(simulation(ctx, method, graph)), STEPS)
    return running(np.stack([host(slopes_at_mean(visit)[0]) for visit in run]))


def estimated(runs: np.ndarray, limits: np.ndarray, slip: float, where: Any) -> Row:
    """Return the row of a mean over runs against the mean of their bounds, paired run by run."""
    mean, limit = float(runs.mean()), float(limits.mean())
    _, low, high = mean_interval(runs - limits, LEVEL)
    ends = {"low": min(mean, limit + low), "high": max(mean, limit + high)}
    more = {"evidence": "simulated", "runs": len(runs), "level": LEVEL, **where}
    return at_most("mean gradient, simulated", mean, limit, rounding=slip, **ends, **more)


# ---------------------------------------------------------------- both factors train


def of_dlora(ctx: Context) -> Iterator[Row]:
    """Yield T25's rows of DLoRA: D-SGD in both factors, on Omega_c with the c of the runs."""
    yield from of_factors(ctx, "dlora")


def of_decaf(ctx: Context) -> Iterator[Row]:
    """Yield T30-certificate's rows of DeCAF: T29-joint with the errors of mixing of the runs."""
    yield from of_factors(ctx, "decaf")


def of_factors(ctx: Context, method: str) -> Iterator[Row]:
    """Yield the rows of a method that trains both factors, graph by graph."""
    for graph in GRAPHS:
        path = path_of(simulation(ctx, TURNED if method == "decaf" else method, graph))
        yield from _rows_of(method, graph, path)


def _rows_of(method: str, graph: str, path: Path) -> Iterator[Row]:
    """Yield the row of each horizon."""
    c = float(path.c.max())
    L = smoothness(problem(), 1.0, c)
    norms = {"A_norm": float(path.norm_A.max()), "B_norm": float(path.norm_B.max())}
    variance = bounds.isotropic_factor_variance(s=1.0, tau=TAU, d=D, k=K, **norms)
    sigma = variance**0.5
    # F(W) = |W - Wbar|^2 / 2 + F*, and Wbar has rank r
    gap = loss_gap(problem(), product(common_start())[None])
    points = float(np.hypot(path.norm_B, path.norm_A).max())
    averages = zip(*map(running, (path.gradient, path.Xi, path.ebar**2)), strict=True)
    for T, (runs, spreads, errors) in zip(HORIZONS, averages, strict=True):
        limits = np.array(
            [
                _rate(T, F_gap=gap, L=L, sigma=sigma, Xi=x)
                if method == "dlora"
                else bounds.dsgd_sharp(
                    F_gap=gap, lr=LR, T=T, L=L, sigma=sigma, N=N, Xi=x, ebar=e**0.5
                )
                for x, e in zip(spreads.tolist(), errors.tolist(), strict=True)
            ]
        )
        # DLoRA's rounds have no error of mixing but that of rounding
        slip = rate_rounding(float(limits.max()), points, terms=N + D + K + R, lr=LR)
        yield estimated(runs, limits, slip, {**_where(method, graph, T), "c": c})
