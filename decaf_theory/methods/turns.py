"""Methods that train one factor at a time, by turns of whole rounds: RoLoRA, ADF-LoRA, TAD-LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from decaf_theory.arrays import Array
from decaf_theory.methods.base import Method, Origin
from decaf_theory.methods.factor import DLORA
from decaf_theory.methods.state import Clock, Message, State
from decaf_theory.topology import sqrt_rho


def by_turns(period: float) -> Callable[[Clock], tuple[str, ...]]:
    """Return the phases that train B for `period` rounds, then A for as many; inf: B forever.

    ValueError: a period that is neither a whole number >= 1 nor inf.
    """
    if not (period >= 1 and (period == math.inf or period == int(period))):
        raise ValueError(f"period must be a whole number of rounds >= 1 or inf, got {period}")
    return lambda clock: ("A",) if clock.round // period % 2 else ("B",)


def send_trained(trains: Callable[[Clock], tuple[str, ...]]) -> Callable[[State, Clock], Message]:
    """Return the `send` of the factors alone that trained in the round."""
    return lambda state, clock: {name: getattr(state.factors, name) for name in trains(clock)}


def adf_lora(period: float) -> Method:
    """Return ADF-LoRA: B trains for `period` rounds, then A; both are mixed after every round.

    Where A is equal at all agents and never trains (period = inf), this is DLoRA-FA. Source: arXiv
    2511.18291, from notes of others. ValueError as in `by_turns`.
    """
    origin = Origin(
        "one factor trains for T rounds, then the other; both mixed: A_i <- sum_j pi_ij A_j, "
        f"B_i <- sum_j pi_ij B_j; T = {period:g}",
        "arXiv 2511.18291",
        "N",
    )
    return replace(DLORA, name="adf_lora", trains=by_turns(period), origin=origin)


def switching_interval(lam: float, constant: float = 1.0) -> float:
    """Return T* = constant / sqrt(1 - rho) in whole rounds, at least 1; inf where rho = lam^2 >= 1.

    lam = sqrt(rho) = |Pi - J|_op. TAD-LoRA gives the order only: the constant is the caller's.
    ValueError: constant <= 0.
    """
    if not constant > 0:
        raise ValueError(f"constant must be > 0, got {constant}")
    return interval_at(1 - lam**2, constant)


def interval_at(gap: float, constant: float = 1.0) -> float:
    """Return `switching_interval` by the gap 1 - rho itself, which lam near one has lost."""
    return math.inf if gap <= 0 else max(1.0, float(round(constant / math.sqrt(gap))))


def tad_lora(constant: float = 1.0) -> Method:
    """Return TAD-LoRA: ADF-LoRA with the switching interval T* = constant / sqrt(1 - rho).

    `on(Pi)` sets the interval; before, it is that of the complete graph. Source: arXiv 2602.00451,
    from notes of others. ValueError as in `switching_interval`.
    """
    origin = Origin(
        f"adf_lora with T = c / sqrt(1 - rho) rounds, from the graph; c = {constant:g}",
        "arXiv 2602.00451",
        "N",
    )

    def tuned(Pi: Array) -> Method:
        interval = switching_interval(sqrt_rho(Pi), constant)
        return replace(method, trains=by_turns(interval), tuned=None)

    trains = by_turns(switching_interval(0.0, constant))
    method = replace(DLORA, name="tad_lora", trains=trains, tuned=tuned, origin=origin)
    return method


ROLORA = replace(
    DLORA,
    name="rolora",
    send=send_trained(by_turns(1)),
    trains=by_turns(1),
    meets="server",
    origin=Origin(
        "rounds alternate: in the first B trains and B <- mean B_j, in the second A, and so on; "
        "only the factor that trained is averaged",
        "RoLoRA, its authors' code",
        "C(code)",
    ),
)
ADF_LORA = adf_lora(5)
TAD_LORA = tad_lora()
