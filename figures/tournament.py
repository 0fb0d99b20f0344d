"""F16: every method against DLoRA (or FedAvg, by a server), at equal rounds and at equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import style
from figures.rows import MissingError, Row

NEEDS = ("tournament",)
CAPTION = r"""Every method at equal rounds (left) and at equal bytes (right), against DLoRA on
{graph} (upper names) or against FedAvg by a server (lower names): the difference of the scores of
the agents' own points, mean over {seeds} seeds per task and its interval; all {count} intervals of
the tournament hold together at {level}. On problems the score is $\log_{{10}}$ of $F - F^*$, so
that -1 is a gap ten times smaller, and left of zero is better; for training it is the accuracy in
points, and right of zero is better. No mark: the method was not played, diverged, or sends nothing.
Rows of python -m paper_checks tournament.
"""
BUDGETS = ("rounds", "bytes")
LOOKS = [
    *(style.line("blue", "o", "-"), style.line("vermilion", "s", "-")),
    *(style.line("green", "^", "-"), style.line("purple", "D", "-")),
    *(style.line("orange", "v", "-"), style.line("sky", "P", "-")),
]
FIELDS = ("own_from_base", "mean_from_base", "own_from_best")
GRAPH, SERVER = "ring", "server"
STEP = 0.15  # between the tasks of one method, in lines


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    about = rows[0]
    counts = sorted({len(task["reported"]) for task in about["tasks"].values()})
    return {
        "graph": f"the {GRAPH}",
        "seeds": " or ".join(map(str, counts)),
        "count": sum(field in row for row in rows[1:] for field in FIELDS),
        "level": f"{about['level']:.0%}",
    }


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw a column of panels per budget: problems above, training below; return the files."""
    about, *judged = rows
    own = [row for row in judged if "own_from_base" in row and row["network"] in (GRAPH, SERVER)]
    names = lines(own)
    groups = [
        [task for task, settings in about["tasks"].items() if settings["lower"] is lower]
        for lower in (True, False)
    ]
    groups = [tasks for tasks in groups if any(row["task"] in tasks for row in own)]
    height = 0.12 * len(names) + 0.6
    looks = dict(zip(about["tasks"], LOOKS * len(about["tasks"]), strict=False))
    with style.look():
        figure, axes = style.grid(len(groups), 2, height, sharex="row", sharey=True)
        for i, tasks in enumerate(groups):
            for axis, budget in zip(axes[2 * i :], BUDGETS, strict=False):
                found = [row for row in own if row["budget"] == budget]
                panel(axis, found, {task: looks[task] for task in tasks}, names)
            axes[2 * i].set_title("equal rounds")
            axes[2 * i + 1].set_title("equal bytes")
            lower = about["tasks"][tasks[0]]["lower"]
            for axis in axes[2 * i : 2 * i + 2]:
                axis.set_xlabel(r"$\log_{10}$ of the gap" if lower else "accuracy, points")
        style.legend_above(figure, axes, columns=2, handlelength=1.5)
        return style.save(figure, path)


def lines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return (network, method) from top to bottom. MissingError: there is no difference."""
    ordered = sorted(rows, key=lambda row: BUDGETS.index(row["budget"]))  # all have rounds
    names = list(dict.fromkeys((row["network"], row["method"]) for row in ordered))
    if not names:
        raise MissingError("no differences; run python -m paper_checks tournament")
    return sorted(names, key=lambda name: name[0] == SERVER)


def panel(
    axis: Any, rows: Sequence[Row], looks: Mapping[str, Any], names: Sequence[tuple[str, str]]
) -> None:
    """Draw the differences of these tasks with their intervals, one line per method."""
    middle = (len(looks) - 1) / 2
    for i, (task, look) in enumerate(looks.items()):
        found = [row for row in rows if row["task"] == task]
        places = [names.index((r["network"], r["method"])) + STEP * (i - middle) for r in found]
        means, low, high = zip(*(row["own_from_base"] for row in found), strict=True)
        axis.hlines(places, low, high, color=look["color"], linewidth=0.7)
        alone = {**look, "linestyle": "none", "markersize": 1.8, "label": task.replace("_", " ")}
        axis.plot(means, places, **alone)
    axis.axvline(0, color="black", linewidth=0.6)
    on_graphs = sum(network != SERVER for network, _ in names)
    axis.axhline(on_graphs - 0.5, color="grey", linewidth=0.4)
    axis.set_yticks(range(len(names)), [name for _, name in names], fontsize=5.5)
    axis.set_ylim(len(names) - 0.4, -0.6)
