"""F12: the kernel's speed against size, with the GEMM floor and its peers, and its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from figures import style
from figures.rows import MissingError, Row, matches, pick

NEEDS = ("bench",)
CAPTION = r"""One DeCAF round on a ring, rank 4, float32, one thread of {processor} (rows of decaf
bench).
(a) Seconds per agent against the size $d$ of a $d \times d$ layer, ten agents: medians over
{rounds} rounds of the faster of NumPy and torch, bars from the fastest to the slowest round. Open
markers: four agents, compared with what libraries ship. Black dashed: only the matrix products that
any kernel of this kind needs. Batched QR, QR loop: thin QR of the stacked factors and an SVD of the
core, for all agents at once or one by one; the others form the $d \times d$ mix or iterate on it.
Times of single agents are scaled to all agents.
(b) The error of the truncated mix against a QR loop in float64, over $\sigma_1$, {size} x {size};
black dashed: the goal for the kernel. svd_lowrank is randomized and stops early by default.
"""
LOOKS = {
    "ours": ("tsvd_of_mix", style.line("blue", "o", "-")),
    "batched QR": ("batched QR", style.line("green", "^", "-.")),
    "QR loop": ("QR loop", style.line("orange", "D", "--")),
    "PROPACK": ("PROPACK", style.line("purple", "v", "--")),
    "ARPACK": ("ARPACK", style.line("sky", "P", "-.")),
    "dense SVD": ("dense SVD", style.line("vermilion", "s", "-")),
    "peft svd": ("peft svd", {**style.line("vermilion", "X", "-."), "markersize": 4.5}),
    "dense aggregation": ("dense sum", style.line("grey", "d", "-")),
    "svd_lowrank": ("svd_lowrank", style.line("purple", "*", "-")),
    "randomized_svd": ("randomized", style.line("grey", "x", "--")),
}
PLAIN = {"kind": "seconds", "graph": "ring", "dtype": "float32", "r": 4, "layers": 1, "apart": 1.0}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    machine = pick(rows, kind="machine")[0]
    return {**machine, "size": errors(rows)[0]}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw times and errors; return the files."""
    with style.look():
        figure, axes = style.panels(2, 2.5, sharex=False, sharey=False)
        speed(axes[0], rows)
        accuracy(axes[1], rows)
        style.legend_above(figure, axes, columns=3, handlelength=2)
        return style.save(figure, path)


def speed(axis: Any, rows: Sequence[Row]) -> None:
    """Draw seconds per agent against the size: lines for ten agents, open markers for G9."""
    for role, (label, look) in LOOKS.items():
        alone = {**look, "linestyle": "none", "markerfacecolor": "none"}
        for found, style_of in (
            (times(rows, role, N=10), look),
            (times(rows, role, goal="G9"), alone),
        ):
            if found:
                sizes, low, mid, high = map(np.array, zip(*found, strict=True))
                bars = {"yerr": (mid - low, high - mid), "elinewidth": 0.6}
                axis.errorbar(sizes, mid, **bars, **style_of, label=label)
    floor = times(rows, "GEMM floor", N=10)
    marks = {**style.REFERENCE, "marker": "_", "label": "GEMM floor"}
    axis.plot([found[0] for found in floor], [found[2] for found in floor], **marks)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_yscale("log")
    axis.set_xlabel("layer size $d$")
    axis.set_ylabel("time per agent, s")
    axis.set_title("(a) speed")


def times(rows: Sequence[Row], role: str, **wanted: Any) -> list[tuple[int, float, float, float]]:
    """Return size, least, median and largest seconds per agent, of the faster backend."""
    own = [row for row in rows if matches(row, {**PLAIN, "role": role, **wanted})]
    found = []
    for size in sorted({row["d"] for row in own}):
        backends: dict[str, list[float]] = {}
        for row in own:
            if row["d"] == size:
                backends.setdefault(row["backend"], []).append(row["seconds"] / row["N"])
        best = min(backends.values(), key=median)
        found.append((size, min(best), median(best), max(best)))
    return found


def errors(rows: Sequence[Row]) -> tuple[int, dict[str, float]]:
    """Return the smallest size at which peers were compared, and each one's error."""
    found = pick(rows, kind="error", goal="G9")
    sizes = {row["case"]: row["d"] for row in pick(rows, kind="seconds", goal="G9")}
    size = min(sizes.values())
    own = [row for row in found if sizes[row["case"]] == size]
    return size, {
        row["role"]: max(r["value"] for r in own if r["role"] == row["role"]) for row in own
    }


def accuracy(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the errors of the contestants that form no exact reference."""
    _, found = errors(rows)
    names = [role for role in LOOKS if role in found]
    for place, role in enumerate(names):
        label, look = LOOKS[role]
        axis.plot(found[role], place, **{**look, "linestyle": "none"}, label=label)
    goal = [
        row["limit"] for row in rows if row.get("measure") == "error / sigma_1" and row.get("limit")
    ]
    if not goal:
        raise MissingError("no rows of bench with the goal of the error; run decaf bench again")
    axis.axvline(max(goal), **style.REFERENCE)
    axis.annotate("goal", (max(goal), len(names) - 1), (3, 0), textcoords="offset points")
    axis.set_xscale("log")
    axis.set_yticks(range(len(names)), [LOOKS[role][0] for role in names])
    axis.invert_yaxis()
    axis.set_xlabel(r"error of the truncated mix $/\,\sigma_1$")
    axis.set_title("(b) accuracy")
