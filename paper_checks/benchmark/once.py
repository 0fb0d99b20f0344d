"""One local training, mixed once by every method: an experiment of one mix costs one training.

Most methods differ from local LoRA in their mix alone. Their first mix is applied to copies of the
factors that local training left, so that all of them start from the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from decaf_theory.methods import METHODS, keeping_directions
from paper_checks import mixing
from paper_checks.benchmark.cells import Job, cell_of, why_not
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
    return [{**job.row(), "start_spread": start, **row} for row in rows]


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
