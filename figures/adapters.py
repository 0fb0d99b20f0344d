"""F16: real adapters, what mixing them loses by layer, and how tight the bounds are there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, pick

NEEDS = ("adapters",)
CAPTION = """\
Trained LoRA adapters of {N} agents, rank {r}, mixed over the {topology} graph, layer by layer (rows
of python -m verification adapters). One trained adapter per agent; no band.
(a) What averaging the factors loses, the interference |I| (dashed), and what truncating the mixed
product loses, |E| (solid), both over the mixed update |M|; Frobenius norms, root mean squares over
the agents. (b) How tight the theory is on these matrices: the measured side over the bound, for the
agent that comes closest to it; the dotted line is the bound.
"""
LOST = {
    "interference": {**style.METHODS["dlora"], "label": "interference $|I|/|M|$"},
    "truncation": {**style.METHODS["decaf"], "label": "truncation $|E|/|M|$"},
}
BOUNDS = {
    "T9": ("|I| fro", {**style.line("vermilion", "s", "--"), "label": "$|I|$ (T9)"}),
    "T17": ("|E| against |I| fro", {**style.line("blue", "o", "-"), "label": "$|E|$ (T17)"}),
    "T18": (
        "|P - Bbar Abar| fro",
        {**style.line("green", "^", "-."), "label": "$|P-Q|$ (T18)"},
    ),
    "T21-global": (
        "|E| by the spread nuc",
        {**style.line("purple", "D", ":"), "label": "$|E|_*$ (T21-global)"},
    ),
}
FACES = ("full", "none", "left", "right", "top", "bottom")


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return dict(pick(rows, claim="T9", case="|I| fro")[0])


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw losses and tightness by layer; return the files."""
    with style.look():
        figure, axes = style.panels(2, 2.4, sharey=False)
        for name, look in LOST.items():
            by_layer(axes[0], pick(rows, claim="T9", case="|I| fro"), look, name, "mix")
        for claim, (case, look) in BOUNDS.items():
            by_layer(axes[1], pick(rows, claim=claim, case=case), look, "measured", "bound")
        for kind, face in zip(kinds_of(rows), FACES, strict=False):
            look = {"color": "black", "marker": "o", "linestyle": "none", "fillstyle": face}
            axes[0].plot([], [], **look, label=kind)
        axes[1].axhline(1, **style.BOUND, label="bound")
        axes[0].set_ylabel("lost share of the update")
        axes[1].set_ylabel("measured / bound")
        axes[1].set_xlabel("layer")
        axes[1].xaxis.get_major_locator().set_params(integer=True)
        for axis, title in zip(axes, ("(a) what a mix loses", "(b) tightness"), strict=True):
            axis.set_ylim(bottom=0)
            style.legend_over(axis, title, columns=2, handlelength=2)
        return style.save(figure, path)


def by_layer(axis: Any, rows: Sequence[Row], look: Any, over: str, under: str) -> None:
    """Draw a ratio against the layer, one line per kind of matrix (distinguished by markers)."""
    for i, kind in enumerate(kinds_of(rows)):
        own = [row for row in rows if kind == row["site"].rpartition(".")[2]]
        points = [(layer_of(row, place), row[over] / row[under]) for place, row in enumerate(own)]
        marks = {**look, "fillstyle": FACES[i % len(FACES)]}
        if i:
            del marks["label"]
        axis.plot(*zip(*sorted(points), strict=True), **marks)


def layer_of(row: Row, place: int) -> int:
    """Return the first number in the name of a matrix, or its position if there is none."""
    number = re.search(r"\.(\d+)\.", row["site"])
    return int(number[1]) if number else place


def kinds_of(rows: Sequence[Row]) -> list[str]:
    """Return the kinds of matrices, in the order of the rows."""
    return list(dict.fromkeys(row["site"].rpartition(".")[2] for row in rows))
