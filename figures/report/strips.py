"""The rows of a claim as dots: how much of its room each of them uses.

    used = measured/limit      of a row that holds (of an identity: residual/rounding)
    used = 2 - limit/measured  of one that is violated

that is 1 - `Row.margin`: 0, the limit at 1, twice the limit at 1.5, infinity at 2; no scale is
chosen and nothing is cut off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from verification.claim import Outcome, Row

MOST = 10  # strips of one claim
BIN = 1.0  # per cent of the width that one dot takes
STEP, HEIGHT = 5.0, 44.0  # px between stacked dots, and of the highest stack


class Mark(NamedTuple):
    """One dot: per cent of the width, px from the middle, outcome, and what the row says."""

    x: float
    y: float
    outcome: str
    decides: bool
    text: str


class Strip(NamedTuple):
    """The dots of similar rows."""

    label: str
    rows: int
    height: float
    marks: list[Mark]


class Plot(NamedTuple):
    """The strips of a claim, the ticks of their common axis, and the number of rows off it."""

    strips: list[Strip]
    ticks: list[tuple[float, str]]
    nowhere: int


def used(row: Row) -> float:
    """Return the share of its room that a row uses, in [0, 2]; NaN if numbers are not finite."""
    return min(max(1 - row.margin, 0.0), 2.0) if math.isfinite(row.margin) else math.nan


def plot(rows: Sequence[Row], decides: Row | None) -> Plot:
    """Return the strips of the rows, in the order in which the rows stand."""
    placed = [row for row in rows if not math.isnan(used(row))]
    end = 2.0 if any(used(row) > 1 for row in placed) else 1.0
    ticks = [(0.0, "0"), (0.5, "½"), (1.0, "bound"), (1.5, "2×"), (2.0, "∞")]
    groups: dict[str, list[Row]] = {}
    for row, label in zip(placed, labels(placed), strict=True):
        groups.setdefault(label, []).append(row)
    return Plot(
        [strip(label, found, end, decides) for label, found in groups.items()],
        [(100 * place / end, name) for place, name in ticks if place <= end],
        len(rows) - len(placed),
    )


def labels(rows: Sequence[Row]) -> list[str]:
    """Return the name of each row's strip: its case, or the case up to its first comma."""
    cases = [row.case for row in rows]
    for found in (cases, [case.split(",")[0] for case in cases]):
        if len(set(found)) <= MOST:
            return found
    return ["all cases"] * len(rows)


def strip(label: str, rows: Sequence[Row], end: float, decides: Row | None) -> Strip:
    """Return the dots of some rows, those at one place stacked from the middle outwards."""
    bins = Counter(_bin(row, end) for row in rows)
    seen: Counter[int] = Counter()
    marks = []
    for row in sorted(rows, key=used):
        place = _bin(row, end)
        step = min(STEP, HEIGHT / bins[place])
        seen[place] += 1
        offset = step * (seen[place] // 2) * (-1) ** seen[place]
        x, y = round(100 * used(row) / end, 2), round(offset, 1)
        marks.append(Mark(x, y, row.outcome.value, row is decides, sentence(row)))
    highest = max(min(STEP, HEIGHT / count) * (count // 2) for count in bins.values())
    return Strip(label, len(rows), round(2 * highest + 16), sorted(marks, key=_order))


def _bin(row: Row, end: float) -> int:
    return round(100 * used(row) / end / BIN)


def _order(mark: Mark) -> tuple[bool, bool]:
    """Draw what fails above what holds, and the deciding row above all."""
    return mark.decides, mark.outcome != Outcome.HOLDS


def sentence(row: Row) -> str:
    """Return what a row says: case, numbers, outcome, coordinates."""
    interval = "" if row.low == row.high else f" in [{row.low:.6g}, {row.high:.6g}]"
    relation = {"<=": "≤", ">=": "≥", "==": "="}[row.relation]
    params = ", ".join(
        f"{name} = {value:.6g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in row.params.items()
    )
    return (
        f"{row.case}: {row.measured:.10g}{interval} {relation} {row.bound:.10g} "
        f"(rounding {row.rounding:.1e}), {row.outcome.value.replace('_', ' ')}"
        + (f"; {params}" if params else "")
    )
