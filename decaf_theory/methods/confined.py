"""Fed-SB: between two frozen factors only a small square matrix trains and travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from decaf_theory.arrays import Array, convert, like, namespace, transpose, working
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods.base import Direction, Method, Mixed, Origin
from decaf_theory.methods.factor import FFA_LORA
from decaf_theory.methods.state import Clock, Message, State, for_agents
from decaf_theory.rng import generator


def fed_sb(seed: int = 0) -> Method:
    """Return Fed-SB, W = W0 + s B0 R A: B0 and A frozen and equal, R [r, r] trains and is averaged.

        B = B0 R,   B <- B - lr B0 B0' grad_B = B0 (R - lr grad_R),   sends R = B0' B

    B0 is an orthonormal basis of the columns of B, equal at all agents at the start; where that is
    zero, of Gaussian columns, drawn by a stream of the seed. Reading, not confirmed.
    """

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        xp, B = namespace(factors.B), factors.B[..., :1, :, :]
        draws = convert(generator(seed, "frame").standard_normal(B.shape[-2:]), B)
        zero = xp.all(B == 0, axis=(-2, -1))[..., None, None]
        frame, _ = xp.linalg.qr(working(xp.where(zero, draws, B)), mode="reduced")
        return {"frame": for_agents(like(frame, B), int(factors.B.shape[-3]))}

    origin = Origin(
        "W0 + s B0 R A, B0 orthonormal, B0 and A equal and frozen; local steps of R, R <- mean R_j "
        "(reading, not confirmed)",
        "Fed-SB, arXiv 2502.15436",
        "K",
    )
    return replace(
        FFA_LORA,
        name="fed_sb",
        start=start,
        send=_send_R,
        receive=_receive_R,
        step=_step_R,
        confined=True,
        merges=False,
        origin=origin,
    )


def _send_R(state: State, clock: Clock) -> Message:
    return {"R": transpose(_frame(state)) @ state.factors.B}


def _receive_R(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    R = for_agents(mean_over_agents(sent["R"], weights), own.agents)
    return Mixed(own._replace(factors=own.factors._replace(B=_frame(own) @ R)))


def _step_R(state: State, gradients: Factors, clock: Clock) -> Direction:
    B0 = _frame(state)
    return Direction(gradients._replace(B=B0 @ (transpose(B0) @ gradients.B)), state)


def _frame(state: State) -> Array:
    """Return B0 [..., n, d, r]."""
    return state.memory["frame"]


FED_SB = fed_sb()
