"""F5: the rate of decentralized SGD in T, and its linear speed-up in N."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, curve, matches, pick

NEEDS = ("T28",)
CAPTION = r"""Decentralized SGD at step size $\sqrt{{N/T}}$: the average over $t < T$ of the
expected squared gradient at the mean point, from exact moments, no simulation (rows of claim T28).
Quadratics around one mean problem, the same for every $N$; gradient noise; order MS.
(a) Against the horizon $T$. (b) Against the number of agents $N$ at $T = {T}$: the rate
$1/\sqrt{{N T}}$ means $N$ times fewer steps for the same accuracy. On the ring the graph's term, of
order $N/T$, still shows.
Slopes: log-log fits with their 95 % t-intervals, in (a) over the last decade. Dotted: the bound of
T28, if the horizon is long enough for it to apply.
"""
FEW = {**style.TOPOLOGIES["complete"], "marker": "v", "color": style.OKABE_ITO["grey"]}
COMPLETE = {**style.TOPOLOGIES["complete"], "markersize": 5}
RING = {**style.TOPOLOGIES["ring"], "markersize": 2.5}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return {"T": pick(rows, curve="rate", part="agents")[0]["T"]}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the rate in T and in N; return the files."""
    with style.look():
        figure, axes = style.panels(2, 2.2, sharex=False, sharey=False)
        few, many = sorted({row["N"] for row in pick(rows, curve="rate", part="horizon")})
        for graph, N, look in (
            ("complete", few, FEW),
            ("complete", many, COMPLETE),
            ("ring", many, RING),
        ):
            wanted = {"part": "horizon", "N": N, "topology": graph}
            series(axes[0], rows, "T", {**look, "label": f"{graph}, $N={N}$"}, wanted)
        for graph, look in (("complete", COMPLETE), ("ring", RING)):
            wanted = {"part": "agents", "topology": graph}
            series(axes[1], rows, "N", {**look, "label": graph}, wanted)
        axes[0].set_xlabel("horizon $T$, steps")
        axes[1].set_xlabel("agents $N$")
        sizes = curve(rows, "N", curve="rate", part="agents", topology="ring")[0]
        axes[1].set_xscale("log", base=2)
        axes[1].set_xticks(sizes, [str(N) for N in sizes])
        for axis, title in zip(axes, ("(a) rate in the horizon", "(b) speed-up"), strict=True):
            axis.plot([], [], **style.BOUND, label="bounds (T28), open markers")
            style.legend_over(axis, title)
        figure.supylabel("mean squared gradient over $t < T$", fontsize=8)
        return style.save(figure, path)


def series(axis: Any, rows: Sequence[Row], x: str, look: Any, wanted: dict[str, Any]) -> None:
    """Draw measured values and bound of one graph; its label gives the fitted slope, if any."""
    xs, ys = curve(rows, x, curve="rate", **wanted)
    fitted = {**wanted, "part": f"slope, {wanted['part']}"}
    label = look["label"] + "".join(slope_of(row) for row in rows if matches(row, fitted))
    axis.plot(xs, ys, **{**look, "label": label})
    held = curve(rows, x, "bound", curve="rate", assumptions_held=True, **wanted)
    axis.plot(*held, **style.bound_of(look))
    axis.set_xscale("log")
    axis.set_yscale("log")


def slope_of(row: Row) -> str:
    """Return a fitted slope with its interval."""
    half = (row["high"] - row["low"]) / 2
    return rf": slope ${row['measured']:.3f} \pm {half:.1g}$"
