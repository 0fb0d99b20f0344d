"""What the statistics of the sentences say: quantiles, rank correlations, splits that agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from decaf_theory.arrays import Host
from decaf_theory.concentration import STATISTICS, median_split
from decaf_theory.rng import generator
from decaf_theory.stats import Interval

Row = Mapping[str, Any]
LEVEL, RESAMPLES, PLACES = 0.95, 2000, 4
OTHERS = ("loss", "length")
QUANTILES = (0, 10, 50, 90, 100)


def judged(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows that are kept: of planted kinds as they are, of sentences what they say."""
    yield from (row for row in rows if row["part"] == "planted")
    heads = {row["head"]: row for row in rows if row["part"] == "sentences"}
    for head, row in heads.items():
        yield from distribution(head, row)
    for head, row in heads.items():
        yield from pairs(head, row)
    for first, second in combinations(heads, 2):
        yield between(heads[first], heads[second])


def distribution(head: str, row: Row) -> Iterator[Row]:
    """Yield the quantiles of each statistic over the samples."""
    for name in STATISTICS:
        values = [round(float(x), PLACES) for x in np.percentile(row[name], QUANTILES)]
        about = {"part": "distribution", "head": head, "statistic": name}
        yield {**about, "quantiles": values, "flipped": row["flipped"]}


def pairs(head: str, row: Row) -> Iterator[Row]:
    """Yield how statistics correlate in rank, with loss and length, too; how two splits agree."""
    others = [(name, other) for name in STATISTICS for other in OTHERS]
    for first, second in (*combinations(STATISTICS, 2), *others):
        x, y = np.array(row[first]), np.array(row[second])
        found = {"correlation": stored(bootstrapped(x, y, correlation))}
        if second in STATISTICS:
            found["agreement"] = stored(bootstrapped(x, y, agreement))
        yield {"part": "pair", "head": head, "first": first, "second": second, **found}


def between(first: Row, second: Row) -> Row:
    """Return how the splits of one corpus under two heads agree, by statistic."""
    both = {n: (np.array(first[n]), np.array(second[n])) for n in STATISTICS}
    found = {n: stored(bootstrapped(x, y, agreement)) for n, (x, y) in both.items()}
    return {"part": "heads", "first": first["head"], "second": second["head"], **found}


def stored(found: Interval) -> list[float]:
    """Return an interval as it is stored."""
    return [round(x, PLACES) for x in found]


def correlation(x: Host, y: Host, axis: int = -1) -> Host:
    """Return Spearman's rank correlation along an axis: that of the ranks, ties averaged."""
    u, v = (stats.rankdata(z, axis=axis) for z in (x, y))
    u, v = (z - z.mean(axis=axis, keepdims=True) for z in (u, v))
    return np.asarray((u * v).sum(axis) / np.sqrt((u * u).sum(axis) * (v * v).sum(axis)))


def agreement(x: Host, y: Host, axis: int = -1) -> Host:
    """Return the share of samples that both splits put on the same side, along the last axis."""
    both = np.apply_along_axis(median_split, axis, x) == np.apply_along_axis(median_split, axis, y)
    return np.asarray(both.mean(axis))


def bootstrapped(x: Host, y: Host, of: Callable[..., Host]) -> Interval:
    """Return a number of paired samples with its percentile interval, at LEVEL by itself."""
    found = stats.bootstrap(
        (x, y),
        of,
        paired=True,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=generator(0, "prism", "bootstrap"),
    ).confidence_interval
    return Interval(float(of(x, y)), float(found.low), float(found.high))
