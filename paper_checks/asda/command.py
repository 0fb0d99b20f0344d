"""The command line of the trainings, each of which is stored as it ends."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decaf_theory.faults import OK
from decaf_theory.files import place, write_atomically
from decaf_theory.sums import seal_lines
from paper_checks import sweep, trials
from paper_checks.asda.cells import CELLS, Job, jobs
from paper_checks.rules import ConfigError, require_known
from verification import provenance, store

OUT = Path("results/asda")
ROWS = Path(__file__).parents[2] / "docs" / "rows" / "asda.jsonl"
ABOUT = ("version", "commit", "code")


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("asda", help="adaptation to another domain, each part switched off")
    p.add_argument("--cells", nargs="+", default=[], metavar="C", help="of these cells alone")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
    p.add_argument("--page", action="store_true", help="run nothing, write docs/asda.md")


def main(args: argparse.Namespace) -> int:
    """Train what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.asda import page

        page.write()
        return OK
    require_known("cell", args.cells, CELLS)
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {args.jobs}")
    wanted = [job for job in jobs() if not args.cells or job.cell in args.cells]
    store.require_writable(args.out)
    with store.locked(args.out):
        run = trials.opened(args.out, configuration(), [job.name for job in jobs()])
        status = trials.take(run, wanted, args.jobs, play_job)
        export(run)
    print(f"-> {args.out.with_suffix('.jsonl')}")
    return status


def configuration() -> dict[str, Any]:
    """Return what the rows depend on; those of two configurations are not mixed."""
    found = provenance.configuration(size="full", seed=0, device="cpu")
    return found | {"code": provenance.code_sum("paper_checks.asda.play")}


def play_job(job: Job, stop: Callable[[], bool]) -> sweep.Outcome:
    """Train once, to the end even if it is to stop: what is not finished is not stored."""
    from paper_checks.asda import play  # torch: in the process that trains

    begun = time.process_time()
    rows = play.play(job)
    seconds = time.process_time() - begun
    line = f"{rows[0]['accuracy']:.1f} %, {seconds:.0f} s of a core"
    return sweep.Outcome(job.name, "finished", line, 0, rows, seconds)


def export(run: store.Run) -> None:
    """Write all rows to one file next to the store, after one that says what was run."""
    about = {name: run.configuration[name] for name in ABOUT}
    about |= {"trainings": len(run.files), "core_minutes": round(run.seconds / 60, 1)}
    write_atomically(run.out.with_suffix(".jsonl"), seal_lines([about, *trials.rows_of(run)]))
