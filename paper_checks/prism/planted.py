"""Samples of two kinds, planted: does the split by concentration find which is which?

The problem is exact: sample s has the loss f_s(W) = 1/2 sum_l |W_l - T_sl|_F^2 on L sites, and the
gradient -T_sl at the start W = 0. One kind is *concentrated*: its targets have the norm a at m
sites, drawn anew for each sample, and b = a / RATIO elsewhere; the other is *spread*, the same norm
everywhere. Both have sum_l |T_sl|_F^2 = L before noise, which is normal with standard deviation
`noise` in all of a site, and all of a sample is multiplied by a factor of its own, log-uniform in
[1/4, 4]: how large gradients are tells nothing.

Without noise the spread kind has the Gini coefficient 0, and the concentrated one
m (L - m) (a - b) / (L (m a + (L - m) b)), see `decaf_theory.concentration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.concentration import STATISTICS, median_split
from decaf_theory.rng import generator

SITES, D, K = 12, 8, 6
SAMPLES = 200
RATIO = 3.0
NOISES = (0.3, 1.0, 3.0, 10.0)


class Case(NamedTuple):
    """What is planted: m sites of the concentrated kind, and the share of samples that are.

    told: by what the kinds differ, by concentration or by something that the statistics of norms
    cannot see: the size ("scale") or the sign ("sign") of all targets, or nothing ("none").
    """

    title: str
    m: int = 2
    share: float = 0.5
    told: str = "concentration"


CASES: Mapping[str, Case] = {
    "few": Case("concentrated on 2 of 12 sites"),
    "half": Case("concentrated on 6 of 12 sites", m=6),
    "quarter": Case("concentrated on 2 of 12 sites, a quarter of the samples", share=0.25),
    "scale": Case("four times as large", told="scale"),
    "sign": Case("opposite gradients", told="sign"),
    "none": Case("no difference", told="none"),
}


class Drawn(NamedTuple):
    """Gradients at the start, [samples, sites, d, k], and which samples are of the planted kind."""

    gradients: Array
    planted: Array


def profile(case: Case) -> tuple[float, float]:
    """Return the norms (a, b) of the concentrated kind: a^2 m + b^2 (L - m) = L, a = RATIO b."""
    b = (SITES / (RATIO**2 * case.m + SITES - case.m)) ** 0.5
    return RATIO * b, b


def draw(case: Case, noise: float, seed: int) -> Drawn:
    """Return the gradients of SAMPLES samples, of which exactly a share is of the planted kind.

    Directions, noise and sizes are streams of the seed and not of the case.
    """
    rng = generator(seed, "prism", "samples")
    directions = unit(rng.standard_normal((SAMPLES, SITES, D, K)))
    sites = rng.random((SAMPLES, SITES)).argsort(axis=1)
    planted = rng.permutation(SAMPLES) < case.share * SAMPLES
    sizes = 4.0 ** rng.uniform(-1, 1, SAMPLES)
    noises = rng.standard_normal(directions.shape) / (D * K) ** 0.5
    norms = np.ones((SAMPLES, SITES))
    if case.told == "concentration":
        a, b = profile(case)
        norms[planted] = np.where(sites[planted] < case.m, a, b)
    targets = norms[..., None, None] * directions + noise * noises
    factors = {"scale": np.where(planted, 4.0, 1.0), "sign": np.where(planted, -1.0, 1.0)}
    sizes = sizes * factors.get(case.told, 1.0)
    return Drawn(-sizes[:, None, None, None] * targets, planted)


def unit(X: Array) -> Array:
    """Return matrices [..., d, k] over their Frobenius norms."""
    return X / np.linalg.norm(X, axis=(-2, -1), keepdims=True)


def recovery(case: Case, noise: float, seed: int) -> dict[str, float]:
    """Return the share of samples that each split puts on their side, by statistic and "random".

    Right are the planted ones above the median of the statistic, and the others at most there. A
    random split takes half of the samples, whatever they are.
    """
    gradients, planted = draw(case, noise, seed)
    norms = np.linalg.norm(gradients, axis=(-2, -1))
    splits = {name: median_split(of(norms)) for name, of in STATISTICS.items()}
    splits["random"] = median_split(generator(seed, "prism", "random").random(SAMPLES))
    return {name: float(np.mean(split == planted)) for name, split in splits.items()}
