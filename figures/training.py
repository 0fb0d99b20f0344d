"""F15: full-model runs, the score against rounds and against bytes, IID and not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures import style
from figures.rows import Row, pick

NEEDS = ("runs",)
CAPTION = """\
Fine-tuning of {name} over {graphs}, {agents} agents, rank {rank}, {steps} steps, heads {heads}:
the test score (accuracy, or F1 if the task specifies it), mean over the agents, against rounds of
communication (left) and against the bytes that all agents sent (right), for each partition of the
data (rows). Lines: medians over {seeds} seeds; bands: from the smallest to the largest.
Rows of python -m paper_checks, code {code}.
The experiment shown is the one with the most rows.
"""
WORDS = {"iid": "IID", "skew": "label skew", "dirichlet": "Dirichlet", "shots": "few shots"}
WORDS |= {"balanced": "class-balanced", "exclusive": "exclusive classes"}


def shown(rows: Sequence[Row]) -> list[Row]:
    """Return the scored records of the experiment with the most, the first by name in a tie.

    Those of adapters: a control without any has the name of the method that mixes its heads.
    """
    runs = [row for row in pick(rows, source="runs") if row.get("lora.train_adapters", True)]
    scored = [row for row in runs if "score" in row]
    names = sorted({row["name"] for row in scored})
    most = max(names, key=lambda name: sum(row["name"] == name for row in scored))
    return [row for row in scored if row["name"] == most]


def facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that the caption names."""
    own = shown(rows)
    graphs = sorted({row["mix.graph"] for row in own} - {"any"})
    seeds = {row["train.seed"] for row in own}
    named = {"agents": "mix.agents", "rank": "lora.rank", "steps": "train.steps", "code": "code"}
    shared = {name: own[0].get(setting, "unknown") for name, setting in named.items()}
    shared["heads"] = "trained" if own[0].get("lora.train_heads", True) else "frozen"
    return shared | {
        **{"name": own[0]["name"], "graphs": ", ".join(graphs) or "no graph"},
        "seeds": len(seeds),
    }


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw one row of panels per partition; return the files."""
    own = shown(rows)
    partitions = [name for name in WORDS if any(row["data.partition"] == name for row in own)]
    with style.look():
        figure, axes = style.grid(len(partitions), 2, 1.75, sharex="col")
        for i, name in enumerate(partitions):
            part = [row for row in own if row["data.partition"] == name]
            for axis, x, unit in zip(
                axes[2 * i :], ("round", "comm_bytes"), (1, 1e6), strict=False
            ):
                panel(axis, part, x, unit)
            axes[2 * i].set_title(WORDS[name])
        axes[-2].set_xlabel("rounds")
        axes[-1].set_xlabel("sent by all agents, MB")
        figure.supylabel("score on the test set", fontsize=8)
        style.legend_above(figure, axes, columns=3, handlelength=2)
        return style.save(figure, path)


def panel(axis: Any, rows: Sequence[Row], x: str, unit: float) -> None:
    """Draw every method's median score with its band over seeds, the first graph of each."""
    for method, look in style.methods({row["mix.method"] for row in rows}):
        own = [row for row in rows if row["mix.method"] == method]
        own = [row for row in own if row["mix.graph"] == min(r["mix.graph"] for r in own)]
        if own:
            steps = sorted({row["step"] for row in own})
            groups = [[row for row in own if row["step"] == step] for step in steps]
            scores = [[row["score"] for row in group] for group in groups]
            middle = [float(np.median(values)) for values in scores]
            places = [group[0][x] / unit for group in groups]
            every = {**look, "markevery": max(1, len(places) // 8)}
            style.band(axis, places, [*map(min, scores)], middle, [*map(max, scores)], every)
