"""The tables of docs/forms.md, made of stored rows.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decaf_theory.files import write_atomically
from paper_checks.effects.page import BLOCK
from paper_checks.forms import gates
from paper_checks.forms.command import STUDY

PAGE = Path(__file__).parents[2] / "docs" / "forms.md"
Rows = Sequence[dict[str, Any]]

PARTS: Mapping[str, Callable[[Rows], str]] = {
    "gates": gates.table,
    "monotone": gates.monotone,
}


def write() -> None:
    """Fill docs/forms.md from the stored rows."""
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), STUDY.read()).encode())


def filled(text: str, rows: Rows) -> str:
    """Return the page with its tables made anew. KeyError: a table of another name."""
    gates_rows = [row for row in rows[1:] if row["what"] == "gates"]
    return BLOCK.sub(lambda b: str(b[1] + b[2] + PARTS[b[1]](gates_rows) + b[3]), text)
