"""F18: score against the number of local steps between mixes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.gauge_distance import METHODS, bars
from figures.rows import MissingError, Row

NEEDS = ("benchmark",)
CAPTION = r"""Ten agents on a ring train adapters of a small vision transformer on digits for 150
steps, heads frozen, each from its own $A$, and mix every $K$ of them ($K = 150$: once, after the
last). Accuracy of the agents' own models, mean over agents (left), and of the one model that
averages their weights (right), after the last mix. Lines: means over {seeds} seeds; bars: from the
least to the largest.
Rows of python -m paper_checks benchmark.
"""
CELLS = {1: "K1", 10: "primary", 50: "K50", 150: "once"}
ENDS = {"own": "own models", "mean": "averaged model"}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    counts = sorted({len(scores(rows, cell, m, "own")) for cell in CELLS.values() for m in METHODS})
    return {"seeds": " to ".join(map(str, sorted({counts[0], counts[-1]})))}


def scores(rows: Sequence[Row], cell: str, method: str, end: str) -> list[float]:
    """Return the scores of a method's trainings in a cell. MissingError: there is none."""
    named = {"suite": "digits", "cell": cell, "method": method}
    own = [row for row in rows[1:] if all(row[name] == value for name, value in named.items())]
    found = [row[end] for row in own if row.get("graph", "ring") == "ring"]
    if not found:
        again = "run python -m paper_checks benchmark"
        raise MissingError(f"no rows of the benchmark's cell {cell}; {again}")
    return found


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw a panel for each end; return the files."""
    with style.look():
        figure, axes = style.grid(1, 2, 2.0)
        for axis, (end, title) in zip(axes, ENDS.items(), strict=True):
            for method in METHODS:
                found = [scores(rows, cell, method, end) for cell in CELLS.values()]
                bars(axis, list(CELLS), found, style.METHODS[method])
            axis.set_title(title)
            axis.set_xscale("log")
            axis.set_xticks(list(CELLS), [str(K) for K in CELLS])
            axis.set_xticks([], minor=True)
            axis.set_xlabel("local steps $K$")
        axes[0].set_ylabel("accuracy in %")
        style.legend_above(figure, axes, columns=2)
        return style.save(figure, path)
