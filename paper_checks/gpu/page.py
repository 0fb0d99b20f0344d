"""The table of docs/performance.md, made of the rows that `.ci/gpu` stored on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decaf_theory.bench.rows import Row
from decaf_theory.files import write_atomically
from decaf_theory.formats import digits
from decaf_theory.sums import unseal_lines
from paper_checks.effects.page import BLOCK
from paper_checks.trials import DOCS

PAGE, STORED = DOCS / "performance.md", DOCS / "rows" / "gpu.jsonl"
NONE = "Not measured: no GPU has run it yet."


def write(rows: Path) -> None:
    """Keep the rows in docs/rows/gpu.jsonl and fill the page from them."""
    data = rows.read_bytes()
    found = unseal_lines(data)
    write_atomically(STORED, data)
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), found).encode())


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return the page with its block "gpu" made anew; without rows it says so."""
    made = table(rows) if rows else NONE
    return BLOCK.sub(lambda block: block[1] + block[2] + made + block[3], text)


def table(rows: Sequence[Row]) -> str:
    """Return the machine in a line, and a table of what was reached."""
    about = rows[0]
    what = ", ".join(f"{name} {about[name]}" for name in ("torch", "triton", "numpy", "python"))
    lines = [
        f"{about.get('gpu', 'CPU')}, {what}.",
        "",
        "| part | case | measure | median | spread |",
    ]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in rows:
        if row["kind"] == "verdict" and row["status"] != "skipped":
            reached, low, high = (digits(row[name]) for name in ("reached", "low", "high"))
            cells = (row["goal"], row["case"], row["measure"], reached, f"{low} ... {high}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
