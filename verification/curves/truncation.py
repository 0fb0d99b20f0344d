"""The truncation error against the rank: three agents with weights 1/3, factors on Omega_1.

Worst case, random and trained factors, as rows of T16 (against its bound) and T17 (against |I|).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import pi
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference_norm, sigma_max, truncation_error
from decaf_theory.methods import METHODS
from decaf_theory.problems import FRAMES
from decaf_theory.problems.approximation import approximation, planted, spread
from decaf_theory.simulate import Config
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Context, Row, Value
from verification.evidence import at_most
from verification.instances.mixes import Mix, allowance, gaussian
from verification.instances.omega import inside_omega, mix_of, mix_on_omega
from verification.instances.targets import last_visit

D = 24
K = 20
RANKS = (1, 2, 3, 4, 6, 8)
WEIGHTS = np.full(3, 1 / 3)
QUANTILES = (0.1, 0.5, 0.9, 1.0)
STEPS = 60
LR = 0.2
KAPPA = 0.7  # of the training


def against_worst_case(ctx: Context) -> Iterator[Row]:
    """Yield T16's rows: |E|_F at each rank against the largest under Assumption 2."""
    for mix in curve_mixes(ctx):
        r = mix.factors.rank
        truncated = tsvd_of_mix(mix.factors, mix.Pi, r)
        limit = bounds.truncation_worst_case(c=1.0, r=r, n=K, pi_max=1 / 3, norm="fro")
        held = bool(host(inside_omega(mix.factors, 1.0)).all())
        measured = truncation_error(truncated)
        slip = allowance(mix)
        case = "|E| against rank, fro"
        yield from quantiles(case, measured, limit, rounding=slip, held=held, **_where(mix))


def against_interference(ctx: Context) -> Iterator[Row]:
    """Yield T17's rows: |E|_F at each rank against |I|_F of the same mix."""
    for mix in curve_mixes(ctx):
        truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
        measured = truncation_error(truncated)
        limit = interference_norm(mix.factors, mix.Pi)
        slip = allowance(mix)
        where = _where(mix)
        yield at_most("|E| <= |I| against rank, fro", measured, limit, rounding=slip, **where)
        case = "|E| against |I| and rank, fro"
        yield from quantiles(case, measured, limit, rounding=slip, held=True, **where)


def _where(mix: Mix) -> dict[str, Value]:
    return {**mix.params, "curve": "truncation", "norm": "fro"}


def quantiles(
    case: str, measured: Any, bound: Any, *, rounding: Any, held: bool, **params: Value
) -> Iterator[Row]:
    """Yield the rows of the instances at the quantiles of `measured`; the last is the largest."""
    columns = np.broadcast_arrays(*map(host, (measured, np.asarray(bound), rounding)))
    values, limits, slips = (x.ravel() for x in columns)
    order = np.argsort(values, kind="stable")
    for quantile in QUANTILES:
        at = order[round(quantile * (len(order) - 1))]
        more = {"quantile": quantile, "instances": len(order), **params}
        yield at_most(case, values[at], limits[at], rounding=slips[at], held=held, **more)


def curve_mixes(ctx: Context) -> Iterator[Mix]:
    """Yield, for each rank, the worst case of T16 (one instance), random and trained factors."""
    for r in RANKS:
        angles = pi * np.arange(3) / 3
        (B, A), _ = FRAMES["planar"](d=D, k=K, r=r, angles=angles, weights=WEIGHTS)
        yield mix_of(ctx, "worst case", B, A, WEIGHTS)
        drawn = gaussian(ctx.rng("curve", r), ctx.pick(40, 400), 3, D, K, r)
        yield mix_on_omega(mix_of(ctx, "random", *drawn, WEIGHTS), 1.0)
        yield mix_of(ctx, "trained", *trained(ctx, r), WEIGHTS)


def trained(ctx: Context, r: int) -> Factors:
    """Return the factors [runs, 3, ...] before the last mix of DeCAF on matrix approximation.

    Targets of full rank with deviations of size KAPPA; all agents start at B = 0 and one random A.
    In units of c, the largest singular value of any factor of the run.
    """
    rng = ctx.rng("training", r)
    runs = ctx.pick(5, 20)
    targets = planted(d=D, k=K, rank=K) + spread(N=3, d=D, k=K, kappa=KAPPA)
    A = rng.standard_normal((runs, 1, r, K)) / np.sqrt(K)
    start = Factors(np.zeros((runs, 3, D, r)), np.repeat(A, 3, axis=1))
    config = Config(
        problem=approximation(targets),
        method=replace(METHODS["decaf"], meets="server"),  # one mix, the same for all three
        start=start,
        lr=LR,
        steps=STEPS,
        runs=runs,
    )
    x = last_visit(config).mix.before
    assert x is not None  # every step ends with a mix
    c = sigma_max(x).max(axis=-1)[:, None, None, None]
    return x.map(lambda X: X / c)
