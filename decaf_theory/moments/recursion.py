"""Affine recursions with additive noise: composed, repeated by doubling, averaged, at rest.

x+ = A x + a + noise of covariance Q on vectors of length n. Nothing here knows of agents. t steps
are again a `Recursion`, reached with about log2(t) products: 1e5 steps or 1e12 cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, convert, eps, namespace, transpose

AT_REST = 3  # powers of eps that the slowest mode has decayed by


class Recursion(NamedTuple):
    """The affine recursion x+ = A x + a + noise of mean 0 and covariance Q."""

    A: Array  # [..., n, n]
    a: Array  # [..., n]
    Q: Array  # [..., n, n]


class State(NamedTuple):
    """Mean and covariance of x."""

    mean: Array  # [..., n]
    cov: Array  # [..., n, n]


class Square(NamedTuple):
    """The quantity |R x - q|^2."""

    R: Array  # [..., m, n]
    q: Array  # [..., m]


def times(A: Array, x: Array) -> Array:
    """Return the matrix-vector products A x, [..., m] for A [..., m, n] and x [..., n]."""
    return (A @ x[..., None])[..., 0]


def carry(A: Array, C: Array) -> Array:
    """Return the covariance A C A' of A x."""
    return A @ C @ transpose(A)


def at(points: Array) -> State:
    """Return the state without spread at the points x_i [..., N, p], stacked to n = N p."""
    xp = namespace(points)
    mean = xp.reshape(points, (*points.shape[:-2], -1))
    return State(mean, xp.zeros_like(mean[..., :, None] * mean[..., None, :]))


def advance(recursion: Recursion, state: State) -> State:
    """Return mean and covariance one application of the recursion later."""
    mean = times(recursion.A, state.mean) + recursion.a
    return State(mean, carry(recursion.A, state.cov) + recursion.Q)


def advance_at_random(outcomes: Recursion, state: State, *, chances: Array) -> State:
    """Return mean and covariance after one of several recursions, drawn independently of x.

    outcomes: one recursion each along the first axis; chances: their probabilities, [outcomes].
    """
    xp = namespace(state.mean)
    chances = convert(chances, state.mean)
    after = advance(outcomes, state)
    mean = xp.tensordot(chances, after.mean, axes=([0], [0]))
    apart = after.mean - mean
    spread = after.cov + apart[..., :, None] * apart[..., None, :]
    return State(mean, xp.tensordot(chances, spread, axes=([0], [0])))


def compose(first: Recursion, then: Recursion) -> Recursion:
    """Return the recursion of `first` followed by `then`, with independent noises."""
    return Recursion(
        then.A @ first.A, times(then.A, first.a) + then.a, carry(then.A, first.Q) + then.Q
    )


