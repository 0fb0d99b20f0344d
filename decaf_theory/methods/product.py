"""Methods that mix the products: DeCAF."""

from __future__ import annotations

from decaf_theory.arrays import Array, eps, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method
from decaf_theory.tsvd import TSVD, tsvd_of_mix


def _truncate(state: Factors, Pi: Array, t: int) -> TSVD:
    """P_i = TSVD_r(sum_j pi_ij B_j A_j)."""
    return tsvd_of_mix(state, Pi, state.rank)


def _mix_and_split(state: Factors, Pi: Array, t: int) -> Factors:
    """P_i = TSVD_r(sum_j pi_ij B_j A_j) in balanced factors: zero directions vanish in both."""
    return _truncate(state, Pi, t).factors


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


DECAF = Method("decaf", _mix_and_split, truncate=_truncate)
