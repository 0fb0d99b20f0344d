"""Mixing matrices that are drawn at random: runs that each draw their own, for T37-random.

Its bound on the consensus distance is of the mean over draws. A `Config` has one draw for all of
its runs, so that this mean is estimated over runs that draw anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from decaf_theory.compare.path import Path
from decaf_theory.lowrank import Factors
from decaf_theory.simulate import Config, start_factors
from decaf_theory.topology import Contacts, RandomSchedule


def law_of(config: Config) -> RandomSchedule | Contacts | None:
    """Return what draws the matrices of all rounds independently; None where nothing does."""
    graph = config.graph
    if isinstance(graph, RandomSchedule):
        return graph
    return graph if isinstance(graph, Contacts) and graph.then == "draw" else None


def drawing_anew(config: Config) -> Iterator[Config]:
    """Yield the runs one by one, each with matrices and noise of the seed that many further on."""
    law = law_of(config)
    assert law is not None
    for run in range(config.runs):
        own = replace(law, seed=law.seed + run)
        start = _start_of(config, run)
        yield replace(config, Pi=own, runs=1, seed=config.seed + run, start=start)


def _start_of(config: Config, run: int) -> Factors:
    """Return the start of one run, as a configuration takes it."""
    given = config.problem.start if config.start is None else config.start
    if given is None:
        given = start_factors(config)  # B = 0, with which every form begins at W0
    return given if given.B.ndim == 3 else given.map(lambda X: X[run : run + 1])


def joined(paths: list[Path]) -> Path:
    """Return the path of all runs."""
    return Path._make(np.concatenate(columns, axis=-1) for columns in zip(*paths, strict=True))
