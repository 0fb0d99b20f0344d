"""The tables of docs/asda.md, made of stored rows.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from decaf_theory.files import write_atomically
from decaf_theory.stats import Interval, bonferroni, paired_interval
from paper_checks import reported
from paper_checks.asda.cells import EXPECTED, PLAN, Contrast
from paper_checks.asda.command import STUDY
from paper_checks.benchmark.judge import LEVEL, word
from paper_checks.effects.page import BLOCK

PAGE = Path(__file__).parents[2] / "docs" / "asda.md"
SIGNS = {1: "+", -1: "-", 0: "none"}
HEAD = ("target", "compared", "predicted", "difference", "interval", "seeds", "word")
Rows = Sequence[Mapping[str, Any]]


def write() -> None:
    """Fill docs/asda.md from the stored rows."""
    rows = STUDY.read()
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), rows).encode())


def filled(text: str, rows: Rows) -> str:
    """Return the page with its tables made anew. KeyError: a table of another name."""
    about, found = rows[0], rows[1:]
    parts: dict[str, Callable[[], str]] = {
        "run": lambda: (
            f"{about['trainings']} trainings, {about['core_minutes']:.0f} minutes of a core; "
            f"code {about['code']}."
        ),
        "cells": lambda: cells(found),
        "contrasts": lambda: contrasts(found),
    }
    return BLOCK.sub(lambda block: block[1] + block[2] + parts[block[1]]() + block[3], text)


def cells(rows: Rows) -> str:
    """Return the table of all cells: mean and standard deviation over the seeds."""
    lines = [("target", "cell", "trained", "accuracy, %", "deviation", "seeds")]
    for domain, trained in PLAN.items():
        for cell in trained:
            found = list(accuracies(rows, domain, cell.name).values())
            if len(found) > 1:
                numbers = f"{fmean(found):.1f}", f"{stdev(found):.1f}", str(len(found))
                lines.append((domain, cell.name, cell.title, *numbers))
    return reported.table(lines)


def contrasts(rows: Rows) -> str:
    """Return the table of all comparisons that have two seeds or more, in points of accuracy."""
    lines: list[tuple[str, ...]] = [HEAD]
    for one in EXPECTED:
        first, second = (accuracies(rows, one.domain, name) for name in (one.first, one.second))
        seeds = sorted(first.keys() & second.keys())
        if len(seeds) > 1:
            found = paired_interval(
                [first[seed] for seed in seeds],
                [second[seed] for seed in seeds],
                bonferroni(LEVEL, len(EXPECTED)),
            )
            lines.append(line(one, found, len(seeds)))
    return reported.table(lines)


def line(one: Contrast, found: Interval, seeds: int) -> tuple[str, ...]:
    """Return the cells of a comparison."""
    return (
        one.domain,
        f"{one.first} - {one.second}",
        SIGNS[one.sign],
        f"{found.estimate:+.1f}",
        f"[{found.low:+.1f}, {found.high:+.1f}]",
        str(seeds),
        word(found, one.sign),
    )


def accuracies(rows: Rows, domain: str, cell: str) -> dict[int, float]:
    """Return the accuracies of a cell's trainings by seed."""
    return {
        row["seed"]: row["accuracy"]
        for row in rows
        if (row["domain"], row["cell"]) == (domain, cell)
    }
