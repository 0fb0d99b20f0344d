"""Local steps along the gradient flow of W itself, kept to balanced factors: ODELoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from decaf_theory.arrays import Array, eps, like, namespace, transpose, working
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Direction, Method, Origin, wrapped
from decaf_theory.methods.form import LORA
from decaf_theory.methods.product import DECAF
from decaf_theory.methods.state import Clock, State

AT = (0.5, 0.5, 1.0)  # where the stages of the Runge-Kutta step after the first are, in steps
WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
MEMORY = ("offset", "slope")  # from where the step began, and its slopes so far


def balanced_slope(factors: Factors, gradients: Factors) -> Factors:
    """Return the direction (dB, dA) that moves B A most nearly as the gradient G moves W.

        min |dB A + B dA - G|_F   over   B'dB + dB'B = dA A' + A dA'

    the tangent space of B'B = AA', and of its solutions, which rotations of the factors make many,
    the shortest. With H = B'B = AA', M = B'G A' and H Z + Z H = M:

        dB = (G A' - B Z) H^-1,   dA = H^-1 (B'G - Z A)

    so that only the factors' gradients G A' and B'G enter. Derivation: in the bases of B = U D R',
    A = R D V', H = R D^2 R', the parts of G outside U or V are met exactly, by (1 - UU') G V D^-1
    and D^-1 U'G (1 - VV'); inside, dB = U X R' and dA = R Y V' must have X D + D Y = U'G V, and the
    shortest tangent pair has D X = Y D: both conditions of pairs (i, j) and (j, i) say so together.
    Then X_ij = g_ij d_j/(d_i^2 + d_j^2), which is the formula.
    Of factors that are not balanced H is (B'B + AA')/2, which exists at LoRA's start B = 0. Where a
    direction is dead, an eigenvalue of H up to r eps times the largest, its inverse is zero.
    """
    B, A, g_B, g_A = (working(X) for X in (*factors, *gradients))
    xp = namespace(B)
    s, R = _eigen((transpose(B) @ B + A @ transpose(A)) / 2)
    alive = s > s.shape[-1] * eps(s) * s[..., -1:]
    one = xp.ones_like(s)
    inverse = xp.where(alive, 1 / xp.where(alive, s, one), 0 * s)
    sums = s[..., :, None] + s[..., None, :]
    both = xp.logical_or(alive[..., :, None], alive[..., None, :])
    M = transpose(R) @ (transpose(B) @ g_B) @ R
    Z = R @ xp.where(both, M / xp.where(both, sums, xp.ones_like(sums)), 0 * M) @ transpose(R)
    H_inverse = (R * inverse[..., None, :]) @ transpose(R)
    return Factors(
        like((g_B - B @ Z) @ H_inverse, factors.B), like(H_inverse @ (g_A - Z @ A), factors.A)
    )


def odelora(method: Method = DECAF, *, runge_kutta: bool = False) -> Method:
    """Return the method with local steps along `balanced_slope`: the flow dW/dt = -s^2 P(G).

    P(G) is what factors of rank r can follow of the gradient in W, and s the LoRA scale, so that lr
    counts time in units of 1/s^2. One local step is a step of Euler's method. runge_kutta: four
    local steps are the stages of one classical Runge-Kutta step of length lr, with a gradient each,
    at one lr and without an optimizer of its own memory; rounds need 4, 8, ... local steps.
    DeCAF's mixes return balanced factors, means of factors do not. Source: arXiv 2602.07479, the
    abstract; the field is derived here. ValueError: a method of another form, that does not train
    both factors in every step, or whose parameters depend on the graph; in a step, other numbers of
    local steps.
    """
    base = wrapped("odelora", method)
    trained = {method.trains(Clock(t, h, 2)) for t in (0, 1) for h in (0, 1)}
    if method.form != LORA or trained != {("B", "A")}:
        raise ValueError(f"odelora needs a method that trains B and A, {method.name} does not")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        zero = factors.map(lambda X: 0 * X)
        return {**method.start(factors), "offset": zero, "slope": zero}

    def euler(state: State, gradients: Factors, clock: Clock) -> Direction:
        return method.step(state, balanced_slope(state.factors, gradients), clock)

    def stage(state: State, gradients: Factors, clock: Clock) -> Direction:
        if clock.steps % 4:
            raise ValueError(
                f"a Runge-Kutta step takes rounds of 4, 8, ... local steps, got {clock.steps}"
            )
        at = clock.step % 4
        k = balanced_slope(state.factors, gradients)
        offset, slope = (state.pair(name).map(lambda X: X * (at > 0)) for name in MEMORY)
        slope = slope.map(lambda S, x: S + WEIGHTS[at] * x, k)
        after = slope if at == 3 else k.map(lambda x: AT[at] * x)
        memory = {**state.memory, "offset": after, "slope": slope}
        move = after.map(lambda new, old: new - old, offset)
        return method.step(state._replace(memory=memory), move, clock)

    by = "one Runge-Kutta step in four local steps" if runge_kutta else "Euler"
    origin = Origin(
        "local steps along (dB, dA) = argmin |dB A + B dA - G| over the tangent space of B'B = "
        f"AA', by {by}; mixed as {method.name}; reading, not confirmed",
        "arXiv 2602.07479",
        "?",
    )
    named = replace(base, name="odelora", origin=origin)
    return replace(named, start=start, step=stage) if runge_kutta else replace(named, step=euler)


def _eigen(H: Array) -> tuple[Array, Array]:
    """Return the eigenvalues, ascending, and the eigenvectors of H [..., r, r].

    Those of the identity where H is not finite, so that callers find such numbers where they are.
    """
    xp = namespace(H)
    finite = xp.all(xp.isfinite(H), axis=(-2, -1))[..., None, None]
    one = xp.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    return tuple(xp.linalg.eigh(xp.where(finite, H, one)))


ODELORA = odelora()
