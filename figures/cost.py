"""F16: what a step costs an agent, against the number of agents, by graph and method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, pick

NEEDS = ("scaling",)
CAPTION = """\
One agent's step with six methods on three graphs, {least} to {most} agents: a {d} x {k} matrix,
rank {r}, float64, NumPy on one thread of {processor} (rows of decaf bench scaling). Top: CPU time
of a step of a run that is under way, the median over {rounds} rounds of the least of some steps;
bands from the fastest to the slowest round. Middle: what Python and NumPy hold at most meanwhile,
with graph and problem. Bottom: the bytes that all agents send in a round, in float32; methods that
send equally many share a line.
"""
GRAPHS = {"ring": "ring", "torus": "torus", "one_peer_exponential": "one peer"}
# column of the rows, label, and what one unit of the axis is in theirs
QUANTITIES = (
    ("median", "time, µs", 1.0),
    ("memory", "memory, kB", 1e3),
    ("comm_bytes", "sent, MB", 1e6),
)


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    found = pick(rows, kind="scaling")
    sizes = [row["N"] for row in found]
    return {**pick(rows, kind="machine")[0], **found[0], "least": min(sizes), "most": max(sizes)}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw a row of panels for each quantity, a panel for each graph; return the files."""
    with style.look():
        figure, axes = style.grid(len(QUANTITIES), len(GRAPHS), 1.25, sharey="row")
        for place, (name, label, unit) in enumerate(QUANTITIES):
            own = axes[place * len(GRAPHS) : (place + 1) * len(GRAPHS)]
            own[0].set_ylabel(label)
            for axis, graph in zip(own, GRAPHS, strict=True):
                panel(axis, pick(rows, kind="scaling", graph=graph), name, unit)
        axes[len(GRAPHS)].set_ylim(bottom=0)  # memory, once all of it is drawn
        for axis, title in zip(axes, GRAPHS.values(), strict=False):
            axis.set_title(title)
        figure.supxlabel("agents $N$", fontsize=8)
        style.legend_above(figure, axes, columns=2)
        return style.save(figure, path)


def panel(axis: Any, rows: Sequence[Row], name: str, unit: float) -> None:
    """Draw one quantity of every method on one graph."""
    for method, look in style.methods({row["method"] for row in rows}):
        found = sorted(pick(rows, method=method), key=lambda row: row["N"])
        ends = ("low", "high") if name == "median" else (name, name)
        low, mid, high = (
            [row[column] / unit for row in found] for column in (ends[0], name, ends[1])
        )
        style.band(axis, [row["N"] for row in found], low, mid, high, look)
    axis.set_xscale("log")
    if name != "memory":
        axis.set_yscale("log")
    axis.set_xticks([10, 1000, 10**5])
    axis.set_xticks([], minor=True)
