"""The Rank-1 Expert Pool: one LoRA as a pool of pairs, of which each input uses a few."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from decaf_theory.arrays import Array, convert, integer, namespace, transpose
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients
from decaf_theory.methods.decoupled import require_room, zeros
from decaf_theory.methods.form import Form, Mixed, Receive
from decaf_theory.methods.state import Clock, Message, State
from decaf_theory.rng import generator
from decaf_theory.tsvd import TSVD

BASE, ROUTER, USED, EARLIER = "base", "router", "used", "earlier"


def rank1_pool(
    tasks: int = 5, *, active: int = 8, merged: int = 4, overlap: float = 0.1, seed: int = 0
) -> Form:
    """Return the form of a pool of r pairs b_j a_j' for so many tasks in turn.

        W x = W0 x + s sum_{j in S(x)} b_j a_j'x,   S(x): the `active` largest of (R x)_j

    At the end of a task the `merged` pairs that were used most are added to W0, for all inputs, and
    the others are dropped; the next task has a fresh pool. What trains adds to the loss overlap
    |B_S' B_E|_1, B_S the columns that would be merged now and B_E those merged so far.
    The router R [r, k], Gaussian of variance 1/k, is drawn for each task by a stream of the seed,
    one for all agents, and does not train: only through S does the loss depend on it, and S is
    piecewise constant, as in the authors' code.

    In a problem of weights the inputs are the unit vectors e_c: with M_jc = 1 where j is in S(e_c),
    W - W0 = s (base + B (M o A)), entry by entry. Uses are counted by the weights of the inputs,
    which a task gives where it `begins`; a caller that sees inputs counts them itself, in `used`.
    Between agents the pairs are mixed: averages of factors, or of products, those of each pair j
    by itself, truncated to rank one, as the router's choice is one of pairs. So the mean of every
    masked update is kept, up to these errors. R is equal at all; what was merged is an agent's own.
    A pool whose pairs are all active, without overlap, is LoRA until a task ends.
    Source: arXiv 2601.22828, its authors' code. ValueError: numbers of pairs or tasks that are not
    integers >= 1, an overlap < 0 or not finite.
    """
    for name, value in (("tasks", tasks), ("active", active), ("merged", merged)):
        integer(name, value, 1)
    if not 0 <= overlap < math.inf:
        raise ValueError(f"overlap must be finite and >= 0, got {overlap}")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {
            BASE: zeros(factors.B, *factors.shape),
            ROUTER: router(factors, seed, 0),
            USED: zeros(factors.B, factors.rank, 1),
            EARLIER: zeros(factors.B, factors.B.shape[-2], merged * (tasks - 1)),
        }

    def penalty(state: State) -> Array:
        return overlap_slope(state, merged) * overlap

    def gradients(g: Array, state: State, s: float) -> Factors:
        slopes = _gradients(g, state, s, active)
        return slopes._replace(B=slopes.B + penalty(state))

    def begins(state: State, t: int, fresh: Factors, inputs: Array | None) -> State:
        require_room(t, tasks)
        drawn = router(fresh, seed, t)
        used = zeros(fresh.B, fresh.rank, 1)
        if inputs is not None:
            used = used + mask(drawn, active) @ convert(np.reshape(inputs, (-1, 1)), fresh.A)
        return State(fresh, {**state.memory, ROUTER: drawn, USED: used})

    return Form(
        "s (base + B (M o A))",
        lambda state, s: _update(state, s, active),
        gradients,
        lambda factors, s: factors,
        lambda s: s,
        factored=False,
        label="rank1_pool",
        start=start,
        penalty=penalty,
        active=active,
        products=pair_by_pair,
        ends=lambda state: _merge(state, merged),
        begins=begins,
    )


def router(factors: Factors, seed: int, task: int) -> Array:
    """Return R [..., n, r, k], n views of one draw for all agents, runs and layers of a shape."""
    r, k = factors.A.shape[-2:]
    drawn = generator(seed, "router", task).standard_normal((r, k)) / math.sqrt(k)
    return namespace(factors.A).broadcast_to(convert(drawn, factors.A), factors.A.shape)


def largest(x: Array, count: int) -> Array:
    """Return 1 at the `count` largest of x [..., r, m] in each column, 0 elsewhere; ties: first."""
    xp = namespace(x)
    order = xp.argsort(-x, axis=-2, stable=True)
    places = xp.argsort(order, axis=-2, stable=True)
    return xp.astype(places < count, x.dtype)


def mask(scores: Array, active: int) -> Array:
    """Return M [..., r, m]: for each input, a column of scores, the pairs that it uses."""
    return largest(scores, active)


def overlap_slope(state: State, merged: int) -> Array:
    """Return the gradient in B of |B_S' B_E|_1: B_E sign(B_E' b_j) for the columns j of S."""
    B, E = state.factors.B, _array(state, EARLIER)
    chosen = transpose(largest(_array(state, USED), merged))
    return chosen * (E @ namespace(B).sign(transpose(E) @ B))


def _array(state: State, name: str) -> Array:
    return state.memory[name]


def _masked(state: State, active: int) -> Factors:
    """Return (B, M o A)."""
    M = mask(_array(state, ROUTER), active)
    return state.factors._replace(A=M * state.factors.A)


def _update(state: State, s: float, active: int) -> Array:
    pair, base = _masked(state, active), _array(state, BASE)
    return product(pair if s == 1 else pair._replace(B=s * pair.B)) + s * base


def _gradients(g: Array, state: State, s: float, active: int) -> Factors:
    """Return the gradients s G (M o A)' in B and M o (s B'G) in A."""
    slopes = factor_gradients(g, _masked(state, active), s)
    return slopes._replace(A=mask(_array(state, ROUTER), active) * slopes.A)


def _merge(state: State, merged: int) -> State:
    """Add the pairs that were used most to the base, and empty the pool."""
    chosen = largest(_array(state, USED), merged)
    own = state.factors._replace(B=state.factors.B * transpose(chosen))
    memory = {
        **state.memory,
        BASE: _array(state, BASE) + product(own),
        EARLIER: _appended(_array(state, EARLIER), state.factors.B, chosen, merged),
    }
    return State(state.factors._replace(B=namespace(own.B).zeros_like(own.B)), memory)


def _appended(E: Array, B: Array, chosen: Array, merged: int) -> Array:
    """Return E with the chosen columns of B in the place of its oldest, which are zero so far."""
    if E.shape[-1] == 0:
        return E
    xp, r = namespace(B), B.shape[-1]
    first = xp.argsort(-transpose(chosen), axis=-1, stable=True)[..., : min(merged, r)]
    picks = convert(np.arange(r)[:, None], first) == first
    return xp.concat([E[..., first.shape[-1] :], B @ xp.astype(picks, B.dtype)], axis=-1)


def pair_by_pair(receive: Receive) -> Receive:
    """Return the mix of each pair's product by itself, all at once as pools of one pair each.

    The truncation that it returns has the pairs' singular values, and in its tail what all pairs
    lost: the root of its squares' sum is that of the pairs' errors.
    """

    def mixed(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        alone = State(apart(own.factors))
        found = receive(alone, apart(Factors(sent["B"], sent["A"]))._asdict(), weights, clock)
        assert found.truncated is not None  # of a method that mixes products
        S, tail = (_of_all(x) for x in (found.truncated.singular_values, found.truncated.tail))
        factors = joined(found.state.factors)
        truncated = TSVD(joined(found.truncated.factors), S, tail, found.truncated.info)
        return Mixed(own._replace(factors=factors), truncated)

    return mixed


def apart(factors: Factors) -> Factors:
    """Return the pairs by themselves, B [..., r, n, d, 1] and A [..., r, n, 1, k]."""
    xp = namespace(factors.B)
    B, A = xp.moveaxis(factors.B, -1, -3), xp.moveaxis(factors.A, -2, -3)
    return Factors(B[..., None], A[..., None, :])


def joined(pairs: Factors) -> Factors:
    """Return pairs by themselves as one pool, the inverse of `apart`."""
    xp = namespace(pairs.B)
    return Factors(xp.moveaxis(pairs.B[..., 0], -3, -1), xp.moveaxis(pairs.A[..., 0, :], -3, -2))


def _of_all(x: Array) -> Array:
    """Return numbers of each pair [..., r, n, w] as those of the agents, [..., n, r w]."""
    moved = namespace(x).moveaxis(x, -3, -2)
    return moved.reshape((*moved.shape[:-2], moved.shape[-2] * moved.shape[-1]))
