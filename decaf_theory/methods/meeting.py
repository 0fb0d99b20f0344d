"""Who exchanges messages with whom, and how many messages that takes."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, host

# an agent meets its neighbours on the graph, all agents by way of a server, or nobody
Meeting: TypeAlias = Literal["graph", "server", "none"]
# a server's answer to an agent is as long as one message, or as those of all agents
Answer: TypeAlias = Literal["one", "all"]


def weights_of(meeting: Meeting, Pi: Array | None, N: int) -> Array | None:
    """Return the weights with which N agents average, None where they meet nobody.

    The rows of Pi [n, N] on a graph; by a server one row [1, N] of weights 1/N, the same for all.
    """
    if meeting == "none":
        return None
    return Pi if meeting == "graph" else np.full((1, N), 1.0 / N)


def messages_of(meeting: Meeting, Pi: Array | None, N: int, answer: Answer = "one") -> int:
    """Return how many messages N agents send when they meet once.

    One for each directed link of the graph (self-weights travel nowhere); by a server one to it
    from each agent, and to each agent its answer, which is one message long or N.
    """
    if meeting == "graph":
        assert Pi is not None  # callers ask for the graph's messages with a graph
        return _links(Pi)
    if meeting == "server":
        return N + N * (1 if answer == "one" else N)
    return 0


def _links(Pi: Array) -> int:
    """Return the number of nonzero entries of Pi off its diagonal."""
    if hasattr(Pi, "tocsr"):
        csr = Pi.tocsr()
        return int(np.count_nonzero(csr.data)) - int(np.count_nonzero(csr.diagonal()))
    dense = host(Pi.to_dense() if hasattr(Pi, "to_dense") else Pi)
    return int(np.count_nonzero(dense)) - int(np.count_nonzero(np.diagonal(dense)))
