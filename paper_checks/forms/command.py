"""The command line of the forms: trials in processes, each stored as it ends, and their page."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory.files import place, write_atomically
from decaf_theory.sums import seal_lines
from paper_checks import sweep, trials
from paper_checks.forms import gates
from paper_checks.rules import ConfigError, require_known
from verification import provenance, store

OUT = Path("results/forms")
ROWS = Path(__file__).parents[2] / "docs" / "rows" / "forms.jsonl"
ABOUT = ("version", "commit", "code")
# trial -> the rows that it makes
TRIALS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    f"gates {name}": partial(gates.path, name) for name in gates.NAMES
}
MADE_BY = ("paper_checks.forms.gates",)  # what rows come from


class Trial(NamedTuple):
    """A trial by name, as it goes to another process."""

    name: str


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("forms", help="forms of W - W0: what they keep, and at what error")
    p.add_argument("--only", nargs="+", metavar="T", help="of these trials alone")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
    p.add_argument("--page", action="store_true", help="run nothing, write docs/forms.md")


def main(args: argparse.Namespace) -> int:
    """Take the trials that are not stored yet, and write all rows to one file next to the store."""
    if args.page:
        from paper_checks.forms import page

        page.write()
        return 0
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {args.jobs}")
    names = args.only or list(TRIALS)
    require_known("trial", names, TRIALS)
    store.require_writable(args.out)
    with store.locked(args.out):
        run = trials.opened(args.out, configuration(), list(TRIALS))
        status = trials.take(run, [Trial(name) for name in names], args.jobs, take)
        export(run)
    print(f"-> {args.out.with_suffix('.jsonl')}")
    return status


def configuration() -> dict[str, Any]:
    """Return what the rows depend on; those of two configurations are not mixed."""
    found = provenance.configuration(size="full", seed=0, device="cpu")
    return found | {"code": provenance.code_sum(*MADE_BY)}


def take(trial: Trial, stop: Callable[[], bool]) -> sweep.Outcome:
    """Make the rows of one trial, to the end even if it is to stop."""
    begun = time.process_time()
    rows = TRIALS[trial.name]()
    seconds = time.process_time() - begun
    line = f"{len(rows)} rows, {seconds:.0f} s of a core"
    return sweep.Outcome(trial.name, "finished", line, 0, rows, seconds)


def export(run: store.Run) -> None:
    """Write all rows to one file next to the store, after one that says what was run."""
    about = {name: run.configuration[name] for name in ABOUT}
    about |= {"trials": len(run.files), "core_minutes": round(run.seconds / 60, 1)}
    write_atomically(run.out.with_suffix(".jsonl"), seal_lines([about, *trials.rows_of(run)]))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of `export`, the first about them. StoreError: none, or damaged."""
    return trials.read(path, "python -m paper_checks forms")
