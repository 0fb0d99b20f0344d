"""Effects of training the factors by turns: without a server, on sparse graphs, how often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from math import sqrt

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.methods import METHODS, Method, adf_lora
from decaf_theory.methods.turns import switching_interval
from decaf_theory.topology import TOPOLOGIES, RandomSchedule
from decaf_theory.topology.schedules import erdos_renyi_redrawn
from paper_checks.effects.engine import STEPS, Comparison, Effort, tuned
from paper_checks.effects.model import AGENTS, Graph, excess

CONTACTS = (0.5, 0.1, 0.02)
ROLORA_ON_A_GRAPH = replace(METHODS["rolora"], name="rolora on a graph", meets="graph")
RHOS = {"complete": (0.3, 0.6, 0.8, 0.9, 0.96, 0.99), "ring": (0.8, 0.9, 0.96, 0.99)}
INTERVALS = (1, 2, 3, 4, 6, 8, 12, 24)
INTERVAL_ROUNDS = 48  # a whole number of turns of each interval


def contact(p: float, seed: int) -> RandomSchedule:
    """Return rounds in which each pair is in contact with probability p, Metropolis weights."""
    return erdos_renyi_redrawn(AGENTS, p=p, seed=seed)


GRAPHS: dict[str, Graph] = {"ring": TOPOLOGIES["ring"](AGENTS), "server": None}
GRAPHS |= {f"p = {p:g}": partial(contact, p) for p in CONTACTS}


def tad(p: float) -> Method:
    """Return ADF-LoRA with TAD-LoRA's interval 1 / sqrt(1 - rho), rho that of random contact."""
    return adf_lora(switching_interval(sqrt(contact(p, 0).rho())))


@cache
def methods_here() -> dict[str, Method]:
    """Return the methods that are compared, by name."""
    return {
        **{name: METHODS[name] for name in ("dlora", "fedavg", "rolora")},
        "rolora on a graph": ROLORA_ON_A_GRAPH,
        "adf(1)": adf_lora(1),
        "adf(5)": adf_lora(5),
        **{f"tad(p = {p:g})": tad(p) for p in CONTACTS},
    }


@cache
def scores(kind: str, name: str, graph: str, effort: Effort) -> tuple[Array, float]:
    """Return a method's excess at its tuned step size on each seed, and the step size."""

    def score(lr: float, some: Sequence[int]) -> Array:
        return excess(kind, methods_here()[name], GRAPHS[graph], lr, some).mean(axis=-1)

    return tuned(score, effort.seeds, effort.tuning)


def ratio(kind: str, graph: str, first: str, second: str, sign: int, effort: Effort) -> Comparison:
    """Compare the logarithms of two methods' excesses."""
    (x, lr), (y, other) = (scores(kind, name, graph, effort) for name in (first, second))
    what = f"{first} / {second}"
    return Comparison(kind, graph, what, np.log(x / y).tolist(), sign, steps=(lr, other))


def rolora(effort: Effort) -> Iterator[Comparison]:
    """RoLoRA against plain LoRA: worse on sparse graphs, better by a server, as reported.

    Against ADF-LoRA with T = 1, which differs in mixing the frozen factor, too, nothing is
    reported: it shows whether the drift of that factor is the reason.
    """
    for kind in effort.kinds:
        for graph in ("ring", "p = 0.1", "p = 0.02"):
            yield ratio(kind, graph, "rolora on a graph", "dlora", +1, effort)
            yield ratio(kind, graph, "rolora on a graph", "adf(1)", 0, effort)
        yield ratio(kind, "server", "rolora", "fedavg", -1, effort)


def thinning(effort: Effort) -> Iterator[Comparison]:
    """Alternating against plain LoRA as the graph thins: worse dense, better sparse, and growing.

    Reported are the numbers of TAD-LoRA at three p; of ADF-LoRA at T = 5 that of p = 0.1.
    """
    for kind in effort.kinds:
        for name in ("tad", "adf(5)"):
            gains = []
            for p in CONTACTS:
                graph, tuned_to_p = f"p = {p:g}", name == "tad"
                method = f"tad(p = {p:g})" if tuned_to_p else name
                sign = {0.5: +1, 0.1: -1, 0.02: -1}[p] if tuned_to_p or p == 0.1 else 0
                gains.append(ratio(kind, graph, method, "dlora", sign, effort))
            yield from gains
            growth = np.subtract(gains[-1].values, gains[0].values).tolist()
            where = f"p = {CONTACTS[-1]:g} against p = {CONTACTS[0]:g}"
            sign = -1 if name == "tad" else 0
            yield Comparison(kind, where, f"change of {name} / dlora", growth, sign)


def lazy(graph: str, rho: float) -> Array:
    """Return (1 - g) I + g P with |Pi - J|_op^2 = rho, P the complete graph or the ring.

    ValueError: rho below that of P.
    """
    P = TOPOLOGIES[graph](AGENTS)
    second = float(np.linalg.eigvalsh(P)[-2])
    g = (1 - sqrt(rho)) / (1 - second)
    if not g <= 1 + 1e-12:
        raise ValueError(f"rho must be at least that of the {graph}, {second**2:g}, got {rho}")
    return (1 - g) * np.eye(AGENTS) + g * P


def best_intervals(kind: str, graph: str, rho: float, effort: Effort) -> Array:
    """Return the interval with the least excess of each seed, step sizes tuned, [seeds]."""
    Pi = lazy(graph, rho)

    def of(T: int) -> Array:
        def score(lr: float, some: Sequence[int]) -> Array:
            found = excess(kind, adf_lora(T), Pi, lr, some, steps=INTERVAL_ROUNDS)
            return found.mean(axis=-1)

        return tuned(score, effort.seeds, effort.tuning, STEPS[1:-1])[0]

    table = np.stack([of(T) for T in INTERVALS])
    return np.asarray(INTERVALS)[table.argmin(axis=0)]


def slopes(rhos: Sequence[float], best: Array) -> Array:
    """Return each seed's least-squares slope of log T* against log 1/sqrt(1 - rho), [seeds].

    best: T* [rhos, seeds].
    """
    x = -0.5 * np.log1p(-np.asarray(rhos))
    x = x - x.mean()
    y = np.log(best)
    return x @ (y - y.mean(axis=0)) / (x @ x)


def interval(effort: Effort) -> Iterator[Comparison]:
    """The best switching interval against 1/sqrt(1 - rho): reported is the slope 1."""
    cases = (("isotropic", "complete"), ("curved", "complete"), ("isotropic", "ring"))
    for kind, graph in cases:
        if kind not in effort.kinds:
            continue
        rhos = RHOS[graph]
        best = np.stack([best_intervals(kind, graph, rho, effort) for rho in rhos])
        where = f"{graph}, rho = {rhos[0]:g} ... {rhos[-1]:g}"
        slope = slopes(rhos, best).tolist()
        yield Comparison(kind, where, "slope of log T*", slope, +1, "slope")
        for rho, row in zip(rhos, best, strict=True):
            where = f"{graph}, rho = {rho:g}"
            yield Comparison(kind, where, "log T*", np.log(row).tolist(), 0, "log")
