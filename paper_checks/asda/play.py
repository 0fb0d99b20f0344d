"""One training, and how its agents' own models tell target images apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from decaf_theory.arrays import Host
from paper_checks import finetune
from paper_checks.asda.cells import Job, config_of
from paper_checks.run import Run
from paper_checks.tasks import Data
from paper_checks.tasks.adapting import Weights


def play(job: Job) -> list[dict[str, Any]]:
    """Return the row of a training.

    accuracy: on target images in percent, the agents' mean. unlabelled: the target images without
    labels that its steps are shown; sure: those that reach the threshold of pseudo-labels.
    """
    run = started(job)
    seen: list[Tensor] = []
    while not run.finished:
        seen.append(sure(run))
        finetune.advance(run)
    reached = torch.cat(seen)
    counts = {"unlabelled": len(reached), "sure": int(reached.sum())}
    score = run.records[-1]["score"]
    return [{**job._asdict(), "accuracy": 100 * score, "sent": run.sent, **counts}]


def sure(run: Run) -> Tensor:
    """Return whether each unlabelled image of the coming step, [N b], would get a pseudo-label.

    It would if the mean of both heads' scores gives a class the threshold or more. Cells without
    pseudo-labels are asked, too.
    """
    threshold = run.config.task.get("threshold", Weights().threshold)
    parts = [batch.inputs["weak"] for batch in run.batches.at(run.step)]
    with torch.no_grad():
        scores = run.task.scores(
            run.stacked.model, {"pixel_values": torch.cat(parts)}, run.stacked.agents
        )
    found: Tensor = scores.softmax(-1).amax(-1) >= threshold
    return found


def started(job: Job) -> Run:
    """Return a run at its start, each agent with one target domain, on one thread."""
    torch.set_num_threads(1)  # scores must not depend on the number of processes
    run = finetune.prepare(config_of(job), device="cpu")
    run.shards = run.batches.shards = by_domain(run.task.train, run.stacked.agents)
    return run


def by_domain(train: Data, agents: int) -> list[Host]:
    """Return the places of the triples of each agent: all of them for one agent alone.

    Of D domains number d goes to the agents d, d + D, ..., dealt in turn.
    """
    domains = train.inputs["target"].domains
    if agents == 1:
        return [np.arange(len(domains))]
    known = list(dict.fromkeys(domains))
    of, D = np.array([known.index(domain) for domain in domains]), len(known)
    return [
        np.flatnonzero(of == agent % D)[agent // D :: len(range(agent % D, agents, D))]
        for agent in range(agents)
    ]
