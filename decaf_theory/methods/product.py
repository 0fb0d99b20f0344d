"""Methods that mix the products: DeCAF."""

from __future__ import annotations

from dataclasses import replace

from decaf_theory.arrays import Array, eps, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method, Mixed, Origin
from decaf_theory.methods.state import Clock, Message, State, for_agents
from decaf_theory.tsvd import TSVD, tsvd_of_mix


def truncate_products(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    """P_i = TSVD_r(sum_j pi_ij B_j A_j) in balanced factors: zero directions vanish in both."""
    found = tsvd_of_mix(Factors(sent["B"], sent["A"]), weights, own.factors.rank)
    truncated = truncation_of_all(found, own.agents)
    return Mixed(own._replace(factors=truncated.factors), truncated)


def truncation_of_all(truncated: TSVD, n: int) -> TSVD:
    """Return the truncation of n agents; of one row, the same for all, n views of it."""
    factors = truncated.factors.map(lambda X: for_agents(X, n))
    values, tail = (
        for_agents(x[..., None], n)[..., 0] for x in (truncated.singular_values, truncated.tail)
    )
    return truncated._replace(factors=factors, singular_values=values, tail=tail)


def keep_directions(truncated: TSVD, old: Factors) -> Factors:
    """Return the factors with each dead direction given back the agent's old row of A.

    A direction is dead where its singular value does not exceed max(d, k) eps sigma_1 (all of
    them where sigma_1 = 0). Its column of B becomes zero, so that the product stays as it is (up
    to those singular values), and its row of A is row i of `old`, the agent's factors before the
    mix: a direction that gradient steps of B can train again. `truncated` and `old` hold the same
    agents.
    """
    xp = namespace(old.B)
    B, A = truncated.factors
    S = truncated.singular_values
    threshold = max(truncated.factors.shape) * eps(S) * S[..., :1]
    alive = S > threshold  # strict, so that a zero matrix is dead in every direction
    return Factors(
        xp.where(alive[..., None, :], B, xp.zeros_like(B)), xp.where(alive[..., :, None], A, old.A)
    )


def keeping_directions(method: Method) -> Method:
    """Return the method with `keep_directions` after each truncation; itself if it has none.

    ValueError: a method with a form of its own, see `with_form`.
    """
    if method.space != "products":
        return method
    if method.form.given:
        raise ValueError(
            f"zero_directions 'keep' is not defined for {method.name}, whose form says by itself "
            f"which directions train; use 'drop'"
        )

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        mixed = method.receive(own, sent, weights, clock)
        assert mixed.truncated is not None  # mixing products is truncating them
        kept = keep_directions(mixed.truncated, own.factors)
        return mixed._replace(state=mixed.state._replace(factors=kept))

    return replace(method, receive=receive)


DECAF = Method(
    "decaf",
    truncate_products,
    keeps=("product up to E",),
    space="products",
    origin=Origin(
        "P_i <- TSVD_r(sum_j pi_ij B_j A_j), B = U S^1/2, A = S^1/2 V'", "arXiv 2505.21382", "C"
    ),
)
FLEXLORA = replace(
    DECAF,
    name="flexlora",
    meets="server",
    origin=Origin(
        "by a server: B A <- TSVD of mean B_j A_j, to each client's own rank; HLoRA has this rule",
        "arXiv 2402.11505",
        "C(code)",
    ),
)
