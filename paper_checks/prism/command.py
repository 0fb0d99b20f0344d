"""The command line of PRISM's split: planted kinds, then sentences, each part stored as it ends."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from decaf_theory.faults import OK
from paper_checks import sweep, trials
from paper_checks.prism.planted import CASES, NOISES, recovery

PARTS = ("planted", "sentences")
HEADS = ("drawn-0", "drawn-1", "drawn-2", "drawn-3", "fitted")
SEEDS = range(30)


def judged(rows: list[trials.Row]) -> list[trials.Row]:
    """Return what the rows say."""
    from paper_checks.prism import judge  # here: scipy.stats is slow to load

    return [dict(row) for row in judge.judged(rows)]


STUDY = trials.Study(
    "prism", ("paper_checks.prism.planted", "paper_checks.prism.sentences"), judged, "parts"
)


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
    p = STUDY.parser(commands, "the split of a corpus by gradient concentration")
    p.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="default: all")
    p.add_argument("--data-dir", metavar="DIR", help="folder of the data sets' folders")


def main(args: argparse.Namespace) -> int:
    """Measure what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.prism import page

        page.write()
        return OK
    every = tasks(args.data_dir)
    wanted = [one for one in every if one.name.split("-")[0] in args.parts]
    with STUDY.stored(args, [one.name for one in every]) as run:
        return trials.take(run, wanted, args.jobs, measure)


def tasks(data_dir: str | None) -> list[Planted | Sentences]:
    """Return all that is measured, in the order of the rows."""
    planted = [Planted(case, noise) for case in CASES for noise in NOISES]
    return [*planted, *(Sentences(head, data_dir) for head in HEADS)]


def measure(task: Planted | Sentences, stop: Callable[[], bool]) -> sweep.Outcome:
    """Measure one part, to its end even if it is to stop: that is a matter of a minute."""
    return trials.timed(task.name, lambda: [task.row()], lambda rows: task.name.split("-")[0])
