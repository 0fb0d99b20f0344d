"""The command line of the benchmark: trainings in processes, each stored as it ends."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from decaf_theory.faults import OK
from paper_checks import sweep, trials
from paper_checks.benchmark.cells import JOIN, ONCE, SUITES, Job, jobs
from paper_checks.rules import ConfigError, require_known

STUDY = trials.Study(
    "benchmark", tuple(f"paper_checks.benchmark.{name}" for name in ("play", "once", "join"))
)
ROWS = {  # suite -> the rows that docs/benchmark.md shows, each of a run of its own
    "digits": STUDY.rows,
    **{of: STUDY.rows.with_name(f"benchmark_{of}.jsonl") for of in ("sst2", "minilm")},
}


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = STUDY.parser(commands, "adapters with frozen heads, effects predicted first")
    p.add_argument(
        "--suites", nargs="+", default=["digits"], metavar="S", help="digits, sst2, minilm"
    )
    p.add_argument("--cells", nargs="+", default=[], metavar="C", help="default: all")
    p.add_argument("--seeds", type=int, metavar="N", help="the first N of each cell (all)")
    p.add_argument("--data-dir", metavar="DIR", help="folder of the data sets' folders")


def main(args: argparse.Namespace) -> int:
    """Train what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.benchmark import page

        page.write()
        return OK
    require_known("suite", args.suites, SUITES)
    known = [cell.name for suite in args.suites for cell in SUITES[suite].cells]
    require_known("cell", args.cells, known)
    if args.seeds is not None and args.seeds < 1:
        raise ConfigError(f"--seeds must be >= 1, got {args.seeds}")
    wanted = [
        job._replace(data_dir=args.data_dir) for job in jobs(args.suites, args.cells, args.seeds)
    ]
    with STUDY.stored(args, [job.name for job in jobs()]) as run:
        return trials.take(run, wanted, args.jobs, play_job)


def play_job(job: Job, stop: Callable[[], bool]) -> sweep.Outcome:
    """Train once, to the end even if it is to stop: what is not finished is not stored."""
    from paper_checks import finetune  # torch: in the process that trains
    from paper_checks.benchmark import join, once, play

    how = {ONCE: once.play, JOIN: join.play}.get(job.method, play.play)

    def rows() -> list[trials.Row]:
        try:
            return [*map(trials.told, how(job))]
        except finetune.TrainingError as error:
            return [{**job.row(), "diverged": str(error)}]

    return trials.timed(job.name, rows, summary)


def summary(rows: Sequence[trials.Row]) -> str:
    """Return the rows of a training in a few words."""
    first = rows[0]
    score = f"own {first['own']:.1f}, mean {first['mean']:.1f}" if "own" in first else "diverged"
    return f"{score}; {len(rows)} rows"
