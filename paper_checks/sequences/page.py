"""The tables of docs/sequences.md, made of stored rows.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decaf_theory.files import write_atomically
from decaf_theory.stats import bonferroni, mean_interval, paired_interval
from paper_checks import reported
from paper_checks.effects.engine import LEVEL
from paper_checks.effects.page import BLOCK
from paper_checks.sequences import pictures, quadratics
from paper_checks.sequences.command import STUDY

PAGE = Path(__file__).parents[2] / "docs" / "sequences.md"
PLAIN = "lora"
Rows = Sequence[Mapping[str, Any]]


def write() -> None:
    """Fill docs/sequences.md from the stored rows."""
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), STUDY.read()).encode())


def filled(text: str, rows: Rows) -> str:
    """Return the page with its tables made anew. KeyError: a table of another name."""
    return BLOCK.sub(lambda b: str(b[1] + b[2] + part(b[1], rows) + b[3]), text)


def part(name: str, rows: Rows) -> str:
    """Return the table of this name. KeyError: there is none."""
    numbers = ("average", "forgetting", "learned")
    if name == "pictures":
        own = [row for row in rows if row.get("what") == name]
        return table(own, pictures.FORMS, (*numbers, "seen"), digits=1)
    overlap = {f"quadratics {each:g}": each for each in quadratics.OVERLAPS}[name]
    own = [row for row in rows if row.get("overlap") == overlap]
    return table(own, quadratics.FORMS, numbers)


def table(rows: Rows, forms: Mapping[str, Any], numbers: Sequence[str], *, digits: int = 3) -> str:
    """Return one line per way and form: means, and forgetting against plain LoRA, paired by seed.

    The intervals of the differences hold together at LEVEL (Bonferroni over the table).
    """
    ways = list(dict.fromkeys(row["way"] for row in rows))
    pairs = max(1, len(ways) * (len(forms) - 1))
    lines = [["mixing", "form", *numbers, "forgetting against lora", "seeds"]]
    for way in ways:
        plain = _column(rows, way, PLAIN, "forgetting")
        for form in forms:
            own = [_column(rows, way, form, name) for name in numbers]
            against = "-"
            if form != PLAIN:
                each = bonferroni(LEVEL, pairs)
                forgotten = _column(rows, way, form, "forgetting")
                against = _shown(paired_interval(forgotten, plain, each), digits)
            means = [_shown(mean_interval(column, LEVEL), digits) for column in own]
            lines.append([way, form, *means, against, str(len(plain))])
    return reported.table(lines)


def _column(rows: Rows, way: str, form: str, name: str) -> list[float]:
    """Return a number of a form by seed."""
    own = [row for row in rows if (row["way"], row["form"]) == (way, form)]
    return [row[name] for row in sorted(own, key=lambda row: int(row["seed"]))]


def _shown(interval: Sequence[float], digits: int) -> str:
    """Return the mean and half the interval."""
    mean, low, high = interval
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"
