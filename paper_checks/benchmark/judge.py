"""What the stored trainings say: contrasts paired by seed, and predictions against outcomes.

One contrast is primary, named before any of its seeds was run, and has an interval at LEVEL of its
own. The intervals of all others hold together at LEVEL (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from decaf_theory.stats import Interval, bonferroni, mean_interval
from paper_checks.benchmark.cells import CONTROLS, PRIMARY, SUITES, Cell

Row = Mapping[str, Any]
LEVEL = 0.95
WORDS = {1: ("as predicted", "opposite"), 0: ("above zero", "below zero")}
UNDECIDED = "holds zero"
BASES = {"decaf_lora_gauge": "decaf", "dlora_rebalanced": "dlora"}  # control -> compared with


class Place(NamedTuple):
    """Where scores can be compared: a cell of a suite and, of one mix by all methods, its graph."""

    suite: str
    cell: str
    graph: str | None = None

    @property
    def primary(self) -> bool:
        """Whether the primary contrast of the suite is here."""
        return (self.cell, self.graph) == SUITES[self.suite].primary


class Contrast(NamedTuple):
    """The score of one method minus that of another, each in its place, and the expected sign."""

    place: Place
    first: str
    second: str
    against: Place
    sign: int


class Finding(NamedTuple):
    """A contrast with its interval, in points; mean: of the averaged models, no interval.

    level: of the interval. deviation: the standard deviation of the seeds' differences.
    """

    contrast: Contrast
    own: Interval
    level: float
    deviation: float
    seeds: int
    mean: float
    word: str


def contrasts(suite: str, predicted: Sequence[Row]) -> list[Contrast]:
    """Return all contrasts of a suite, the primary one first."""
    signs = {(row["suite"], row["cell"], row["graph"]): row["sign"] for row in predicted}
    found = []
    for cell in SUITES[suite].cells:
        for graph in cell.graphs:
            place = Place(suite, cell.name, graph if cell.alone else None)
            found.append(Contrast(place, "decaf", "dlora", place, signs[suite, cell.name, graph]))
        if cell.methods == CONTROLS:
            place, base = Place(suite, cell.name), Place(suite, PRIMARY)
            found += [Contrast(place, name, BASES[name], base, 0) for name in cell.methods]
    return found


def scores(rows: Sequence[Row], place: Place, method: str, field: str = "own") -> dict[int, float]:
    """Return a number of a method's trainings by seed; those that diverged have none."""
    return {
        row["seed"]: row[field]
        for row in rows
        if (row["suite"], row["cell"], row["method"]) == (place.suite, place.cell, method)
        and row.get("graph", "any") in (place.graph, "any")
        and row.get(field) is not None
    }


def differences(rows: Sequence[Row], one: Contrast, field: str = "own") -> list[float]:
    """Return the differences of the seeds that both methods have."""
    first = scores(rows, one.place, one.first, field)
    second = scores(rows, one.against, one.second, field)
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def judged(rows: Sequence[Row], asked: Sequence[Contrast]) -> list[Finding]:
    """Return the findings of the contrasts that have two seeds or more.

    The level is that of all that are asked, whether they have been run yet or not.
    """
    ready = [one for one in asked if len(differences(rows, one)) >= 2]
    others = [one for one in asked if not one.place.primary]
    each = bonferroni(LEVEL, max(len(others), 1))
    found = []
    for one in ready:
        own = differences(rows, one)
        level = LEVEL if one.place.primary else each
        interval = mean_interval(own, level)
        mean = fmean(differences(rows, one, "mean"))
        said = word(interval, one.sign)
        found.append(Finding(one, interval, level, stdev(own), len(own), mean, said))
    return found


def word(found: Interval, sign: int) -> str:
    """Return what an interval says of an expected sign, or, where none is, on which side it is."""
    if found.low <= 0 <= found.high:
        return "not seen" if sign else UNDECIDED
    return WORDS[abs(sign)][0 if (found.low > 0) == (sign >= 0) else 1]


class Outcome(NamedTuple):
    """A predicted range and what was measured at the first mix: least, mean and largest."""

    place: Place
    title: str
    what: str
    predicted: Sequence[float]
    measured: tuple[float, float, float]
    seeds: int

    @property
    def inside(self) -> bool:
        """Whether all measured numbers are in the range, to the decimals that are stored."""
        low, high = self.predicted
        slip = 1e-4  # the range is stored to four decimals
        return low - slip <= self.measured[0] and self.measured[2] <= high + slip


def outcomes(rows: Sequence[Row], predicted: Sequence[Row], suite: str) -> list[Outcome]:
    """Return predicted interference and truncation of all cells that were run, and the measured."""
    found = []
    for row in (row for row in predicted if row["suite"] == suite):
        cell = {cell.name: cell for cell in SUITES[suite].cells}[row["cell"]]
        place = Place(suite, cell.name, row["graph"] if cell.alone else None)
        for what in ("interference", "truncation"):
            own = [*scores(rows, place, "decaf", f"first_{what}").values()]
            if own:
                three = min(own), fmean(own), max(own)
                found.append(Outcome(place, title(cell, place), what, row[what], three, len(own)))
    return found


def title(cell: Cell, place: Place) -> str:
    """Return how a place is called on the page."""
    return cell.title if place.graph is None else f"{cell.title}, {place.graph}"
