"""Methods that mix the products: DeCAF."""

from __future__ import annotations

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method
from decaf_theory.tsvd import tsvd_of_mix


def _mix_and_split(state: Factors, Pi: Array, t: int) -> Factors:
    """P_i = TSVD_r(sum_j pi_ij B_j A_j) in balanced factors: zero directions vanish in both."""
    return tsvd_of_mix(state, Pi, state.rank).factors


DECAF = Method("decaf", _mix_and_split, product=True)
