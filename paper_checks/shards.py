"""What agents hold, in numbers and words: classes by agent, and what is unusual about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decaf_theory.terminal import groups

WIDE = 12  # classes that fit into a line each


def counts(labels: Any, shards: Sequence[np.ndarray], classes: int) -> list[list[int]]:
    """Return how many examples of every class [classes] each of the N agents holds."""
    labels = np.asarray(labels)
    return [np.bincount(labels[shard], minlength=classes).tolist() for shard in shards]


def notes(held: Sequence[Sequence[int]], weighing: str) -> list[str]:
    """Return what is unusual about counts [N, classes], a line each; weighing: see `Mix`."""
    found, sizes = [], [sum(row) for row in held]
    if len(set(sizes)) > 1 and weighing != "samples":
        found.append(
            f"agents hold {min(sizes)} to {max(sizes)} examples; steps take batches of one size "
            f"from all, and {WEIGHING[weighing]}"
        )
    none = [str(c) for c, column in enumerate(zip(*held, strict=True)) if not any(column)]
    if none:
        found.append(f"nobody holds class {', '.join(none)}: tested on, but trained on by no agent")
    return found


WEIGHING = {
    "equal": 'the mix weighs them alike (mix.weights = "samples": by their examples)',
    "graph": "the graph weighs them whatever they hold",
    "none": "nothing is mixed",
}


def table(held: Sequence[Sequence[int]], room: int | None = None) -> str:
    """Return counts [N, classes] as lines of text; of many classes how many each agent holds.

    room: the columns of the terminal, in parts that fit it; None: all in one.
    """
    wide = len(held[0]) > WIDE
    head = ["agent", "examples", *(("classes", "largest") if wide else _numbered(held[0]))]
    rows = [
        [str(agent), str(sum(row)), *map(str, _of_many(row) if wide else row)]
        for agent, row in enumerate(held)
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    parts = [range(len(head))] if room is None else groups(widths, room=room)
    return "\n\n".join(
        "\n".join("  ".join(row[i].rjust(widths[i]) for i in part) for row in [head, *rows])
        for part in parts
    )


def _numbered(row: Sequence[int]) -> list[str]:
    return [f"class {label}" for label in range(len(row))]


def _of_many(row: Sequence[int]) -> tuple[int, int]:
    """Return how many classes an agent holds, and its examples of the largest."""
    return sum(count > 0 for count in row), max(row)
