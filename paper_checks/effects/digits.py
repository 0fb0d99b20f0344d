"""The effects on vit-digits: a small ViT, ten agents of skewed labels, real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from decaf_theory.arrays import Array
from decaf_theory.methods import METHODS, Method, keeping_directions, limiting_ranks, within_ranks
from paper_checks import config as configs
from paper_checks import finetune, observe
from paper_checks.effects.aggregation import watched
from paper_checks.effects.alternating import ROLORA_ON_A_GRAPH, contact
from paper_checks.effects.engine import Comparison, tuned
from paper_checks.effects.model import Schedule
from paper_checks.run import Run
from paper_checks.settings import Mix

NAME, STEPS_OF_A_RUN, NEVER = "vit-digits", 100, 10**6
STEP_SIZES, TUNING, SEEDS = (0.001, 0.002, 0.004), (1000, 1001), tuple(range(10))
RANKS = tuple((2, 4, 8)[agent % 3] for agent in range(10))
LARGEST = RANKS.index(max(RANKS))


@dataclass(frozen=True, kw_only=True)
class Chosen(Mix):
    """The mix of an experiment with a method that need not be in the table."""

    chosen: Method

    @property
    def rule(self) -> Method:
        """The method."""
        return keeping_directions(self.chosen)


def train(
    method: Method,
    lr: float,
    seed: int,
    graph: Callable[[int], Schedule] | None = None,
    ranks: Sequence[int] | None = None,
) -> Run:
    """Return a run after its last round. graph: the schedule of the seed; None for a server."""
    settings = {"data.partition": "skew", "train.lr": lr, "train.seed": seed}
    settings |= {"train.steps": STEPS_OF_A_RUN, "observe.every": NEVER, "observe.eval_every": NEVER}
    if ranks is not None:
        settings |= {"lora.rank": max(ranks), "lora.eta": 2.0 * max(ranks)}  # the scale of rank 4
        method = limiting_ranks(method, ranks)
    config = configs.read(NAME, settings)
    mix = Chosen(**vars(config.mix), chosen=method)
    run = finetune.prepare(replace(config, mix=mix), device="cpu")
    if ranks is not None:
        cut(run, ranks)
    schedule = None if graph is None else graph(seed)
    while run.step < STEPS_OF_A_RUN:
        if schedule is not None:
            run.Pi = schedule(run.step // run.every)
        finetune.advance(run)
    return run


@torch.no_grad()
def cut(run: Run, ranks: Sequence[int]) -> None:
    """Set what is beyond each agent's rank to zero."""
    for factors in run.stacked.factors().values():
        factors.A.copy_(within_ranks(factors, ranks).A)


@torch.no_grad()
def errors_of(run: Run, agent: int | None = None) -> float:
    """Return the share of test images told wrong: the agents' mean, or that of one agent."""
    if agent is not None:
        for X in run.stacked.parameters():
            X.copy_(X[agent].clone().expand_as(X))
    score: float = observe.evaluate(run.stacked, run.task, 100)["score"]
    return 1 - score


Wrong = Callable[[float, int], float]  # the share of errors at a step size and seed


def points(first: Wrong, second: Wrong) -> tuple[list[float], tuple[float, float]]:
    """Return first - second in points of accuracy for each seed, step sizes tuned, and those."""

    def best(wrong: Wrong) -> tuple[Array, float]:
        def score(lr: float, some: Sequence[int]) -> Array:
            return np.array([wrong(lr, seed) for seed in some])

        return tuned(score, SEEDS, TUNING, STEP_SIZES)

    (x, lr), (y, other) = best(first), best(second)
    return (100 * (y - x)).tolist(), (lr, other)


def rolora() -> Iterator[Comparison]:
    """RoLoRA on a graph against plain LoRA, pairs in contact with p = 0.1: worse, as reported."""

    def wrong(method: Method) -> Wrong:
        return lambda lr, seed: errors_of(train(method, lr, seed, partial(contact, 0.1)))

    values, steps = points(wrong(ROLORA_ON_A_GRAPH), wrong(METHODS["dlora"]))
    what = "rolora on a graph - dlora"
    yield Comparison(NAME, "p = 0.1", what, values, -1, "points of accuracy", steps)


def alignment() -> Iterator[Comparison]:
    """The error of aggregation in FedRot-LoRA's runs, mean over rounds and layers."""
    values, lr = [], STEP_SIZES[1]
    for seed in SEEDS:
        seen: list[tuple[Array, Array]] = []
        train(watched(METHODS["fedrot"], seen), lr, seed)
        held, sent = (sum(float(x.sum()) for x in column) for column in zip(*seen, strict=True))
        values.append(float(np.log(sent / held)))
    where, what = "10 rounds of 10 steps", "error turned all the way / before"
    yield Comparison(NAME, where, what, values, -1, steps=(lr,))


def ranks() -> Iterator[Comparison]:
    """The truncated mean product against zero-padded means: the server's model is better."""

    def wrong(name: str) -> Wrong:
        def of(lr: float, seed: int) -> float:
            return errors_of(train(METHODS[name], lr, seed, ranks=RANKS), LARGEST)

        return of

    values, steps = points(wrong("flexlora"), wrong("fedavg"))
    what = "flexlora - fedavg"
    yield Comparison(NAME, "ranks 2, 4, 8", what, values, +1, "points of accuracy", steps)
