"""Local steps along gradients that are clipped, noised and smoothed: LA-LoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array, convert, integer, like, namespace, working
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Direction, Method, Origin, wrapped
from decaf_theory.methods.draws import agents_of, normals, numbered
from decaf_theory.methods.factor import FEDAVG
from decaf_theory.methods.state import Clock, State


def private(method: Method, clip: float, sigma: float, *, batch: int = 1, seed: int = 0) -> Method:
    """Return the method with clipped and noised gradients of the factors that train.

        g <- g min(1, C/|g|) + N(0, (sigma C/b)^2),   C = clip, b = batch, each factor by itself

    An agent has one gradient per step here, the mean over its batch. It is that mean that is
    clipped, which moves by up to 2 C when an example changes, and not by the C/b of clipped
    gradients of b examples: noise and sensitivity have the ratio of DP-SGD for batches of one
    example only, and for each factor of each layer by itself. clip = inf with sigma = 0 is the
    method itself. ValueError: clip <= 0, sigma < 0, noise without a finite clip; a method that
    pools gradients, which would be noised afterwards, or whose parameters depend on the graph.
    """
    if not clip > 0:
        raise ValueError(f"clip must be > 0, got {clip}")
    if not 0 <= sigma < math.inf or (sigma > 0 and clip == math.inf):
        raise ValueError(f"sigma must be finite and >= 0, and 0 where clip is inf, got {sigma}")
    size = sigma * clip / integer("batch", batch, 1) if sigma else 0.0
    base = wrapped("private", method)
    if method.pools != "none":
        raise ValueError(f"private needs agents with gradients of their own, {method.name} pools")

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {**method.start(factors), "agent": numbered(factors)}

    def step(state: State, gradients: Factors, clock: Clock) -> Direction:
        trained = method.trains(clock)
        stream = seed, "privacy", clock.round, clock.step
        drawn = normals(state.factors, trained, agents_of(state), *stream)
        noised = {n: _clipped(getattr(gradients, n), clip) + size * drawn[n] for n in trained}
        return method.step(state, gradients._replace(**noised), clock)

    return replace(base, start=start, step=step)


def smoothed(method: Method, amount: float) -> Method:
    """Return the method with gradients that are divided by 1 - a Lap, a = amount.

    Lap is the periodic five-point Laplacian of a factor's entries; of a single row or column it is
    that of a line. The sum of the entries stays, and so does every constant; a = 0 is the method
    itself up to rounding. ValueError: amount < 0 or not finite; a method whose parameters depend
    on the graph.
    """
    if not 0 <= amount < math.inf:
        raise ValueError(f"amount must be finite and >= 0, got {amount}")
    base = wrapped("smoothed", method)

    def step(state: State, gradients: Factors, clock: Clock) -> Direction:
        return method.step(state, gradients.map(lambda g: low_pass(g, amount)), clock)

    return replace(base, step=step)


def low_pass(g: Array, a: float) -> Array:
    """Return the x [..., m, n] with x - a Lap x = g, for the periodic five-point Laplacian Lap.

    By the two-dimensional Fourier transform, in which Lap is 2 cos(2 pi p/m) + 2 cos(2 pi q/n) - 4.
    """
    xp = namespace(g)
    m, n = g.shape[-2:]
    rows, columns = (2 * np.cos(2 * np.pi * np.arange(size) / size) - 2 for size in (m, n))
    wide = working(g)
    divisor = convert(1 - a * (rows[:, None] + columns), wide)
    return like(xp.real(xp.fft.ifft2(xp.fft.fft2(wide) / divisor)), g)


def la_lora(
    clip: float = 1.0,
    sigma: float = 1.0,
    smoothing: float = 1.0,
    *,
    batch: int = 32,
    seed: int = 0,
) -> Method:
    """Return LA-LoRA: by a server, private local steps of A and of B by turns, smoothed.

    In a round, local steps 0, 2, ... train A and 1, 3, ... train B, at twice the step size, which
    an optimizer that rescales its gradients undoes, as AdamW does; rounds of one local step never
    train B. Each gradient is clipped and noised (`private`, with its remark on batches), then
    smoothed (`low_pass`). Both factors are averaged. Source: arXiv 2602.19926, its authors' code.
    ValueError: see `private` and `smoothed`.
    """
    origin = Origin(
        "in a round, local steps train A, B, A, and so on, B (not A) at twice the lr; "
        "g <- g min(1, C/|g|) + N(0, (sigma C/b)^2), then over 1 - a Lap; A, B <- means; "
        "g = a batch's mean, where theirs "
        f"are clipped each; C = {clip:g}, sigma = {sigma:g}, b = {batch}, a = {smoothing:g}",
        "arXiv 2602.19926, its authors' code",
        "C(code)",
    )
    turns = replace(FEDAVG, trains=_by_steps, step=_twice_for_B)
    method = private(smoothed(turns, smoothing), clip, sigma, batch=batch, seed=seed)
    return replace(method, name="la_lora", origin=origin)


def _by_steps(clock: Clock) -> tuple[str, ...]:
    return ("B",) if clock.step % 2 else ("A",)


def _twice_for_B(state: State, gradients: Factors, clock: Clock) -> Direction:
    return Direction(gradients._replace(B=2 * gradients.B), state)


def _clipped(g: Array, clip: float) -> Array:
    """Return g [..., m, n] shortened to norm C where it is longer."""
    if clip == math.inf:
        return g
    xp = namespace(g)
    norm = xp.sqrt(xp.sum(g * g, axis=(-2, -1), keepdims=True))
    return g * (clip / xp.clip(norm, min=clip))


LA_LORA = la_lora()
