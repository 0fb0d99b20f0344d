"""What W is, given what an agent holds: forms of W - W0 and the gradients in their variables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from decaf_theory.arrays import Array, convert, namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients
from decaf_theory.methods.state import State


@dataclass(frozen=True)
class Form:
    """How W - W0 depends on the state, for a LoRA scale s.

    update(state, s): W - W0 [..., n, d, k]. gradients(g, state, s): the gradients in (B, A), from
    the weight-space gradient g [..., n, d, k]. begin(factors, s): the factors at which a run
    starts, given LoRA factors of the same W - W0. scale(s): the factor of B A in W - W0.
    low_rank: whether agents train low-rank factors, or W itself. factored: whether W - W0 is
    scale(s) B A and nothing more, so that its norm and its rank are those of the product.
    """

    name: str
    update: Callable[[State, float], Array]
    gradients: Callable[[Array, State, float], Factors]
    begin: Callable[[Factors, float], Factors]
    scale: Callable[[float], float]
    low_rank: bool = True
    factored: bool = True


def _scaled_product(state: State, s: float) -> Array:
    B, A = state.factors
    return product(Factors(B if s == 1 else s * B, A))


def _merged(state: State, s: float) -> Array:
    """Return s (base + B A): the base is what was merged into W0, in units of B A."""
    return s * (state.memory["base"] + product(state.factors))


def _factor_gradients(g: Array, state: State, s: float) -> Factors:
    return factor_gradients(g, state.factors, s)


def _full_matrix(factors: Factors, s: float) -> Factors:
    """Return B = s B A and A = I, one identity for all agents."""
    W = s * product(factors)
    identity = convert(np.eye(W.shape[-1]), W)
    return Factors(W, namespace(W).broadcast_to(identity, (*W.shape[:-2], *identity.shape)))


LORA = Form("s B A", _scaled_product, _factor_gradients, lambda factors, s: factors, lambda s: s)
MERGED = Form(
    "s (base + B A)",
    _merged,
    _factor_gradients,
    lambda factors, s: factors,
    lambda s: s,
    factored=False,
)
FULL_MATRIX = Form(
    "B",
    lambda state, s: state.factors.B,
    lambda g, state, s: Factors(g, state.factors.A),  # A = I does not train
    _full_matrix,
    lambda s: 1.0,
    low_rank=False,
)
