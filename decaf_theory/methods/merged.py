"""Methods that merge into W0 what agents learned: FLoRA, FedEx-LoRA, RAC-LoRA.

W_i - W0 = s (base + B_i A_i). All meet a server, so that the base is equal at all agents, n views
of one array; on a graph agents would keep bases that nobody mixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, convert, namespace
from decaf_theory.lowrank import Factors, mean_over_agents, product
from decaf_theory.measure import interference
from decaf_theory.methods.base import Method, Mixed, Origin
from decaf_theory.methods.factor import ALL_KEPT, FEDAVG, FFA_LORA, average_factors
from decaf_theory.methods.form import MERGED
from decaf_theory.methods.state import Clock, Message, State, for_agents
from decaf_theory.rng import generator
from decaf_theory.tsvd.mixing import concatenate, entries, gather, neighbours


def mean_of_products(factors: Factors, weights: Array) -> Array:
    """Return sum_j w_ij B_j A_j, dense [..., n, d, k], by one product for each row of weights."""
    found = entries(weights, int(factors.B.shape[-3]))
    index, rows = neighbours(found, np.arange(len(found.counts)))
    panels = gather(factors, index)
    B = convert(rows, factors.B)[..., None, None] * panels.B
    A = namespace(B).broadcast_to(panels.A, (*B.shape[:-2], *panels.A.shape[-2:]))
    return product(concatenate(Factors(B, A)))


def nothing_merged(factors: Factors) -> Array:
    """Return zeros [..., n, d, k] of the factors' kind and dtype, n views of one matrix."""
    xp, shape = namespace(factors.B), (*factors.B.shape[:-3], 1, *factors.shape)
    zeros = xp.zeros(shape, dtype=factors.B.dtype, device=factors.B.device)
    return for_agents(zeros, int(factors.B.shape[-3]))


def merge(own: State, added: Array) -> State:
    """Return the state with this in its base, [..., n, d, k] or one row for all."""
    base: Array = own.memory["base"]
    if added.shape[-3] == 1:
        base = base[..., :1, :, :]  # a server's, equal at all
    return own._replace(memory={**own.memory, "base": for_agents(base + added, own.agents)})


def afresh(factors: Factors, seed: int, clock: Clock) -> Factors:
    """Return B = 0 and A Gaussian of variance 1/k, one for all agents, runs and layers.

    Its stream has the name of the seed and the round, so that nothing of it needs to travel.
    """
    xp, (r, k) = namespace(factors.A), factors.A.shape[-2:]
    draws = generator(seed, "A after a merge", clock.round).standard_normal((r, k)) / math.sqrt(k)
    return Factors(
        xp.zeros_like(factors.B), xp.broadcast_to(convert(draws, factors.A), factors.A.shape)
    )


def _start(factors: Factors) -> Mapping[str, Factors | Array]:
    return {"base": nothing_merged(factors)}


def flora(seed: int = 0) -> Method:
    """Return FLoRA: W0 <- W0 + s sum_j p_j B_j A_j, then B = 0 and A is drawn anew (`afresh`).

    The mean of W is exact, of agents of unequal rank, too. The server answers with the stack of all
    pairs, of rank N r. Source: arXiv 2409.05976.
    """

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        merged = merge(own, mean_of_products(Factors(sent["B"], sent["A"]), weights))
        return Mixed(merged._replace(factors=afresh(own.factors, seed, clock)))

    return replace(
        FEDAVG,
        name="flora",
        receive=receive,
        keeps=("product",),
        answer="all",
        start=_start,
        form=MERGED,
        merges=False,
        origin=Origin(
            "W0 <- W0 + s mean B_j A_j, of which the server sends all pairs, stacked; then B = 0 "
            "and A is drawn anew, equal at all",
            "arXiv 2409.05976",
            "C",
        ),
    )


def _with_residual(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    """Average the factors, and merge what that leaves of the mean of products: I."""
    averaged = average_factors(own, sent, weights, clock).state
    return Mixed(merge(averaged, interference(Factors(sent["B"], sent["A"]), weights)))


def rac_lora(period: float = 1, seed: int = 0) -> Method:
    """Return RAC-LoRA by a server: FFA-LoRA that merges after every `period` rounds.

        W0 <- W0 + s B A, then B = 0 and A is drawn (`afresh`), frozen until the next merge

    period = inf is FFA-LoRA. Source: arXiv 2410.08305, its authors' code. ValueError: a period that
    is neither a whole number >= 1 nor inf.
    """
    ends = every(period)

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        if not ends(clock):
            return average_factors(own, sent, weights, clock)
        added = mean_over_agents(sent["B"], weights) @ own.factors.A[..., :1, :, :]  # A is equal
        return Mixed(merge(own, added)._replace(factors=afresh(own.factors, seed, clock)))

    return replace(
        FFA_LORA,
        name="rac_lora",
        receive=receive,
        keeps=("product",),
        start=_start,
        form=MERGED,
        merges=False,
        origin=Origin(
            "A frozen and equal, local steps of B, B <- mean B_j; after every m rounds W0 <- W0 + "
            f"s B A, B = 0 and A is drawn anew; m = {period:g}",
            "arXiv 2410.08305",
            "C(code)",
        ),
    )


def every(period: float) -> Callable[[Clock], bool]:
    """Return whether a round is the last of `period` ones; ValueError as in `rac_lora`."""
    if not (period >= 1 and (period == math.inf or period == int(period))):
        raise ValueError(f"period must be a whole number of rounds >= 1 or inf, got {period}")
    return lambda clock: (clock.round + 1) % period == 0


FLORA = flora()
FEDEX_LORA = replace(
    FEDAVG,
    name="fedex_lora",
    receive=_with_residual,
    keeps=ALL_KEPT,
    answer="all",
    start=_start,
    form=MERGED,
    merges=False,
    origin=Origin(
        "A <- mean A_j, B <- mean B_j and W0 <- W0 + s I, I = mean B_j A_j - (mean B_j)(mean A_j), "
        "of rank (N - 1) r: the exact mean, PS of Aggregation-Broadcast",
        "arXiv 2410.09432; PS: arXiv 2508.01348",
        "C",
    ),
)
RAC_LORA = rac_lora()
