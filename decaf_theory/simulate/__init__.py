"""One loop for every method: mixing and local steps on exactly specified problems, over runs.

from decaf_theory.simulate import Config, simulate
trace = simulate(Config(method="decaf", problem=problem, Pi=Pi, rank=2, lr=0.1, steps=100))
trace.require_finished().loss                   # [runs, steps + 1]
"""

from decaf_theory.simulate.config import ORDERS, Config, DeadStartWarning, start_factors
from decaf_theory.simulate.divergence import DIVERGED
from decaf_theory.simulate.rounds import simulate, visits
from decaf_theory.simulate.trace import Trace
from decaf_theory.simulate.visit import Mix, SimulationError, Visit

__all__ = [
    "DIVERGED",
    "ORDERS",
    "Config",
    "DeadStartWarning",
    "Mix",
    "SimulationError",
    "Trace",
    "Visit",
    "simulate",
    "start_factors",
    "visits",
]
