"""FedHL: a server keeps the whole W; clients of unequal rank start from truncations of it.

The clients' points W_i, of which a trace reports, are the truncations; memory["server"] is
(W - W0) / s itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors, mean_over_agents, product
from decaf_theory.methods.base import Mixed, Origin
from decaf_theory.methods.merged import mean_of_products, nothing_merged
from decaf_theory.methods.product import FLEXLORA, truncation_of_all
from decaf_theory.methods.state import Clock, Message, State, for_agents
from decaf_theory.methods.unequal import held_directions
from decaf_theory.tsvd import tsvd

LEAST = 1e-6  # is added to every energy, so that a client that dropped nothing has a weight


def _start(factors: Factors) -> Mapping[str, Factors | Array]:
    """Return W = 0 and its truncation: what the clients hold first is their first move."""
    zero = namespace(factors.B).zeros_like
    return {"server": nothing_merged(factors), "start": factors.map(zero)}


def _add_moves(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    """W <- W + sum_j p_j (B_j A_j - TSVD_{r_j}(W)), and B_i A_i <- TSVD_r(W) for all.

    The rank r_j is seen in the message: a direction that is zero in both factors is not held.
    ValueError: weights of more than one row, as on a graph.
    """
    if weights.shape[0] != 1:
        raise ValueError(
            f"fedhl has one server, so weights must be one row for all, got {weights.shape[0]} rows"
        )
    n, one = own.agents, own.take([0])  # the same at all
    W, start = one.memory["server"], one.pair("start")
    ends = Factors(sent["B"], sent["A"])
    held = held_directions(ends)
    h = 1 / (_dropped(W, start, held) + LEAST)[..., None, None]
    total = mean_over_agents(h, weights)
    begun = mean_over_agents(h * held[..., None, :], weights) / total  # weight of each direction
    moved = mean_of_products(ends._replace(B=h * ends.B), weights) / total
    W = W + moved - product(start._replace(B=begun * start.B))
    truncated = truncation_of_all(tsvd(W, own.factors.rank), n)
    memory = {**own.memory, "server": for_agents(W, n), "start": truncated.factors}
    return Mixed(State(truncated.factors, memory), truncated)


def _dropped(W: Array, start: Factors, held: Array) -> Array:
    """Return e_j^2 = |W - TSVD_{r_j}(W)|_F^2 of each client, [..., N].

    start: TSVD_r(W) in balanced factors, [..., 1, ., .], whose columns of B have squares sigma_l.
    """
    xp = namespace(W)
    rest = xp.sum((W - product(start)) ** 2, axis=(-2, -1))
    S = xp.sum(start.B**2, axis=-2)
    return rest + xp.sum((1 - held) * S**2, axis=-1)


FEDHL = replace(
    FLEXLORA,
    name="fedhl",
    receive=_add_moves,
    keeps=(),
    start=_start,
    merges=False,
    origin=Origin(
        "the server keeps W, client i starts from TSVD_{r_i}(W); W <- W + sum p_j (B_j A_j - "
        "TSVD_{r_j}(W)), p_j ~ 1 / (e_j^2 + 1e-6), e_j^2 the energy that its truncation dropped",
        "arXiv 2505.18494",
        "N",
    ),
)
