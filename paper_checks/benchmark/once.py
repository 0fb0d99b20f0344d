"""One local training, mixed once by every method: an experiment of one mix costs one training.

Most methods differ from local LoRA in their mix alone. Their first mix is applied to copies of the
factors that local training left, so that all of them start from the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from decaf_theory.methods import METHODS, Clock, Method, keeping_directions
from decaf_theory.methods.base import along_the_gradient
from paper_checks import mixing
from paper_checks.benchmark.cells import Job, cell_of, needs_common_start
from paper_checks.benchmark.controls import watched
from paper_checks.benchmark.play import Losses, ends, held, put, spread, started, train
from paper_checks.config import ADAPTER_METHODS
from paper_checks.run import Run

Row = dict[str, Any]


def play(job: Job) -> list[Row]:
    """Train locally, then return a row for each graph and method, "local" for no mix at all."""
    run = started(job._replace(method="local"), lambda *_: None)
    begun = held(run.stacked)
    start = spread(run.stacked)
    train(run, cell_of(job.suite, job.cell))
    trained = held(run.stacked)
    graphs = cell_of(job.suite, job.cell).once
    rows = []
    for name in (name for name in ADAPTER_METHODS if not why_not(METHODS[name], run.every)):
        for graph in graphs if METHODS[name].meets == "graph" else ("any",):
            losses = first_mix(run, name, begun, trained, graph)
            rows.append({"method": name, "graph": graph, **losses.row(), **ends(run)})
            put(run.stacked, trained)
            for site in run.stacked.sites.values():
                site.merged = None
    return [{**job._asdict(), "start_spread": start, **row} for row in rows]


@torch.no_grad()
def first_mix(
    run: Run, name: str, begun: dict[str, Any], trained: dict[str, Any], graph: str
) -> Losses:
    """Mix once by a method, in place; return what was lost, measured before the mix.

    begun: what agents held at the start, from which a method's own memory begins.
    """
    losses = Losses()
    rule, N = keeping_directions(METHODS[name]), run.stacked.agents
    Pi = mixing.graph_of(rule, graph, N)
    put(run.stacked, begun)
    memory = mixing.begin(run.stacked, rule)
    put(run.stacked, trained)
    clock = run.rounds.before(1)
    run.sent = mixing.mix(run.stacked, watched(rule, losses.watch), Pi, memory, clock)
    return losses


def why_not(method: Method, steps: int) -> str:
    """Return why a method's first round of `steps` steps is not local LoRA's, "" if it is."""
    clocks = [Clock(0, step, steps) for step in range(steps)]
    if method.tuned is not None:
        return "its turns are those of a graph"
    if needs_common_start(method.name):
        return "it is defined for agents that start alike"
    if any({*method.trains(clock)} != {"B", "A"} for clock in clocks):
        return "it does not train both factors"
    if method.pools != "none":
        return "its agents average gradients"
    if method.step is not along_the_gradient:
        return "its steps are not along the gradient"
    return ""
