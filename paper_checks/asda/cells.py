"""The trainings that are compared, and what is expected of each comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from paper_checks import config as configs
from paper_checks.config import Config
from paper_checks.rules import PARTS as LOSSES

EXPERIMENT = "asda-digits"
STEPS, LR = 100, 0.005
SEEDS = tuple(range(10, 15))  # other ones than those of first trials
NO_PARTS = {f"task.{name}": 0.0 for name in LOSSES}
AGENTS, NEVER = 4, 10**6


class Cell(NamedTuple):
    """A training: `changes` to ASDA's settings, in words; agents: by this method, on a ring."""

    name: str
    title: str
    changes: Mapping[str, Any] = {}
    method: str | None = None


ASDA = Cell("asda", "ASDA")
SUPERVISED = Cell("supervised", "labels alone, of both domains", NO_PARTS)
PARTS = (
    Cell("no-labels", "without target labels", {"task.first": 0.0, "task.second": 0.0}),
    Cell("equal-heads", "both heads with 1/2 target", {"task.first": 0.5, "task.second": 0.5}),
    Cell("no-pseudo", "without pseudo-labels", {"task.pseudo": 0.0}),
    Cell("no-source-entropy", "without source entropy", {"task.source_entropy": 0.0}),
    Cell("no-target-entropy", "without target entropy", {"task.target_entropy": 0.0}),
    Cell("no-discrepancy", "without discrepancy", {"task.discrepancy": 0.0}),
    SUPERVISED,
    Cell(
        "source-only",
        "source labels alone",
        {**NO_PARTS, "task.first": 0.0, "task.second": 0.0},
    ),
)
NETWORK = tuple(
    Cell(name, f"four agents, {name}", method=name)
    for name in ("local", "dlora", "decaf", "centralized")
)
CELLS = {cell.name: cell for cell in (ASDA, *PARTS, *NETWORK)}
BOTH = "turned and inverted"  # target domains of the four agents, one each in turn
PLAN = {  # target -> cells
    "inverted": (ASDA, *PARTS),
    "turned": (ASDA, *PARTS),
    BOTH: NETWORK,
}


class Job(NamedTuple):
    """One training, as it goes to another process."""

    cell: str
    domain: str
    seed: int

    @property
    def name(self) -> str:
        """The name under which its row is stored."""
        return f"{self.cell}-{self.domain.replace(' ', '-')}-{self.seed}"


class Contrast(NamedTuple):
    """The target accuracy of one cell minus that of another; sign: expected, 0 where nothing is."""

    domain: str
    first: str
    second: str
    sign: int


def jobs() -> list[Job]:
    """Return all trainings, those of one target after those of another."""
    return [
        Job(cell.name, domain, seed)
        for domain, cells in PLAN.items()
        for seed in SEEDS
        for cell in cells
    ]


def config_of(job: Job) -> Config:
    """Return the settings of a training."""
    cell = CELLS[job.cell]
    domains = ["turned", "inverted"] if job.domain == BOTH else [job.domain]
    settings = {"task.domains": domains, "train.seed": job.seed, **cell.changes}
    settings |= {"train.steps": STEPS, "train.lr": LR, "mix.every": STEPS}
    settings |= {"observe.every": NEVER, "observe.eval_every": NEVER}  # but at the end
    if cell.method is not None:
        settings |= {"mix.agents": AGENTS, "mix.method": cell.method, "mix.every": 10}
        settings |= {"mix.graph": "ring", "mix.moments": "reset"}
    return configs.read(EXPERIMENT, settings)


# first minus second, written before the trainings that count; of turned parts: docs/asda.md
EXPECTED = (
    Contrast("inverted", "asda", "supervised", -1),
    Contrast("inverted", "asda", "source-only", +1),
    Contrast("inverted", "asda", "no-labels", +1),
    Contrast("inverted", "asda", "equal-heads", 0),
    Contrast("inverted", "asda", "no-pseudo", 0),
    Contrast("inverted", "asda", "no-source-entropy", 0),
    Contrast("inverted", "asda", "no-target-entropy", 0),
    Contrast("inverted", "asda", "no-discrepancy", -1),
    Contrast("turned", "asda", "supervised", -1),
    Contrast("turned", "asda", "source-only", +1),
    Contrast("turned", "asda", "no-labels", +1),
    Contrast("turned", "asda", "equal-heads", 0),
    Contrast("turned", "asda", "no-pseudo", 0),
    Contrast("turned", "asda", "no-source-entropy", 0),
    Contrast("turned", "asda", "no-target-entropy", 0),
    Contrast("turned", "asda", "no-discrepancy", -1),
    Contrast(BOTH, "dlora", "local", +1),
    Contrast(BOTH, "decaf", "local", +1),
    Contrast(BOTH, "decaf", "dlora", 0),
    Contrast(BOTH, "dlora", "centralized", 0),
)
