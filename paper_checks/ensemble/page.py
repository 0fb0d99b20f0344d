"""The tables of docs/ensemble.md, made of the stored rows.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from decaf_theory.files import write_atomically
from decaf_theory.stats import Interval
from paper_checks import reported
from paper_checks.effects.page import BLOCK
from paper_checks.ensemble import judge
from paper_checks.ensemble.cells import BY_NAME
from paper_checks.ensemble.command import STUDY
from paper_checks.ensemble.judge import Line, Row

PAGE = Path(__file__).parents[2] / "docs" / "ensemble.md"
WORDS = {
    "own": "own models",
    "averaged": "mean product, no truncation",
    "dlora_once": "mixed once by DLoRA",
    "decaf_once": "mixed once by DeCAF",
    "ensemble": "ensemble",
}
HEAD = (
    *("trained", "model", "lr", "MB", "seeds", "accuracy", "confidence", "NLL", "ECE"),
    *("accuracy - ensemble's", "NLL - ensemble's", "ECE - ensemble's"),
)


def write() -> None:
    """Fill docs/ensemble.md from the stored rows."""
    rows = STUDY.read()
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), rows).encode())


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return the page with its tables made anew: "run", or those of a partition."""

    def anew(block: re.Match[str]) -> str:
        name = block[1]
        return block[1] + block[2] + (run(rows[0]) if name == "run" else of[name]) + block[3]

    of = tables(judge.lines(rows[1:]))
    return BLOCK.sub(anew, text)


def run(about: Row) -> str:
    """Return what was run, in a line."""
    return (
        f"{about['trainings']} trainings, {about['core_minutes']:.0f} minutes of a core; "
        f"code {about['code']}."
    )


def tables(lines: Sequence[Line]) -> dict[str, str]:
    """Return the table of each partition."""
    return {
        partition: reported.table(
            [HEAD, *(_cells(line) for line in lines if line.partition == partition)]
        )
        for partition in dict.fromkeys(line.partition for line in lines)
    }


def _cells(line: Line) -> tuple[str, ...]:
    means = line.means
    differences = (interval(line.differences.get(name), name) for name in judge.METRICS)
    return (
        *(BY_NAME[line.cell].title, WORDS[line.endpoint], f"{line.lr:g}", f"{line.bytes:.2f}"),
        str(line.seeds),
        *(f"{100 * means[name]:.1f}" for name in ("accuracy", "confidence")),
        *(f"{means[name]:.3f}" for name in ("nll", "ece")),
        *differences,
    )


def interval(found: Interval | None, name: str) -> str:
    """Return a difference with its interval; of accuracies in points."""
    if found is None:
        return ""
    x, low, high = (100 * value if name == "accuracy" else value for value in found)
    places = 1 if name == "accuracy" else 3
    return f"{x:+.{places}f} [{low:+.{places}f}, {high:+.{places}f}]"
