"""What is trained: members apart, and networks that mix, within the same bytes or with more.

Ten agents; a message is one agent's adapters and head. To give everybody all adapters once takes
10 * 9 = 90 messages, on a ring (each is forwarded) as on the complete graph. A mix on the ring
takes 20: 4 mixes are within these bytes, and 15, one every ten steps, are 3.3 times as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from paper_checks import config as configs
from paper_checks.config import Config

EXPERIMENT = "vit-digits"
NEVER = 10**6
SETTINGS: Mapping[str, Any] = {
    "observe.every": NEVER,
    "observe.eval_every": NEVER,
    "data.partitions.iid.samples": 40,
    "data.partitions.skew.samples": 39,  # 40 would need 80 images of a digit that has 79
}
PARTITIONS = ("iid", "skew")
STEP_SIZES = (0.0015, 0.004)
TUNING, SEEDS = (1001,), tuple(range(40, 50))  # not those of first trials
FEW = {"mix.after": 39, "mix.every": 37}  # four mixes, the last after step 150 of 150
MANY = {"mix.every": 10}


class Cell(NamedTuple):
    """One way to train.

    members: as LoRA-Ensemble starts them, with A normal and heads of their own, else from a common
    start. tuned: the endpoint whose NLL chooses the step size. once: the trained models are also
    mixed once, by DLoRA and by DeCAF on the complete graph, which takes the bytes of an ensemble.
    """

    name: str
    title: str
    changes: Mapping[str, Any]
    tuned: str
    members: bool = False
    once: bool = False


CELLS = (
    Cell("members", "apart, own starts", {"mix.method": "local"}, "ensemble", True, True),
    Cell("common", "apart, common start", {"mix.method": "local"}, "averaged", once=True),
    Cell("dlora_4", "DLoRA, 4 mixes", {"mix.method": "dlora", **FEW}, "own"),
    Cell("decaf_4", "DeCAF, 4 mixes", {"mix.method": "decaf", **FEW}, "own"),
    Cell("dlora_15", "DLoRA, 15 mixes", {"mix.method": "dlora", **MANY}, "own"),
    Cell("decaf_15", "DeCAF, 15 mixes", {"mix.method": "decaf", **MANY}, "own"),
)
BY_NAME = {cell.name: cell for cell in CELLS}


class Job(NamedTuple):
    """One training, as it goes to another process."""

    cell: str
    partition: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """The name under which its rows are stored."""
        return f"{self.cell}-{self.partition}-{self.lr:g}-{self.seed}"


def jobs(
    seeds: Iterable[int], lrs: Mapping[tuple[str, str], Iterable[float]] | None = None
) -> list[Job]:
    """Return the trainings of these seeds: by all step sizes, or by those of (cell, partition)."""
    return [
        Job(cell.name, partition, lr, seed)
        for seed in seeds
        for partition in PARTITIONS
        for cell in CELLS
        for lr in (STEP_SIZES if lrs is None else lrs[cell.name, partition])
    ]


def config_of(job: Job) -> Config:
    """Return the settings of a training."""
    chosen = {**SETTINGS, **BY_NAME[job.cell].changes, "train.lr": job.lr, "train.seed": job.seed}
    return configs.read(EXPERIMENT, {**chosen, "data.partition": job.partition})
