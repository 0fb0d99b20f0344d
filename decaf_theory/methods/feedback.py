"""DeCAF with error feedback: what a truncation drops is kept and added to the next mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import scipy

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors, pad_rank
from decaf_theory.methods.base import Method, Mixed, Origin
from decaf_theory.methods.product import DECAF, truncate_products
from decaf_theory.methods.state import Clock, Message, State
from decaf_theory.tsvd import TSVD, tsvd_of_mix
from decaf_theory.tsvd.mixing import entries


def error_feedback(rank: int | None = None) -> Method:
    r"""Return DeCAF with a residual E_i of at most this rank, by default that of the adapters.

    P_i <- TSVD_r(M_i), M_i = sum_j pi_ij P_j + E_i, and E_i <- the next `rank` singular directions
    of M_i, as balanced factors in the memory "residual"; messages are DeCAF's. Where rank
    reaches rank(M_i) - r nothing is lost: mixing keeps the network's mean of P_i + E_i. A residual
    has rank min(d, k) - r at most; of rank 0 the method is DeCAF. Agents of smaller rank than the
    others (`limiting_ranks`) lose what their own rank cuts, as in DeCAF.
    """

    def start(factors: Factors) -> Mapping[str, Factors]:
        wanted = factors.rank if rank is None else rank
        fits = min(wanted, min(factors.shape) - factors.rank)
        none = Factors(factors.B[..., :0], factors.A[..., :0, :])
        return {"residual": pad_rank(none, fits)} if fits > 0 else {}

    return replace(
        DECAF,
        name="decaf_ef",
        start=start,
        receive=_feed_back,
        origin=Origin(
            "P_i <- TSVD_r(M_i), M_i = sum_j pi_ij P_j + E_i; E_i <- the next directions of M_i",
            "derived here (T22-feedback, T32-feedback, T30-feedback)",
            "ours",
        ),
    )


def _feed_back(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    """Truncate the mix of the products and the own residual, and keep what is dropped."""
    kept = own.memory.get("residual")
    if not isinstance(kept, Factors):
        return truncate_products(own, sent, weights, clock)
    products = Factors(sent["B"], sent["A"])
    N, r = int(products.B.shape[-3]), own.factors.rank
    found = tsvd_of_mix(_together(products, kept), with_own(weights, N, own.agents), r + kept.rank)
    truncated, residual = _split(found, r)
    state = State(truncated.factors, {**own.memory, "residual": residual})
    return Mixed(state, truncated)


def _together(products: Factors, residuals: Factors) -> Factors:
    """Return the pairs of all agents, then their residuals, padded to one rank."""
    xp = namespace(products.B)
    longest = max(products.rank, residuals.rank)
    pairs = (pad_rank(pair, longest) for pair in (products, residuals))
    return Factors(*(xp.concat(parts, axis=-3) for parts in zip(*pairs, strict=True)))


def with_own(weights: Array, N: int, n: int) -> scipy.sparse.csr_array:
    """Return the rows [n, N + n] that mix N products and add each agent's own residual.

    weights [n, N], or one row for all.
    """
    found = entries(weights, N)
    starts = np.concatenate([[0], np.cumsum(found.counts)])
    rows = scipy.sparse.csr_array(
        (found.weights, found.agents, starts), shape=(len(found.counts), N)
    )
    each = rows if rows.shape[0] == n else rows[[0] * n]
    return scipy.sparse.csr_array(scipy.sparse.hstack([each, scipy.sparse.eye_array(n)]))


def _split(found: TSVD, r: int) -> tuple[TSVD, Factors]:
    """Return the truncation to rank r, and the directions of `found` that it drops."""
    (B, A), S = found.factors, found.singular_values
    tail = namespace(S).concat([S[..., r:], found.tail], axis=-1)
    first = Factors(B[..., :r], A[..., :r, :])
    rest = Factors(B[..., r:], A[..., r:, :])
    return found._replace(factors=first, singular_values=S[..., :r], tail=tail), rest


DECAF_EF = error_feedback()
