"""What a run takes besides its training steps: evaluating, decoding, observing and mixing.

Operations are counted; hours rest on the assumptions named here, which the printed report repeats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from decaf_theory.methods.cost import mixing_flops
from paper_checks import mixing
from paper_checks.architectures import TASKS, Architecture, Sizes
from paper_checks.config import Config
from paper_checks.rounds import Rounds
from paper_checks.rules import IMAGE_SETS
from paper_checks.stacked import Stacked

DECODED = 7.4e-3  # seconds of a core for each image, once: measured, photographs of 667 x 500
CROPPED = 2e-3  # for each random crop of one, at every step
OBSERVED = 0.1  # seconds of a core for each site and observation: measured, 4096 x 4096
MIX_UTILISATION = 0.01  # of the peak in float32, by the small products of a mix


class Parts(NamedTuple):
    """A whole run, all agents. None: it depends on data that are not available."""

    rounds: int | None  # each ends with a mix
    observed: int | None  # mixes that are measured
    evaluations: int | None
    tested: int  # examples of an evaluation
    evaluating: int  # flops of one evaluation
    mixing: float | None  # flops of one mix; None: of this method they are not counted
    images: int | None  # decoded once
    crops: int  # random ones, at all steps; 0 without augmentation
    share: float | None  # of the hours of training that observing may take

    def observing(self, sites: int) -> float | None:
        """Return the hours of observing on one core, whatever share of time is allowed."""
        return None if self.observed is None else self.observed * sites * OBSERVED / 3600

    def mixing_hours(self, peak: float) -> float | None:
        """Return the hours of all mixes on a GPU of this peak in float32."""
        if self.rounds is None or self.mixing is None:
            return None
        return self.rounds * self.mixing / (peak * MIX_UTILISATION) / 3600

    @property
    def decoding(self) -> float | None:
        """The hours of one core for all images, which other cores share."""
        if self.images is None:
            return None
        return (self.images * DECODED + self.crops * CROPPED) / 3600


def parts_of(
    config: Config,
    stacked: Stacked,
    architecture: Architecture,
    sizes: Sizes,
    every: int | None,
) -> Parts:
    """Return what a run takes besides its steps; every: the steps of a round, if known."""
    steps, observe = config.train.steps, config.observe
    rounds = None if every is None else Rounds(every, config.mix.after or every).whole(steps)
    tested, kept = tested_of(config), held_of(config, sizes)
    return Parts(
        rounds=rounds,
        observed=None if rounds is None else math.ceil(rounds / observe.every),  # and the last one
        evaluations=None if every is None else math.ceil(steps / every / observe.eval_every),
        tested=tested + (kept or 0),
        evaluating=evaluation_flops(stacked, architecture, sizes, tested + (kept or 0)),
        mixing=mix_flops(stacked, config),
        images=images_of(config, sizes, tested),
        crops=0 if config.data.augment is None else steps * sizes.agents * sizes.batch,
        share=observe.share,
    )


def tested_of(config: Config) -> int:
    """Return the examples that a configuration tests on; without test_samples, as published."""
    return config.data.test_samples or TASKS[config.task["name"]].tested


def held_of(config: Config, sizes: Sizes) -> int | None:
    """Return the examples for validation, None if they are a share of unknown data."""
    data = config.data
    if data.validation is None:
        return 0
    if data.validation_shots is not None:
        return data.validation_shots * sizes.classes
    return int(data.validation) if data.validation >= 1 else None


def images_of(config: Config, sizes: Sizes, tested: int) -> int | None:
    """Return the images that are decoded; 0 for texts, None if their number is not known."""
    if config.task["name"] not in IMAGE_SETS:
        return 0
    shots, samples = config.data.shots, config.data.train_samples
    trained = samples if shots is None else shots * sizes.classes
    kept = held_of(config, sizes)
    return None if trained is None or kept is None else trained + tested + kept


def evaluation_flops(
    stacked: Stacked, architecture: Architecture, sizes: Sizes, examples: int
) -> int:
    """Return the flops of all agents' scores of so many examples each.

    Forward passes of one and of two examples differ by an example; the rest is computed once.
    """
    one, two = (_forward(stacked, architecture, sizes._replace(batch=b)) for b in (1, 2))
    return (two - one) * examples + (2 * one - two)


@torch.no_grad()
def _forward(stacked: Stacked, architecture: Architecture, sizes: Sizes) -> int:
    with FlopCounterMode(display=False) as counter:
        architecture.scores(stacked.model, sizes)
    return int(counter.get_total_flops())


def mix_flops(stacked: Stacked, config: Config) -> float | None:
    """Return the flops of a mix of all sites, None for methods whose flops are not counted."""
    rule, N = config.mix.rule, stacked.agents
    Pi = mixing.graph_of(rule, config.mix.graph, N)
    rows = np.full((N, N), 1 / N) if Pi is None else Pi
    factors = stacked.factors()
    found = 0.0
    for names in mixing.by_shape(factors):
        d, k = factors[names[0]].shape
        flops = mixing_flops(rule, rows, d=d, k=k, r=factors[names[0]].rank)
        if flops is None:
            return None
        found += len(names) * flops
    return found
