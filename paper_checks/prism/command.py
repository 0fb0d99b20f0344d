"""The command line of PRISM's split: planted kinds, then sentences, each part stored as it ends."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory.faults import OK
from decaf_theory.files import place, write_atomically
from decaf_theory.sums import seal_lines
from paper_checks import sweep, trials
from paper_checks.benchmark.command import ABOUT
from paper_checks.prism.planted import CASES, NOISES, recovery
from paper_checks.rules import ConfigError
from verification import provenance, store

OUT = Path("results/prism")
ROWS = Path(__file__).parents[2] / "docs" / "rows" / "prism.jsonl"
PARTS = ("planted", "sentences")
HEADS = ("drawn-0", "drawn-1", "drawn-2", "drawn-3", "fitted")
SEEDS = range(30)
PLAYING = ("paper_checks.prism.planted", "paper_checks.prism.sentences")


class Planted(NamedTuple):
    """A case at one noise, all seeds."""

    case: str
    noise: float

    @property
    def name(self) -> str:
        """The name under which its row is stored."""
        return f"planted-{self.case}-{self.noise:g}"

    def row(self) -> dict[str, Any]:
        """Return what each split recovers, by statistic, a number for each seed."""
        each = [recovery(CASES[self.case], self.noise, seed) for seed in SEEDS]
        found = {name: [one[name] for one in each] for name in each[0]}
        return {"part": "planted", "case": self.case, "noise": self.noise, **found}


class Sentences(NamedTuple):
    """All sentences under one head."""

    head: str
    data_dir: str | None

    @property
    def name(self) -> str:
        """The name under which its row is stored."""
        return f"sentences-{self.head}"

    def row(self) -> dict[str, Any]:
        """Return the statistics of all samples."""
        from paper_checks.prism.sentences import measured  # torch: in the process that needs it

        return {"part": "sentences", "head": self.head, **measured(self.head, self.data_dir)}


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("prism", help="the split of a corpus by gradient concentration")
    p.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="default: all")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--data-dir", metavar="DIR", help="folder of the data sets' folders")
    p.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
    p.add_argument("--page", action="store_true", help="run nothing, write docs/prism.md")


def main(args: argparse.Namespace) -> int:
    """Measure what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.prism import page

        page.write()
        return OK
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {args.jobs}")
    every = tasks(args.data_dir)
    wanted = [one for one in every if one.name.split("-")[0] in args.parts]
    store.require_writable(args.out)
    with store.locked(args.out):
        run = trials.opened(args.out, configuration(), [one.name for one in every])
        status = trials.take(run, wanted, args.jobs, measure)
        export(run)
    print(f"-> {args.out.with_suffix('.jsonl')}")
    return status


def tasks(data_dir: str | None) -> list[Planted | Sentences]:
    """Return all that is measured, in the order of the rows."""
    planted = [Planted(case, noise) for case in CASES for noise in NOISES]
    return [*planted, *(Sentences(head, data_dir) for head in HEADS)]


def configuration() -> dict[str, Any]:
    """Return what the rows depend on; those of two configurations are not mixed."""
    found = provenance.configuration(size="full", seed=0, device="cpu")
    return found | {"code": provenance.code_sum(*PLAYING)}


def export(run: store.Run) -> None:
    """Write what the rows say to one file next to the store, after a row about the run."""
    from paper_checks.prism.judge import judged  # here: scipy.stats is slow to load

    about = {name: run.configuration[name] for name in ABOUT}
    about |= {"core_minutes": round(run.seconds / 60, 1)}
    rows = [about, *judged(trials.rows_of(run))]
    write_atomically(run.out.with_suffix(".jsonl"), seal_lines(rows))


def measure(task: Planted | Sentences, stop: Callable[[], bool]) -> sweep.Outcome:
    """Measure one part, to its end even if it is to stop: that is a matter of a minute."""
    begun = time.process_time()
    row = task.row()
    seconds = time.process_time() - begun
    return sweep.Outcome(task.name, "finished", f"{seconds:.0f} s", 0, [row], seconds)
