"""Every method by name. A new one is a file and a line in this table.

from decaf_theory.methods import METHODS
mixed = METHODS["decaf"].mix(factors, Pi)       # one round of mixing, nothing else
"""

from __future__ import annotations

from decaf_theory.methods.base import Direction, Method, Mixed
from decaf_theory.methods.factor import CENTRALIZED, DLORA, DLORA_FA, DSGD, FEDAVG, LOCAL
from decaf_theory.methods.product import DECAF, keeping_directions
from decaf_theory.methods.ranks import limiting_ranks, within_ranks
from decaf_theory.methods.state import Clock, State, for_agents
from decaf_theory.names import Table

__all__ = [
    "METHODS",
    "Clock",
    "Direction",
    "Method",
    "Mixed",
    "State",
    "for_agents",
    "keeping_directions",
    "limiting_ranks",
    "within_ranks",
]

METHODS: Table[Method] = Table(
    {method.name: method for method in (DSGD, LOCAL, CENTRALIZED, FEDAVG, DLORA, DLORA_FA, DECAF)}
)
