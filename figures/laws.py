"""F10: DeCAF's spurious singular value and DLoRA's drift along the gauge orbit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, pick

NEEDS = ("T32", "T33")
CAPTION = r"""Two laws in closed form, without noise and without a fit; one instance each, six and
four agents.
(a) With more rank than the mean target has, DeCAF settles at a product with a spurious singular
value of size $\sqrt\alpha$. Markers: measured at the fixed point; lines: the closed form of T32
(order $\sqrt\alpha$ corrections left out; rows of claim T32).
(b) Under deviating targets DLoRA's factors drift along the gauge orbit: the largest singular value
of the mean factors of a ring of four, from a balanced start, against the slow time $\alpha^2 t$,
for two step sizes, and the slow flow of T33 in closed form (rows of claim T33).
"""
GRAPHS = ("path", "ring", "star", "exponential", "complete", "bipartite")
DLORA = style.METHODS["dlora"]
FLOW = {"color": "black", "linewidth": 1.0, "zorder": 3}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw both laws; return the files."""
    with style.look():
        figure, axes = style.panels(2, 2.35, sharex=False, sharey=False)
        spurious(axes[0], rows)
        drift(axes[1], rows)
        return style.save(figure, path)


def spurious(axis: Any, rows: Sequence[Row]) -> None:
    """Draw measured and predicted singular values against the step size."""
    wanted = {"curve": "spurious", "which": 1, "N": 6}
    scale = min(row["s"] for row in pick(rows, **wanted))
    for graph in GRAPHS:
        (row,) = pick(rows, topology=graph, s=scale, **wanted)
        lr, value, law = (levels(row, name) for name in ("lr", "value", "law"))
        look = style.TOPOLOGIES[graph]
        axis.plot(lr, value, **{**look, "linestyle": "none"}, label=graph)
        axis.plot(lr, law, **{**look, "marker": "none"})
    axis.plot([], [], color="black", label="T32")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xlabel(r"step size $\alpha$")
    axis.set_ylabel(r"spurious $\sigma_{r^*+1}$")
    style.legend_over(axis, "(a) DeCAF's spurious direction", columns=3, handlelength=1.2)


def levels(row: Row, name: str) -> list[float]:
    """Return a row's values at its step sizes, name_0, name_1, ..."""
    return [row[f"{name}_{i}"] for i in range(len(row)) if f"{name}_{i}" in row]


def drift(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the largest factor along the slow time, with the slow flow."""
    first = pick(rows, curve="slow flow")[0]
    for which, face in (("coarsest", "white"), ("finest", DLORA["color"])):
        look = {**DLORA, "linestyle": "none", "markerfacecolor": face}
        label = rf"DLoRA, $\alpha = {first[which + '_lr']:g}$"
        axis.plot(*curve(rows, "tau", which, curve="slow flow"), **{**look, "label": label})
    axis.plot(*curve(rows, "tau", "slow_flow", curve="slow flow"), **FLOW, label="slow flow (T33)")
    axis.set_xlabel(r"slow time $\alpha^2 t$")
    axis.set_ylabel(r"largest $\sigma_1$ of a factor")
    style.legend_over(axis, "(b) DLoRA's drift", columns=2, handlelength=1.6)
