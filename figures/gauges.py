"""F7: equal products in different gauges, and how each method's mix changes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve

NEEDS = ("T20", "T20-dlora")
CAPTION = r"""Two agents hold the same product $B A$, of rank 2 with equal singular values, in
different gauges; one mix with weights 1/2 should leave it alone. The error relative to $|B A|$ in
Frobenius norm at the first agent (rows of claims T20 and T20-dlora, which agree with the closed
forms to rounding; one instance per point, nothing is random but $B A$ itself).
(a) The second agent's factors are turned: $(B R', R A)$. (b) They are stretched: $(t B, A/t)$.
DeCAF mixes products and makes no error. DLoRA mixes factors; at opposed gauges nothing is left.
DLoRA-FA assumes one $A$ common to all agents: if that does not hold, it errs, too.
"""
METHODS = ("decaf", "dlora", "dlora_fa")
PANELS = (
    ("turned_by", r"angle of the gauge, in units of $\pi$", "(a) turned"),
    ("stretched_by", "stretch $t$ of the gauge", "(b) stretched"),
)


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw both panels; return the files."""
    with style.look():
        figure, axes = style.panels(2, 1.75, sharex=False, sharey=False)
        for axis, (x, label, title) in zip(axes, PANELS, strict=True):
            for method in METHODS:
                lost(axis, rows, x, method)
            axis.set_xlabel(label)
            axis.set_title(title)
        axes[1].set_xscale("log", base=2)
        axes[1].xaxis.set_major_formatter("{x:g}")
        figure.supylabel("error of the mix, relative", fontsize=8)
        style.legend_above(figure, axes, columns=3, handlelength=2.2)
        return style.save(figure, path)


def lost(axis: Any, rows: Sequence[Row], x: str, method: str) -> None:
    """Draw what one method loses, against one kind of gauge."""
    own = [row for row in rows if row.get("curve") == "gauges" and x in row]
    axis.plot(*curve(own, x, "lost", method=method), **style.METHODS[method], clip_on=False)
