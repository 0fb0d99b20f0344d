"""One training of the benchmark, and what is measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference_norm, mix_norm, schatten, truncation_error
from decaf_theory.methods import Clock, State
from decaf_theory.rng import generator
from decaf_theory.topology import SCHEDULES
from decaf_theory.tsvd import tsvd_of_mix
from paper_checks import checkpoint, endpoints, finetune, observe
from paper_checks.benchmark import controls
from paper_checks.benchmark.cells import Cell, Job, cell_of, config_of
from paper_checks.closing import batch_of
from paper_checks.run import Run
from paper_checks.stacked import Stacked

WATCHED = 10  # of so many steps one mix is measured, or every one of longer rounds
Row = dict[str, Any]


class Losses:
    """Relative interference and truncation error of the mixes of a run, before each of them.

    By round: the sums over sites and agents of |I|^2, |E|^2 and |M|^2 in the Frobenius norm.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.squares: dict[int, Array] = {}

    def watch(self, state: State, weights: Array, clock: Clock) -> None:
        """Add the sites of one shape, [layer, agent, ., .], at a mix."""
        if clock.round % (WATCHED // min(clock.steps, WATCHED)) == 0:
            self.add(clock.round, state.factors, np.asarray(weights))

    def add(self, round_: int, factors: Factors, Pi: Array) -> None:
        """Add sites [layer, agent, ., .] at a round, mixed by the rows of Pi."""
        for B, A in zip(*(X.double().numpy() for X in factors), strict=True):
            site = Factors(B, A)
            found = tsvd_of_mix(site, Pi, site.rank)
            norms = interference_norm(site, Pi), truncation_error(found), mix_norm(found)
            squares = np.array([float(schatten(x)) ** 2 for x in norms])
            self.squares[round_] = self.squares.get(round_, np.zeros(3)) + squares

    def row(self) -> Row:
        """Return both at the first mix, and their means over the rounds that were watched."""
        found = np.array([self.squares[t] for t in sorted(self.squares)]).reshape(-1, 3)
        if not len(found) or not found[:, 2].all():
            return {}
        ratios = np.sqrt(found[:, :2] / found[:, 2:])
        first, mean = ratios[0], ratios.mean(axis=0)
        names = ("interference", "truncation")
        return {f"first_{n}": float(x) for n, x in zip(names, first, strict=True)} | {
            n: float(x) for n, x in zip(names, mean, strict=True)
        }


def play(job: Job) -> list[Row]:
    """Return the row of a training after its last round, at both ends of the comparison."""
    cell, losses = cell_of(job.suite, job.cell), Losses()
    run = started(job, losses.watch)
    begun = spread(run.stacked)
    train(run, cell)
    return [{**job.row(), "start_spread": begun, **losses.row(), **ends(run)}]


def started(job: Job, watch: controls.Watch) -> Run:
    """Return a run at its start, agents' A spread as the cell has it, on one thread.

    watch: called before each mix (see `controls.watched`).
    """
    torch.set_num_threads(1)  # scores must not depend on the number of processes
    config, cell = config_of(job), cell_of(job.suite, job.cell)
    rule = config.mix.rule
    if job.method in controls.CONTROLS:
        rule = controls.CONTROLS[job.method]()
    mix = controls.Chosen(**vars(config.mix), chosen=controls.watched(rule, watch))
    run = finetune.prepare(replace(config, mix=mix), device="cpu")
    if 0 < cell.spread < 1:
        turn_to_a_common_start(run, cell.spread)
    return run


@torch.no_grad()
def turn_to_a_common_start(run: Run, sine: float) -> None:
    """Replace each A_i by cos A_0 + sin A_i, A_0 drawn once for all agents as LoRA draws it."""
    for name, site in run.stacked.sites.items():
        r, k = site.A.shape[1:]
        draw = generator(run.config.train.seed, "benchmark", "common", name)
        common = torch.from_numpy(draw.uniform(-1, 1, (r, k)) / k**0.5).to(site.A.dtype)
        site.A.copy_((1 - sine**2) ** 0.5 * common + sine * site.A)


def train(run: Run, cell: Cell) -> None:
    """Take all steps; a schedule's graph is drawn anew every round, by the seed."""
    schedule = None
    if cell.graph in SCHEDULES:
        schedule = SCHEDULES[cell.graph](run.stacked.agents, seed=run.config.train.seed)
    while run.step < run.config.train.steps:
        if schedule is not None and run.Pi is not None:
            run.Pi = np.asarray(schedule(run.step // run.every))
        finetune.advance(run)


def train_alone(run: Run) -> None:
    """Take all steps of local training, without a mix, a measurement or a score."""
    for t in range(run.config.train.steps):
        finetune.gradients(run, t)
        finetune.descend(run)


def spread(stacked: Stacked) -> float:
    """Return the root of sum_i |A_i - mean A|^2 / sum_i |A_i|^2 over all sites, in [0, 1]."""
    factors = [pair.A.double() for pair in stacked.factors().values()]
    apart = sum(float(((A - A.mean(0)) ** 2).sum()) for A in factors)
    total = sum(float((A**2).sum()) for A in factors)
    return (apart / total) ** 0.5 if total else 0.0


def ends(run: Run) -> Row:
    """Return how the agents' own models score on average, and how the mean of their models does."""
    own = mean = observe.evaluate(run.stacked, run.task, batch_of(run))
    if not observe.equal(run.stacked):
        mean = scored(run, endpoints.mean_products(run.stacked.factors()))
    return both(own, mean) | {"sent": run.sent}


def scored(run: Run, factors: Mapping[str, Factors]) -> Row:
    """Return the scores of one model with these factors in the places of the agents'."""
    with endpoints.as_one(run.stacked, factors) as one:
        return observe.evaluate(one, run.task, batch_of(run))


def both(own: Row, mean: Row) -> Row:
    """Return how own models score and the one they average to, as a row has it: in percent.

    With the least and largest of the own ones, and the losses.
    """
    return {
        "own": 100 * own["score"],
        "least": 100 * own["score_least"],
        "most": 100 * own["score_most"],
        "mean": 100 * mean["score"],
        "own_loss": own["test_loss"],
        "mean_loss": mean["test_loss"],
    }


def held(stacked: Stacked) -> dict[str, Tensor]:
    """Return copies of all tensors [N, ...] of the agents, by name."""
    return {name: X.detach().clone() for name, X in checkpoint.named(stacked).items()}


@torch.no_grad()
def put(stacked: Stacked, values: dict[str, Tensor]) -> None:
    """Copy the tensors of `held` back in place."""
    for name, X in checkpoint.named(stacked).items():
        X.copy_(values[name])
