"""The exact worst case of deterministic gossip descent, as a semidefinite program (PEPit).

Over all L-smooth f_1 .. f_N, of any dimension, that a run of T steps can meet. L = 1 and
F(xbar_0) - F* <= 1 are no loss: f(x) -> a f(b x) sets both. The run starts at consensus and its
heterogeneity at the means, (1/N) sum_i |grad f_i - grad F|^2, is at most kappa^2. F* enters as
F(xbar_t) - |grad F(xbar_t)|^2 / 2 >= F*, which the infimum of every 1-smooth F obeys.
All of these are necessary conditions, and the interpolation conditions of each f_i alone are also
sufficient: what the program finds is at least the true worst case, and it is the true worst case
where F* plays no part (the consensus distance).

    python -m tests.second_opinion.worst_case        # the table of all cases
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from PEPit import PEP
from PEPit.functions import SmoothFunction, SmoothStronglyConvexFunction
from PEPit.tools.expressions_to_matrices import expression_to_matrices

from tests.second_opinion.cases import (
    CASES,
    LONGER,
    gradient_bound,
    gradient_sharp,
    spread_bound,
    spread_horizon,
)


class Worst(NamedTuple):
    """A worst case from both sides: a Gram matrix that attains it, multipliers that prove it."""

    attained: float
    proved: float
    leak: float  # what the proof leaves out at that Gram matrix, by rounding


class Run(NamedTuple):
    """T steps as expressions in the unknown Gram matrix and function values."""

    program: PEP
    losses: list  # f_1 .. f_N
    gradients: list  # |grad F(xbar_t)|^2 at t = 0 .. T - 1
    spreads: list  # Xi_t at t = 0 .. T


def gossip(case, *, gap=True, kappa=True, m=1.0):
    """Return the run as a program; gap, kappa: whether they are bounded; Hessians >= -m."""
    program = PEP()
    losses = [_loss(program, m) for _ in range(case.N)]
    center = program.set_initial_point()
    run, points = Run(program, losses, [], []), [center] * case.N
    start = _mean([f.value(center) for f in losses])
    for t in range(case.T + 1):
        run.spreads.append(_mean([(x - center) ** 2 for x in points]))
        if gap:
            slope = _mean([f.gradient(center) for f in losses])
            value = _mean([f.value(center) for f in losses])
            program.add_constraint(value - slope**2 / 2 >= start - 1)
        if t == case.T:
            return run
        slopes = [f.gradient(center) for f in losses]
        slope = _mean(slopes)
        if kappa:
            program.add_constraint(_mean([(g - slope) ** 2 for g in slopes]) <= case.kappa**2)
        run.gradients.append(slope**2)
        steps = [f.gradient(x) for f, x in zip(losses, points, strict=True)]
        points, center = _round(case, points, steps), center - case.lr * _mean(steps)


def worst_gradient(case):
    """Return the worst (1/T) sum_t |grad F(xbar_t)|^2."""
    run = gossip(case)
    return _solve(run, _mean(run.gradients))


def worst_spread(case):
    """Return the worst Xi_t at the last points of evaluation, t = T - 1, of any F."""
    run = gossip(case._replace(T=case.T - 1), gap=False)
    return _solve(run, run.spreads[-1])


def worst_balance(case, *, share=1.0, m=1.0):
    """Return the worst (1/T) sum_t (|grad F(xbar_t)|^2 - share Xi_t), without a bound on kappa."""
    run = gossip(case, kappa=False, m=m)
    return _solve(run, _mean(run.gradients) - share * _mean(run.spreads[:-1]))


def _loss(program, m):
    if m == 1:
        return program.declare_function(SmoothFunction, L=1.0)
    return program.declare_function(SmoothStronglyConvexFunction, mu=-m, L=1.0)


def _round(case, points, steps):
    moved = [x - case.lr * g for x, g in zip(points, steps, strict=True)]
    if case.order == "MS":
        return [_mean(moved, row) for row in case.Pi]
    mixed = [_mean(points, row) for row in case.Pi]
    return [x - case.lr * g for x, g in zip(mixed, steps, strict=True)]


def _mean(terms, weights=None):
    weights = [1 / len(terms)] * len(terms) if weights is None else weights
    first, *rest = (w * term for w, term in zip(weights, terms, strict=True))
    return sum(rest, first)


def _solve(run, objective):
    program = run.program
    program.set_performance_metric(objective)
    with warnings.catch_warnings():
        # said where the solver's last digits stall: gap and leak show what that amounts to
        warnings.filterwarnings("ignore", "Solution may be inaccurate", UserWarning)
        program.solve(wrapper="cvxpy", solver="CLARABEL", verbose=0)
    return Worst(float(objective.eval()), *_proof(run, objective))


def _proof(run, objective):
    """Return what the multipliers prove, from the definition, and the leak of the proof.

    objective = bound + sum of multiplier x constraint + <Q, G> + <v, F> as an identity. Every
    constraint is <= 0, every multiplier >= 0, and Q <= 0, v = 0 up to rounding: the leak is the
    most that the positive part of Q and v add at the Gram matrix G and values F found.
    """
    program = run.program
    constraints = [*program.list_of_constraints]
    constraints += [c for f in run.losses for c in f.list_of_class_constraints]
    rest = objective
    for constraint in constraints:
        assert constraint.equality_or_inequality == "inequality"
        rest = rest - max(float(constraint.eval_dual()), 0.0) * constraint.expression
    Q, v, bound = expression_to_matrices(rest)
    excess = max(float(np.linalg.eigvalsh((Q + Q.T) / 2)[-1]), 0.0)
    leak = excess * float(np.trace(program.G_value)) + float(np.abs(v) @ np.abs(program.F_value))
    return float(bound), leak


def _table(cases):
    print("case, N, T, order, lr, kappa: gradient by PEPit, sharp, bound, ratio;", end=" ")
    print("Xi by PEPit, finite horizon, bound, ratio")
    for case in cases:
        finite, Xi = spread_horizon(case), spread_bound(case)
        gradient, spread = worst_gradient(case).proved, worst_spread(case).proved
        sharp, bound = gradient_sharp(case, np.mean(finite)), gradient_bound(case, Xi)
        print(
            f"{case.name:23} {case.N} {case.T} {case.order} {case.lr:5.3f} {case.kappa:3.1f}: "
            f"{gradient:8.6f} {sharp:8.6f} {bound:9.6f} {gradient / bound:6.4f}; "
            f"{spread:8.6f} {finite[-1]:8.6f} {Xi:9.6f} {spread / Xi if Xi else 1:6.4f}"
        )


if __name__ == "__main__":
    _table(CASES + LONGER)
