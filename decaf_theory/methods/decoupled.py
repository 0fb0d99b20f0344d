"""SD-LoRA: for tasks in turn, one pair each; of old pairs only a magnitude goes on training."""

from __future__ import annotations

import math
from collections.abc import Mapping

from decaf_theory.arrays import Array, integer, namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients
from decaf_theory.methods.form import Form, Receive, Variable
from decaf_theory.methods.state import State

OLD, MAGNITUDES = "old", "magnitudes"


def sd_lora(
    tasks: int = 5, *, magnitude: float = 0.8, carried: bool = False, speed: float = 1.0
) -> Form:
    """Return SD-LoRA's form for so many tasks in turn, in task T

        W = W0 + s (sum_{t<T} a_t B_t A_t / (|B_t| |A_t|) + a_T B_T A_T)

    Old pairs are frozen, all a train, and all start each task at `magnitude`. So W jumps where a
    task begins, as a_T |B_T| |A_T| becomes `magnitude`; carried: that number is carried on instead,
    as are the other magnitudes, and W moves on from where it was (ours, to tell what the jump
    costs). speed: the step size of a in units of lr.

    Between agents the current pair and all magnitudes are mixed: averaged by themselves where
    factors are, and where products are, the product B_T A_T of the current pair is truncated and
    the magnitudes are averaged. Old pairs are an agent's own; where agents agreed when they froze
    them, the mean of a_t stands for the same matrix at all. One magnitude per pair and matrix; the
    authors' code shares it among all matrices. One task with magnitude 1 and speed 0 is LoRA.
    Source: arXiv 2501.13198, its authors' code. ValueError: tasks not an integer >= 1, magnitude
    not finite, speed < 0 or not finite.
    """
    integer("tasks", tasks, 1)
    if not math.isfinite(magnitude):
        raise ValueError(f"magnitude must be finite, got {magnitude}")
    if not 0 <= speed < math.inf:
        raise ValueError(f"speed must be finite and >= 0, got {speed}")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        B, A = factors
        rows = (tasks - 1) * factors.rank
        old = Factors(zeros(B, B.shape[-2], rows), zeros(A, rows, A.shape[-1]))
        return {OLD: old, MAGNITUDES: zeros(B, tasks, 1) + magnitude}

    def begins(state: State, t: int, fresh: Factors, inputs: Array | None) -> State:
        require_room(t, tasks)
        return state if t == 0 else _next_pair(state, t, fresh, magnitude, carried)

    return Form(
        "s (sum a_t B_t A_t / (|B_t| |A_t|) + a_T B_T A_T)",
        _update,
        _gradients,
        lambda factors, s: factors,
        lambda s: s,
        factored=False,
        label="sd_lora",
        start=start,
        variables=(Variable(MAGNITUDES, _slope, speed),),
        products=_of_current,
        begins=begins,
    )


def require_room(t: int, tasks: int) -> None:
    """Raise ValueError at a task, counted from 0, beyond those that a form was made for."""
    if t >= tasks:
        raise ValueError(f"tasks must be > {t} to begin task {t + 1}, got tasks = {tasks}")


def zeros(X: Array, rows: int, columns: int) -> Array:
    """Return zeros [..., rows, columns] of the kind, dtype and leading axes of X."""
    shape = (*X.shape[:-2], rows, columns)
    return namespace(X).zeros(shape, dtype=X.dtype, device=X.device)


def unit(pair: Factors) -> Factors:
    """Return (B / |B|, A / |A|), zero where a factor is."""

    def scaled(X: Array) -> Array:
        xp = namespace(X)
        size = norm(X)
        return X / xp.where(size > 0, size, xp.ones_like(size))

    return pair.map(scaled)


def norm(X: Array) -> Array:
    """Return the Frobenius norms, [..., 1, 1]."""
    return namespace(X).sum(X**2, axis=(-2, -1), keepdims=True) ** 0.5


def current(state: State) -> Array:
    """Return a_T, [..., n, 1, 1]."""
    a: Array = state.memory[MAGNITUDES]
    return a[..., -1:, :]


def _next_pair(state: State, t: int, fresh: Factors, magnitude: float, carried: bool) -> State:
    """Freeze the current pair in unit norm as the t-th, and start a fresh one."""
    old, a, r = state.pair(OLD), state.memory[MAGNITUDES], state.factors.rank
    own = unit(state.factors)
    place = slice((t - 1) * r, t * r)
    frozen = Factors(
        _put(old.B, own.B, (..., slice(None), place)), _put(old.A, own.A, (..., place, slice(None)))
    )
    start = namespace(a).full_like(a, magnitude)
    if carried:
        size = current(state) * norm(state.factors.B) * norm(state.factors.A)
        start = _put(a, size, (..., slice(t - 1, t), slice(None)))
        start = _put(start, magnitude, (..., slice(-1, None), slice(None)))
    return State(fresh, {**state.memory, OLD: frozen, MAGNITUDES: start})


def _put(X: Array, part: Array | float, place: tuple[object, ...]) -> Array:
    """Return a copy of X with this part at its place."""
    copy = namespace(X).asarray(X, copy=True)
    copy[place] = part
    return copy


def _spread(a: Array, r: int) -> Array:
    """Return a_1 ... a_{T-1}, each r times, [..., n, 1, (T-1) r]."""
    old = a[..., :-1, :]
    wide = namespace(a).broadcast_to(old, (*old.shape[:-1], r))
    return wide.reshape((*a.shape[:-2], 1, old.shape[-2] * r))


def _weighted(state: State) -> Factors:
    """Return (a_T B_T, A_T)."""
    return state.factors._replace(B=state.factors.B * current(state))


def _update(state: State, s: float) -> Array:
    pair = _weighted(state)
    own = product(pair if s == 1 else pair._replace(B=s * pair.B))
    old = state.pair(OLD)
    if old.rank == 0:
        return own
    weights = _spread(state.memory[MAGNITUDES], state.factors.rank)
    return own + product(old._replace(B=s * old.B * weights))


def _gradients(g: Array, state: State, s: float) -> Factors:
    """Return the gradients s a_T G A_T' in B_T and s a_T B_T'G in A_T."""
    slopes = factor_gradients(g, _weighted(state), s)
    return slopes._replace(B=slopes.B * current(state))


def _slope(g: Array, state: State, s: float) -> Array:
    """Return the gradients in the magnitudes, s <G, their matrices>, [..., n, T, 1]."""
    xp, old = namespace(g), state.pair(OLD)
    own = _along(g, state.factors, s)
    shape = (*own.shape[:-2], old.rank // state.factors.rank, state.factors.rank)
    columns = _along(g, old, s).reshape(shape)
    both = (xp.sum(columns, axis=-1), xp.sum(own, axis=-1))
    return xp.concat(both, axis=-1)[..., None]


def _along(g: Array, pair: Factors, s: float) -> Array:
    """Return s <G, b_c a_c'> of each column of B and row of A, [..., n, 1, r]."""
    slopes = factor_gradients(g, pair, s)
    return namespace(g).sum(pair.B * slopes.B, axis=-2, keepdims=True)


def _of_current(receive: Receive) -> Receive:
    return receive
