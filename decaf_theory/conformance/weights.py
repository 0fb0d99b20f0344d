"""The weights that known mistakes take for the rule's, with words for each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decaf_theory.arrays import Array


def weights(w: Array, *, graph: bool | None = None) -> Iterator[tuple[str, Array]]:
    """Yield the weights [n, N] of known mistakes; graph: whether they are Pi's (default: if N)."""
    n, N = w.shape
    one = np.eye(N)
    last = np.arange(N) == N - 1
    first = np.arange(N) == 0
    graph = n == N > 1 if graph is None else graph
    plain = "mixes all agents, whatever the graph" if graph else "takes the plain mean"
    unlike = "weights do not sum to one"
    yield f"ignores the weights: {plain}", np.full_like(w, 1 / N)
    yield "takes the weights in reverse order", w[:, ::-1]
    yield from _in_another_order(w, graph=graph)
    yield "returns the first agent's adapter, unmixed", np.repeat(one[:1], n, axis=0)
    yield "returns the last agent's adapter, unmixed", np.repeat(one[-1:], n, axis=0)
    yield "leaves out the last agent", _whole(w * ~last)
    yield "leaves out the first agent", _whole(w * ~first)
    yield "leaves out the last agent, and weights do not sum to one", w * ~last
    yield "leaves out the first agent, and weights do not sum to one", w * ~first
    yield "takes the first agent times its weight, and leaves out the others", w * first
    yield "takes the last agent times its weight, and leaves out the others", w * last
    yield f"takes the sum: {unlike}", np.ones_like(w)
    yield f"divides by the largest weight: {unlike}", w / w.max(axis=1, keepdims=True)
    yield f"divides by the number of agents once more: {unlike}", w / N
    yield f"squares the weights, as when both factors are weighted: {unlike}", w**2
    yield f"takes the square roots of the weights: {unlike}", np.sqrt(w)
    if graph:
        yield from _on_a_graph(w)


def _in_another_order(w: Array, *, graph: bool) -> Iterator[tuple[str, Array]]:
    order = sorted(range(w.shape[1]), key=str)
    strings = 'in the order of their names as strings ("10" before "2")'
    yield f"takes the agents {strings}", w[:, np.argsort(order)]
    if len(w) == len(order):
        inverse = np.argsort(order)
        yield f"takes the agents {strings}, on both sides of Pi", w[np.ix_(inverse, inverse)]
    off = (
        "mixes with neighbours that are off by one"
        if graph
        else "takes weights that are off by one"
    )
    yield f"{off}: those of the next agent", np.roll(w, -1, axis=1)
    yield f"{off}: those of the agent before", np.roll(w, 1, axis=1)


def _on_a_graph(w: Array) -> Iterator[tuple[str, Array]]:
    N = len(w)
    one, off = np.eye(N), w * (1 - np.eye(N))
    yield "mixes with the transpose of Pi", w.T
    yield "mixes twice: with Pi Pi", w @ w
    yield "returns each agent's own adapter, unmixed", one
    yield "gives the first agent's mix to all", np.repeat(w[:1], N, axis=0)
    yield "gives the mixes to the agents in reverse order", w[::-1]
    yield "leaves out the agent's own adapter", _whole(off)
    yield "leaves out the agent's own adapter, and weights do not sum to one", off
    yield (
        "weighs each neighbour by 1/3, also where the weights then do not sum to one",
        np.where(w > 0, 1 / 3, 0.0),
    )
    ahead, behind = np.roll(one, 1, axis=1), np.roll(one, -1, axis=1)
    yield "mixes with the next agent alone", (one + ahead) / 2
    yield "mixes with the agent before it alone", (one + behind) / 2
    yield "mixes with the next two agents, not with both sides", (one + ahead + ahead @ ahead) / 3
    yield "mixes with the two agents before it", (one + behind + behind @ behind) / 3
    line = off * (np.abs(np.subtract.outer(np.arange(N), np.arange(N))) <= 1)
    yield (
        "takes the graph for a line: the first and the last agent do not meet",
        line + np.diag(1 - line.sum(axis=1)),
    )
    yield "mixes one agent after the other, in place: with what is already mixed", _in_place(w)


def _in_place(w: Array) -> Array:
    """Return the weights of agents that mix in turn, with what those before them hold by then."""
    held = np.eye(len(w))
    for i, row in enumerate(w):
        held[i] = row @ held
    return held


def _whole(rows: Array) -> Array:
    """Return weights divided by their sums."""
    sums = rows.sum(axis=1, keepdims=True)
    return np.asarray(rows / np.where(sums > 0, sums, 1.0))
