"""The command line of the ensembles: step sizes first, then the seeds that are reported."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decaf_theory.faults import OK
from decaf_theory.files import place, write_atomically
from decaf_theory.sums import seal_lines
from paper_checks import sweep, trials
from paper_checks.benchmark.command import ABOUT, told
from paper_checks.ensemble import judge
from paper_checks.ensemble.cells import BY_NAME, SEEDS, TUNING, Job, jobs
from paper_checks.rules import ConfigError, require_known
from verification import provenance, store

OUT = Path("results/ensemble")
ROWS = Path(__file__).parents[2] / "docs" / "rows" / "ensemble.jsonl"


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("ensemble", help="mean of softmaxes against mean of weights, by bytes")
    p.add_argument("--cells", nargs="+", metavar="C", help="default: all")
    p.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="the first N (10)")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
    p.add_argument("--page", action="store_true", help="run nothing, write docs/ensemble.md")


def main(args: argparse.Namespace) -> int:
    """Train what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.ensemble import page

        page.write()
        return OK
    for name in ("jobs", "seeds"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be >= 1, got {getattr(args, name)}")
    cells = args.cells or [*BY_NAME]
    require_known("cell", cells, BY_NAME)
    store.require_writable(args.out)
    with store.locked(args.out):
        order = [job.name for job in jobs([*TUNING, *SEEDS])]
        run = trials.opened(args.out, configuration(), order)
        tuning = [job for job in jobs(TUNING) if job.cell in cells]
        status = trials.take(run, tuning, args.jobs, play_job)
        if status == OK:
            chosen = judge.step_sizes(trials.rows_of(run))
            lrs = defaultdict[tuple[str, str], tuple[float, ...]](tuple)
            lrs |= {where: (lr,) for where, lr in chosen.items()}
            reported = jobs(SEEDS[: args.seeds], lrs)
            wanted = [job for job in reported if job.cell in cells]
            status = trials.take(run, wanted, args.jobs, play_job)
        export(run)
    print(f"-> {args.out.with_suffix('.jsonl')}")
    return status


def configuration() -> dict[str, Any]:
    """Return what the rows depend on; those of two configurations are not mixed."""
    found = provenance.configuration(size="full", seed=0, device="cpu")
    return found | {"code": provenance.code_sum("paper_checks.ensemble.play")}


def play_job(job: Job, stop: Callable[[], bool]) -> sweep.Outcome:
    """Train once, to the end even if it is to stop: that is a matter of seconds."""
    from paper_checks.ensemble import play  # torch: in the process that trains

    begun = time.process_time()
    rows = [told(row) for row in play.play(job)]
    seconds = time.process_time() - begun
    line = ", ".join(f"{row['endpoint']} {row['accuracy']:.3f} {row['nll']:.3f}" for row in rows)
    return sweep.Outcome(job.name, "finished", line, 0, rows, seconds)


def export(run: store.Run) -> None:
    """Write all rows to one file next to the store, after one that says what was run."""
    about = {name: run.configuration[name] for name in ABOUT}
    about |= {"trainings": len(run.files), "core_minutes": round(run.seconds / 60, 1)}
    write_atomically(run.out.with_suffix(".jsonl"), seal_lines([about, *trials.rows_of(run)]))
