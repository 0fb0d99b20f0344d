"""The command line of the trainings, each of which is stored as it ends."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from decaf_theory.faults import OK
from paper_checks import sweep, trials
from paper_checks.asda.cells import CELLS, Job, jobs
from paper_checks.rules import require_known

STUDY = trials.Study("asda", ("paper_checks.asda.play",))


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = STUDY.parser(commands, "adaptation to another domain, each part switched off")
    p.add_argument("--cells", nargs="+", default=[], metavar="C", help="of these cells alone")


def main(args: argparse.Namespace) -> int:
    """Train what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.asda import page

        page.write()
        return OK
    require_known("cell", args.cells, CELLS)
    wanted = [job for job in jobs() if not args.cells or job.cell in args.cells]
    with STUDY.stored(args, [job.name for job in jobs()]) as run:
        return trials.take(run, wanted, args.jobs, play_job)


def play_job(job: Job, stop: Callable[[], bool]) -> sweep.Outcome:
    """Train once, to the end even if it is to stop: what is not finished is not stored."""
    from paper_checks.asda import play  # torch: in the process that trains

    return trials.timed(
        job.name, lambda: play.play(job), lambda rows: f"{rows[0]['accuracy']:.1f} %"
    )
