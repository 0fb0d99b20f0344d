"""What every method promises of a round that ends with a mix, each as a gap and what it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, host
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods.base import Method
from decaf_theory.methods.gaps import (
    EPS,
    Gap,
    Round,
    between,
    exchange,
    mixed,
    rounding,
    sizes,
    taken,
    together,
    truncation_rounding,
    whole,
)
from decaf_theory.methods.state import Clock, State, message_bytes

LOCAL = 4  # local steps of a round, of which the first two are looked at


class Promise(NamedTuple):
    """What is measured, in words, how, and which methods promise it."""

    what: str
    gap: Callable[[Method, Round], Gap]
    of: Callable[[Method], bool] = lambda method: True


# ---------------------------------------------------------------- functions


def finite(method: Method, at: Round) -> Gap:
    """Return one for each number of the state after the mix that is NaN or inf."""
    flat = [host(X).ravel() for X in _arrays(exchange(method, *at).state)]
    return Gap(1.0 - np.isfinite(np.concatenate(flat)), 0.0)


def inputs_left(method: Method, at: Round) -> Gap:
    """Return by how much a mix and a step change the factors and weights that they are given."""
    given, Pi = at.factors.map(np.copy), at.Pi.copy()
    exchange(method, given, Pi, at.clock)
    method.step(method.begin(given), given, at.clock._replace(steps=LOCAL))
    changed = [
        np.abs(X - Y).ravel() for X, Y in zip((*given, Pi), (*at.factors, at.Pi), strict=True)
    ]
    return Gap(np.concatenate(changed), 0.0)


def same_again(method: Method, at: Round) -> Gap:
    """Return how far apart two mixes of the same are."""
    once, again = (product(mixed(method, at)) for _ in range(2))
    return Gap(np.abs(once - again), 0.0)


# ---------------------------------------------------------------- agents


def equal_agents(method: Method, at: Round) -> Gap:
    """Return how far a mix moves the product that all agents hold, in one gauge."""
    equal = at.factors.map(lambda X: np.broadcast_to(X[:1], X.shape))
    before = whole(method, method.begin(equal))
    # of rank r, so that nothing is truncated and no gap matters
    gap = product(mixed(method, at._replace(factors=equal))) - product(before)
    return Gap(np.abs(gap), rounding(at.Pi, equal))


def numbering(method: Method, at: Round) -> Gap:
    """Return how far agents that are numbered anew end from where they ended.

    By a cycle and by an exchange of two, of which every permutation is made.
    """
    agents = [*range(len(at.Pi))]
    orders = [*agents[1:], agents[0]], [*agents[:2][::-1], *agents[2:]]
    return together([_numbered(method, at, order) for order in orders])


def _numbered(method: Method, at: Round, order: list[int]) -> Gap:
    anew = Round(taken(at.factors, order), at.Pi[np.ix_(order, order)], at.clock)
    return between(method, mixed(method, anew), taken(mixed(method, at), order), anew)


def one_agent(method: Method, at: Round) -> Gap:
    """Return how far an agent with its neighbours' messages alone ends from where all took it."""
    begun = method.begin(at.factors)
    weights = method.weights(at.Pi, begun.agents, at.clock)
    if weights is None:
        return Gap(np.zeros(1), 0.0)
    every = mixed(method, at)
    sent = method.send(begun, at.clock)
    gaps = []
    for agent in range(begun.agents):
        row = weights[min(agent, len(weights) - 1)]
        near = np.flatnonzero(row)
        heard = {name: X[..., near, :, :] for name, X in sent.items()}
        own = method.received(begun.take([agent]), heard, row[None, near], at.clock).state
        expected = taken(every, [agent])
        gaps.append(between(method, whole(method, own), expected, at, rows=[agent]))
    return together(gaps)


def one_agents_step(method: Method, at: Round) -> Gap:
    """Return how far the direction of an agent's own step is from what all agents' step gave it."""
    begun, gradients = method.begin(at.factors), at.factors.map(np.cos)
    gaps = []
    for clock in (at.clock._replace(step=h, steps=LOCAL) for h in (0, 1)):
        every = method.step(begun, gradients, clock).gradients
        for agent in range(begun.agents):
            own = taken(gradients, [agent])
            found = method.step(begun.take([agent]), own, clock).gradients
            for X, Y in zip(found, every, strict=True):
                # a field of condition below 100, the same operations on a batch of one
                gaps.append(Gap(np.abs(X - Y[[agent]]), 1000 * EPS * np.abs(Y[agent]).max()))
    return together(gaps)


def bytes_sent(method: Method, at: Round) -> Gap:
    """Return the bytes of an agent's part of the message, and those that are counted for it."""
    message = method.send(method.begin(at.factors), at.clock)
    sent = sum(X.nbytes for X in message.values()) / len(at.Pi)
    return Gap(np.array(sent), float(message_bytes(message)))


# ---------------------------------------------------------------- means


def keeps_factor(name: str) -> Callable[[Method, Round], Gap]:
    """Return the gap of the network's mean of a factor."""

    def gap(method: Method, at: Round) -> Gap:
        pairs = at.factors, exchange(method, *at).state.factors
        before, after = (getattr(pair, name) for pair in pairs)
        size = dict(zip("BA", sizes(*pairs), strict=True))[name]
        return Gap(np.abs(before.mean(0) - after.mean(0)), 4 * len(at.Pi) * EPS * size)

    return gap


