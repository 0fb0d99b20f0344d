"""F2: the truncation error against the rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, pick

NEEDS = ("T16", "T17")
CAPTION = r"""What truncation loses against the rank $r$: the error $|E|$ of one DeCAF mix of
three agents with equal weights, in Frobenius norm and in units of $c^2$, $c$ the largest singular
value of the factors (24 x 20 matrices; rows of claims T16 and T17).
Dotted: T16, $\sqrt r/2$, which no mix exceeds; the worst case is on it. Open markers on a dotted
line: T17, the interference $|I|$ of the mix that the filled marker shows, which bounds its $|E|$.
Random: Gaussian factors scaled to $c$, {random} mixes per rank. Trained: the last mix of DeCAF on
matrix approximation with deviating targets, {trained} runs per rank. Lines are medians, bands reach
from the 10th to the 90th percentile.
"""
WORST = {**style.line("vermilion", "s", "none"), "markersize": 5, "label": "worst case"}
LOOKS = {
    "random": {**style.line("blue", "o", "-"), "label": "random factors"},
    "trained": {**style.line("green", "^", "-."), "label": "trained factors"},
}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return {
        family: pick(rows, source="T17", family=family, quantile=0.5)[0]["instances"]
        for family in LOOKS
    }


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw measured errors and both bounds; return the files."""
    with style.look():
        figure, (axis,) = style.panels(1, 2.9)
        worst: dict[str, Any] = {
            "source": "T16",
            "curve": "truncation",
            "family": "worst case",
            "quantile": 0.5,
        }
        ranks, reached = curve(rows, "r", **worst)
        axis.plot(ranks, reached, **WORST)
        for family, look in LOOKS.items():
            family_of(axis, rows, family, look)
        label = r"bound $\frac{1}{2}\sqrt{r}\,c^2$ (T16)"
        axis.plot(*curve(rows, "r", "bound", **worst), **style.BOUND, label=label)
        axis.plot([], [], **style.bound_of(LOOKS["random"], "bounds $|I|$ (T17), open"))
        style.ranks(axis, ranks)
        axis.set_yscale("log")
        axis.set_ylabel(r"truncation error $|E|_F\,/\,c^2$")
        style.legend_above(figure, [axis])
        return style.save(figure, path)


def family_of(axis: Any, rows: Sequence[Row], family: str, look: dict[str, Any]) -> None:
    """Draw one family's error with its band, and the interference of the median mixes."""
    wanted = {"source": "T17", "curve": "truncation", "family": family}
    (ranks, low), (_, mid), (_, high) = (
        curve(rows, "r", quantile=q, **wanted) for q in (0.1, 0.5, 0.9)
    )
    style.band(axis, ranks, low, mid, high, look)
    axis.plot(*curve(rows, "r", "bound", quantile=0.5, **wanted), **style.bound_of(look))
