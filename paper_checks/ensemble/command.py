"""The command line of the ensembles: step sizes first, then the seeds that are reported."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from decaf_theory.faults import OK
from paper_checks import sweep, trials
from paper_checks.ensemble import judge
from paper_checks.ensemble.cells import BY_NAME, SEEDS, TUNING, Job, jobs
from paper_checks.rules import ConfigError, require_known

STUDY = trials.Study("ensemble", ("paper_checks.ensemble.play",))


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = STUDY.parser(commands, "mean of softmaxes against mean of weights, by bytes")
    p.add_argument("--cells", nargs="+", metavar="C", help="default: all")
    p.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="the first N (10)")


def main(args: argparse.Namespace) -> int:
    """Train what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.ensemble import page

        page.write()
        return OK
    if args.seeds < 1:
        raise ConfigError(f"--seeds must be >= 1, got {args.seeds}")
    cells = args.cells or [*BY_NAME]
    require_known("cell", cells, BY_NAME)
    with STUDY.stored(args, [job.name for job in jobs([*TUNING, *SEEDS])]) as run:
        tuning = [job for job in jobs(TUNING) if job.cell in cells]
        status = trials.take(run, tuning, args.jobs, play_job)
        if status == OK:
            chosen = judge.step_sizes(trials.rows_of(run))
            lrs = defaultdict[tuple[str, str], tuple[float, ...]](tuple)
            lrs |= {where: (lr,) for where, lr in chosen.items()}
            reported = jobs(SEEDS[: args.seeds], lrs)
            wanted = [job for job in reported if job.cell in cells]
            status = trials.take(run, wanted, args.jobs, play_job)
        return status


def play_job(job: Job, stop: Callable[[], bool]) -> sweep.Outcome:
    """Train once, to the end even if it is to stop: that is a matter of seconds."""
    from paper_checks.ensemble import play  # torch: in the process that trains

    return trials.timed(job.name, lambda: [*map(trials.told, play.play(job))], summary)


def summary(rows: Sequence[trials.Row]) -> str:
    """Return the rows of a training in a few words."""
    return ", ".join(f"{row['endpoint']} {row['accuracy']:.3f} {row['nll']:.3f}" for row in rows)
