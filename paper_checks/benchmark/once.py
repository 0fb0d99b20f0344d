"""One local training, mixed once by every method: an experiment of one mix costs one training.

Most methods differ from local LoRA in their mix alone. Their first mix is applied to copies of the
factors that local training left, so that all of them start from the same numbers. Many of them
leave the same models on a complete graph or at a server: these are scored once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decaf_theory.methods import METHODS, keeping_directions
from decaf_theory.rng import generator
from paper_checks import beginning, mixing
from paper_checks.benchmark.cells import Job, cell_of, why_not
from paper_checks.benchmark.controls import watched
from paper_checks.benchmark.play import Losses, ends, held, put, spread, started, train_alone
from paper_checks.config import ADAPTER_METHODS
from paper_checks.run import Run
from paper_checks.stacked import Stacked

Row = dict[str, Any]
PROBES = 8  # inputs of each site by which two updates are compared
# of an update: methods that leave the same models in other factors differ by the rounding of
# float32 in sums over N r terms and in factorizations of matrices with N r rows
SAME = 64 * torch.finfo(torch.float32).eps


def play(job: Job) -> list[Row]:
    """Train locally, then return a row for each graph and method, "local" for no mix at all."""
    run = started(job._replace(method="local"), lambda *_: None)
    begun = held(run.stacked)
    start = spread(run.stacked)
    train_alone(run)
    trained = held(run.stacked)
    graphs = cell_of(job.suite, job.cell).once
    rows, scores = [], Scores()
    for name in (name for name in ADAPTER_METHODS if not why_not(METHODS[name], run.every)):
        for graph in graphs if METHODS[name].meets == "graph" else ("any",):
            losses = first_mix(run, name, begun, trained, graph)
            rows.append({"method": name, "graph": graph, **losses.row(), **scores.of(run)})
            put(run.stacked, trained)
            for site in run.stacked.sites.values():
                site.merged = None
    return [{**job.row(), "start_spread": start, **row} for row in rows]


class Scores:
    """What the agents score, once for all states in which they hold the same models."""

    def __init__(self) -> None:
        """Start with none."""
        self.known: list[tuple[list[Tensor], Row]] = []

    def of(self, run: Run) -> Row:
        """Return the scores of `ends`, with the bytes that were sent here."""
        models = outputs(run.stacked)
        for others, row in self.known:
            if all(map(same, models, others)):
                return row | {"sent": run.sent}
        self.known.append((models, ends(run)))
        return self.known[-1][1]


@torch.no_grad()
def outputs(stacked: Stacked) -> list[Tensor]:
    """Return W - W0 of every agent and site at a few inputs, [N, d, PROBES], and the heads."""
    found = []
    for name, site in stacked.sites.items():
        draw = generator(0, "benchmark", "probe", name)
        X = torch.from_numpy(draw.standard_normal((site.A.shape[-1], PROBES)))
        merged = 0.0 if site.merged is None else site.merged.double() @ X
        found.append(site.B.double() @ (site.A.double() @ X) + merged)
    heads = [X.detach() for head in stacked.heads.values() for X in head.parameters()]
    return found + heads


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two are equal to rounding, relative to the first."""
    return bool(torch.linalg.vector_norm(one - other) <= SAME * torch.linalg.vector_norm(one))


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
    memory = beginning.begin(run.stacked, rule)
    put(run.stacked, trained)
    clock = run.rounds.before(1)
    run.sent = mixing.mix(run.stacked, watched(rule, losses.watch), Pi, memory, clock)
    return losses
