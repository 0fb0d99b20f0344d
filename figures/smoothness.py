"""F9: Lemma 1, the paper's constant against the sharp one, over rank and scaling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, pick

NEEDS = ("T2", "T2-sharp")
CAPTION = r"""How steep the factor gradient gets on $\Omega_c$, against the rank $r$: difference
quotients $|\nabla\phi(w) - \nabla\phi(w')|/|w - w'|$ in Euclidean norm, over the sharp constant
$L^* = s (2 s L c^2 + G)$ (rows of claims T2 and T2-sharp). Large markers: the extremal function of
T3, which reaches $L^*$ at every rank; lines: the largest of {random} random slopes per point.
Dotted: $L^*$, and with open markers the constant of Lemma 1, $s (2 L C \sqrt r c + G)$ with the
least $C = s c$, whose $\sqrt r$ is not needed, at $2 L \eta c^2 = 8 G$ and three scalings $s$ of
the adapter. At $s = \eta/r$ it is off by at most $(1 + \sqrt{{1 + 8}})/2 = 2$, at $r = 16$.
"""
SCALINGS = {
    "constant": (r"$s = \eta$", style.line("vermilion", "s", "--")),
    "eta/sqrt(r)": (r"$s = \eta/\sqrt{r}$", style.line("green", "^", "-.")),
    "eta/r": (r"$s = \eta/r$", style.line("blue", "o", "-")),
}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return {"random": pick(rows, curve="smoothness", family="random")[0]["instances"]}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw constants and quotients in units of L*; return the files."""
    with style.look():
        figure, (axis,) = style.panels(1, 2.9)
        for i, (scaling, (label, look)) in enumerate(SCALINGS.items()):
            axis.plot(*relative(rows, scaling, "bound"), **style.bound_of(look))
            reached = {**look, "linestyle": "none", "markersize": 6 - 1.6 * i}
            axis.plot(*relative(rows, scaling, "measured"), **reached)
            axis.plot(*relative(rows, scaling, "measured", "random"), **look, label=label)
        ranks, _ = relative(rows, scaling, "bound")
        axis.plot(ranks, [1] * len(ranks), **style.BOUND, label="bounds")
        style.ranks(axis, ranks)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylabel("Lipschitz constant over $L^*$")
        for text, place in TEXTS.items():
            axis.annotate(text, place, xycoords="axes fraction", fontsize=7)
        style.legend_above(figure, [axis])
        return style.save(figure, path)


TEXTS = {
    "Lemma 1 (T2)": (0.05, 0.72),
    "$L^*$ (T2-sharp), reached": (0.42, 0.59),
    "random slopes": (0.66, 0.13),
}


def relative(
    rows: Sequence[Row], scaling: str, y: str, family: str = "Huber"
) -> tuple[list[int], list[float]]:
    """Return ranks and the values of T2's rows, in units of T2-sharp's bound."""
    wanted = {"curve": "smoothness", "scaling": scaling, "family": family}
    ranks, values = curve(rows, "r", y, source="T2", **wanted)
    _, least = curve(rows, "r", "bound", source="T2-sharp", **wanted)
    return ranks, [value / unit for value, unit in zip(values, least, strict=True)]
