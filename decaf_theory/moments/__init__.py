"""Exact moments of decentralized SGD on quadratics: no Monte Carlo and no fit (T27).

Agents i = 1..N have f_i(x) = x'H_i x / 2 - b_i'x on R^p and additive gradient noise of covariance
Sig_i, independent across agents and steps. Their points are stacked into one vector
x = (x_1; ...; x_N) of length n = N p. Every algorithm here is a linear recursion

    x+ = A x + a + noise of covariance Q,

so that mean and covariance close: m+ = A m + a, C+ = A C A' + Q. Every quantity is the expectation
of a square, E|R x - q|^2 = |R m - q|^2 + tr(R C R').

Leading axes are batch everywhere (problems, step sizes, mixing matrices); they broadcast.
"""

from decaf_theory.moments.quadratics import (
    ORDERS,
    Quadratics,
    Trajectory,
    consensus,
    consensus_start,
    decentralized_sgd,
    frozen_factor_problem,
    heterogeneity,
    local_step,
    mean_gradient,
    mixing,
    optimality_gap,
    quadratics,
    quantities,
    stack_columns,
    trajectory,
    unstack_columns,
    with_identity,
)
from decaf_theory.moments.recursion import (
    Recursion,
    Square,
    State,
    advance,
    advance_at_random,
    at,
    average,
    compose,
    expectation,
    limit,
    mean_path,
    repeat,
    trace,
    trace_along,
)

__all__ = [
    "ORDERS",
    "Quadratics",
    "Recursion",
    "Square",
    "State",
    "Trajectory",
    "advance",
    "advance_at_random",
    "at",
    "average",
    "compose",
    "consensus",
    "consensus_start",
    "decentralized_sgd",
    "expectation",
    "frozen_factor_problem",
    "heterogeneity",
    "limit",
    "local_step",
    "mean_gradient",
    "mean_path",
    "mixing",
    "optimality_gap",
    "quadratics",
    "quantities",
    "repeat",
    "stack_columns",
    "trace",
    "trace_along",
    "trajectory",
    "unstack_columns",
    "with_identity",
]
