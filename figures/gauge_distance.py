"""F17: score and interference against how far apart the agents' A are at the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures import style
from figures.rows import MissingError, Row

NEEDS = ("benchmark",)
CAPTION = """\
Ten agents on a ring train adapters of a small vision transformer on digits, heads frozen, mixing
every 10 of 150 steps; only the start differs. Against the distance of the agents' A at the start,
the root of sum |A_i - mean A|^2 / sum |A_i|^2, 0 for one common A: (a) the accuracy of the agents'
own models after the last mix; (b) the relative interference of DLoRA's mean of factors, and the
truncation error of DeCAF's mean of products, at the first mix. Lines: means over {seeds} seeds;
bars: from the least to the largest.
Rows of python -m paper_checks benchmark.
"""
CELLS = ("common", "spread30", "spread60", "primary")
METHODS = ("dlora", "decaf")
AT_FIRST = {"dlora": "first_interference", "decaf": "first_truncation"}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    counts = sorted({len(values) for cell in CELLS for values in groups(rows, cell, "own")})
    return {"seeds": " to ".join(map(str, sorted({counts[0], counts[-1]})))}


def groups(rows: Sequence[Row], cell: str, field: str) -> list[list[float]]:
    """Return a number of the trainings of each method in a cell. MissingError: there is none."""
    own = [row for row in rows[1:] if (row["suite"], row["cell"]) == ("digits", cell)]
    found = [[row[field] for row in own if row["method"] == method] for method in METHODS]
    if not all(found):
        again = "run python -m paper_checks benchmark"
        raise MissingError(f"no rows of the benchmark's cell {cell}; {again}")
    return found


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw both panels; return the files."""
    with style.look():
        figure, (top, bottom) = style.panels(2, 1.75, sharex=True, sharey=False)
        for i, method in enumerate(METHODS):
            places = [float(np.mean(groups(rows, cell, "start_spread")[i])) for cell in CELLS]
            look = style.METHODS[method]
            bars(top, places, [groups(rows, cell, "own")[i] for cell in CELLS], look)
            field = AT_FIRST[method]
            bars(bottom, places, [groups(rows, cell, field)[i] for cell in CELLS], look)
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