def repeat(recursion: Recursion, steps: int) -> Recursion:
    """Return `steps` >= 0 applications as one recursion, by doubling."""
    if steps == 0:
        zero = namespace(recursion.A).zeros_like
        return Recursion(identity_like(recursion.A), zero(recursion.a), zero(recursion.Q))
    half = repeat(recursion, steps // 2)
    twice = compose(half, half)
    return compose(twice, recursion) if steps % 2 else twice


def limit(recursion: Recursion) -> State:
    """Return the stationary mean and covariance. ValueError where the recursion is not stable.

    The mean solves (I - A) m = a; the covariance sum_t A^t Q A^t' is summed by doubling until the
    rest is below rounding (Smith's squared iteration).

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import moments
        >>> halves = moments.Recursion(np.array([[0.5]]), np.array([1.0]), np.array([[0.75]]))
        >>> state = moments.limit(halves)  # x+ = x/2 + 1 + noise of variance 3/4
        >>> state.mean.round(12).tolist(), state.cov.round(12).tolist()
        ([2.0], [[1.0]])
    """
    xp = namespace(recursion.A)
    radius = float(xp.max(xp.abs(xp.linalg.eigvals(recursion.A))))
    if not radius < 1:
        raise ValueError(f"no stationary state: spectral radius {radius:.9g} >= 1; lower lr")
    (*_, n), floor = recursion.A.shape, eps(recursion.A)
    # radius^steps = eps^3; and n steps besides, after which a nilpotent part is gone
    steps = n + AT_REST * math.log(floor) / math.log(max(radius, floor))
    covariance = repeat(recursion, 1 << math.ceil(math.log2(steps))).Q
    rest = identity_like(recursion.A) - recursion.A
    return State(xp.linalg.solve(rest, recursion.a[..., None])[..., 0], covariance)


def expectation(square: Square, state: State) -> Array:
    """Return E|R x - q|^2 = |R m - q|^2 + tr(R C R'), [...].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import moments
        >>> state = moments.State(np.array([2.0]), np.array([[1.0]]))
        >>> float(moments.expectation(moments.Square(np.eye(1), np.zeros(1)), state))  # 2^2 + 1
        5.0
    """
    xp = namespace(state.mean)
    offset = times(square.R, state.mean) - square.q
    spread = xp.sum((square.R @ state.cov) * square.R, axis=(-2, -1))
    return xp.sum(offset**2, axis=-1) + spread


def trace(
    recursion: Recursion, start: State, squares: Mapping[str, Square], steps: int
) -> dict[str, Array]:
    """Return the expectations of the squares before each of `steps` steps, [..., steps] each."""
    return trace_along([recursion] * steps, start, squares)


def trace_along(
    recursions: Iterable[Recursion],
    start: State,
    squares: Mapping[str, Square],
    step: Callable[[Recursion, State], State] = advance,
) -> dict[str, Array]:
    """Return the expectations of the squares before each of the recursions, taken in turn.

    step: what a recursion does to mean and covariance, such as `advance_at_random`.
    """
    xp = namespace(start.mean)
    found: dict[str, list[Array]] = {name: [] for name in squares}
    state = start
    for recursion in recursions:
        for name, square in squares.items():
            found[name].append(expectation(square, state))
        state = step(recursion, state)
    return {name: xp.stack(values, axis=-1) for name, values in found.items()}


def mean_path(recursion: Recursion, start: State, steps: int) -> Array:
    """Return the means before each of `steps` steps, [..., steps, n]."""
    path, mean = [], start.mean
    for _ in range(steps):
        path.append(mean)
        mean = times(recursion.A, mean) + recursion.a
    return namespace(start.mean).stack(path, axis=-2)


def average(
    recursion: Recursion, start: State, squares: Mapping[str, Square], steps: int
) -> dict[str, Array]:
    """Return the expectations averaged over t = 0 .. steps - 1, exactly, by doubling, [...] each.

    With w = (x, 1) the second moment W = E ww' obeys W+ = M W M' + Q, without a constant term, and
    the averages are linear in sum_t W_t. ValueError: steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be >= 1 to average over, got {steps}")
    total = _stretch(_one_step(recursion, start), steps)
    moment = (total.free + total.noise_sum) / steps
    found = {}
    for name, square in squares.items():
        row = namespace(square.R).concat([square.R, -square.q[..., None]], axis=-1)
        found[name] = namespace(row).sum((row @ moment) * row, axis=(-2, -1))
    return found


class _Stretch(NamedTuple):
    """What t steps of W+ = M W M' + Q do, from a given W_0."""

    steps: int
    power: Array  # M^t
    free: Array  # sum_{u<t} M^u W_0 M^u'
    noise: Array  # V_t = sum_{u<t} M^u Q M^u', what noise has added to W after t steps
    noise_sum: Array  # sum_{u<t} V_u


def _one_step(recursion: Recursion, start: State) -> _Stretch:
    """Return the stretch of one step from `start`."""
    A, a, Q = recursion
    m = start.mean
    W = _bordered(start.cov + m[..., :, None] * m[..., None, :], m, m, 1.0)
    xp = namespace(a)
    none = xp.zeros_like(a)
    V = _bordered(Q, none, none, 0.0)
    return _Stretch(1, _bordered(A, a, none, 1.0), W, V, xp.zeros_like(V))


def _stretch(piece: _Stretch, steps: int) -> _Stretch:
    """Return `steps` >= 1 times the stretch of one step, by doubling."""
    if steps == 1:
        return piece
    half = _stretch(piece, steps // 2)
    twice = _join(half, half)
    return _join(twice, piece) if steps % 2 else twice


def _join(first: _Stretch, then: _Stretch) -> _Stretch:
    """Return the stretch of `first` followed by `then` (their powers commute)."""
    M = first.power
    return _Stretch(
        first.steps + then.steps,
        M @ then.power,
        first.free + carry(M, then.free),
        first.noise + carry(M, then.noise),
        first.noise_sum + then.steps * first.noise + carry(M, then.noise_sum),
    )


def _bordered(matrix: Array, column: Array, row: Array, corner: float) -> Array:
    """Return [[matrix, column], [row', corner]], [..., n + 1, n + 1]; batch axes broadcast."""
    *own, n, _ = matrix.shape
    *of_column, _ = column.shape
    batch = np.broadcast_shapes(tuple(own), tuple(of_column))
    full = namespace(matrix).zeros((*batch, n + 1, n + 1), dtype=matrix.dtype, device=matrix.device)
    full[..., :n, :n] = matrix
    full[..., :n, n] = column
    full[..., n, :n] = row
    full[..., n, n] = corner
    return full


def identity_like(A: Array) -> Array:
    """Return the identity of the size, kind, device and dtype of A's last axis, [n, n]."""
    *_, n = A.shape
    return namespace(A).eye(n, dtype=A.dtype, device=A.device)
