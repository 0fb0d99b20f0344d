"""F18: full-model runs, who holds which classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figures import style
from figures.rows import Row, pick
from figures.training import WORDS

if TYPE_CHECKING:  # Matplotlib: only where something is drawn
    from matplotlib.figure import Figure

NEEDS = ("partitions",)
CAPTION = """\
Fine-tuning of {name}: how many training examples of each of {classes} classes (colours) each of
{agents} agents holds, for each partition of the data (panels), seed {seed}.
Rows of python -m paper_checks; the experiment shown is the one with the most runs.
"""


def shown(rows: Sequence[Row]) -> list[Row]:
    """Return a run of every partition, of the experiment with the most and its least seed."""
    found = pick(rows, source="partitions")
    names = sorted({row["name"] for row in found})
    most = max(names, key=lambda name: sum(row["name"] == name for row in found))
    own = sorted((r for r in found if r["name"] == most), key=lambda row: row["train.seed"])
    kinds = {row["data.partition"]: row for row in reversed(own)}
    return [kinds[kind] for kind in WORDS if kind in kinds]


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    own = shown(rows)
    agents, classes = np.shape(own[0]["counts"])
    seeds = sorted({row["train.seed"] for row in own})
    seed = ", ".join(map(str, seeds))
    return {"name": own[0]["name"], "agents": agents, "classes": classes, "seed": seed}


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw one panel of stacked bars, an agent each, per partition; return the files."""
    with style.look():
        return style.save(panels(shown(rows)), path)


def picture(row: Row, path: Path) -> None:
    """Draw the partition of one run, with its settings and `counts`, to a PNG file at `path`."""
    with style.look():
        style.save(panels([row]), path, ("png",))


def panels(own: Sequence[Row]) -> Figure:
    """Return a figure with a panel for each row, and one legend where classes have names."""
    figure, axes = style.panels(len(own), 1.5, sharey=False)
    for axis, row in zip(axes, own, strict=True):
        bars(axis, np.array(row["counts"]))
        axis.set_title(WORDS[row["data.partition"]])
        axis.set_ylabel("examples")
    axes[-1].set_xlabel("agent")
    classes = len(own[0]["counts"][0])
    if classes <= len(style.OKABE_ITO):
        style.legend_above(figure, axes, classes, handlelength=1, columnspacing=1)
    return figure


def bars(axis: Any, counts: np.ndarray) -> None:
    """Draw the counts [N, classes] as a bar of every agent, its classes on each other."""
    agents, classes = counts.shape
    tops = np.cumsum(counts, axis=1)
    for label, color in enumerate(colors(classes)):
        held, below = counts[:, label], tops[:, label] - counts[:, label]
        name = str(label) if label else "class 0"  # short ones: all stand in one line
        look = {"color": color, "width": 0.8, "linewidth": 0, "label": name}
        axis.bar(np.arange(agents), held, bottom=below, **look)
    axis.set_xticks(range(0, agents, max(1, agents // 10)))


def colors(classes: int) -> list[Any]:
    """Return a colour for each class: named ones for few, of one scale for many."""
    few = list(style.OKABE_ITO.values())
    import matplotlib

    scale = matplotlib.colormaps["viridis"]
    return few[:classes] if classes <= len(few) else list(scale(np.linspace(0, 1, classes)))
