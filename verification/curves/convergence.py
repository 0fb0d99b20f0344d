"""Convergence of the base methods on matrix approximation with noise, step by step.

Rows of T25 (D-SGD on the full matrix and DLoRA-FA, exact and simulated; DLoRA, simulated) and of
T30-certificate (DeCAF, simulated), at horizons T = 1, 2, 4, ..., each gradient taken in the
variables that the method trains. All start at the same balanced factors and meet the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors, align, product
from decaf_theory.measure import consensus_distance, factor_gradients, sigma_max
from decaf_theory.problems.approximation import approximation, planted, spread
from decaf_theory.stats import bonferroni, mean_interval
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd
from verification.claim import Context, Row, Value
from verification.evidence import at_most, ulps
from verification.instances import decaf_rounds, dlora_rounds
from verification.instances.erring import rate_rounding
from verification.instances.quadratics import Case, constants, size

N, D, K, R = 6, 4, 3, 2
GRAPHS = ("ring", "complete", "bipartite")
KAPPA, TAU, LR = 0.5, 0.2, 2.0**-4
HORIZONS = 2 ** np.arange(9)
STEPS = int(HORIZONS[-1])
# all rows of simulated runs at once: four methods, three graphs
LEVEL = bonferroni(0.999, 4 * len(GRAPHS) * len(HORIZONS))


class Setting(NamedTuple):
    """One problem, start and noise for all methods."""

    targets: np.ndarray  # [N, d, k]
    start: Factors  # B [d, r], A [r, k]
    noise: np.ndarray  # [steps, runs, N, d, k], signs times TAU


def setting(ctx: Context) -> Setting:
    """Return the setting; the problem and the start are the same in every run of the claims."""
    targets = planted(d=D, k=K, rank=R) + spread(N=N, d=D, k=K, kappa=KAPPA)
    start = tsvd(planted(d=D, k=K, rank=R, size=0.5, name="start"), R).factors
    shape = STEPS, ctx.pick(8, 60), N, D, K
    signs = Context("convergence", seed=ctx.seed).rng("noise").choice([-1.0, 1.0], shape)
    return Setting(targets, start, TAU * signs)


def running(x: Any) -> np.ndarray:
    """Return the averages over t < T at each horizon, of x [steps, ...]: [horizons, ...]."""
    total = np.cumsum(host(x), axis=0)[HORIZONS - 1]
    return total / HORIZONS.reshape(-1, *[1] * (total.ndim - 1))


def of_quadratics(ctx: Context) -> Iterator[Row]:
    """Yield T25's rows of D-SGD (which is A = I) and DLoRA-FA: exact moments and simulated runs."""
    given = setting(ctx)
    whole = Factors(product(given.start), np.eye(K))
    for method, (B, A) in (("dsgd", whole), ("dlora_fa", given.start)):
        problem = moments.frozen_factor_problem(
            ctx.array(A), ctx.array(given.targets), s=1.0, tau=TAU
        )
        for graph in GRAPHS:
            start = ctx.array(moments.stack_columns(B))
            case = Case(problem, TOPOLOGIES[graph](N), LR, start, {})
            squares = {
                "gradient": moments.mean_gradient(problem),
                "Xi": moments.consensus(problem),
                "size": size(problem),
            }
            found = moments.trace(case.recursion("MS"), case.start, squares, STEPS)
            exact, Xi = running(found["gradient"]), running(found["Xi"])
            letters = {name: float(x) for name, x in constants(case)._asdict().items()}
            limits = [_rate(T, Xi=float(x), **letters) for T, x in zip(HORIZONS, Xi, strict=True)]
            # as in `run`: 4 n T eps of the largest second moment times L^2, and of |b|^2 < T once;
            # a simulated run rounds by less
            n, largest = N * problem.p, float(host(found["size"]).max())
            slip = ulps(4 * n * STEPS, letters["L"] ** 2 * largest + 1)
            seen = simulated(given, B, A, case.Pi)
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
    return bounds.dsgd_rate(lr=LR, T=int(T), N=N, **letters)


def _where(method: str, graph: str, T: int) -> dict[str, Value]:
    return {"curve": "convergence", "method": method, "topology": graph, "T": int(T)}


