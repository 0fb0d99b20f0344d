"""F11: the atlas of tightness, every claim with its bound's tightness and the adversary's best."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import Row, pick

NEEDS = ("verdicts", "texts", "attacks")
CAPTION = """\
The claims with a bound, by area: the largest measured/bound among the rows of each ({rows} rows in
all). 1, the dotted line: the bound is attained by an explicit example. Beyond it: claims that are
false as worded, with their counterexamples. Arrows: outside the range. Crosses: the largest ratio
that the adversary found from random starts ({attacked} claims attacked). Left out: {left_out}
identities and laws, which have no ratio. {unexpected} of {claims} outcomes differ from what is
expected.
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
BEST: dict[str, Any] = {
    "color": "black",
    "marker": "x",
    "linestyle": "none",
    "label": "adversary's best",
}
LINE, TEXT = 0.098, 5.5  # in, the height of a line; points


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    verdicts = pick(rows, source="verdicts")
    return {
        "rows": sum(row["rows"] for row in verdicts),
        "claims": len(verdicts),
        "left_out": len(verdicts) - len(shown(rows)),
        "unexpected": sum(row["outcome"] != row["expected"] for row in verdicts),
        "attacked": len(best_of(rows)),
    }


def shown(rows: Sequence[Row]) -> list[Row]:
    """Return the verdicts that have a ratio, with area and name, in reading order by area."""
    texts = {row["claim"]: row for row in pick(rows, source="texts")}
    found = [
        {**row, "title": texts[row["claim"]]["title"], "name": texts[row["claim"]]["name"]}
        for row in pick(rows, source="verdicts")
        if row["tightness"] is not None and isfinite(float(row["tightness"]))
    ]
    areas = list(dict.fromkeys(row["title"] for row in found))
    return sorted(found, key=lambda row: areas.index(row["title"]))


def best_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return the adversary's largest ratio of each claim that was attacked."""
    best: dict[str, float] = {}
    for row in rows:
        if row["source"] == "attacks":
            best[row["claim"]] = max(best.get(row["claim"], 0.0), float(row["ratio"]))
    return best


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw one line per claim under the name of its area; return the files."""
    verdicts, best = shown(rows), best_of(rows)
    lines: list[str | Row] = []
    for before, row in zip([None, *verdicts], verdicts, strict=False):
        if before is None or before["title"] != row["title"]:
            lines.append(row["title"])
        lines.append(row)
    with style.look():
        figure = style.empty(0.9 + LINE * len(lines), layout="constrained")
        axis = figure.subplots()
        for place, line in enumerate(lines):
            if not isinstance(line, str):
                marks(axis, place, line, best.get(line["claim"]))
        for outcome in sorted({row["outcome"] for row in verdicts}):
            axis.plot([], [], **OUTCOMES[outcome], label=outcome.replace("_", " "))
        if best:
            axis.plot([], [], **BEST)
        finish(axis, lines)
        style.legend_above(figure, [axis], columns=3, handlelength=1.5)
        return style.save(figure, path)


def marks(axis: Any, place: int, row: Row, best: float | None) -> None:
    """Draw the ratio of a claim, and the adversary's best."""
    ratio, look = float(row["tightness"]), OUTCOMES[row["outcome"]]
    beyond = "<" if ratio < LOW else ">" if ratio > HIGH else look["marker"]
    axis.plot(min(max(ratio, LOW), HIGH), place, **{**look, "marker": beyond})
    if best is not None:
        axis.plot(min(max(best, LOW), HIGH), place, **{**BEST, "markersize": 2.5})


def finish(axis: Any, lines: Sequence[str | Row]) -> None:
    """Draw the bound, and label every line with the claim and its name."""
    axis.axvline(1, **style.BOUND, zorder=0, label="bound")
    axis.set_xscale("log")
    axis.set_xlim(LOW / 1.5, HIGH * 1.5)
    axis.set_ylim(len(lines) - 0.3, -0.7)
    axis.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axis.set_xlabel("measured / bound, at its largest")
    words = [s if isinstance(s, str) else f"{s['name']}  {s['claim']}" for s in lines]
    axis.set_yticks(range(len(lines)), words, fontsize=TEXT)
    for label, line in zip(axis.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if isinstance(line, str) else "normal")
    axis.tick_params(axis="y", length=0, pad=2)
