"""F8: dead start and dead directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve

NEEDS = ("T23",)
CAPTION = r"""The loss at the network's mean from LoRA's start $B = 0$, without noise, rank 2, one
run per line (rows of claim T23).
(a) Dead start, four agents with one reachable target (P2). If mixing comes before the first step,
DeCAF truncates the product 0 to the factors 0, where every gradient vanishes: it never moves.
Stepping first, or keeping the old rows of $A$ in dead directions, it trains.
(b) Dead direction, two agents (P12). The first gradient has rank one; DeCAF then stays at rank one
and above the dotted line, the least loss there (T23). With the rule "keep" it escapes.
"""
DECAF, DLORA = style.METHODS["decaf"], style.METHODS["dlora"]
OPEN = {**DECAF, "markerfacecolor": "white"}
# panel -> method, order, rule -> look
LOOKS = {
    "dead start": {
        ("decaf", "mix_first", "drop"): {**DECAF, "label": "DeCAF"},
        ("decaf", "step_first", "drop"): {**OPEN, "label": "DeCAF, step first"},
        ("decaf", "mix_first", "keep"): {**OPEN, "marker": "x", "label": "DeCAF, keep"},
        ("dlora", "mix_first", "drop"): DLORA,
    },
    "dead direction": {
        ("decaf", "step_first", "drop"): {**DECAF, "label": "DeCAF"},
        ("decaf", "step_first", "keep"): {**OPEN, "marker": "x", "label": "DeCAF, keep"},
        ("dlora", "step_first", "drop"): DLORA,
    },
}
TITLES = ("(a) dead start, mixing first", "(b) dead direction, stepping first")


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw both panels; return the files."""
    with style.look():
        figure, axes = style.panels(2, 2.2, sharey=False)
        panel(axes[0], rows, "dead start")
        panel(axes[1], rows, "dead direction")
        steps, bound = curve(rows, "step", "bound", relation=">=", part="dead direction")
        axes[1].plot(steps, bound, **style.BOUND, label="rank one (T23)", zorder=3)
        axes[1].set_xlabel("steps $t$")
        for axis, title in zip(axes, TITLES, strict=True):
            axis.set_yscale("log")
            style.legend_over(axis, title, columns=2)
        figure.supylabel("loss $F$", fontsize=8)
        return style.save(figure, path)


def panel(axis: Any, rows: Sequence[Row], part: str) -> None:
    """Draw the runs of one panel."""
    for (method, order, rule), look in LOOKS[part].items():
        wanted = {"part": part, "method": method, "order": order, "rule": rule}
        axis.plot(*curve(rows, "step", curve="start", **wanted), **look)
