"""What is wrong with the heads of the results: arrays that are averaged, without factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.cases import SPACING, Case
from decaf_theory.conformance.results import Result

OTHER_HEAD = "gives another head than the mean"


def heads_named(case: Case, results: Sequence[Result]) -> list[str]:
    """Return what is wrong with the heads of the results, in words."""
    heads = [result.head for result in results]
    if any(head is None for head in heads):
        return ["leaves the head out: what is not a factor is to be averaged, too"]
    n = len(results)
    rows = case.weights if len(case.weights) == n else np.repeat(case.weights[:1], n, axis=0)
    for words, weights in _mistakes(rows):
        means = np.tensordot(weights, case.heads, axes=1)
        if all(_near(case, h, m) for h, m in zip(heads, means, strict=True) if h is not None):
            return [words] if words else []
    return [OTHER_HEAD]


def _mistakes(rows: Array) -> Iterator[tuple[str, Array]]:
    """Yield weights of the heads [n, N]: the right ones, and those of mistakes."""
    n, N = rows.shape
    one = np.eye(N)
    yield "", rows
    yield "gives the first agent's head for the mean", np.repeat(one[:1], n, axis=0)
    yield "gives the last agent's head for the mean", np.repeat(one[-1:], n, axis=0)
    if n == N:
        yield "leaves each agent its own head, unmixed", one
    yield "ignores the weights in the mean of the heads", np.full_like(rows, 1 / N)
    yield "takes the sum of the heads for their mean", np.ones_like(rows)
    yield "divides the mean of the heads by the number of agents", rows / N
    for name, j in (("first", 0), ("last", N - 1)):
        left = rows * (np.arange(N) != j)
        sums = left.sum(axis=1, keepdims=True)
        words = f"leaves the {name} agent's head out of the mean"
        yield words, left / np.where(sums > 0, sums, 1.0)


def _near(case: Case, head: Array, mean: Array) -> bool:
    """Return whether a head is a mean, to N + 4 roundings of the largest entry."""
    room = (case.N + 4) * SPACING[case.dtype] * float(np.abs(case.heads).max())
    return head.shape == mean.shape and bool(np.abs(head - mean).max() <= room)
