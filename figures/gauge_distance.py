"""F17: score and interference against how far apart the agents' A are at the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures import style
from figures.rows import MissingError, Row

NEEDS = ("benchmark",)
CAPTION = r"""Ten agents on a ring train adapters of a small vision transformer on digits, heads
frozen, mixing every 10 of 150 steps; only the start differs. Against the distance of the agents'
$A$ at the start, the root of $\sum_i |A_i - \bar A|^2 / \sum_i |A_i|^2$, 0 for one common $A$: (a)
the accuracy of the agents' own models after the last mix; (b) the relative interference of DLoRA's
mean of factors, and the truncation error of DeCAF's mean of products, at the first mix. Lines:
means over {seeds} seeds; bars: from the least to the largest.
Rows of python -m paper_checks benchmark.
"""
CELLS = ("common", "spread30", "spread60", "primary")
METHODS = ("dlora", "decaf")
AT_FIRST = {"dlora": "first_interference", "decaf": "first_truncation"}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    counts = {len(values) for cell in shown(rows) for values in groups(rows, cell, "own")}
    return {"seeds": " to ".join(map(str, sorted({min(counts), max(counts)})))}


def shown(rows: Sequence[Row]) -> list[str]:
    """Return the cells that have rows. MissingError: fewer than two."""
    found = [cell for cell in CELLS if all(groups(rows, cell, "own"))]
    if len(found) < 2:
        again = "run python -m paper_checks benchmark"
        raise MissingError(f"no rows of two of the benchmark's cells {', '.join(CELLS)}; {again}")
    return found


def groups(rows: Sequence[Row], cell: str, field: str) -> list[list[float]]:
    """Return a number of the trainings of each method in a cell."""
    own = [row for row in rows[1:] if (row["suite"], row["cell"]) == ("digits", cell)]
    return [[row[field] for row in own if row["method"] == method] for method in METHODS]


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw both panels; return the files."""
    cells = shown(rows)
    with style.look():
        figure, (top, bottom) = style.panels(2, 1.75, sharex=True, sharey=False)
        for i, method in enumerate(METHODS):
            places = [float(np.mean(groups(rows, cell, "start_spread")[i])) for cell in cells]
            look, field = style.METHODS[method], AT_FIRST[method]
            bars(top, places, [groups(rows, cell, "own")[i] for cell in cells], look)
            bars(bottom, places, [groups(rows, cell, field)[i] for cell in cells], look)
        top.set_title("(a) own models after training")
        top.set_ylabel("accuracy in %")
        bottom.set_title("(b) lost at the first mix, relative")
        bottom.set_ylabel("interference, truncation")
        bottom.set_xlabel("distance of the agents' $A$ at the start")
        style.legend_above(figure, [top], columns=2)
        return style.save(figure, path)


def bars(axis: Any, x: Sequence[float], found: Sequence[Sequence[float]], look: Any) -> None:
    """Draw the means of groups at x, each with a bar from its least to its largest."""
    means = np.array([np.mean(values) for values in found])
    below = means - [min(values) for values in found]
    above = [max(values) for values in found] - means
    axis.errorbar(x, means, yerr=[below, above], capsize=1.5, elinewidth=0.7, **look)
