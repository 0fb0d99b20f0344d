"""Loss against steps from LoRA's start B = 0: who stays dead, who leaves rank one. Rows of T23."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from decaf_theory.problems import PROBLEMS
from decaf_theory.problems.base import Problem
from decaf_theory.simulate import Config, DeadStartWarning, simulate
from verification.claim import Row
from verification.evidence import at_least, at_most, ulps

STEPS = 60
EVERY = 5
LR = 0.2
# method, order, what becomes of dead directions
DEAD_START = (
    ("decaf", "mix_first", "drop"),
    ("decaf", "mix_first", "keep"),
    ("decaf", "step_first", "drop"),
    ("dlora", "mix_first", "drop"),
)
DEAD_DIRECTION = (
    ("decaf", "step_first", "drop"),
    ("decaf", "step_first", "keep"),
    ("dlora", "step_first", "drop"),
)
STUCK = {
    ("dead start", "decaf", "mix_first", "drop"),
    ("dead direction", "decaf", "step_first", "drop"),
}


def paths() -> Iterator[Row]:
    """Yield the loss along runs on P2 and P12, without noise."""
    yield from _along("dead start", PROBLEMS["P2"](d=5, k=4, rank=2), DEAD_START)
    yield from _along("dead direction", PROBLEMS["P12"](), DEAD_DIRECTION)


def _along(part: str, problem: Problem, runs: tuple[tuple[str, str, str], ...]) -> Iterator[Row]:
    """Yield, run by run, that F stays at F(W0), stays above 1/4 (P12), or falls from row to row.

    The loss is a sum of d k squares of numbers of size one, each off by few eps: ten.
    """
    slip = ulps(10 * problem.d * problem.k)
    start = float(problem.loss(np.zeros((1, problem.d, problem.k))).mean())
    for method, order, rule in runs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeadStartWarning)
            config = Config(
                method=method,
                problem=problem,
                Pi=np.full((problem.N, problem.N), 1 / problem.N),
                rank=2,
                lr=LR,
                steps=STEPS,
                order=order,
                zero_directions=rule,
                record_every=EVERY,
            )
        trace = simulate(config).require_finished()
        where = {"curve": "start", "part": part, "method": method, "order": order, "rule": rule}
        floor = {"dead start": start, "dead direction": 0.25}[part]
        stays = (part, method, order, rule) in STUCK
        losses = trace.loss[0].tolist()
        for step, loss, before in zip(
            trace.step.tolist(), losses, [start, *losses[:-1]], strict=True
        ):
            coordinates = {"rounding": slip, "step": step, **where}
            if stays:
                yield at_least(f"{part}: F >= {floor:g}", loss, floor, **coordinates)
            else:
                yield at_most(f"{part}: F falls", loss, before, **coordinates)
