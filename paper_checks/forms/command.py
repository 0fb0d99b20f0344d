"""The command line of the forms: trials in processes, each stored as it ends, and their page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from paper_checks import sweep, trials
from paper_checks.forms import gates
from paper_checks.rules import require_known

STUDY = trials.Study("forms", ("paper_checks.forms.gates",), unit="trials")
# trial -> the rows that it makes
TRIALS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    f"gates {name}": partial(gates.path, name) for name in gates.NAMES
}


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = STUDY.parser(commands, "forms of W - W0: what they keep, and at what error")
    p.add_argument("--only", nargs="+", metavar="T", help="of these trials alone")


def main(args: argparse.Namespace) -> int:
    """Take the trials that are not stored yet, and write all rows to one file next to the store."""
    if args.page:
        from paper_checks.forms import page

        page.write()
        return 0
    names = args.only or list(TRIALS)
    require_known("trial", names, TRIALS)
    with STUDY.stored(args, list(TRIALS)) as run:
        return trials.take(run, [trials.Trial(name) for name in names], args.jobs, take)


def take(trial: trials.Trial, stop: Callable[[], bool]) -> sweep.Outcome:
    """Make the rows of one trial, to the end even if it is to stop."""
    return trials.timed(trial.name, TRIALS[trial.name], lambda rows: f"{len(rows)} rows")
