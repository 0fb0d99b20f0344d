"""What the benchmark compares: cells that differ from the primary one in a single factor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from decaf_theory.methods import METHODS, Clock, Method
from decaf_theory.methods.base import along_the_gradient
from decaf_theory.topology import SCHEDULES
from paper_checks import config as configs
from paper_checks.config import ADAPTER_METHODS, Config

TEN, SIX = tuple(range(20, 30)), tuple(range(20, 26))  # other seeds than those of first trials
PAIR = ("dlora", "decaf")
CONTROLS = ("decaf_lora_gauge", "dlora_rebalanced")
ONCE = "once"  # in the place of a method: one local training, mixed by all
JOIN = "join"  # likewise, joined into one model in every way
MEAN_SCORE = "mean_score"  # likewise, of agents that are not joined
PRIMARY = "primary"
NEVER = 10**6


class Cell(NamedTuple):
    """A place of the comparison.

    changes: settings other than those of the suite. graph: a topology or a schedule. spread: the
    sine of the angle between an agent's A and one common to all. once: the graphs on which a local
    training is mixed once, by every method. joined: the numbers of agents, the first ones, whose
    adapters are joined after a local training. seeds: of each method.
    """

    name: str
    title: str
    changes: Mapping[str, Any] = {}
    graph: str = "ring"
    spread: float = 1.0
    once: tuple[str, ...] = ()
    joined: tuple[int, ...] = ()
    methods: tuple[str, ...] = PAIR
    seeds: tuple[int, ...] = SIX

    @property
    def alone(self) -> bool:
        """Whether agents train alone to the end, so that one training has many places."""
        return bool(self.once or self.joined)

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs on which DeCAF is compared with DLoRA, or how many agents are joined."""
        if self.alone:
            return self.once or tuple(of_members(m) for m in self.joined)
        return (self.graph,) if "decaf" in self.methods else ()


class Suite(NamedTuple):
    """Cells of one model and task: an experiment of `configs`, and settings that they share.

    primary: the cell, and of one training with many places the place, of the primary contrast.
    """

    experiment: str
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]  # the most decisive first
    primary: tuple[str, str | None] = (PRIMARY, None)


class Job(NamedTuple):
    """One training, as it goes to another process."""

    suite: str
    cell: str
    method: str
    seed: int
    data_dir: str | None = None

    @property
    def name(self) -> str:
        """The name under which its rows are stored."""
        return f"{self.suite}-{self.cell}-{self.method}-{self.seed}"

    def row(self) -> dict[str, Any]:
        """Return the entries by which its rows are found."""
        return {name: x for name, x in self._asdict().items() if name != "data_dir"}


