"""The command line of tasks in turn: trials in processes, each stored as it ends; their page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from paper_checks import sweep, trials
from paper_checks.rules import ConfigError, require_known
from paper_checks.sequences import pictures, quadratics
from paper_checks.tasks.models import require

STUDY = trials.Study(
    "sequences",
    ("paper_checks.sequences.quadratics", "paper_checks.sequences.pictures"),
    unit="trials",
)
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


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = STUDY.parser(commands, "tasks in turn: what LoRA and two forms forget")
    p.add_argument("--only", nargs="+", metavar="T", help="of these trials alone")


def main(args: argparse.Namespace) -> int:
    """Take the trials that are not stored yet, and write all rows to one file next to the store."""
    if args.page:
        from paper_checks.sequences import page

        page.write()
        return 0
    names = args.only or list(TRIALS)
    require_known("trial", names, TRIALS)
    if any(name.startswith("pictures") for name in names):
        _require_packages()
    with STUDY.stored(args, list(TRIALS)) as run:
        return trials.take(run, [trials.Trial(name) for name in names], args.jobs, take)


def _require_packages() -> None:
    try:
        require("torch", "transformers", "sklearn")
    except ValueError as error:
        raise ConfigError(f"{error}, or choose with --only what needs none of them") from error


def take(trial: trials.Trial, stop: Callable[[], bool]) -> sweep.Outcome:
    """Make the rows of one trial, to the end even if it is to stop."""
    return trials.timed(trial.name, TRIALS[trial.name], lambda rows: f"{len(rows)} rows")
