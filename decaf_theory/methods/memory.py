"""Methods that step along something they keep: gradient tracking and heavy ball."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods.base import (
    Direction,
    Method,
    Mixed,
    Origin,
    along_the_gradient,
    require_means,
    require_unused,
    wrapped,
)
from decaf_theory.methods.factor import DLORA
from decaf_theory.methods.state import Clock, Message, State, for_agents


def tracking(method: Method, parts: tuple[str, ...] = ("B", "A")) -> Method:
    """Return gradient tracking of a method that mixes the factors `parts`.

        y_i <- y_i + g_i - (last g_i),   x_i <- x_i - lr y_i,   then x and y are both mixed

    from y = last g = 0, so that the mean of the trackers y is that of the gradients. What else is
    done to gradients goes around it: heavy_ball(tracking(DLORA), beta). ValueError: a method with a
    local step of its own, whose mix is not the mean of the factors it sends, or whose parameters
    depend on the graph.
    """
    base = wrapped("tracking", method)
    require_means("tracking", method)
    if method.step is not along_the_gradient:
        raise ValueError(
            f"tracking needs a method that steps along the gradient, which {method.name} does not; "
            f"wrap the tracked method instead, as in private(tracking(DLORA), 1.0, 1.0)"
        )

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


@dataclass(frozen=True)
class HeavyBall:
    """The local step of `heavy_ball`: m <- beta m + g, and from there what `of` makes of m."""

    beta: float
    of: Callable[[State, Factors, Clock], Direction]

    def __call__(self, state: State, gradients: Factors, clock: Clock) -> Direction:
        """Return where the step goes."""
        momentum = state.pair("momentum").map(lambda m, g: self.beta * m + g, gradients)
        memory = {**state.memory, "momentum": momentum}
        return self.of(state._replace(memory=memory), momentum, clock)


def heavy_ball(method: Method, beta: float) -> Method:
    """Return the method with local momentum: m_i <- beta m_i + g_i, a step along m_i, m not mixed.

    beta = 0 is the method itself. ValueError: beta outside [0, 1); a method that has momentum, or
    whose parameters depend on the graph.
    """
    base = wrapped("heavy_ball", method)
    require_unused("heavy_ball", method, "momentum")
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {**method.start(factors), "momentum": factors.map(lambda X: 0 * X)}

    origin = Origin(
        f"m_i <- beta m_i + g_i, x_i <- mix(x_i - lr m_i), m stays; x = (B, A), beta = {beta:g}",
        "standard",
        "C",
    )
    step = HeavyBall(beta, method.step)
    return replace(base, name="heavy_ball", start=start, step=step, origin=origin)


GRADIENT_TRACKING = tracking(DLORA)
HEAVY_BALL = heavy_ball(DLORA, 0.9)