def keeps_product(method: Method, at: Round) -> Gap:
    """Return the gap of the network's mean of W - W0 in units of B A."""
    before, after = whole(method, method.begin(at.factors)), mixed(method, at)
    lost = product(before).mean(axis=0) - product(after).mean(axis=0)
    return Gap(np.abs(lost), rounding(at.Pi, at.factors, after))


def keeps_up_to_E(method: Method, at: Round) -> Gap:
    """Return |M_i - P_i|_F of each agent, and that of the best approximation of M_i of rank r.

    M_i is the mean of products: their mean over the network, all of which is kept but the mean of
    M_i - P_i, where the rows of Pi and its columns sum to one.
    """
    M = np.einsum("ij,jab->iab", at.Pi, product(whole(method, method.begin(at.factors))))
    E = M - product(mixed(method, at))
    tail = np.linalg.svd(M, compute_uv=False)[:, at.factors.rank :]
    optimal = np.sqrt(np.sum(tail**2, axis=1))
    loss = M[0].size * rounding(at.Pi, at.factors)
    return Gap(np.sqrt(np.sum(E**2, axis=(1, 2))), optimal + loss)


def gauge(method: Method, at: Round) -> Gap:
    """Return how far apart two mixes end, before and after agents turn and stretch their gauges."""
    N, r = len(at.Pi), at.factors.rank
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((N, r, r)))[0]
    stretch = 2.0 ** rng.integers(-2, 3, (N, 1, r))  # exact, condition at most 16
    B, A = at.factors
    turned = at._replace(factors=Factors(B * stretch @ Q, Q.mT @ (A / stretch.mT)))
    # each mix rounds, and so does the turning, whose products are as large as the turned ones
    loss = sum(n * truncation_rounding(f, at.Pi) for n, f in ((1, at.factors), (2, turned.factors)))
    return Gap(np.abs(product(mixed(method, at)) - product(mixed(method, turned))), loss)


# ---------------------------------------------------------------- arrays


def rows_alone(method: Method, at: Round) -> Gap:
    """Return how far a mix of some rows of Pi ends from those rows of a mix of all.

    In the first round, as in a merge: later ones may leave alone what is equal by then.
    """
    first, rows = at._replace(clock=Clock()), range(len(at.Pi))[::-2]
    found = method.mix(at.factors, at.Pi[rows])
    return between(method, found, taken(mixed(method, first), rows), first, rows=rows)


def sparse_weights(method: Method, at: Round) -> Gap:
    """Return how far a mix by a sparse Pi ends from that by the dense one."""
    from scipy import sparse  # here, so that the library loads without it

    found = whole(method, exchange(method, at.factors, sparse.csr_array(at.Pi), at.clock).state)
    return between(method, found, mixed(method, at), at)


def batches(method: Method, at: Round) -> Gap:
    """Return how far three runs that are mixed at once end from each by itself."""
    turned = taken(at.factors, range(len(at.Pi))[::-1])
    runs = [at.factors, turned, at.factors._replace(B=2 * at.factors.B)]
    every = mixed(method, at._replace(factors=Factors(*map(np.stack, zip(*runs, strict=True)))))
    singles = [at._replace(factors=factors) for factors in runs]
    found = (Factors(*pair) for pair in zip(*every, strict=True))
    gaps = zip(found, singles, strict=True)
    return together([between(method, run, mixed(method, one), one) for run, one in gaps])


def narrow(method: Method, at: Round) -> Gap:
    """Return how far a mix in float32 ends from that of the same numbers in float64."""
    return _of_kind(method, at, at.factors.map(lambda X: X.astype(np.float32)), 2.0**-23)


def tensors(method: Method, at: Round) -> Gap:
    """Return how far a mix of torch's tensors ends from that of arrays."""
    import torch

    return _of_kind(method, at, at.factors.map(torch.tensor), EPS)


def _of_kind(method: Method, at: Round, given: Factors, eps: float) -> Gap:
    """Return the gap; ValueError unless arrays of another kind or dtype stay what they are."""
    after = exchange(method, given, at.Pi, at.clock).state
    sent = method.send(method.begin(given), at.clock)
    of = type(given.B), given.B.dtype
    for X in (*_arrays(after), *sent.values()):
        # integers count, as places and agents' numbers do
        if "int" not in str(X.dtype) and (type(X), X.dtype) != of:
            raise ValueError(
                f"what agents hold and send must be {of[0].__name__} of {of[1]}, as their factors "
                f"are, got {type(X).__name__} of {X.dtype}"
            )
    exact = at._replace(factors=given.map(lambda X: host(X).astype(np.float64)))
    found = whole(method, after).map(lambda X: host(X).astype(np.float64))
    return between(method, found, mixed(method, exact), exact, eps=eps)


def _arrays(state: State) -> list[Array]:
    """Return all arrays that agents hold."""
    kept = [(X,) if not isinstance(X, Factors) else X for X in state.memory.values()]
    return [X for pair in (state.factors, *kept) for X in pair]
