"""Local steps along a gradient that stands for all agents', of a size that keeps them close."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods.base import Direction, Method, Mixed, Origin
from decaf_theory.methods.factor import FEDAVG, average_factors
from decaf_theory.methods.state import Clock, Message, State, for_agents


def fedagg(penalty: float = 1.0, own: float = 0.5) -> Method:
    r"""Return FedAgg: FedAvg with local steps along aggregated gradients, of sizes that adapt.

    In local step h = 0, 1, ... of a round an agent with the gradient g steps by eta a, where

        a = (1 - own) phi + own g,   eta minimizes |eta a - lr a|^2 + penalty |x - eta a - m|^2

    over eta >= 0, x = (B, A) of one layer. The mean-field terms stand for what it cannot see: phi
    for the mean of the agents' directions, and m = x_0 - lr (h + 1) phi for the mean of their
    parameters, x_0 the last mix. At each mix phi becomes the mean over agents and local steps of
    the last directions eta a/lr: one step of the iteration whose fixed point reproduces its own
    mean. With D the sum of an agent's directions in the round, (x - m)/lr = (h + 1) phi - D, and

        eta/lr = max(0, (1 + penalty <a, (h + 1) phi - D>/|a|^2)/(1 + penalty))

    From one x a step ends no farther from m than a constant step does, as eta = lr is allowed. In
    the first round, before phi is known, steps are plain. penalty = 0 with own = 1 is FedAvg. lr
    must be one number within a round, and no optimizer of its own memory may follow. Source: arXiv
    2303.15799, of which this is a reading, not confirmed. ValueError: penalty < 0 or not finite;
    own outside (0, 1].
    """
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty must be finite and >= 0, got {penalty}")
    if not 0 < own <= 1:
        raise ValueError(f"own must be in (0, 1], got {own}")

    def step(state: State, gradients: Factors, clock: Clock) -> Direction:
        phi, moved = state.pair("field"), state.pair("moved")
        if clock.round == 0:
            direction = gradients
        else:
            a = gradients.map(lambda g, f: (1 - own) * f + own * g, phi)
            ahead = phi.map(lambda f, D: (clock.step + 1) * f - D, moved)
            size = (1 + penalty * _share(a, ahead)) / (1 + penalty)
            xp = namespace(size)
            direction = a.map(lambda X: xp.clip(size, min=0.0) * X)
        memory = {**state.memory, "moved": moved.map(lambda D, step: D + step, direction)}
        return Direction(direction, state._replace(memory=memory))

    origin = Origin(
        "a = (1 - w) phi + w g; local step eta a, eta = argmin |eta a - lr a|^2 + c |x - eta a - "
        "m|^2; phi = the last round's mean direction, m = x_0 - lr (h + 1) phi; A, B <- means; "
        f"w = {own:g}, c = {penalty:g}; reading, not confirmed",
        "arXiv 2303.15799",
        "?",
    )
    return replace(
        FEDAVG,
        name="fedagg",
        start=_start,
        send=_send,
        receive=_receive,
        step=step,
        origin=origin,
    )


def _start(factors: Factors) -> Mapping[str, Factors | Array]:
    zero = factors.map(lambda X: 0 * X)
    return {"field": zero, "moved": zero}


def _send(state: State, clock: Clock) -> Message:
    moved = state.pair("moved")
    return {**state.factors._asdict(), "moved B": moved.B, "moved A": moved.A}


def _receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    """Average the factors, and the directions of the round, which become the field."""
    mixed = average_factors(own, {"B": sent["B"], "A": sent["A"]}, weights, clock).state
    means = (mean_over_agents(sent[f"moved {name}"], weights) for name in ("B", "A"))
    field = Factors(*(for_agents(X / clock.steps, own.agents) for X in means))
    memory = {**own.memory, "field": field, "moved": field.map(lambda X: 0 * X)}
    return Mixed(mixed._replace(memory=memory))


def _share(a: Factors, x: Factors) -> Array:
    """Return <a, x>/|a|^2 over both factors, [..., n, 1, 1]; zero where a is zero."""
    xp = namespace(a.B)
    inner, square = (
        sum(xp.sum(X * Y, axis=(-2, -1), keepdims=True) for X, Y in zip(a, other, strict=True))
        for other in (x, a)
    )
    there = square > 0
    return xp.where(there, inner / xp.where(there, square, xp.ones_like(square)), 0 * inner)


FEDAGG = fedagg()
