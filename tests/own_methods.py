"""Two methods that the table does not have: one with memory, one with phases."""

from dataclasses import replace

from decaf_theory.lowrank import mean_over_agents
from decaf_theory.methods import METHODS, Direction, Mixed, for_agents


def tracking(base="dlora", parts=("B", "A")):
    """Return gradient tracking of the factors `parts`: agents step along trackers, which mix, too.

    A tracker moves by what its gradient moved, so that the mean of the trackers is that of the
    gradients.
    """

    def start(factors):
        zero = factors.map(lambda X: 0 * X)
        return {"tracker": zero, "last": zero}

    def send(state, clock):
        own = {name: getattr(state.factors, name) for name in parts}
        return own | {f"tracker {n}": getattr(state.memory["tracker"], n) for n in parts}

    def receive(own, sent, weights, clock):
        means = {n: for_agents(mean_over_agents(X, weights), own.agents) for n, X in sent.items()}
        tracker = own.memory["tracker"]._replace(**{n: means[f"tracker {n}"] for n in parts})
        factors = own.factors._replace(**{n: means[n] for n in parts})
        return Mixed(own._replace(factors=factors, memory={**own.memory, "tracker": tracker}))

    def step(state, gradients, clock):
        last, tracker = state.memory["last"], state.memory["tracker"]
        tracker = tracker.map(lambda y, g, old: y + g - old, gradients, last)
        return Direction(tracker, state._replace(memory={"tracker": tracker, "last": gradients}))

    own = {"start": start, "send": send, "receive": receive, "step": step}
    return replace(METHODS[base], name="tracking", **own)


def switching(period):
    """Return the method that trains B and A by turns of `period` rounds and mixes both."""

    def trains(clock):
        return ("A",) if clock.round // period % 2 else ("B",)

    return replace(METHODS["dlora"], name="switching", trains=trains)
