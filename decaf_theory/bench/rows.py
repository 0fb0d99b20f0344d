"""Rows, one flat object per measurement, and how they are judged and printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from decaf_theory.bench.timing import Timed
from decaf_theory.formats import digits

Row: TypeAlias = dict[str, Any]
MARGIN = 0.2  # a goal missed by more than this fails the run


class Labelled(Protocol):
    """The sizes of a case, a NamedTuple, and the case in words."""

    @property
    def label(self) -> str:
        """The case in words."""

    def _asdict(self) -> dict[str, Any]: ...


def seconds(goal: str, case: Labelled, timed: Sequence[Timed]) -> list[Row]:
    """Return one row for each contestant and round."""
    return [
        {
            **{"kind": "seconds", "goal": goal, "role": t.contestant.role, "round": number},
            **{"backend": t.contestant.backend, "seconds": value, "repeats": repeats},
            **{"scaled_by": t.contestant.times, "case": case.label, **case._asdict()},
        }
        for t in timed
        for number, (value, repeats) in enumerate(zip(t.seconds, t.repeats, strict=True))
    ]


def verdict(
    goal: str,
    case: str,
    measure: str,
    values: Sequence[float],
    relation: str | None = None,
    limit: float | None = None,
    margin: float = MARGIN,
) -> Row:
    """Return the row of one goal: the median of its values compared with the limit.

    relation ">=" or "<=", None for a measurement without a goal. missed_by is the fraction of the
    limit by which it is missed, zero if it is met; NaN never meets it.
    """
    reached = math.nan if any(map(math.isnan, values)) else statistics.median(values)
    missed = 0.0
    if limit is not None:
        excess = reached - limit if relation == "<=" else limit - reached
        missed = math.inf if math.isnan(excess) else max(excess / abs(limit), 0.0)
    status = "no goal" if limit is None else "missed" if missed > 0 else "ok"
    return {
        **{"kind": "verdict", "goal": goal, "case": case, "measure": measure, "status": status},
        **{"relation": relation, "limit": limit, "reached": reached, "missed_by": missed},
        **{"low": min(values), "high": max(values), "fails": missed > margin},
    }


def skipped(goal: str, case: str, measure: str, reason: str) -> Row:
    """Return the row of a measurement that could not be made here."""
    return {
        **{"kind": "verdict", "goal": goal, "case": case, "measure": measure},
        **{"status": "skipped", "reason": reason, "fails": False},
    }


def line(row: Row) -> str:
    """Return a verdict as one line: goal, case, measure, wanted, reached, spread, status."""
    start = f"{row['goal']:<5} {row['case']:<52} {row['measure']:<25}"
    if row["status"] == "skipped":
        return f"{start} skipped: {row['reason']}"
    wanted = "" if row["limit"] is None else f"{row['relation']} {digits(row['limit'])}"
    status = row["status"]
    if status == "missed":
        status += f" by {digits(100 * row['missed_by'])} %"
    spread = f"{digits(row['low'])} ... {digits(row['high'])}"
    return f"{start} {wanted:<10} {digits(row['reached']):>8}  {spread:<20} {status}"


MEASURE, WHOLE = 59, 144  # the column at which a line may be divided, and all columns
HEADER = (
    f"{'id':<5} {'case':<52} {'measure':<25} {'goal':<10} {'reached':>8}  {'spread':<20} status"
)
