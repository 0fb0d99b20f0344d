"""The tables of docs/asda.md, made of stored rows.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from decaf_theory.files import write_atomically
from decaf_theory.stats import bonferroni, detectable_difference, mean_interval
from paper_checks import reported
from paper_checks.asda.cells import ASDA, EXPECTED, PLAN, Contrast
from paper_checks.asda.command import STUDY
from paper_checks.benchmark.judge import LEVEL, word
from paper_checks.effects.page import BLOCK

PAGE = Path(__file__).parents[2] / "docs" / "asda.md"
SIGNS = {1: "+", -1: "-", 0: "none"}
HEAD = ("target", "compared", "predicted", "difference", "interval", "d", "seen from", "word")
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
        "pseudo": lambda: pseudo(found),
    }
    return BLOCK.sub(lambda block: block[1] + block[2] + parts[block[1]]() + block[3], text)


def cells(rows: Rows) -> str:
    """Return the table of all cells, means over the seeds: accuracy, and what was sure."""
    lines = [("target", "cell", "trained", "accuracy, %", "deviation", "sure, %", "seeds")]
    for domain, trained in PLAN.items():
        for cell in trained:
            found = of_cell(rows, domain, cell.name)
            if len(found) > 1:
                right = [row["accuracy"] for row in found]
                numbers = f"{fmean(right):.1f}", f"{stdev(right):.1f}", f"{100 * share(found):.1f}"
                lines.append((domain, cell.name, cell.title, *numbers, str(len(found))))
    return reported.table(lines)


def share(rows: Rows) -> float:
    """Return the share of the unlabelled images shown to some trainings that were sure."""
    return float(sum(row["sure"] for row in rows) / sum(row["unlabelled"] for row in rows))


def pseudo(rows: Rows) -> str:
    """Return a sentence on each target: of how many unlabelled images ASDA was sure."""
    targets = {
        domain: of_cell(rows, domain, ASDA.name)
        for domain, trained in PLAN.items()
        if ASDA in trained
    }
    return " ".join(counted(domain, found) for domain, found in targets.items() if found)


def counted(domain: str, rows: Rows) -> str:
    """Return how many of the unlabelled images shown to some trainings were sure."""
    counts = [row["sure"] for row in rows]
    return (
        f"On the {domain} target {sum(counts):,} of the {sum(row['unlabelled'] for row in rows):,} "
        f"unlabelled images that {len(rows)} trainings of ASDA were shown reached the threshold, "
        f"at most {max(counts):,} in one training."
    )


def contrasts(rows: Rows) -> str:
    """Return the table of all comparisons that have two seeds or more, in points of accuracy.

    d: in standard deviations of the seeds' differences. seen from: the least difference that would
    have been seen with a probability of 80 %.
    """
    level = bonferroni(LEVEL, len(EXPECTED))
    judged = [(one, differences(rows, one)) for one in EXPECTED]
    lines = [line(one, own, level) for one, own in judged if len(own) > 1]
    return reported.table([HEAD, *lines])


def line(one: Contrast, own: Sequence[float], level: float) -> tuple[str, ...]:
    """Return the table's line of a comparison."""
    found, deviation = mean_interval(own, level), stdev(own)
    return (
        one.domain,
        f"{one.first} - {one.second}",
        SIGNS[one.sign],
        f"{found.estimate:+.1f}",
        f"[{found.low:+.1f}, {found.high:+.1f}]",
        f"{found.estimate / deviation:+.1f}" if deviation else "-",
        f"{detectable_difference(deviation, len(own), level):.1f}",
        word(found, one.sign),
    )


def differences(rows: Rows, one: Contrast) -> list[float]:
    """Return first minus second of the seeds that both have."""
    first, second = (
        {row["seed"]: row["accuracy"] for row in of_cell(rows, one.domain, name)}
        for name in (one.first, one.second)
    )
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def of_cell(rows: Rows, domain: str, cell: str) -> Rows:
    """Return the rows of a cell's trainings."""
    return [row for row in rows if (row["domain"], row["cell"]) == (domain, cell)]