QUIET = {"observe.every": NEVER, "observe.eval_every": NEVER}
DIGITS = Suite(
    "vit-digits",
    {
        **QUIET,
        "lora.train_heads": False,
        "train.lr": 5e-3,
        "data.partitions.iid.samples": 40,
        "data.partitions.skew.samples": 39,  # 40 would need 80 images of a digit that has 79
    },
    (
        Cell(PRIMARY, "ring, K = 10, own A", seeds=TEN),
        Cell("once", "one mix after 150 steps", once=("ring", "complete"), methods=(ONCE,)),
        Cell("common", "common A", spread=0.0),
        Cell("controls", "ring, K = 10, own A", methods=CONTROLS),
        Cell("skew", "label skew .8", {"data.partition": "skew"}),
        Cell("K50", "K = 50", {"mix.every": 50}),
        Cell("complete", "complete graph", graph="complete"),
        Cell("lr", "lr = 0.04", {"train.lr": 4e-2}),
        Cell("heads", "heads trained", {"lora.train_heads": True}),
        Cell("pairs", "random pairs", graph="random_matching"),
        Cell("K1", "K = 1", {"mix.every": 1}),
        Cell("spread30", "A spread .3", spread=0.3),
        Cell("spread60", "A spread .6", spread=0.6),
        Cell(
            "all",
            "ring, K = 10, own A",
            methods=tuple(  # a confined B needs SGD, the others have AdamW
                n for n in ADAPTER_METHODS if n not in PAIR and not METHODS[n].confined
            ),
            seeds=SIX[:3],
        ),
    ),
)
SST2 = Suite(
    "smollm2-sst2",
    {
        **QUIET,
        "task.prompt": ["Review: ", "{sentence}", "\nPositive? Answer:"],
        "data.train_samples": 2000,
        "data.test_samples": 100,
        "data.max_length": 32,
    },
    (
        Cell(
            "once",
            "one mix after 40 steps",
            once=("complete",),
            methods=(ONCE,),
            seeds=TEN,
        ),
    ),
    ("once", "complete"),
)
LAST_OF_MINILM = [  # two of its six layers, and what the head reads
    *(f"{n}.attention.self.{x}" for n in (4, 5) for x in ("query", "value")),
    "pooler.dense",
]
MINILM = Suite(
    "minilm-sst2",
    {
        **QUIET,
        "lora.train_heads": False,
        "lora.dropout": 0.0,
        "lora.targets": LAST_OF_MINILM,
        "data.batch": 4,
        "data.partitions": {"iid": {"samples": 240}},
        "data.train_samples": 4000,
        "data.test_samples": 120,
        "train.lr": 5e-3,
        "train.steps": 60,
        "mix.agents": 8,
    },
    tuple(
        Cell(
            f"rank{r}",
            f"rank {r}",
            {"lora.rank": r, "lora.eta": 2.0 * r},  # one scale for all ranks
            joined=(2, 4, 8),
            methods=(JOIN,),
        )
        for r in (1, 4, 16)
    ),
    ("rank4", "8 members"),
)
SUITES = {"digits": DIGITS, "sst2": SST2, "minilm": MINILM}


def of_members(m: int) -> str:
    """Return how rows name a model that is joined of m agents' adapters."""
    return f"{m} members"


def cell_of(suite: str, name: str) -> Cell:
    """Return a cell by name. KeyError: the suite has none of this name."""
    return {cell.name: cell for cell in SUITES[suite].cells}[name]


def jobs(
    suites: Iterable[str] = SUITES, cells: Iterable[str] = (), seeds: int | None = None
) -> list[Job]:
    """Return all trainings, the most decisive first: by cell, then seed by seed.

    cells: of these alone; seeds: the first so many of each cell.
    """
    wanted = set(cells)
    return [
        Job(suite, cell.name, method, seed)
        for suite in suites
        for cell in SUITES[suite].cells
        if not wanted or cell.name in wanted
        for seed in cell.seeds[:seeds]
        for method in cell.methods
    ]


def config_of(job: Job, graph: str | None = None) -> Config:
    """Return the settings of a training; its mix is plain where the method is a control's.

    Methods of one common A by definition start from one, whatever the cell has.
    """
    suite, cell = SUITES[job.suite], cell_of(job.suite, job.cell)
    method = job.method if job.method in METHODS else "local"
    chosen: dict[str, Any] = {**suite.settings, **cell.changes}
    chosen["lora.equal_start"] = cell.spread == 0 or needs_common_start(method)
    chosen |= {"train.seed": job.seed, "mix.method": method}
    graph = graph or cell.graph
    if graph not in SCHEDULES:
        chosen["mix.graph"] = graph
    if cell.alone:  # one round that is the whole run
        chosen["mix.every"] = configs.read(suite.experiment, chosen).train.steps
    return configs.read(suite.experiment, chosen, data_dir=job.data_dir)


def needs_common_start(method: str) -> bool:
    """Whether a method is defined for agents that start from equal factors only."""
    rule = METHODS[method]
    return bool(rule.fixed) or (rule.pools == "server" and rule.meets == "none")


def why_not(method: Method, steps: int) -> str:
    """Return why a method's first round of `steps` steps is not local LoRA's, "" if it is."""
    clocks = [Clock(0, step, steps) for step in range(steps)]
    if method.tuned is not None:
        return "its turns are those of a graph"
    if needs_common_start(method.name):
        return "it is defined for agents that start alike"
    if any({*method.trains(clock)} != {"B", "A"} for clock in clocks):
        return "it does not train both factors"
    if method.pools != "none":
        return "its agents average gradients"
    if method.step is not along_the_gradient:
        return "its steps are not along the gradient"
    return ""
