"""One training, scored at all its endpoints, with the bytes that each takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from decaf_theory.methods import METHODS
from decaf_theory.rng import generator
from paper_checks import beginning, calibration, endpoints, finetune, mixing, observe
from paper_checks.benchmark.once import first_mix
from paper_checks.benchmark.play import held
from paper_checks.ensemble.cells import BY_NAME, Job, config_of
from paper_checks.run import Run
from paper_checks.stacked import Stacked

DEVIATION = 0.02  # of A and of heads at LoRA-Ensemble's start, as in the authors' code
Row = dict[str, Any]


def play(job: Job) -> list[Row]:
    """Return one row per endpoint of a training."""
    torch.set_num_threads(1)  # scores must not depend on the number of processes
    cell, run = BY_NAME[job.cell], finetune.prepare(config_of(job), device="cpu")
    if cell.members:
        start_apart(run.stacked, job.seed)
    begun = held(run.stacked)
    while run.step < run.config.train.steps:
        finetune.advance(run)
    rows = [*ends(run)]
    if cell.once:
        trained = held(run.stacked)
        for name in ("dlora", "decaf"):
            first_mix(run, name, begun, trained, "complete")
            rows.append({"endpoint": f"{name}_once", "bytes": run.sent, **own(run)})
    return [{**job._asdict(), **row} for row in rows]


@torch.no_grad()
def start_apart(stacked: Stacked, seed: int) -> None:
    """Draw every agent's A and head anew, normal, each from a stream of its own; biases are 0."""
    drawn = {name: site.A for name, site in stacked.sites.items()}
    drawn |= {name: head.weight for name, head in stacked.heads.items()}
    for name, part in drawn.items():
        for agent, X in enumerate(part):
            draw = generator(seed, "ensemble", name, agent).normal(0, DEVIATION, tuple(X.shape))
            X.copy_(torch.from_numpy(draw))
    for head in stacked.heads.values():
        if head.bias is not None:
            head.bias.zero_()


def ends(run: Run) -> Iterator[Row]:
    """Yield the scores of the agents' own models, of their ensemble and of their averaged model."""
    yield {"endpoint": "own", "bytes": run.sent, **own(run)}
    scores, labels = class_scores(run, run.stacked), run.task.test.labels
    sent = run.sent + bytes_to_gather(run)
    together = calibration.summary(calibration.mean_of_softmaxes(scores), labels)
    yield {"endpoint": "ensemble", "bytes": sent, **together}
    with endpoints.as_one(run.stacked, endpoints.mean_products(run.stacked.pairs())) as one:
        log_p = class_scores(run, one)[0].double().log_softmax(-1)
    yield {"endpoint": "averaged", "bytes": sent, **calibration.summary(log_p, labels)}


def own(run: Run) -> dict[str, float]:
    """Return the means over the agents of the scores of their own models."""
    each = [
        calibration.summary(scores.double().log_softmax(-1), run.task.test.labels)
        for scores in class_scores(run, run.stacked)
    ]
    return {name: sum(one[name] for one in each) / len(each) for name in each[0]}


def class_scores(run: Run, stacked: Stacked) -> torch.Tensor:
    """Return class scores of the test set, [agents, n, C]."""
    size = run.config.data.eval_batch or run.config.data.batch
    return observe.class_scores(stacked, run.task, size)


def bytes_to_gather(run: Run) -> int:
    """Return the bytes of all agents until each has the adapters and heads of all others."""
    N, rule = run.stacked.agents, METHODS["dlora"]  # whose message is adapters and head
    memory = beginning.begin(run.stacked, rule)
    return N * (N - 1) * mixing.message_bytes(run.stacked, rule, memory, run.rounds.before(1))
