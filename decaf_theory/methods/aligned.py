"""Factor means in a common gauge: agents first turn their factors to a reference (FedRot-LoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, convert, like, namespace, transpose, working
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method, Mixed, Origin
from decaf_theory.methods.factor import FEDAVG, average_factors
from decaf_theory.methods.state import Clock, Message, State


def polar(M: Array, *, reflections: bool = False) -> Array:
    """Return the R in SO(r), or in O(r) with reflections, that maximizes tr(R'M), M [..., r, r].

    M = U S V' gives R = U V'; where det R must be 1 and is not, the last column of U, that of the
    least singular value, changes its sign. R is unique where M has full rank and det M > 0. It is
    the identity where M is not finite, so that callers find such numbers where they are.
    """
    xp = namespace(M)
    wide = working(M)
    finite = xp.all(xp.isfinite(wide), axis=(-2, -1))[..., None, None]
    U, _, Vh = xp.linalg.svd(xp.where(finite, wide, _identity(wide)), full_matrices=False)
    if not reflections:
        sign = xp.sign(xp.linalg.det(U @ Vh))[..., None, None]
        U = xp.concat([U[..., :-1], sign * U[..., -1:]], axis=-1)
    return like(U @ Vh, M)


def fedrot(softness: float = 1.0, *, reflections: bool = False) -> Method:
    """Return FedRot-LoRA: factor means after each agent turned its gauge to the last mixed factors.

        R = argmin |R'A - A_ref| in rounds 0, 2, ...,   |B R - B_ref| in rounds 1, 3, ...
        R <- the rotation nearest to (1 - l) I + l R,   sends R'A and B R,   l = `softness`

    The reference is what the agent itself held after its last mix, so that on a graph it is its
    own. R is a rotation, det R = 1; reflections=True allows det R = -1, too, for which the middle
    (1 - l) I + l R is singular at l = 1/2. l = 1 turns all the way, l = 0 is FedAvg. Source:
    FedRot-LoRA, its authors' code. ValueError: softness outside [0, 1].
    """
    if not 0 <= softness <= 1:
        raise ValueError(f"softness must be in [0, 1], got {softness}")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {"reference": factors}

    def send(state: State, clock: Clock) -> Message:
        B, A = state.factors
        reference = state.pair("reference")
        onto = transpose(B) @ reference.B if clock.round % 2 else A @ transpose(reference.A)
        R = polar(onto, reflections=reflections)
        R = polar((1 - softness) * _identity(R) + softness * R, reflections=reflections)
        return {"B": B @ R, "A": transpose(R) @ A}

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        mixed = average_factors(own, sent, weights, clock).state
        return Mixed(mixed._replace(memory={**own.memory, "reference": mixed.factors}))

    origin = Origin(
        "R = argmin |R'A - A_ref|, next round |B R - B_ref|, over rotations; sends R'A and B R; "
        "A <- mean, B <- mean; ref = the last mixed factors",
        "FedRot-LoRA (ICML 2026), its authors' code",
        "C(code)",
    )
    return replace(
        FEDAVG, name="fedrot", keeps=(), start=start, send=send, receive=receive, origin=origin
    )


def _identity(M: Array) -> Array:
    """Return the identity of M's size, kind and dtype."""
    return convert(np.eye(M.shape[-1]), M)


FEDROT = fedrot()
