"""F4: convergence of the base methods on three graphs, with bounds and exact moments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, pick

NEEDS = ("T25", "T30-certificate")
CAPTION = r"""Convergence of four methods on matrix approximation with deviating targets and noisy
gradients, six agents, rank 2, on three graphs: the average over $t < T$ of the squared gradient at
the mean point, in the variables that the method trains (D-SGD: the full matrix; DLoRA-FA: $B$;
DLoRA, DeCAF: $B$ and $A$). All start at the same point and see the same noise.
Lines: means over {runs} simulated runs; bands: their simultaneous 99.9 % confidence intervals.
Plus signs: the exact moments, where the problem is quadratic in what is trained (rows of T25).
Dotted, with the open marker of the method: its bound, T25 with its explicit constants, for DeCAF
T29-joint with the measured errors of mixing (rows of T30-certificate).
"""
METHODS = ("dsgd", "dlora_fa", "dlora", "decaf")
PANELS = (("ring", "(a) ring"), ("complete", "(b) complete"), ("bipartite", "(c) bipartite"))
EXACT = {"color": "black", "marker": "+", "linestyle": "none"}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return {"runs": pick(rows, curve="convergence", evidence="simulated")[0]["runs"]}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw one panel per graph, the methods over each other; return the files."""
    with style.look():
        figure, axes = style.panels(len(PANELS), 1.7)
        for axis, (graph, title) in zip(axes, PANELS, strict=True):
            for method in METHODS:
                curves(axis, rows, method, graph)
            axis.set_title(title)
            axis.minorticks_off()
        axes[0].plot([], [], **EXACT, label="exact moments")
        axes[0].plot([], [], **style.BOUND, label="bounds, open markers")
        axes[0].set_xscale("log")
        axes[0].set_yscale("log")
        axes[-1].set_xlabel("steps $T$")
        figure.supylabel("mean squared gradient over $t < T$", fontsize=8)
        style.legend_above(figure, axes)
        return style.save(figure, path)


def curves(axis: Any, rows: Sequence[Row], method: str, graph: str) -> None:
    """Draw one method on one graph: simulated with its band, exact if there are moments, bound."""
    wanted = {"curve": "convergence", "method": method, "topology": graph}
    columns = {
        y: curve(rows, "T", y, evidence="simulated", **wanted)
        for y in ("low", "measured", "high", "bound")
    }
    T, (low, mid, high) = columns["low"][0], (columns[y][1] for y in ("low", "measured", "high"))
    look = {**style.METHODS[method], "markersize": 2.5}
    style.band(axis, T, low, mid, high, look)
    if method in ("dsgd", "dlora_fa"):
        exact = {**EXACT, "color": look["color"], "markersize": 6}
        axis.plot(*curve(rows, "T", evidence="exact", **wanted), **exact)
    axis.plot(*columns["bound"], **style.bound_of(look))
