"""F15: what becomes of DeCAF's rate where the r-th singular value may vanish."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.laws import levels
from figures.rows import Row, pick

NEEDS = ("T30-law",)
CAPTION = r"""DeCAF needs $\sigma_r$ bounded away from 0 to have the rate of decentralized SGD,
also where nothing is ever truncated ($d = k = r = 2$, no noise; simulated, rows of claim T30-law).
(a) Average of $|\nabla\Phi|^2$ over $t < T$ times $\sqrt{{N T}}$ at step size $\sqrt{{N/T}}$, four
agents on a ring whose targets deviate from their mean. Circles: the mean target has a negative
eigenvalue, which DeCAF cannot cross: $\sigma_2$ falls to a multiple of the step size. Open circles:
the mean target lets $\sigma_2$ stay above 1/2, from the same $F(z_0) - F^*$. Squares: DLoRA on the
first target. Thin lines: what each tends to in closed form; dashed: $F(z_0) - F^*$, the leading
constant of T28-sharp.
(b) $|\nabla\Phi|^2$ over the step size where DeCAF comes to rest, four agents on five graphs; thin
lines: the closed form $K \eta$. Decentralized SGD would tend to 0.
"""
GRAPHS = ("path", "star", "ring", "bipartite", "complete")
KEPT = {**style.METHODS["decaf"], "markerfacecolor": "white", "linestyle": "-."}
CURVES = {
    "decaf": {**style.METHODS["decaf"], "label": r"DeCAF, $\sigma_2 \to 0$"},
    "sigma_2 kept": {**KEPT, "label": r"DeCAF, $\sigma_2 \geq 1/2$"},
    "dlora": style.METHODS["dlora"],
}
THIN = {"linewidth": 0.6, "zorder": 1}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the averages in T and the gradients at rest; return the files."""
    with style.look():
        figure, axes = style.panels(2, 2.3, sharex=False, sharey=False)
        averages(axes[0], rows)
        at_rest(axes[1], rows)
        return style.save(figure, path)


def averages(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the averages against the horizon, with what they tend to."""
    for name, look in CURVES.items():
        (row,) = pick(rows, curve="average", which=name, N=4)
        axis.plot(levels(row, "T"), levels(row, "value"), **look)
        axis.axhline(row["law"], color=look["color"], **THIN)
    axis.axhline(row["gap"], **style.REFERENCE, label="$F(z_0) - F^*$")
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("horizon $T$, steps")
    axis.set_ylabel(r"mean of $|\nabla\Phi|^2 \times \sqrt{NT}$")
    style.legend_over(axis, "(a) the rate", columns=2, handlelength=1.8)


def at_rest(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the squared gradient over the step size, against the step size."""
    for graph in GRAPHS:
        (row,) = pick(rows, curve="|grad Phi|^2", topology=graph)
        look = style.TOPOLOGIES[graph]
        axis.plot(levels(row, "lr"), levels(row, "value"), **look, label=graph)
        axis.axhline(levels(row, "law")[0], color=look["color"], **THIN)
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel(r"step size $\alpha$")
    axis.set_ylabel(r"$|\nabla\Phi|^2 / \alpha$ at rest")
    style.legend_over(axis, "(b) where DeCAF comes to rest", columns=3, handlelength=1.4)
