"""Methods that step along something they keep: gradient tracking and heavy ball."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods.base import Direction, Method, Mixed, Origin, require_means, wrapped
from decaf_theory.methods.factor import DLORA
from decaf_theory.methods.state import Clock, Message, State, for_agents


def tracking(method: Method, parts: tuple[str, ...] = ("B", "A")) -> Method:
    """Return gradient tracking of a method that mixes the factors `parts`.

        y_i <- y_i + g_i - (last g_i),   x_i <- x_i - lr y_i,   then x and y are both mixed

    from y = last g = 0, so that the mean of the trackers y is that of the gradients. ValueError: a
    method whose mix is not the mean of the factors it sends, or whose parameters depend on the
    graph.
    """
    base = wrapped("tracking", method)
    require_means("tracking", method)

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        zero = factors.map(lambda X: 0 * X)
        return {"tracker": zero, "last": zero}

    def send(state: State, clock: Clock) -> Message:
        tracker = state.memory["tracker"]
        own = {name: getattr(state.factors, name) for name in parts}
        return own | {f"tracker {name}": getattr(tracker, name) for name in parts}

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        mean = {n: for_agents(mean_over_agents(X, weights), own.agents) for n, X in sent.items()}
        old = own.pair("tracker")
        tracker = old._replace(**{name: mean[f"tracker {name}"] for name in parts})
        factors = own.factors._replace(**{name: mean[name] for name in parts})
        return Mixed(State(factors, {**own.memory, "tracker": tracker}))

    def step(state: State, gradients: Factors, clock: Clock) -> Direction:
        last, tracker = state.pair("last"), state.pair("tracker")
        tracker = tracker.map(lambda y, g, old: y + g - old, gradients, last)
        memory = {**state.memory, "tracker": tracker, "last": gradients}
        return Direction(tracker, state._replace(memory=memory))

    origin = Origin(
        "x_i <- mix(x_i - lr y_i) and y_i <- mix(y_i), y_i <- y_i + g_i - last g_i before each "
        "step; x = (B, A)",
        "arXiv 1607.03218",
        "C",
    )
    return replace(
        base,
        name="gradient_tracking",
        start=start,
        send=send,
        receive=receive,
        step=step,
        origin=origin,
    )


def heavy_ball(method: Method, beta: float) -> Method:
    """Return the method with local momentum: m_i <- beta m_i + g_i, a step along m_i, m not mixed.

    beta = 0 is the method itself. ValueError: beta outside [0, 1); a method whose parameters depend
    on the graph.
    """
    base = wrapped("heavy_ball", method)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {**method.start(factors), "momentum": factors.map(lambda X: 0 * X)}

    def step(state: State, gradients: Factors, clock: Clock) -> Direction:
        momentum = state.pair("momentum").map(lambda m, g: beta * m + g, gradients)
        memory = {**state.memory, "momentum": momentum}
        return method.step(state._replace(memory=memory), momentum, clock)

    origin = Origin(
        f"m_i <- beta m_i + g_i, x_i <- mix(x_i - lr m_i), m stays; x = (B, A), beta = {beta:g}",
        "standard",
        "C",
    )
    return replace(base, name="heavy_ball", start=start, step=step, origin=origin)


GRADIENT_TRACKING = tracking(DLORA)
HEAVY_BALL = heavy_ball(DLORA, 0.9)
