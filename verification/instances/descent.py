"""The descent of the mean: gradients averaged over whole runs against the rate of T25-sharp."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from verification.claim import Row, Value
from verification.evidence import at_most, ulps
from verification.instances.consensus import Step
from verification.instances.omega import each
from verification.instances.quadratics import Case, Network, consensus_limits, constants, size

Squares = Mapping[str, moments.Square]


class Descent(NamedTuple):
    """What a run did on average over its points, an entry an instance."""

    gradient: np.ndarray  # E|grad F|^2 at the point that descends
    Xi: np.ndarray  # mean square distance of the agents from it
    slip: np.ndarray  # rounding of the gradient and of L^2 Xi together


def squares_of(problem: moments.Quadratics) -> dict[str, moments.Square]:
    """Return what is measured where the agents' mean descends."""
    return {
        "gradient": moments.mean_gradient(problem),
        "Xi": moments.consensus(problem),
        "kappa": moments.heterogeneity(problem),
        "size": size(problem),
    }


def descent_along(
    case: Case,
    start: moments.State,
    recursions: Sequence[moments.Recursion],
    squares: Squares,
    step: Step = moments.advance,
) -> tuple[Descent, np.ndarray]:
    """Return the averages before each of the recursions, taken in turn, and the largest kappa.

    Rounding as in `quadratics.run`.
    """
    found = moments.trace_along(recursions, start, squares, step)
    values = {name: host(value) for name, value in found.items()}
    n = start.mean.shape[-1]
    points = ulps(8 * n * len(recursions), values["size"].max(axis=-1))
    offset = (host(case.problem.b) ** 2).sum(axis=-1).max(axis=-1)
    slip = constants(case).L ** 2 * points + ulps(4 * n, offset)
    gradient, Xi = (values[name].mean(axis=-1) for name in ("gradient", "Xi"))
    return Descent(gradient, Xi, slip), np.sqrt(values["kappa"].max(axis=-1))


def descent_over_periods(
    start: moments.State, period: list[moments.Recursion], squares: Squares, periods: int
) -> Descent:
    """Return the averages before each recursion of many periods of them, by doubling.

    Rounding as in `attainment.rate`.
    """
    state = start
    gradient: Any = 0.0
    Xi: Any = 0.0
    wanted = {name: squares[name] for name in ("gradient", "Xi")}
    for i, recursion in enumerate(period):
        turn = reduce(moments.compose, period[i:] + period[:i])
        found = moments.average(turn, state, wanted, periods)
        gradient = gradient + host(found["gradient"]) / len(period)
        Xi = Xi + np.maximum(host(found["Xi"]), 0) / len(period)  # rounding may leave it below 0
        state = moments.advance(recursion, state)
    values = np.linalg.eigvals(host(reduce(moments.compose, period).A))
    gap = np.min(np.abs(1 - np.abs(values)), axis=-1)
    share = ulps(8 * values.shape[-1], len(period) * periods.bit_length() + 1 / gap)
    return Descent(gradient, Xi, share * np.abs(gradient))  # rounding may leave it below 0, too


def sharp_row(case: Case, found: Descent, steps: int, lr: Any, **params: Value) -> Row:
    """Return the averaged gradient against T25-sharp for the step lr of what descends."""
    u = host(lr) * constants(case).L
    return _row("measured Xi", bounds.dsgd_sharp, case, found, steps, lr, found.Xi, u < 2, params)


def bounded_row(
    rate: Callable[..., float],
    case: Case,
    net: Network,
    found: Descent,
    kappa: np.ndarray,
    steps: int,
    **params: Value,
) -> Row:
    """Return the averaged gradient against a rate with the bound on Xi of `net`, lr L q < 1."""
    letters = constants(case)
    held = host(case.lr) * letters.L * net.q < 1
    Xi = np.where(held, consensus_limits(case, net, letters, kappa), 0.0)
    return _row("bound on Xi", rate, case, found, steps, case.lr, Xi, held, params)


def _row(
    name: str,
    rate: Callable[..., float],
    case: Case,
    found: Descent,
    steps: int,
    lr: Any,
    Xi: np.ndarray,
    held: np.ndarray,
    params: Mapping[str, Value],
) -> Row:
    letters = constants(case)
    names = {"L": letters.L, "sigma": letters.sigma, "lr": host(lr), "Xi": Xi}
    gap = np.where(np.isfinite(letters.F_gap), letters.F_gap, 0.0)
    bound = each(rate, F_gap=gap, T=steps, N=case.problem.N, **names)
    held = held & np.isfinite(letters.F_gap) & np.isfinite(bound)
    return at_most(
        f"mean gradient, {name}",
        found.gradient,
        np.where(held, bound, 0.0),
        rounding=found.slip,
        held=held,
        T=steps,
        **params,
    )