def simulated(given: Setting, start: np.ndarray, A: np.ndarray, Pi: np.ndarray) -> np.ndarray:
    """Return the running averages of |grad|^2 at the mean B, A frozen at all agents."""
    B, found = np.tile(start, (given.noise.shape[1], N, 1, 1)), []
    mean_target = given.targets.mean(axis=0)
    for noise in given.noise:
        slope = (B.mean(axis=1) @ A - mean_target) @ A.T
        found.append((slope**2).sum(axis=(-2, -1)))
        B = decaf_rounds.per_run(B - LR * (B @ A - given.targets + noise) @ A.T, Pi)
    return running(np.stack(found))


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
    """Yield T30-certificate's rows of DeCAF: T29 with the errors of mixing of the runs."""
    yield from of_factors(ctx, "decaf")


def of_factors(ctx: Context, method: str) -> Iterator[Row]:
    """Yield the rows of a method that trains both factors, graph by graph."""
    given = setting(ctx)
    count = given.noise.shape[1]
    start = given.start.map(lambda X: ctx.array(np.tile(X, (count, N, 1, 1))))
    targets, noise = ctx.array(given.targets), ctx.array(given.noise)
    for graph in GRAPHS:
        Pi = ctx.array(np.tile(TOPOLOGIES[graph](N), (count, 1, 1)))
        rounds = decaf_rounds.rounds if method == "decaf" else dlora_rounds.rounds
        run = rounds(start, targets, Pi, ctx.array([LR] * count), 1.0, STEPS, noise=noise)
        columns = [_seen(round_, given.targets) for round_ in run]
        yield from _rows_of(given, method, graph, *map(np.stack, zip(*columns, strict=True)))


def _seen(seen: Any, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return |grad Phi|^2 at the mean factors, Xi, |mean_i e_i|^2, sigma_1 and |B|, |A| by run."""
    at, after = (seen.at, seen.mixed.factors) if hasattr(seen, "at") else (seen.mixed, seen.mixed)
    z = at.map(lambda X: host(X).mean(axis=-3))
    slope = factor_gradients(product(z) - targets.mean(axis=0), z, 1.0)
    e = (
        decaf_rounds.error_of(align(after, seen.means), seen.means)
        if hasattr(seen, "means")
        else at.map(lambda X: 0 * X)
    )
    ebar = e.map(lambda X: host(X).mean(axis=-3))
    reach = np.maximum(host(sigma_max(at)), host(sigma_max(after))).max(axis=-1)
    sizes = [np.linalg.norm(host(X), axis=(-2, -1)).max(axis=-1) for X in at]
    squares = (
        decaf_rounds.norms(slope) ** 2,
        host(consensus_distance(at)),
        decaf_rounds.norms(ebar) ** 2,
    )
    return *squares, reach, *sizes


def _rows_of(
    given: Setting,
    method: str,
    graph: str,
    gradient: np.ndarray,
    Xi: np.ndarray,
    ebar: np.ndarray,
    reach: np.ndarray,
    norm_B: np.ndarray,
    norm_A: np.ndarray,
) -> Iterator[Row]:
    """Yield the row of each horizon from columns [steps, runs]."""
    problem, c = approximation(given.targets, tau=TAU), float(reach.max())
    L = bounds.smoothness_sharp(L=1.0, c=c, G=problem.constants.G(1.0, c), s=1.0)
    norms = {"A_norm": float(norm_A.max()), "B_norm": float(norm_B.max())}
    variance = bounds.isotropic_factor_variance(s=1.0, tau=TAU, d=D, k=K, **norms)
    # F(W) = |W - Wbar|^2 / 2 + F*, and Wbar has rank r
    gap = float(((product(given.start) - given.targets.mean(axis=0)) ** 2).sum() / 2)
    points = float(np.hypot(norm_B, norm_A).max())
    for i, T in enumerate(HORIZONS):
        averages = (running(x)[i] for x in (gradient, Xi, ebar))
        letters = {"F_gap": gap, "L": L, "sigma": variance**0.5}
        runs, spreads, errors = averages
        limits = np.array(
            [
                _rate(T, Xi=x, **letters)
                if method == "dlora"
                else bounds.mixing_error_rate(lr=LR, T=int(T), N=N, Xi=x, ebar=e**0.5, **letters)
                for x, e in zip(spreads.tolist(), errors.tolist(), strict=True)
            ]
        )
        # DLoRA's rounds have no error of mixing but that of rounding
        slip = rate_rounding(float(limits.max()), points, terms=N + D + K + R, lr=LR)
        yield estimated(runs, limits, slip, {**_where(method, graph, T), "c": c})
