"""Gradient noise of a simulation: a stream for each run, drawn many steps at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decaf_theory.arrays import Array, Host, convert, host
from decaf_theory.problems.base import Problem
from decaf_theory.rng import generator
from decaf_theory.simulate.config import Config

BLOCK = 2**16  # numbers of one run that are drawn at once: few calls, and room in the caches


def draws(config: Config) -> Iterator[Host | None]:
    """Yield the draws [runs, N, d, k] of one gradient after another; None without noise.

    Those that the configuration holds, or else the problem's. Of these as many steps are drawn at
    once as N, d and k alone say, so that a run draws the same numbers whatever its length, method,
    rank and step size. ValueError: the problem's noise or noise_at returns another shape.
    """
    problem = config.problem
    if not isinstance(config.noise, bool):
        yield from config.noise
        return
    shape = problem.N, problem.d, problem.k
    if not config.noise or problem.noise is None:
        while True:
            yield None
    streams = [generator(config.seed, "noise", run) for run in range(config.runs)]
    steps = max(1, min(64, BLOCK // int(np.prod(shape))))
    while True:
        drawn = [problem.noise(stream, (steps, *shape)) for stream in streams]
        for each in drawn:
            _require_shape("noise", each, (steps, *shape), "[steps, N, d, k]")
        yield from np.stack(drawn, axis=1)


def noisy(problem: Problem, g: Array, drawn: Host | None, W: Array) -> Array:
    """Return the stochastic gradients g + noise at the points W, given the draws."""
    if drawn is None:
        return g
    if problem.noise_at is not None:
        expected = drawn.shape
        drawn = problem.noise_at(drawn, host(W))
        _require_shape("noise_at", drawn, expected, "[runs, N, d, k]")
    return g + convert(drawn, g)


def _require_shape(name: str, drawn: Array, expected: tuple[int, ...], axes: str) -> None:
    """Raise ValueError unless draws have all their axes: others would be broadcast unseen."""
    if np.shape(drawn) != expected:
        raise ValueError(f"{name} must return shape {expected} = {axes}, got {np.shape(drawn)}")
