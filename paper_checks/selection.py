"""Which point of a sweep's grid counts, for every method and column: the best on validation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import fmean
from typing import Any, NamedTuple

from paper_checks.choosing import at_an_end, best
from paper_checks.protocol import Plan
from paper_checks.rules import row_of
from paper_checks.scores import Column, columns_of, last, markdown, scores, validated
from verification.harness import Stored
from verification.store import StoreError

Point = tuple[Any, ...]  # the values of the swept settings, in the plan's order
Where = tuple[str, str, str]  # row, partition, graph of a run


class Selection(NamedTuple):
    """The point chosen for each row and column, the points tried, and the runs that count."""

    chosen: dict[Where, Point]
    tried: dict[Where, dict[Point, int]]  # how many seeds of each
    runs: list[Stored]


def where(run: Stored) -> Where:
    """Return the row and the column that a run belongs to."""
    return row_of(run.settings), run.settings["data.partition"], run.settings["mix.graph"]


def select(runs: Sequence[Stored], plan: Plan) -> Selection:
    """Return the best point of every row and column by its mean validation score over the seeds.

    Only points with as many seeds as the row has at any: else an easy seed could decide.
    StoreError: runs that were not scored on validation examples.
    """
    groups: dict[Where, dict[Point, list[Stored]]] = {}
    for run in runs:
        if not validated(run):
            raise StoreError(
                f"{run.folder} has no validation scores, by which a grid is chosen: set "
                f"data.validation, and sweep again with --restart"
            )
        point = tuple(run.settings[name] for name in plan.grid)
        groups.setdefault(where(run), {}).setdefault(point, []).append(run)
    chosen, kept = {}, []
    for place, found in groups.items():
        point = chosen_point(found, plan)
        chosen[place] = point
        kept += found[point]
    tried = {place: {p: len(own) for p, own in found.items()} for place, found in groups.items()}
    return Selection(chosen, tried, kept)


def chosen_point(found: dict[Point, list[Stored]], plan: Plan) -> Point:
    """Return the point of the best mean, the first in the grid's order of equals."""
    most = max(map(len, found.values()))
    order = [point for point in product(*plan.grid.values()) if len(found.get(point, ())) == most]
    means = {point: fmean(map(validation_of, found[point])) for point in order}
    point = best(means)
    assert point is not None  # some point has the most seeds
    return point


def validation_of(run: Stored) -> float:
    """Return the validation score after the last round."""
    return float([r["validation_score"] for r in run.records if "validation_score" in r][-1])


def text(selection: Selection, plan: Plan) -> str:
    """Return the table of the chosen values, and whether all rows had the same budget."""
    columns = columns_of(selection.runs)
    rows = list(scores(selection.runs, columns, last))

    def cell(row: str, column: Column) -> str:
        places = [(row, *column), (row, column[0], "any")]
        point = next((selection.chosen[p] for p in places if p in selection.chosen), None)
        return "-" if point is None else value_text(point, plan)

    tried = "; ".join(f"{name} in {', '.join(map(str, v))}" for name, v in plan.grid.items())
    parts = [
        f"### Chosen on validation\n\n{markdown(rows, columns, cell)}",
        f"Tried for every method: {tried}. * at an end of the grid: a better one may be beyond it.",
        budget_text(selection, plan),
    ]
    return "\n\n".join(part for part in parts if part)


def value_text(point: Point, plan: Plan) -> str:
    """Return the values of a point, with an asterisk at those at an end of the grid."""
    values = zip(point, plan.grid.values(), strict=True)
    return ", ".join(f"{x}{'*' if at_an_end(x, grid) else ''}" for x, grid in values)


def budget_text(selection: Selection, plan: Plan) -> str:
    """Return which rows have fewer runs than others, "" if none."""
    sizes = {place: sum(points.values()) for place, points in selection.tried.items()}
    most = max(sizes.values())
    fewer = [f"{' '.join(p)} {n} runs" for p, n in sizes.items() if n < most]
    return f"Unequal budgets: {most} runs, but {', '.join(fewer)}." if fewer else ""
