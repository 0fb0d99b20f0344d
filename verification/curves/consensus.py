"""The stationary consensus distance over the whole table of topologies, as rows of T25.

Agents f_i = x^2/2 - b_i x in order CB, where a complete graph has deviations, too. Either the b_i
deviate along the slowest mode of the graph, kappa = 1, without noise; or they agree and the
gradients have noise of variance 1. Exact, by the moments at rest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decaf_theory import moments
from decaf_theory.arrays import host
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Context, Row, Value
from verification.evidence import at_most, ulps
from verification.instances.quadratics import (
    Case,
    consensus_limits,
    constants,
    network,
    step_allowed,
)

LR = 2.0**-13
ORDER = "CB"


def over_topologies(ctx: Context) -> Iterator[Row]:
    """Yield, for each topology and size, E Xi at rest against its bound, by what drives it."""
    for N in (16, 64):
        for name, build in TOPOLOGIES.items():
            Pi = build(N)
            slow = np.linalg.eigh(Pi)[1][:, -2]  # the last mode is consensus itself
            for part, b, variance in (
                ("heterogeneity", np.sqrt(N) * slow, 0.0),
                ("noise", np.zeros(N), 1.0),
            ):
                yield at_rest(ctx, name, Pi, part, b, variance)


def at_rest(
    ctx: Context, name: str, Pi: np.ndarray, part: str, b: np.ndarray, variance: float
) -> Row:
    """Return the row of one network, at the fixed point of mean and covariance."""
    N = len(Pi)
    one = ctx.array(np.ones((N, 1, 1)))
    problem = moments.quadratics(one, b=ctx.array(b[:, None]), noise=variance * one)
    case = Case(problem, Pi, LR, ctx.array(np.zeros(1)), {})
    net = network(Pi, ORDER)
    letters = constants(case)
    rest = moments.limit(case.recursion(ORDER))
    Xi = float(moments.expectation(moments.consensus(problem), rest))
    held = bool(step_allowed(case, net, letters))
    kappa = float(np.sqrt(np.mean(b**2)))  # of equal curvatures: the same at every point
    bound = float(consensus_limits(case, net, letters, kappa)) if held else 0.0
    # the fixed point solves systems of N unknowns in I - A, of condition 2/(LR gap) at most
    largest = float(abs(host(rest.mean)).max() ** 2 + abs(host(rest.cov)).max())
    slip = ulps(8 * N, largest)
    slip *= 2 / (LR * (1 - net.lam))
    params: dict[str, Value] = {"curve": "consensus", "part": part, "topology": name, "N": N}
    params |= {"order": ORDER, "gap": 1 - net.lam, "lr": LR}
    return at_most("E Xi at rest", Xi, bound, rounding=slip, held=held, **params)
