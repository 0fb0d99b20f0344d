"""F2: the truncation error against the rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, pick

NEEDS = ("T16", "T17")
CAPTION = """\
What truncation loses against the rank r: the error |E| of one DeCAF mix of three agents with equal
weights, in Frobenius norm and in units of c^2, c the largest singular value of the factors (24 x 20
matrices; rows of claims T16 and T17).
Dotted: T16, sqrt(r)/2, which no mix exceeds; the worst case is on it. Open markers on a dotted
line: T17, the interference |I| of the same mixes, which bounds their |E|.
Random: Gaussian factors scaled to c, {random} mixes per rank. Trained: the last mix of DeCAF on
matrix approximation with deviating targets, {trained} runs per rank. Lines are medians, bands reach
from the 10th to the 90th percentile.
"""
LOOKS = {
    "worst case": {**style.line("vermilion", "s", "none"), "markersize": 5},
    "random": style.line("blue", "o", "-"),
    "trained": style.line("green", "^", "-."),
}
LABELS = {
    "worst case": "worst case",
    "random": "random factors",
    "trained": "trained factors",
}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return {
        family: pick(rows, curve="truncation", family=family)[0]["instances"]
        for family in ("random", "trained")
    }


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw measured errors and both bounds; return the files."""
    with style.look():
        figure, (axis,) = style.panels(1, 2.9)
        for family, look in LOOKS.items():
            family_of(axis, rows, family, look)
        ranks, bound = limits(rows, "T16", "worst case")
        axis.plot(ranks, bound, **style.BOUND, label=r"bound $\frac{1}{2}\sqrt{r}\,c^2$ (T16)")
        axis.plot([], [], **style.bound_of(LOOKS["random"], "bound $|I|$ (T17)"))
        style.ranks(axis, ranks)
        axis.set_yscale("log")
        axis.set_ylabel(r"truncation error $|E|_F\,/\,c^2$")
        style.legend_above(figure, [axis])
        return style.save(figure, path)


def limits(rows: Sequence[Row], source: str, family: str) -> tuple[list[Any], list[Any]]:
    """Return ranks and bounds of the median rows of a family."""
    wanted = {"curve": "truncation", "family": family, "quantile": 0.5}
    return curve(rows, "r", "bound", source=source, **wanted)


def family_of(axis: Any, rows: Sequence[Row], family: str, look: dict[str, Any]) -> None:
    """Draw one family's error with its band, and its interference."""
    wanted = {"source": "T16", "curve": "truncation", "family": family}
    (ranks, low), (_, mid), (_, high) = (
        curve(rows, "r", quantile=q, **wanted) for q in (0.1, 0.5, 0.9)
    )
    style.band(axis, ranks, low, mid, high, {**look, "label": LABELS[family]})
    if family != "worst case":
        axis.plot(*limits(rows, "T17", family), **style.bound_of(look))
