"""The tables of docs/prism.md, made of the stored rows.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from decaf_theory.concentration import STATISTICS
from decaf_theory.files import write_atomically
from decaf_theory.stats import bonferroni, mean_interval
from paper_checks import reported
from paper_checks.effects.page import BLOCK
from paper_checks.prism.command import STUDY
from paper_checks.prism.judge import LEVEL, QUANTILES, Row
from paper_checks.prism.planted import CASES

PAGE = Path(__file__).parents[2] / "docs" / "prism.md"
SPLITS = (*STATISTICS, "random")


def write() -> None:
    """Fill docs/prism.md from the stored rows."""
    rows = STUDY.read()
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), rows).encode())


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return the page with its tables made anew. KeyError: a table of another name."""
    about, *found = rows

    def of(part: str) -> list[Row]:
        return [row for row in found if row["part"] == part]

    parts: dict[str, Callable[[], str]] = {
        "run": lambda: f"{about['core_minutes']:.0f} minutes of a core; code {about['code']}.",
        "planted": lambda: planted(of("planted")),
        "distribution": lambda: distribution(of("distribution")),
        "pairs": lambda: pairs(of("pair")),
        "heads": lambda: between_heads(of("heads")),
    }
    return BLOCK.sub(lambda block: block[1] + block[2] + parts[block[1]]() + block[3], text)


def planted(rows: Sequence[Row]) -> str:
    """Return what each split recovers; the intervals of the table hold together at LEVEL."""
    each = bonferroni(LEVEL, max(1, len(rows) * len(SPLITS)))
    lines = [("kinds", "noise", *SPLITS)]
    for row in rows:
        cells = [spread(row[name], each) for name in SPLITS]
        lines.append((CASES[row["case"]].title, f"{row['noise']:g}", *cells))
    return reported.table(lines)


def spread(values: Sequence[float], level: float) -> str:
    """Return a mean with its interval, one number where all values are one."""
    return f"{values[0]:.3f}" if len({*values}) == 1 else shown(mean_interval(values, level))


def shown(found: Sequence[float]) -> str:
    """Return an estimate with its interval."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*found)


def distribution(rows: Sequence[Row]) -> str:
    """Return quantiles of the statistics over the samples, and what the other label changes."""
    lines = [("head", "statistic", *(f"{q} %" for q in QUANTILES), "changed by the label")]
    for row in rows:
        values = (f"{x:.3f}" for x in row["quantiles"])
        lines.append((row["head"], row["statistic"], *values, f"{row['flipped']:.0e}"))
    return reported.table(lines)


def pairs(rows: Sequence[Row]) -> str:
    """Return rank correlations of the statistics, with loss and length, and how splits agree."""
    lines = [("head", "pair", "rank correlation", "same side of the split")]
    for row in rows:
        agree = shown(row["agreement"]) if "agreement" in row else ""
        pair = f"{row['first']}, {row['second']}"
        lines.append((row["head"], pair, shown(row["correlation"]), agree))
    return reported.table(lines)


def between_heads(rows: Sequence[Row]) -> str:
    """Return how the splits under two heads agree, by statistic."""
    lines = [("heads", *STATISTICS)]
    for row in rows:
        cells = [shown(row[name]) for name in STATISTICS]
        lines.append((f"{row['first']}, {row['second']}", *cells))
    return reported.table(lines)
