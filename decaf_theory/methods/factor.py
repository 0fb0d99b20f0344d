"""Methods that mix the factors: DLoRA, DLoRA-FA, FedAvg, and the two rows without a graph."""

from __future__ import annotations

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, mean_over_agents, mix_factors
from decaf_theory.methods.base import Method


def _mix_both(state: Factors, Pi: Array, t: int) -> Factors:
    """A_i <- sum_j pi_ij A_j and B_i <- sum_j pi_ij B_j."""
    return mix_factors(state, Pi)


def _mix_B(state: Factors, Pi: Array, t: int) -> Factors:
    """B_i <- sum_j pi_ij B_j; A, equal at all agents, stays: mixing B is mixing the products."""
    A = state.A[..., : Pi.shape[0], :, :]
    return Factors(mean_over_agents(state.B, Pi), A)


def _mix_all(state: Factors, Pi: Array, t: int) -> Factors:
    """Return to every row the mean over all agents: a server's round."""
    n, N = Pi.shape
    return mix_factors(state, np.full((n, N), 1.0 / N))


def _mix_none(state: Factors, Pi: Array, t: int) -> Factors:
    """Agents keep their own factors."""
    if Pi.shape[0] != state.B.shape[-3]:
        raise ValueError("a method that does not mix needs all rows of Pi, one per agent")
    return state


DLORA = Method("dlora", _mix_both)
DLORA_FA = Method("dlora_fa", _mix_B, trains=("B",), sends=("B",))
FEDAVG = Method("fedavg", _mix_all)
LOCAL = Method("local", _mix_none, sends=())
CENTRALIZED = Method("centralized", _mix_none, pools_gradients=True)
DSGD = Method("dsgd", _mix_B, trains=("B",), sends=("B",), full_matrix=True)
