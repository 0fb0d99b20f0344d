"""Consensus distances over whole runs, and their bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from decaf_theory import moments
from decaf_theory.arrays import host, namespace
from decaf_theory.topology import mixing_eigenvalues
from verification.claim import Row, Value
from verification.evidence import at_most, ulps
from verification.instances.quadratics import (
    Case,
    Network,
    consensus_limits,
    constants,
    network,
    size,
)

Step: TypeAlias = Callable[[moments.Recursion, moments.State], moments.State]


class Spread(NamedTuple):
    """The largest consensus distance over the points of evaluation, and what bounds it."""

    Xi: np.ndarray  # largest E Xi
    kappa: np.ndarray  # root of the largest heterogeneity of the mean point
    slip: np.ndarray  # rounding


def spread_along(
    problem: moments.Quadratics,
    start: moments.State,
    recursions: list[moments.Recursion],
    step: Step = moments.advance,
) -> Spread:
    """Return the largest E Xi and kappa before each of the recursions, taken in turn.

    Further coordinates beyond the points, momenta, do not count. step as in `moments.trace_along`.
    Rounding as in `run`.
    """
    squares = {
        "Xi": moments.consensus(problem),
        "kappa": moments.heterogeneity(problem),
        "size": size(problem),
    }
    return spread_of(squares, start, recursions, step)


def spread_of(
    squares: Mapping[str, moments.Square],
    start: moments.State,
    recursions: list[moments.Recursion],
    step: Step = moments.advance,
) -> Spread:
    """Return the largest E Xi and kappa of given squares, as `spread_along` does."""
    n = start.mean.shape[-1]
    wide = {name: _widened(square, n) for name, square in squares.items()}
    found = moments.trace_along(recursions, start, wide, step)
    Xi, kappa, points = (host(found[name]).max(axis=-1) for name in ("Xi", "kappa", "size"))
    return Spread(Xi, np.sqrt(kappa), ulps(4 * n * len(recursions), points))


def amplified(Pi: np.ndarray, q_S: Callable[..., tuple[float, float]], **letters: Any) -> Network:
    """Return the network of order MS with the q and S that a formula makes of its spectrum."""
    net = network(Pi, "MS")
    eigenvalues = [float(mu) for mu in mixing_eigenvalues(Pi)]
    q, S = q_S(lam=net.lam, eigenvalues=eigenvalues, **letters)
    return net._replace(q=q, S=S)


def shortened(case: Case, net: Network) -> Case:
    """Return the case with the step that order MS allows shortened by the growth of q."""
    return case._replace(lr=case.lr * max(1.0, network(case.Pi, "MS").q) / max(1.0, net.q))


def _widened(square: moments.Square, n: int) -> moments.Square:
    """Return the square of the first coordinates of a vector of length n."""
    xp = namespace(square.R)
    more = n - square.R.shape[-1]
    none = xp.zeros((*square.R.shape[:-1], more), dtype=square.R.dtype, device=square.R.device)
    return moments.Square(xp.concat([square.R, none], axis=-1), square.q)


def consensus_row(name: str, case: Case, net: Network, found: Spread, **params: Value) -> Row:
    """Return E Xi against the bound of T25 with the q and S of `net`, where lr L q < 1."""
    letters = constants(case)
    held = host(case.lr) * letters.L * net.q < 1
    limit = np.where(held, consensus_limits(case, net, letters, found.kappa), 0.0)
    return at_most(name, found.Xi, limit, rounding=found.slip, held=held, **params, **case.params)


def kappa_ceiling(case: Case, order: str, steps: int) -> np.ndarray:
    """Return a bound on sup_{t < steps} kappa_t without visiting every covariance, [...].

    kappa_t^2 = |R m_t - q|^2 + tr(R C_t R'): the first part at every t, the second at the last,
    where it is largest, because from a start without spread C_t grows. The means run in about
    sqrt(steps) blocks at once, the last of which may go on beyond `steps`.
    """
    recursion = case.recursion(order)
    square = moments.heterogeneity(case.problem)
    block = math.isqrt(steps - 1) + 1
    jump = moments.repeat(recursion, block)
    state = case.start
    columns = []
    for _ in range(0, steps, block):
        columns.append(state.mean)
        state = moments.advance(jump, state)
    xp = namespace(state.mean)
    x = xp.stack(columns, axis=-1)
    largest = None
    for _ in range(block):
        found = xp.sum((square.R @ x - square.q[..., None]) ** 2, axis=-2)
        largest = found if largest is None else xp.maximum(largest, found)
        x = recursion.A @ x + recursion.a[..., None]
    last = moments.advance(moments.repeat(recursion, steps - 1), case.start)
    spread = xp.sum((square.R @ last.cov) * square.R, axis=(-2, -1))
    return np.sqrt(host(xp.max(largest, axis=-1) + spread))
