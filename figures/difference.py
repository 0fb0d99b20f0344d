"""F3: does the difference between DLoRA and DeCAF vanish as the rank grows? It depends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve

NEEDS = ("T13",)
CAPTION = r"""The difference between DeCAF's mix $P = TSVD_r(M)$ and DLoRA's mix $Q$, the product
of the averaged factors, against the rank $r$, while the factors' largest singular values stay below
a fixed $c$ (rows of claim T13). Lines: the worst case, two agents with the factors $(B, A)$ and
$(-B, -A)$, read in three norms. Crosses: the size $|s B A|$ of that adapter in the same norm. Open
triangles: the largest of {random} random mixes of three agents per rank, Frobenius norm. Dotted:
the bounds of T13; the worst case is on them.
(a)-(c) Three scalings $s$ of the adapter, in units of $\eta c^2$. Where the difference vanishes
($\eta/r$ in Frobenius and operator norm), the adapter vanishes with it at the same rate.
(d) Relative to the update, at $s = \eta/r$. Lines: $|P - Q|/|M|$, constant in every norm. Diamonds:
$s |P - Q|$ (Frobenius) in units of the largest singular value of an update that is held fixed, so
that $c$ has to grow with r: the difference grows.
"""

NORMS = {
    "nuc": {**style.line("vermilion", "s", "--"), "label": "nuclear norm"},
    "fro": {**style.line("blue", "o", "-"), "label": "Frobenius norm"},
    "op": {**style.line("sky", "v", "-."), "label": "operator norm"},
}
ADAPTER = {**style.line("black", "x", "none"), "label": "its adapter $|sBA|$", "markersize": 2.5}
RANDOM = {**style.line("green", "^", "none"), "label": "random mixes", "markerfacecolor": "none"}
FITTED = {**style.line("purple", "D", "-"), "label": "update held fixed"}
PANELS = (
    (r"(a) $s = \eta/r$", "eta/r"),
    (r"(b) $s = \eta/\sqrt{r}$", "eta/sqrt(r)"),
    (r"(c) $s = \eta$", "constant"),
)
PAIR = {"family": "sign pair", "quantity": "difference"}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return {"random": curve(rows, "r", "instances", family="random", norm="fro")[1][0]}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the four panels; return the files."""
    with style.look():
        figure, axes = style.grid(2, 2, 1.7)
        for axis, (title, scaling) in zip(axes, PANELS, strict=False):
            scaled(axis, rows, scaling)
            axis.set_title(title)
        relative(axes[3], rows)
        finish(axes)
        style.legend_above(figure, axes)
        return style.save(figure, path)


def scaled(axis: Any, rows: Sequence[Row], scaling: str) -> None:
    """Draw the difference at a scale s, its bounds and the adapter, in units of eta c^2."""
    # in nuclear norm the bound s r c^2 at s = eta/r is eta c^2, for every r
    unit = curve(rows, "r", "bound", **PAIR, scaling="eta/r", norm="nuc")[1][0]

    def plot(look: Mapping[str, Any], value: str = "measured", **wanted: str) -> None:
        ranks, values = curve(rows, "r", value, **{**PAIR, "scaling": scaling, **wanted})
        axis.plot(ranks, [v / unit for v in values], **look)

    for norm, look in NORMS.items():
        plot(look, norm=norm)
    for norm, look in NORMS.items():
        plot({**style.bound_of(look), "zorder": 3}, "bound", norm=norm)
        plot(ADAPTER, norm=norm, quantity="adapter")
    plot(RANDOM, norm="fro", family="random")


def relative(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the difference in units of the update."""
    pair = {"family": "sign pair", "quantity": "relative difference", "scaling": "eta/r"}
    for norm, look in NORMS.items():
        axis.plot(*curve(rows, "r", **pair, norm=norm), **look)
    axis.plot(*curve(rows, "r", family="fitted target", quantity="difference"), **FITTED)
    axis.set_title("(d) unit: the update")


def finish(axes: Sequence[Any]) -> None:
    """Label the panels."""
    ranks = list(axes[0].lines[0].get_xdata())
    axes[0].plot([], [], **style.BOUND, label="bounds (T13)")
    axes[0].set_yscale("log", base=2)
    axes[0].set_yticks([1 / 64, 1 / 8, 1, 8, 64], ["1/64", "1/8", "1", "8", "64"])
    for axis in axes[2:]:
        style.ranks(axis, ranks)
    axes[0].figure.supylabel(r"difference $s\,|P-Q|$, unit $\eta c^2$", fontsize=8)
