"""Methods that mix factors or the full matrix (DLoRA, DLoRA-FA, FedAvg, DSGD), or do not mix."""

from __future__ import annotations

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors, mean_over_agents, mix_factors
from decaf_theory.methods.base import Method


def _mix_both(state: Factors, Pi: Array, t: int) -> Factors:
    """A_i <- sum_j pi_ij A_j and B_i <- sum_j pi_ij B_j."""
    return mix_factors(state, Pi)


def _mix_B(state: Factors, Pi: Array, t: int) -> Factors:
    """B_i <- sum_j pi_ij B_j; A, equal at all agents, stays: mixing B is mixing the products."""
    n, N = Pi.shape
    xp = namespace(state.A)
    # any agent's A serves every row, whichever rows are wanted
    A = state.A if n == N else xp.repeat(state.A[..., :1, :, :], n, axis=-3)
    return Factors(mean_over_agents(state.B, Pi), A)


def _mix_all(state: Factors, Pi: Array, t: int) -> Factors:
    """Return to every row the mean over all agents: a server's round."""
    n, N = Pi.shape
    return mix_factors(state, np.full((n, N), 1.0 / N))


def _mix_none(state: Factors, Pi: Array, t: int) -> Factors:
    """Agents keep their own factors."""
    if Pi.shape[0] != state.B.shape[-3]:
        raise ValueError(
            f"a method that does not mix needs all {state.B.shape[-3]} rows of Pi, one per agent, "
            f"got {Pi.shape[0]}"
        )
    return state


DLORA = Method("dlora", _mix_both)
DLORA_FA = Method("dlora_fa", _mix_B, trains=("B",), sends=("B",))
FEDAVG = Method("fedavg", _mix_all, meets="server")
LOCAL = Method("local", _mix_none, sends=(), meets="none")
CENTRALIZED = Method("centralized", _mix_none, meets="none", pools_gradients=True)
DSGD = Method("dsgd", _mix_B, trains=("B",), sends=("B",), full_matrix=True)
