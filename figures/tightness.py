"""F11: the atlas of tightness, every claim with its bound's tightness and the adversary's best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, pick

NEEDS = ("verdicts", "attacks")
CAPTION = """\
Every claim in reading order: the largest measured/bound among its rows (of {rows} in all). 1, the
dotted line: the bound is attained by an explicit example. Beyond it: claims that are false as
worded, with their counterexamples. Arrows: outside the range. Crosses: the largest ratio that
the adversary found from random starts ({attacked} claims attacked). Dashes on the left: identities
and laws, which have no ratio. {unexpected} of {claims} outcomes differ from what is expected.
"""
OUTCOMES = {
    "holds": style.line("blue", "o", "none"),
    "violated": style.line("vermilion", "s", "none"),
    "inconclusive": style.line("orange", "^", "none"),
    "slack": style.line("purple", "D", "none"),
    "not_applicable": style.line("grey", "v", "none"),
    "error": style.line("black", "X", "none"),
}
LOW, HIGH = 0.1, 10.0
BEST = {"color": "black", "marker": "x", "linestyle": "none", "label": "adversary's best"}
NONE = {"color": style.OKABE_ITO["grey"], "marker": "_", "linestyle": "none", "label": "no ratio"}


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    verdicts = pick(rows, source="verdicts")
    return {
        "rows": sum(row["rows"] for row in verdicts),
        "claims": len(verdicts),
        "unexpected": sum(row["outcome"] != row["expected"] for row in verdicts),
        "attacked": len(best_of(rows)),
    }


def best_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return the adversary's largest ratio of each claim that was attacked."""
    best: dict[str, float] = {}
    for row in rows:
        if row["source"] == "attacks":
            best[row["claim"]] = max(best.get(row["claim"], 0.0), float(row["ratio"]))
    return best


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the claims in two columns; return the files."""
    verdicts, best = pick(rows, source="verdicts"), best_of(rows)
    half = (len(verdicts) + 1) // 2
    with style.look():
        figure = style.empty(0.7 + 0.11 * half, layout="constrained")
        axes = figure.subplots(1, 2, squeeze=False)[0]
        for axis, part in zip(axes, (verdicts[:half], verdicts[half:]), strict=True):
            column(axis, part, best)
            axis.set_ylim(half - 0.3, -0.7)
        figure.supxlabel("measured / bound, at its largest", fontsize=8)
        style.legend_above(figure, axes, columns=3, handlelength=1)
        return style.save(figure, path)


def column(axis: Any, verdicts: Sequence[Row], best: Mapping[str, float]) -> None:
    """Draw one claim per line."""
    for place, row in enumerate(verdicts):
        ratio, look = row["tightness"], OUTCOMES[row["outcome"]]
        if ratio is None or not isfinite(ratio := float(ratio)):
            axis.plot(LOW, place, **{**look, "marker": "_"})
        else:
            beyond = "<" if ratio < LOW else ">" if ratio > HIGH else look["marker"]
            axis.plot(min(max(ratio, LOW), HIGH), place, **{**look, "marker": beyond})
        if row["claim"] in best:
            axis.plot(min(max(best[row["claim"]], LOW), HIGH), place, **{**BEST, "markersize": 2.5})
    for outcome in sorted({row["outcome"] for row in verdicts}):
        axis.plot([], [], **OUTCOMES[outcome], label=outcome.replace("_", " "))
    axis.plot([], [], **NONE)
    axis.axvline(1, **style.BOUND, zorder=0, label="bound")
    axis.set_xscale("log")
    axis.set_xlim(LOW / 1.5, HIGH * 1.5)
    axis.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axis.set_yticks(range(len(verdicts)), [row["claim"] for row in verdicts], fontsize=5.5)
    axis.tick_params(axis="y", length=0, pad=1)
