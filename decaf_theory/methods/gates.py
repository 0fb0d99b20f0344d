"""SoRA: a gate on each direction of B A, which a soft threshold closes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients
from decaf_theory.methods.form import Form, Variable
from decaf_theory.methods.state import State
from decaf_theory.tsvd import TSVD

GATE = "gate"


def sora(lam: float = 1e-3, speed: float = 1.0) -> Form:
    """Return SoRA's form, W = W0 + s B diag(g) A with a gate g of r numbers, all one at the start.

        g <- T(g - lr_g grad_g, lr_g lam),   T(x, t) = sign(x) max(|x| - t, 0),   lr_g = speed lr

    T acts once, after each local step, so that gates are zero exactly; from zero a gate moves where
    its gradient exceeds lam. The penalty lam |g|_1 bounds no rank by itself, as (g/c) (c B) is the
    same W: between means of factors it is the time of training that matters, and c.

    Where products are mixed, it is sum_j pi_ij B_j diag(g_j) A_j = U S V' that is truncated, and
    the split is B = U, g = S, A = V': the threshold is then that of singular values, lam |g|_1 the
    nuclear norm of W - W0 over s, and both factors have norm one, whatever gates the neighbours had
    left. Gates that do not train, speed = 0, stay one, and the split is the method's own: SoRA
    there, at any lam, is LoRA bit for bit. Source: arXiv 2311.11696. ValueError: lam or speed < 0
    or not finite.
    """
    for name, value in (("lam", lam), ("speed", speed)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and >= 0, got {value}")

    def threshold(gate: Array, size: float | Array) -> Array:
        return soft_threshold(gate, size * lam)

    return Form(
        "s B diag(g) A",
        _update,
        _gradients,
        lambda factors, s: factors,
        lambda s: s,
        factored=False,
        label="sora",
        start=_open,
        variables=(Variable(GATE, _slope, speed, threshold),),
        pair=_gated,
        split=_into_gates if speed else _into_factors,
    )


def soft_threshold(x: Array, t: float | Array) -> Array:
    """Return sign(x) max(|x| - t, 0), zero exactly where |x| <= t."""
    xp = namespace(x)
    return xp.sign(x) * xp.clip(xp.abs(x) - t, min=0.0)


def _open(factors: Factors) -> Mapping[str, Factors | Array]:
    """Return gates [..., n, 1, r] of one."""
    return {GATE: namespace(factors.A).ones_like(factors.B[..., :1, :])}


def _gated(state: State) -> Factors:
    """Return (B diag(g), A)."""
    return state.factors._replace(B=state.factors.B * state.memory[GATE])


def _update(state: State, s: float) -> Array:
    B, A = _gated(state)
    return product(Factors(B if s == 1 else s * B, A))


def _gradients(g: Array, state: State, s: float) -> Factors:
    """Return the gradients s G A' diag(g) in B and s diag(g) B'G in A."""
    slopes = factor_gradients(g, _gated(state), s)
    return slopes._replace(B=slopes.B * state.memory[GATE])


def _slope(g: Array, state: State, s: float) -> Array:
    """Return the gradient in the gates, s diag(B'G A'), [..., n, 1, r]."""
    slopes = factor_gradients(g, state.factors, s)
    return namespace(g).sum(state.factors.B * slopes.B, axis=-2, keepdims=True)


def _into_gates(truncated: TSVD) -> tuple[Factors, Mapping[str, Array]]:
    """Return B = U, A = V' and g = S, zero in all three where S is."""
    S = truncated.singular_values
    xp = namespace(S)
    alive = S > 0
    root = xp.where(alive, xp.sqrt(S), xp.ones_like(S))
    B, A = truncated.factors  # U S^1/2 and S^1/2 V'
    return Factors(B / root[..., None, :], A / root[..., :, None]), {GATE: S[..., None, :]}


def _into_factors(truncated: TSVD) -> tuple[Factors, Mapping[str, Array]]:
    """Return the balanced factors, and open gates."""
    return truncated.factors, _open(truncated.factors)
