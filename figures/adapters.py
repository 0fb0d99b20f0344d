"""F16: real adapters, what mixing them loses by layer, and how tight the bounds are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, matches, pick

NEEDS = ("adapters",)
CAPTION = r"""Trained LoRA adapters of {N} agents, rank {r}, mixed over the {topology} graph,
layer by layer (rows of python -m verification adapters). One trained adapter per agent; no band.
(a) What averaging the factors loses, the interference $|I|$ (dashed), and what truncating the mixed
product loses, $|E|$ (solid), both over the mixed update $|M|$; Frobenius norms, root mean squares
over the agents. (b) How tight the theory is on these matrices: the measured side over the bound,
for the agent that comes closest to it; the dotted line is the bound.
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
MARKS = [{"fillstyle": face, "markersize": size} for size in (3.5, 2.0) for face in FACES]
LAYER = re.compile(r"\.(\d+)\.")
OTHERS = "others"  # matrices whose names have no number


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    return dict(pick(rows, claim="T9", case="|I| fro")[0])


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw losses and tightness by layer; return the files."""
    at = places(rows)
    with style.look():
        figure, axes = style.panels(2, 2.4, sharey=False)
        for name, look in LOST.items():
            by_layer(axes[0], pick(rows, claim="T9", case="|I| fro"), at, look, name, "mix")
        for claim, (case, look) in BOUNDS.items():
            if own := [row for row in rows if matches(row, {"claim": claim, "case": case})]:
                by_layer(axes[1], own, at, look, "measured", "bound")
        kinds = kinds_of(at)
        for i, marks in enumerate(MARKS[: len(kinds)]):
            look = {"color": "black", "marker": "o", "linestyle": "none", **marks}
            axes[0].plot([], [], **look, label=", ".join(kinds[i :: len(MARKS)]))
        axes[1].axhline(1, **style.BOUND, label="bound")
        axes[0].set_ylabel("lost share of the update")
        axes[1].set_ylabel("measured / bound")
        axes[1].set_xlabel("layer")
        ticks(axes[1], at)
        for axis, title in zip(axes, ("(a) what a mix loses", "(b) tightness"), strict=True):
            axis.set_ylim(bottom=0)
            style.legend_over(axis, title, columns=2, handlelength=2)
        return style.save(figure, path)


def by_layer(
    axis: Any, rows: Sequence[Row], at: Mapping[str, int], look: Any, over: str, under: str
) -> None:
    """Draw a ratio against the layer, one line per kind of matrix (distinguished by markers).

    A matrix without an update has no ratio and no point.
    """
    for i, kind in enumerate(kinds_of(at)):
        own = [row for row in rows if kind_of(row["site"]) == kind and row[under] > 0]
        points = sorted((at[row["site"]], row[over] / row[under]) for row in own)
        marks = {**look, **MARKS[i % len(MARKS)]}
        if i:
            del marks["label"]
        axis.plot([x for x, _ in points], [y for _, y in points], **marks)


def places(rows: Sequence[Row]) -> dict[str, int]:
    """Return where each matrix stands: at the number of its layer; without one, alone after all."""
    sites = list(dict.fromkeys(row["site"] for row in rows))
    numbered = {site: int(found[1]) for site in sites if (found := LAYER.search(site))}
    first = max(numbered.values(), default=-1) + 1
    alone = [site for site in sites if site not in numbered]
    return numbered | {site: first + i for i, site in enumerate(alone)}


def kind_of(site: str) -> str:
    """Return the kind of a matrix: the last part of its name, or OTHERS if it has no layer."""
    return site.rpartition(".")[2] if LAYER.search(site) else OTHERS


def kinds_of(sites: Iterable[str]) -> list[str]:
    """Return the kinds of matrices, in their order."""
    return list(dict.fromkeys(map(kind_of, sites)))


def ticks(axis: Any, at: Mapping[str, int]) -> None:
    """Label the layers by their numbers, at most a dozen, and the other matrices by their names."""
    named = {
        place: site.rpartition(".")[2] for site, place in at.items() if kind_of(site) == OTHERS
    }
    numbers = sorted(set(at.values()) - set(named))
    shown = numbers[:: max(1, -(-len(numbers) // 12))]
    axis.set_xticks([*shown, *named], [*map(str, shown), *named.values()])
    if named:
        axis.tick_params(axis="x", labelrotation=45)
