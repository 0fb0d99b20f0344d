"""CHOCO: agents send compressed differences to what the others know of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods.base import Method, Mixed, Origin
from decaf_theory.methods.factor import DLORA
from decaf_theory.methods.state import Clock, Message, State, for_agents


def largest_entries(X: Array, share: float) -> tuple[Array, Array]:
    """Return the m = ceil(share a b) largest entries in size of X [..., a, b], and their places.

    Both [..., 1, m]; places count along the rows, as int32.
    """
    xp = namespace(X)
    flat = xp.reshape(X, (*X.shape[:-2], 1, -1))
    m = math.ceil(share * flat.shape[-1])
    places = xp.argsort(-xp.abs(flat), axis=-1, stable=True)[..., :m]
    return xp.take_along_axis(flat, places, axis=-1), xp.astype(places, xp.int32)


def from_entries(values: Array, places: Array, like: Array) -> Array:
    """Return the matrices [..., a, b], shaped like `like`, that have these entries, else zeros."""
    xp = namespace(values)
    a, b = like.shape[-2:]
    flat = xp.zeros((*values.shape[:-1], a * b), dtype=values.dtype, device=values.device)
    index = xp.astype(places, xp.int64)
    if isinstance(flat, np.ndarray):
        np.put_along_axis(flat, index, values, axis=-1)
    else:
        flat = flat.scatter(-1, index, values)
    return xp.reshape(flat, (*values.shape[:-2], a, b))


def choco(share: float, gamma: float) -> Method:
    """Return CHOCO-SGD on the factors x = (B, A), where Q keeps the largest entries of each.

        q_i = Q(x_i - h_i),   h_i <- h_i + q_i,   x_i <- x_i + gamma (sum_j pi_ij h_j - h_i)

    h_i, zero at the start, is what the others know of x_i; an agent keeps its own and the sum of
    its neighbours', so that q_i is all that travels, and the graph must be the same in all rounds:
    a schedule is refused.
    Q keeps this share of the entries of a factor, the largest in size, sent with their places: in
    float32 a share of one half saves nothing.
    share = gamma = 1 is DLoRA. Source: arXiv 1902.00340. ValueError: share or gamma outside (0, 1].
    """
    for name, value in (("share", share), ("gamma", gamma)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be in (0, 1], got {value}")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        zero = factors.map(lambda X: 0 * X)
        return {"known": zero, "heard": zero}

    def send(state: State, clock: Clock) -> Message:
        known = state.pair("known")
        message: dict[str, Array] = {}
        for name, X in state.factors._asdict().items():
            values, places = largest_entries(X - getattr(known, name), share)
            message |= {name: values, f"{name} places": places}
        return message

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        # what an agent sent itself is made anew from its own state: among the messages that one
        # rank heard, it could not tell which is its own
        mine = send(own, clock)
        known, heard = own.pair("known"), own.pair("heard")
        known = known.map(lambda h, q: h + q, _unpacked(mine, known))
        heard = heard.map(
            lambda h, q: h + for_agents(mean_over_agents(q, weights), own.agents),
            _unpacked(sent, own.factors),
        )
        factors = own.factors.map(lambda x, s, h: x + gamma * (s - h), heard, known)
        return Mixed(State(factors, {**own.memory, "known": known, "heard": heard}))

    origin = Origin(
        "q_i = Q(x_i - h_i), h_i <- h_i + q_i, x_i <- x_i + gamma (sum_j pi_ij h_j - h_i); x = (B, "
        f"A), Q the largest {share:g} of the entries, gamma = {gamma:g}",
        "arXiv 1902.00340",
        "C",
    )
    return replace(
        DLORA,
        name="choco",
        start=start,
        send=send,
        receive=receive,
        merges=False,
        one_graph=True,
        origin=origin,
    )


def _unpacked(message: Message, factors: Factors) -> Factors:
    """Return the changes of a message, zero where it names no place, in the shape of factors."""
    pairs = factors._asdict().items()
    return Factors(*(from_entries(message[n], message[f"{n} places"], X) for n, X in pairs))


CHOCO = choco(0.25, 0.5)
