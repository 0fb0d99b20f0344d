"""Adapters that agents trained apart, joined into one model in every way that trains nothing more.

Of the first m agents: the mean of the factors (as DLoRA and FedAvg), the mean of the products
truncated to the adapters' rank (as DeCAF and FlexLoRA), the adapters side by side, which is the
mean of the products exactly and has rank m r (as FLoRA); and no join at all, but the mean of the
class scores, for which all m models are run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Clock
from paper_checks import endpoints, mixing, observe
from paper_checks.benchmark.cells import MEAN_SCORE, Job, cell_of, of_members
from paper_checks.benchmark.play import Losses, both, scored, spread, started, train_alone
from paper_checks.closing import batch_of
from paper_checks.run import Run

Row = dict[str, Any]


def play(job: Job) -> list[Row]:
    """Train all agents alone, then return a row for each number of members and way to join them."""
    run = started(job._replace(method="local"), lambda *_: None)
    start = spread(run.stacked)
    train_alone(run)
    agents = list(range(run.stacked.agents))
    scores = observe.class_scores(run.stacked, run.task, batch_of(run), agents)
    about = {**job.row(), "start_spread": start}
    return [
        {**about, "graph": of_members(m), **row}
        for m in cell_of(job.suite, job.cell).joined
        for row in joins(run, scores[:m])
    ]


def joins(run: Run, scores: torch.Tensor) -> list[Row]:
    """Return the rows of the first agents, whose own class scores [m, example, class] are given."""
    m = len(scores)
    factors = {name: pair.map(lambda X: X[:m]) for name, pair in run.stacked.factors().items()}
    exact = scored(run, endpoints.mean_products(factors))
    rows = [
        {"method": "local", **both(observe.summary(scores, run.task), exact)},
        {"method": "flora", **both(exact, exact)},
        {"method": MEAN_SCORE, **alike(observe.summary(scores.mean(0, keepdim=True), run.task))},
    ]
    lost = losses(factors, m)
    for name, joined in (("dlora", endpoints.mean_factors(factors)), ("decaf", truncated(factors))):
        rows.append({"method": name, **lost, **alike(scored(run, joined))})
    return rows


def alike(found: Row) -> Row:
    """Return the scores of a single model."""
    return both(found, found)


def truncated(factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return by site the mean product cut to the agents' rank, [1, d, r] and [1, r, k]."""
    return {name: _truncated(pair) for name, pair in factors.items()}


def _truncated(pair: Factors) -> Factors:
    decaf, m = METHODS["decaf"], len(pair.B)
    mixed = decaf.exchange(decaf.begin(pair), np.full((m, m), 1 / m), Clock(0, 0, 1)).state
    return mixed.factors.map(lambda X: X[:1])


def losses(factors: Mapping[str, Factors], m: int) -> Row:
    """Return what the two joins to the adapters' rank lose of the mean of m agents' products."""
    found = Losses()
    for names in mixing.by_shape(factors):
        found.add(0, mixing.together(factors[name] for name in names), np.full((1, m), 1 / m))
    return found.row()
