"""The same methods served by ranks of torch.distributed, each of which talks to its neighbours.

Started by torchrun, with any training loop around the one line that mixes:

    from decaf_theory.distributed import Neighbourhood
    from decaf_theory.methods import METHODS
    from decaf_theory.topology import TOPOLOGIES

    neighbourhood = Neighbourhood(METHODS["decaf"], TOPOLOGIES["ring"](4), factors)
    for round in range(100):
        ...                                            # local steps of these factors
        factors = neighbourhood.mix(factors, round)

A rank holds a block of the agents, one by default, in the order of the rows of Pi. In a round it
sends one message to each rank that has a neighbour of its agents: one flat buffer of the bytes that
`Method.send` names for them. `run` serves a simulation's `Config` in this way.

What goes wrong between ranks is a `RankError` of one line: a rank that does not join, joins with
other settings, ends, or is late; a message that is not finite.
"""

from decaf_theory.distributed.apart import by_blocks
from decaf_theory.distributed.joining import enter
from decaf_theory.distributed.neighbourhood import Neighbourhood
from decaf_theory.distributed.running import Ran, run
from decaf_theory.distributed.wire import RankError

__all__ = ["Neighbourhood", "Ran", "RankError", "by_blocks", "enter", "run"]
