"""The table of docs/merging.md, made of the stored rows: shares, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from decaf_theory.files import write_atomically
from decaf_theory.stats import Interval, bonferroni, paired_interval, share_interval
from paper_checks import reported, trials
from paper_checks.effects.page import BLOCK
from paper_checks.merging.command import STUDY

PAGE = trials.DOCS / "merging.md"
BASE = "plain average"
LEVEL = 0.95
HEAD = ("model", "energy kept, %", "accuracy, %", f"accuracy - {BASE}'s, points", "NLL")
Row = Mapping[str, Any]


class Line(NamedTuple):
    """A model's accuracy, and its difference from plain averaging, None for that itself."""

    row: Row
    accuracy: Interval
    difference: Interval | None


def write() -> None:
    """Fill docs/merging.md from the stored rows."""
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), STUDY.read()).encode())


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return the page with its blocks made anew: "run" and "models"."""
    parts = {"run": run(rows[0], rows[1]), "models": table(lines(rows[1:]))}
    return BLOCK.sub(lambda block: block[1] + block[2] + parts[block[1]] + block[3], text)


def run(about: Row, row: Row) -> str:
    """Return what was run, in a line."""
    return (
        f"{len(row['right'])} sentences, {about['core_minutes']:.1f} minutes of a core; code "
        f"{about['code']}, adapters {row['adapters']}, model {row['model_sum']}, examples "
        f"{row['examples']}."
    )


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return all models; the differences, paired by sentence, hold together at LEVEL."""
    base = next(answers(row) for row in rows if row["model"] == BASE)
    each = bonferroni(LEVEL, len(rows) - 1)
    return [
        Line(
            row,
            share_interval(sum(answers(row)), len(base), LEVEL),
            None if row["model"] == BASE else paired_interval(answers(row), base, each),
        )
        for row in rows
    ]


def answers(row: Row) -> list[int]:
    """Return for each sentence 1 if it is classified right."""
    return [int(digit) for digit in row["right"]]


def table(found: Sequence[Line]) -> str:
    """Return the Markdown table of all models."""
    return reported.table([HEAD, *map(_cells, found)])


def _cells(line: Line) -> tuple[str, ...]:
    kept = line.row.get("kept")
    return (
        line.row["model"],
        "" if kept is None else f"{100 * kept + 0.0:.1f}",  # and not -0.0
        "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in line.accuracy)),
        ""
        if line.difference is None
        else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in line.difference)),
        f"{line.row['nll']:.3f}",
    )
