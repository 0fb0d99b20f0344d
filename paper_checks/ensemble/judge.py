"""Step sizes chosen on their own seed, and differences from the ensemble, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from decaf_theory.stats import Interval, bonferroni, mean_interval
from paper_checks.ensemble.cells import CELLS, PARTITIONS, SEEDS, TUNING

Row = Mapping[str, Any]
LEVEL = 0.95
METRICS = ("accuracy", "nll", "ece")
BASE = ("members", "ensemble")
ENDS = ("own", "averaged", "dlora_once", "decaf_once", "ensemble")


class Line(NamedTuple):
    """An endpoint of a cell: means over the seeds, and what differs from the ensemble.

    bytes: the mean over the seeds, in MB. means: of METRICS and confidence. differences: of
    METRICS; those of the ensemble itself are missing.
    """

    partition: str
    cell: str
    endpoint: str
    lr: float
    bytes: float
    means: Mapping[str, float]
    differences: Mapping[str, Interval]
    seeds: int


def step_sizes(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return the step size of each (cell, partition): the least mean NLL on the tuning seeds.

    Of the endpoint that the cell is tuned by.
    """
    found = {}
    for cell in CELLS:
        for partition in PARTITIONS:
            mean = means_by_lr(rows, cell.name, partition, cell.tuned)
            if mean:
                found[cell.name, partition] = min(mean, key=lambda lr: mean[lr])
    return found


def means_by_lr(
    rows: Sequence[Row], cell: str, partition: str, endpoint: str
) -> dict[float, float]:
    """Return the mean NLL on the tuning seeds by step size."""
    found: dict[float, list[float]] = {}
    for row in rows:
        here = (row["cell"], row["partition"], row["endpoint"]) == (cell, partition, endpoint)
        if here and row["seed"] in TUNING:
            found.setdefault(row["lr"], []).append(row["nll"])
    return {lr: fmean(values) for lr, values in found.items()}


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return all endpoints that have two seeds or more, those of the base first.

    The intervals hold together at LEVEL, those of what was not run among them.
    """
    chosen = step_sizes(rows)
    places = [
        (partition, cell.name, end)
        for partition in PARTITIONS
        for cell in CELLS
        for end in ENDS
        if cell.once or not end.endswith("_once")
    ]
    each = bonferroni(LEVEL, (len(places) - len(PARTITIONS)) * len(METRICS))
    found = []
    for partition, cell, end in places:
        lr = chosen.get((cell, partition), 0.0)
        own = of_seeds(rows, partition, cell, end, lr)
        base = of_seeds(rows, partition, *BASE, chosen.get((BASE[0], partition), 0.0))
        shared = sorted(own.keys() & base.keys())
        if len(shared) < 2:
            continue
        found.append(
            Line(
                *(partition, cell, end, lr),
                fmean(own[seed]["bytes"] for seed in shared) / 1e6,
                {name: fmean(own[s][name] for s in shared) for name in (*METRICS, "confidence")},
                {
                    name: mean_interval([own[s][name] - base[s][name] for s in shared], each)
                    for name in METRICS
                    if (cell, end) != BASE
                },
                len(shared),
            )
        )
    return found


def of_seeds(
    rows: Sequence[Row], partition: str, cell: str, endpoint: str, lr: float
) -> dict[int, Row]:
    """Return the rows of an endpoint by seed, of those that are reported."""
    place = (partition, cell, endpoint, lr)
    return {
        row["seed"]: row
        for row in rows
        if (row["partition"], row["cell"], row["endpoint"], row["lr"]) == place
        and row["seed"] in SEEDS
    }
