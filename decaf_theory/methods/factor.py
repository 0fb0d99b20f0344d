"""Methods that mix factors or the full matrix (DLoRA, DLoRA-FA, FedAvg, DSGD), or do not mix."""

from __future__ import annotations

from dataclasses import replace

from decaf_theory.arrays import Array
from decaf_theory.lowrank import mean_over_agents
from decaf_theory.methods.base import Method, Mixed
from decaf_theory.methods.form import FULL_MATRIX
from decaf_theory.methods.state import Clock, Message, State, for_agents


def average_factors(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    """A_i <- sum_j pi_ij A_j and B_i <- sum_j pi_ij B_j, each of those that were sent.

    A factor that is not sent stays: where A is equal at all agents, mixing B mixes the products.
    """
    means = {name: for_agents(mean_over_agents(X, weights), own.agents) for name, X in sent.items()}
    return Mixed(own._replace(factors=own.factors._replace(**means)))


def send_B(state: State, clock: Clock) -> Message:
    """Return the message of B alone."""
    return {"B": state.factors.B}


def send_nothing(state: State, clock: Clock) -> Message:
    """Return the empty message."""
    return {}


def train_B(clock: Clock) -> tuple[str, ...]:
    """Train B, freeze A."""
    return ("B",)


FACTORS_KEPT, ALL_KEPT = ("B", "A"), ("B", "A", "product")

DLORA = Method("dlora", average_factors, keeps=FACTORS_KEPT)
FEDAVG = Method("fedavg", average_factors, keeps=FACTORS_KEPT, meets="server")
DLORA_FA = Method("dlora_fa", average_factors, keeps=ALL_KEPT, send=send_B, trains=train_B)
DSGD = replace(DLORA_FA, name="dsgd", form=FULL_MATRIX)
LOCAL = Method("local", average_factors, keeps=ALL_KEPT, send=send_nothing, meets="none")
CENTRALIZED = replace(LOCAL, name="centralized", pools="server")
