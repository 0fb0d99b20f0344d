"""Methods that mix factors or the full matrix (DLoRA, DLoRA-FA, FedAvg, DSGD), or do not mix."""

from __future__ import annotations

from dataclasses import replace

from decaf_theory.arrays import Array
from decaf_theory.lowrank import mean_over_agents
from decaf_theory.methods.base import Method, Mixed, Origin
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


def send_A(state: State, clock: Clock) -> Message:
    """Return the message of A alone."""
    return {"A": state.factors.A}


def send_nothing(state: State, clock: Clock) -> Message:
    """Return the empty message."""
    return {}


def train_B(clock: Clock) -> tuple[str, ...]:
    """Train B, freeze A."""
    return ("B",)


FACTORS_KEPT, ALL_KEPT = ("B", "A"), ("B", "A", "product")

DLORA = Method(
    "dlora",
    average_factors,
    keeps=FACTORS_KEPT,
    origin=Origin(
        "local steps of both; A_i <- sum_j pi_ij A_j, B_i <- sum_j pi_ij B_j. Dec-LoRA is this "
        "with K local steps, on random graphs with laplacian_weights",
        "arXiv 2505.21382; Dec-LoRA: arXiv 2501.15361",
        "C",
    ),
)
FEDAVG = replace(
    DLORA,
    name="fedavg",
    meets="server",
    origin=Origin(
        "dlora by a server: A <- mean A_j, B <- mean B_j (FedIT; SP of Aggregation-Broadcast)",
        "arXiv 1602.05629; SP: arXiv 2508.01348",
        "C",
    ),
)
DLORA_FA = Method(
    "dlora_fa",
    average_factors,
    keeps=ALL_KEPT,
    send=send_B,
    trains=train_B,
    origin=Origin(
        "A equal and frozen; local steps of B; B_i <- sum_j pi_ij B_j", "arXiv 2505.21382", "C"
    ),
)
DSGD = replace(
    DLORA_FA,
    name="dsgd",
    form=FULL_MATRIX,
    origin=Origin("W_i <- sum_j pi_ij (W_j - lr G_j), the full matrix", "arXiv 1705.09056", "C"),
)
LOCAL = Method(
    "local",
    average_factors,
    keeps=ALL_KEPT,
    send=send_nothing,
    meets="none",
    origin=Origin("local steps of both factors, nothing is sent", "standard", "C"),
)
CENTRALIZED = replace(
    LOCAL,
    name="centralized",
    pools="server",
    origin=Origin("all agents step along the mean of their gradients", "standard", "C"),
)
FFA_LORA = replace(
    DLORA_FA,
    name="ffa_lora",
    meets="server",
    origin=Origin(
        "A drawn once, equal and frozen; local steps of B; B <- mean B_j",
        "arXiv 2403.12313",
        "C(code)",
    ),
)
FEDSA_LORA = Method(
    "fedsa_lora",
    average_factors,
    keeps=FACTORS_KEPT,
    send=send_A,
    meets="server",
    merges=False,
    origin=Origin("local steps of both; A <- mean A_j; B_i is never sent", "arXiv 2410.01463", "C"),
)
