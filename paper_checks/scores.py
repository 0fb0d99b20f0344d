"""Scores of stored runs: methods (and controls) x columns x seeds, in percent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from decaf_theory.methods import METHODS
from decaf_theory.stats import mean_interval
from paper_checks import reported
from paper_checks.reported import Reported
from paper_checks.rules import HEADS_ONLY, row_of
from verification.harness import Stored

Column = tuple[str, str]  # partition, graph
Scores = dict[str, dict[Column, dict[int, float]]]  # row -> column -> seed -> score
Choice = Callable[[Stored], float | None]  # which of a run's scores counts; None: it has none
Cell = Callable[[str, Column], str]  # what a table shows of a row in a column


def last(run: Stored) -> float:
    """Return the mean of the agents' own scores after the last round."""
    return float(run.scores[-1])


def best(run: Stored) -> float:
    """Return that of the round with the best validation score, or without any the best score."""
    return float(best_of(run)["score"])


def best_of(run: Stored) -> dict[str, Any]:
    """Return the record of that round."""
    rounds = [record for record in run.records if "score" in record]
    by = "validation_score" if validated(run) else "score"
    return max(rounds, key=lambda record: float(record[by]))


def validated(run: Stored) -> bool:
    """Whether it was scored on validation examples."""
    return any("validation_score" in record for record in run.records)


def recorded(name: str) -> Choice:
    """Return the choice of a number of the last record that has it."""

    def choose(run: Stored) -> float | None:
        found = [record[name] for record in run.records if name in record]
        return float(found[-1]) if found else None

    return choose


def columns_of(runs: Sequence[Stored]) -> list[Column]:
    """Return partitions and graphs in the order of their names; runs without a graph fit in all."""
    seen = {
        (run.settings["data.partition"], run.settings["mix.graph"])
        for run in runs
        if run.settings["mix.graph"] != "any"
    }
    partitions = {run.settings["data.partition"] for run in runs}
    lonely = {(partition, "any") for partition in partitions - {p for p, _ in seen}}
    return sorted(seen | lonely)


def scores(runs: Sequence[Stored], columns: Sequence[Column], choose: Choice) -> Scores:
    """Return the score of every run by row, column and seed: methods, then controls."""
    found: Scores = {}
    for run in runs:
        settings, value = run.settings, choose(run)
        for column in columns:
            fits = settings["mix.graph"] in ("any", column[1])
            if value is not None and column[0] == settings["data.partition"] and fits:
                cell = found.setdefault(row_of(settings), {}).setdefault(column, {})
                cell[settings["train.seed"]] = 100 * value
    order = [*METHODS, *(HEADS_ONLY + method for method in METHODS)]
    return {row: found[row] for row in order if row in found}


def score_table(
    found: Scores,
    columns: Sequence[Column],
    level: float,
    given: Mapping[tuple[str, str, str], Reported] | None = None,
    floors: Mapping[str, float] | None = None,
) -> str:
    """Return one line per row: mean +- half its interval, number of seeds, reported value.

    floors: the scores of answers that do not depend on the example, each a line of its own.
    """
    constant = {name: f"{100 * value:.1f}" for name, value in (floors or {}).items()}

    def cell(row: str, column: Column) -> str:
        if row in constant:
            return constant[row]
        shown = mean_of(list(found[row].get(column, {}).values()), level)
        known = (given or {}).get((row, *column))
        return shown if known is None else f"{shown}; reported {known.value:g} [{known.origin}]"

    return markdown([*found, *constant], columns, cell)


def mean_of(values: Sequence[float], level: float) -> str:
    """Return the mean +- half its interval and the number of seeds in words; "-" of no values."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f} (1 seed)"
    mean = mean_interval(values, level)
    return f"{mean.estimate:.1f} ± {mean.high - mean.estimate:.1f} ({len(values)})"


def markdown(rows: Iterable[str], columns: Sequence[Column], cell: Cell) -> str:
    """Return a Markdown table with aligned columns."""
    lines = [["method", *(" ".join(column) for column in columns)]]
    lines += [[row, *(cell(row, column) for column in columns)] for row in rows]
    return reported.table(lines)
