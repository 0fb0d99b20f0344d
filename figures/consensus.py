"""F6: the consensus distance against the spectral gap, over the whole table of topologies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, matches, pick

NEEDS = ("T25",)
CAPTION = r"""The expected consensus distance at rest of decentralized SGD (order CB: gradients at
the unmixed points) against the spectral gap, for every topology of the table (rows of claim T25).
Open markers: {least} agents, filled ones: up to {most}. One-dimensional quadratics of curvature 1,
exact moments, no simulation.
(a) Agents whose optima deviate along the slowest mode of the graph, $\kappa = 1$, no noise. Dotted:
the bound of T25, a function of the gap alone; graphs whose largest eigenvalue in size is negative
(bipartite) stay far below it. (b) Equal agents with gradient noise of variance 1. Bars: the bound
of T25, which takes all eigenvalues of the graph.
"""


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    sizes = [row["N"] for row in pick(rows, curve="consensus")]
    return {"least": min(sizes), "most": max(sizes)}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw both panels; return the files."""
    with style.look():
        figure, axes = style.panels(2, 2.2, sharey=False)
        for axis, part in zip(axes, ("heterogeneity", "noise"), strict=True):
            scatter(axis, pick(rows, curve="consensus", part=part))
            axis.set_yscale("log")
        scale = pick(rows, curve="consensus")[0]["lr"] ** -2
        held = {"curve": "consensus", "assumptions_held": True}
        gaps, bounds = curve(rows, "gap", "bound", part="heterogeneity", **held)
        axes[0].plot(gaps, [scale * b for b in bounds], **style.BOUND, label="bound (T25)")
        noisy = curve(rows, "gap", "bound", part="noise", **held)
        bars = {"color": "black", "marker": "_", "markersize": 7, "linestyle": "none"}
        axes[1].plot(
            noisy[0], [scale * b for b in noisy[1]], **bars, label="T25, by graph", zorder=1
        )
        axes[0].set_xscale("log")
        axes[1].set_yscale("log", base=2)
        axes[1].yaxis.set_major_formatter("{x:g}")
        axes[0].set_title("(a) deviating optima")
        axes[1].set_title("(b) gradient noise")
        axes[1].set_xlabel(r"spectral gap $1 - \sqrt{\rho}$")
        figure.supylabel(r"consensus distance $\Xi\,/\,\alpha^2$", fontsize=8)
        style.legend_above(figure, axes, columns=3)
        return style.save(figure, path)


def scatter(axis: Any, rows: Sequence[Row]) -> None:
    """Draw one marker per network, open for the fewest agents."""
    sizes = sorted({row["N"] for row in rows})
    for name, line in style.TOPOLOGIES.items():
        for i, N in enumerate(sizes):
            found = [row for row in rows if matches(row, {"topology": name, "N": N})]
            x, y = [r["gap"] for r in found], [r["measured"] / r["lr"] ** 2 for r in found]
            look = {**line, "linestyle": "none", "markersize": 6 if name == "star" else 4.5}
            if i == 0:
                look["markerfacecolor"] = "white"
            label = {"label": name.replace("_", "-")} if N == sizes[-1] else {}
            axis.plot(x, y, **look, **label, markeredgewidth=0.8)
