"""Differences from the base and from the best, with intervals that hold together, and a word each.

Differences are paired by seed. All intervals of the rows hold together at the level (Bonferroni).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from decaf_theory.stats import Interval, bonferroni, paired_interval
from paper_checks.tournament.tasks import BASES

Row = Mapping[str, Any]
Judged = dict[str, Any]
LEVEL = 0.95
DIGITS = 3
ROUNDING = 10.0**-DIGITS  # of a difference of two stored scores
WORDS = ("wins", "ties", "loses", "fails")
# field -> the score that is compared, and the field of the method that it is compared with
DIFFERENCES = {
    "own_from_base": ("own", "base"),
    "mean_from_base": ("mean", "base"),
    "own_from_best": ("own", "best"),
}


def judged(rows: Iterable[Row], lower: Mapping[str, bool], level: float = LEVEL) -> list[Judged]:
    """Return the rows with base, best, differences and verdict; lower: task -> less is better.

    best: the method with the best score on the tuning seeds, so that its choice is independent of
    the scores that are compared. verdict: `WORDS`, from the agents' own points; "base" or "refused"
    where there is nothing to compare.
    """
    named: list[Judged] = [
        {**row, **opponents(group, lower[group[0]["task"]])}
        for group in groups(rows)
        for row in group
    ]
    scores = {(*place(row), row["method"]): row for row in named}
    pairs = [
        (row, field, scores[(*place(row), row[against])])
        for row in named
        for field, (score, against) in DIFFERENCES.items()
        if compared(row, scores.get((*place(row), row[against])), score)
    ]
    each = bonferroni(level, max(len(pairs), 1))
    for row, field, other in pairs:
        score = DIFFERENCES[field][0]
        interval = paired_interval(row[score], other[score], each)
        row[field] = [round(x, DIGITS) for x in interval]
    return [{**means(row), "verdict": verdict(row, lower[row["task"]])} for row in named]


def means(row: Row) -> Judged:
    """Return the row with the means of its scores in their place."""
    scores = {name: row[name] for name in ("own", "mean") if row.get(name) is not None}
    return {**row, **{name: round(fmean(values), DIGITS) for name, values in scores.items()}}


def place(row: Row) -> tuple[str, str, str]:
    """Return where a row's scores can be compared: task, network, budget ("" of a refusal)."""
    return row["task"], row["network"], row.get("budget", "")


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows that can be compared, together."""
    return [list(group) for _, group in groupby(sorted(rows, key=place), key=place)]


def opponents(group: Sequence[Row], lower: bool) -> dict[str, str | None]:
    """Return the base of these rows, and the method with the best tuning score."""
    sign = 1 if lower else -1
    tuned = [(sign * row["tuned"], row["method"]) for row in group if row["status"] == "played"]
    base = BASES[group[0]["network"]]
    return {"base": base, "best": min(tuned)[1] if tuned else None}


def compared(row: Row, other: Row | None, score: str) -> bool:
    """Whether both were played and have this score."""
    if other is None or row["method"] == other["method"]:
        return False
    return all(r["status"] == "played" and r[score] is not None for r in (row, other))


def verdict(row: Row, lower: bool) -> str:
    """Return a word about a row."""
    if row["status"] == "refused":
        return "refused"
    if row["status"] == "diverged" or not better_than_its_start(row, lower):
        return "fails"
    if row["method"] == row["base"]:
        return "base"
    if "own_from_base" not in row:
        return "no base"
    return word(Interval(*row["own_from_base"]), lower)


def better_than_its_start(row: Row, lower: bool) -> bool:
    """Whether the mean score of the agents improved at all."""
    gain: float = fmean(row["own"]) - row["start"]
    return gain < 0 if lower else gain > 0


def word(difference: Interval, lower: bool) -> str:
    """Return "wins" or "loses" if the interval is on one side of zero by more than rounding.

    Differences without any spread say nothing about others: few of them, of scores that are counts
    or of equal runs, are no evidence that there is none.
    """
    if difference.low == difference.high:
        return "ties"
    if difference.high < -ROUNDING:
        return "wins" if lower else "loses"
    if difference.low > ROUNDING:
        return "loses" if lower else "wins"
    return "ties"


def counts(rows: Iterable[Row]) -> defaultdict[tuple[str, str], Counter[str]]:
    """Return how often a method has each verdict, by method and budget."""
    found: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        if "budget" in row:
            found[row["method"], row["budget"]][row["verdict"]] += 1
    return found


def comparisons(rows: Iterable[Row]) -> int:
    """Return the number of intervals in judged rows."""
    return sum(field in row for row in rows for field in DIFFERENCES)
