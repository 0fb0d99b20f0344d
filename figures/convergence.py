"""F4: convergence of the base methods on three graphs, with bounds and exact moments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, pick

NEEDS = ("T25", "T30-certificate")
CAPTION = """\
Convergence of four methods on matrix approximation with deviating targets and noisy gradients, six
agents, rank 2, on three graphs: the average over t < T of the squared gradient at the mean point,
in the variables that the method trains (D-SGD: the full matrix; DLoRA-FA: B; DLoRA, DeCAF: B and
A). All start at the same point and see the same noise.
Lines: means over {runs} simulated runs; bands: their simultaneous 99.9 % confidence intervals.
Plus signs: the exact moments, where the problem is quadratic in what is trained (rows of T25).
Dotted: the bounds, T25 with its explicit constants, for DeCAF T29-joint with the measured errors of
mixing (rows of T30-certificate).
"""
GRAPHS = ("ring", "complete", "bipartite")
METHODS = ("dsgd", "dlora_fa", "dlora", "decaf")
EXACT = {**style.line("black", "+", "none"), "label": "exact moments", "zorder": 3}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return {"runs": pick(rows, curve="convergence", evidence="simulated")[0]["runs"]}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw one row of panels per method and one column per graph; return the files."""
    with style.look():
        figure = style.empty(4.6, layout="constrained")
        axes = figure.subplots(len(METHODS), len(GRAPHS), sharex=True, sharey=True)
        for row, method in zip(axes, METHODS, strict=True):
            for axis, graph in zip(row, GRAPHS, strict=True):
                panel(axis, rows, method, graph)
        for axis, graph in zip(axes[0], GRAPHS, strict=True):
            axis.set_title(graph, loc="center")
        axes[0, 0].set_xscale("log")
        axes[0, 0].set_yscale("log")
        for axis in axes.ravel():
            axis.minorticks_off()
        figure.supxlabel("steps $T$", fontsize=8)
        figure.supylabel("mean squared gradient over $t < T$", fontsize=8)
        style.legend_above(figure, axes.ravel())
        return style.save(figure, path)


def panel(axis: Any, rows: Sequence[Row], method: str, graph: str) -> None:
    """Draw one method on one graph."""
    wanted = {"curve": "convergence", "method": method, "topology": graph}
    columns = {
        y: curve(rows, "T", y, evidence="simulated", **wanted)[1]
        for y in ("low", "measured", "high", "bound")
    }
    T = curve(rows, "T", evidence="simulated", **wanted)[0]
    look = {**style.METHODS[method], "markersize": 2.5}
    style.band(axis, T, columns["low"], columns["measured"], columns["high"], look)
    if method in ("dsgd", "dlora_fa"):
        axis.plot(*curve(rows, "T", evidence="exact", **wanted), **EXACT)
    source = "T29-joint" if method == "decaf" else "T25"
    axis.plot(T, columns["bound"], **style.BOUND, label="bounds (T25, T29-joint)")
    axis.annotate(
        source,
        (T[len(T) // 2], columns["bound"][len(T) // 2]),
        (2, 1),
        fontsize=6,
        textcoords="offset points",
    )
