"""One loop for every method: mixing and local steps on exactly specified problems, over runs.

    from decaf_theory.problems import PROBLEMS
    from decaf_theory.simulate import Config, simulate
    from decaf_theory.topology import TOPOLOGIES

    problem = PROBLEMS["P3"](N=8, d=6, k=5)
    config = Config(problem=problem, Pi=TOPOLOGIES["ring"](8), rank=2, lr=0.1, steps=100)
    trace = simulate(config).require_finished()
    trace.loss                                      # [runs, steps + 1]

A loss of your own is a `Problem` of two functions, for all agents at once: `loss` [..., N, d, k] ->
[..., N] and `grad` [..., N, d, k] -> [..., N, d, k], where an agent axis of length 1 is one point
for all. Constants that you have not proved stay out; only bounds and advice need them.

    import numpy as np
    from decaf_theory.problems import Problem

    targets = np.random.default_rng(0).standard_normal((8, 6, 5))
    cosh = Problem(
        "log cosh", 8, 6, 5,
        loss=lambda W: np.log(np.cosh(W - targets)).sum(axis=(-2, -1)),
        grad=lambda W: np.tanh(W - targets),
    )

A graph of your own is a matrix `Pi` with rows and columns that sum to one, dense or sparse
(`topology.metropolis` makes one of a networkx graph), or a function of the round. It need not be
symmetric; bounds that hold for symmetric ones ask for it (`topology.sqrt_rho`). Agents that count
by their data mix by a reversible matrix, whose columns need not sum to one, and say so by their
weights, `Config(Pi=topology.reversible(ring, counts), target=counts)`: what is minimized and
recorded then has these weights.

A method of your own is a `Method`: copy one and replace the functions in which yours differs. This
one mixes every fifth round and trains B and A by turns:

    from dataclasses import replace
    from decaf_theory.methods import METHODS

    method = replace(
        METHODS["dlora"],
        name="by turns",
        mixes=lambda clock: clock.round % 5 == 4,
        trains=lambda clock: ("B",) if clock.round % 2 == 0 else ("A",),
    )
    config = Config(
        problem=cosh, method=method, rank=2, lr=0.1, steps=500,
        Pi=lambda t: TOPOLOGIES["ring" if t < 100 else "complete"](8),
    )
    trace = simulate(config, watch=lambda visit: visit.agent_loss.mean() < 9)
    trace.status                                    # "finished", or "stopped" by the watch

`visits(config)` yields the states one by one, for quantities that no `Trace` has.
"""

from decaf_theory.simulate.config import (
    ORDERS,
    Config,
    DisconnectedWarning,
)
from decaf_theory.simulate.divergence import DIVERGED
from decaf_theory.simulate.in_turn import Learned, learn
from decaf_theory.simulate.rounds import simulate, visits
from decaf_theory.simulate.start import DeadStartWarning, start_factors
from decaf_theory.simulate.trace import Trace
from decaf_theory.simulate.visit import Mix, SimulationError, Visit

__all__ = [
    "DIVERGED",
    "ORDERS",
    "Config",
    "DeadStartWarning",
    "DisconnectedWarning",
    "Learned",
    "Mix",
    "SimulationError",
    "Trace",
    "Visit",
    "learn",
    "simulate",
    "start_factors",
    "visits",
]
