"""The command line of tasks in turn: trials in processes, each stored as it ends; their page."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from decaf_theory.files import place
from paper_checks import sweep, trials
from paper_checks.forms.command import Trial, export
from paper_checks.rules import ConfigError, require_known
from paper_checks.sequences import pictures, quadratics
from paper_checks.tasks.models import require
from verification import provenance, store

OUT = Path("results/sequences")
ROWS = Path(__file__).parents[2] / "docs" / "rows" / "sequences.jsonl"
# trial -> the rows that it makes
TRIALS: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
    f"quadratics {overlap:g} {form}": partial(quadratics.rows, overlap, form)
    for overlap in quadratics.OVERLAPS
    for form in quadratics.FORMS
} | {
    f"pictures {seed} {form}": partial(pictures.rows, form, seed)
    for seed in pictures.SEEDS
    for form in pictures.FORMS
}
MADE_BY = ("paper_checks.sequences.quadratics", "paper_checks.sequences.pictures")


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("sequences", help="tasks in turn: what LoRA and two forms forget")
    p.add_argument("--only", nargs="+", metavar="T", help="of these trials alone")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
    p.add_argument("--page", action="store_true", help="run nothing, write docs/sequences.md")


def main(args: argparse.Namespace) -> int:
    """Take the trials that are not stored yet, and write all rows to one file next to the store."""
    if args.page:
        from paper_checks.sequences import page

        page.write()
        return 0
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {args.jobs}")
    names = args.only or list(TRIALS)
    require_known("trial", names, TRIALS)
    if any(name.startswith("pictures") for name in names):
        _require_packages()
    store.require_writable(args.out)
    with store.locked(args.out):
        run = trials.opened(args.out, configuration(), list(TRIALS))
        status = trials.take(run, [Trial(name) for name in names], args.jobs, take)
        export(run)
    print(f"-> {args.out.with_suffix('.jsonl')}")
    return status


def _require_packages() -> None:
    try:
        require("torch", "transformers", "sklearn")
    except ValueError as error:
        raise ConfigError(f"{error}, or choose with --only what needs none of them") from error


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


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of `main`, the first about them. StoreError: none, or damaged."""
    return trials.read(path, "python -m paper_checks sequences")
