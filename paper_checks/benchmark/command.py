"""The command line of the benchmark: trainings in processes, each stored as it ends."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from decaf_theory.faults import OK
from decaf_theory.files import place, write_atomically
from decaf_theory.sums import seal_lines
from paper_checks import sweep, trials
from paper_checks.benchmark.cells import JOIN, ONCE, SUITES, Job, jobs
from paper_checks.rules import ConfigError, require_known
from verification import provenance, store

OUT = Path("results/benchmark")
ROWS = {  # suite -> the rows that docs/benchmark.md shows, each of a run of its own
    suite: Path(__file__).parents[2] / "docs" / "rows" / f"benchmark{of}.jsonl"
    for suite, of in (("digits", ""), ("sst2", "_sst2"), ("minilm", "_minilm"))
}
PLAYING = tuple(f"paper_checks.benchmark.{name}" for name in ("play", "once", "join"))
ABOUT = ("version", "commit", "code")
PLACES = 6  # decimals of stored numbers


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("benchmark", help="adapters with frozen heads, effects predicted first")
    p.add_argument(
        "--suites", nargs="+", default=["digits"], metavar="S", help="digits, sst2, minilm"
    )
    p.add_argument("--cells", nargs="+", default=[], metavar="C", help="default: all")
    p.add_argument("--seeds", type=int, metavar="N", help="the first N of each cell (all)")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--data-dir", metavar="DIR", help="folder of the data sets' folders")
    p.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
    p.add_argument("--page", action="store_true", help="run nothing, write docs/benchmark.md")


def main(args: argparse.Namespace) -> int:
    """Train what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.benchmark import page

        page.write()
        return OK
    require_known("suite", args.suites, SUITES)
    known = [cell.name for suite in args.suites for cell in SUITES[suite].cells]
    require_known("cell", args.cells, known)
    for name in ("jobs", "seeds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be >= 1, got {getattr(args, name)}")
    wanted = [
        job._replace(data_dir=args.data_dir) for job in jobs(args.suites, args.cells, args.seeds)
    ]
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
    return found | {"code": provenance.code_sum(*PLAYING)}


def play_job(job: Job, stop: Callable[[], bool]) -> sweep.Outcome:
    """Train once, to the end even if it is to stop: what is not finished is not stored."""
    from paper_checks import finetune  # torch: in the process that trains
    from paper_checks.benchmark import join, once, play

    begun = time.process_time()
    try:
        rows = {ONCE: once.play, JOIN: join.play}.get(job.method, play.play)(job)
    except finetune.TrainingError as error:
        rows = [{**job.row(), "diverged": str(error)}]
    rows = [told(row) for row in rows]
    seconds = time.process_time() - begun
    return sweep.Outcome(job.name, "finished", summary(rows, seconds), 0, rows, seconds)


def told(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its numbers as they are stored."""
    return {n: round(x, PLACES) if isinstance(x, float) else x for n, x in row.items()}


def summary(rows: Sequence[dict[str, Any]], seconds: float) -> str:
    """Return the rows of a training in a few words."""
    first = rows[0]
    score = f"own {first['own']:.1f}, mean {first['mean']:.1f}" if "own" in first else "diverged"
    return f"{score}; {len(rows)} rows, {seconds:.0f} s of a core"


def export(run: store.Run) -> None:
    """Write all rows to one file next to the store, after one that says what was run."""
    about = {name: run.configuration[name] for name in ABOUT}
    about |= {"trainings": len(run.files), "core_minutes": round(run.seconds / 60, 1)}
    write_atomically(run.out.with_suffix(".jsonl"), seal_lines([about, *trials.rows_of(run)]))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of `export`, the first about them. StoreError: none, or damaged."""
    return trials.read(path, "python -m paper_checks benchmark")
