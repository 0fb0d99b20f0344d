"""Does the difference between DLoRA and DeCAF vanish as the rank grows? In three readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import style

NEEDS = ("T13",)
CAPTION = """\
The difference between DeCAF's mix P = TSVD_r(M) and DLoRA's mix Q, the product of the averaged
factors, against the rank r, while the factors' largest singular values stay below a fixed c (rows
of claim T13, Frobenius norm). Circles: worst case, two agents with the factors (B, A) and (-B, -A).
Crosses: |sBA| of that adapter. Triangles: the largest of the stored random mixes of three agents.
Dotted: the bound of T13.
(a) Scaled by s = eta/r, in units of eta c^2: the difference vanishes, and the adapter with it at
the same rate; scaled by s = eta/sqrt(r) (diamonds) it does not vanish.
(b) Unscaled, s = eta, in units of eta c^2: it grows.
(c) Relative to the update. Circles: |P - Q|/|M|, constant. Squares: s|P - Q| at s = eta/r, in units
of the largest singular value of an update that is held fixed, so that c grows with r: it grows.
"""

Row = Mapping[str, Any]
WORST = {**style.line("blue", "o", "-"), "label": "worst case"}
RSLORA = {**style.line("purple", "D", "-"), "label": r"worst case, $s=\eta/\sqrt{r}$"}
ADAPTER = {**style.line("orange", "x", "none"), "label": r"its adapter $|sBA|_F$", "zorder": 4}
RANDOM = {**style.line("green", "^", "-."), "label": "random mixes"}
FITTED = {**style.line("vermilion", "s", "--"), "label": "worst case, target held"}
BOUND = {**style.BOUND, "label": r"bound $s\sqrt{r}\,c^2$ (T13)", "zorder": 3}
TICKS = {1 / 64: "1/64", 1 / 8: "1/8", 1: "1", 8: "8"}


def curve(rows: Sequence[Row], value: str = "measured", **wanted: str) -> tuple[list, list]:
    """Return ranks and values of the rows with the wanted params (norm "fro" unless given)."""
    wanted = {"norm": "fro", **wanted}
    found = sorted(
        (row["r"], row[value])
        for row in rows
        if all(row.get(name) == content for name, content in wanted.items())
    )
    if not found:
        raise ValueError(f"claim T13 has no rows with {wanted}")
    ranks, values = zip(*found, strict=True)
    return list(ranks), list(values)


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the three panels from the rows of T13; return the files."""
    with style.look():
        figure, axes = style.panels(3, 1.5)
        scaled(axes[0], rows, "eta/r", RSLORA)
        scaled(axes[1], rows, "constant")
        relative(axes[2], rows)
        finish(axes)
        style.legend_above(figure, axes)
        return style.save(figure, path)


def scaled(axis: Any, rows: Sequence[Row], scaling: str, rslora: Any = None) -> None:
    """Draw the difference at a scale s, its bound and the adapter, in units of eta c^2."""
    pair = {"family": "sign pair", "quantity": "difference"}
    # in nuclear norm the bound s r c^2 at s = eta/r is eta c^2, for every r
    unit = curve(rows, "bound", **pair, scaling="eta/r", norm="nuc")[1][0]

    def plot(look: Mapping[str, Any], value: str = "measured", **wanted: str) -> None:
        ranks, values = curve(rows, value, **{**pair, "scaling": scaling, **wanted})
        axis.plot(ranks, [v / unit for v in values], **look)

    plot(WORST)
    plot(BOUND, "bound")
    plot(ADAPTER, quantity="adapter")
    plot(RANDOM, family="random")
    if rslora:
        plot(rslora, scaling="eta/sqrt(r)")


def relative(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the difference in units of the update."""
    pair = {"family": "sign pair", "quantity": "relative difference", "scaling": "eta/r"}
    axis.plot(*curve(rows, **pair), **WORST)
    axis.plot(*curve(rows, family="fitted target", quantity="difference"), **FITTED)


def finish(axes: Sequence[Any]) -> None:
    """Label the panels."""
    titles = (
        r"(a) scaled, $s=\eta/r$; unit $\eta c^2$",
        r"(b) unscaled, $s=\eta$; unit $\eta c^2$",
        "(c) relative; unit: the update",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, loc="left")
    ranks = axes[0].lines[0].get_xdata()
    axes[0].set_xscale("log", base=2)
    axes[0].set_yscale("log", base=2)
    axes[0].set_xticks(ranks, [str(r) for r in ranks])
    axes[0].set_yticks(list(TICKS), list(TICKS.values()))
    axes[0].margins(y=0.1)
    axes[-1].set_xlabel("rank $r$")
    axes[0].figure.supylabel("difference of the mixes, $s\\,|P-Q|_F$", fontsize=8)
