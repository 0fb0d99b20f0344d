"""The command line of the tournament: matches in processes, one store, the page of its rows."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory.faults import OK
from decaf_theory.files import place, require_place, write_atomically
from decaf_theory.methods import METHODS
from decaf_theory.sums import seal_lines
from decaf_theory.terminal import printable
from paper_checks import sweep, trials
from paper_checks.rules import ConfigError, require_known
from paper_checks.tasks.models import require
from paper_checks.tournament.page import page
from paper_checks.tournament.play import play
from paper_checks.tournament.suite import TRAINED, tasks
from paper_checks.tournament.tasks import Task, methods_on
from paper_checks.tournament.verdicts import LEVEL, judged
from verification import provenance, store

OUT = Path("results/tournament")
PLAYING = ("paper_checks.tournament.play", "paper_checks.tournament.suite")  # what rows come from
ABOUT = ("version", "commit", "code", "size", "tasks")  # of the configuration, told on the page
LEFT_OUT = ("limit", "tuned", "base")


class Match(NamedTuple):
    """A match by names, as it goes to another process."""

    size: str
    task: str
    network: str
    method: str

    @property
    def name(self) -> str:
        """The name under which its rows are stored."""
        return f"{self.task}-{self.network}-{self.method}"


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("tournament", help="every method against DLoRA: rounds and bytes")
    p.add_argument("--quick", action="store_true", help="about a minute: no training, two networks")
    p.add_argument("--tasks", nargs="+", metavar="T", help="default: all")
    p.add_argument("--methods", nargs="+", metavar="M", help="default: all of METHODS")
    sweep.add_places(p)
    p.add_argument("--out", type=place, default=OUT, metavar="DIR", help=f"default {OUT}")
    p.add_argument("--rows", type=place, metavar="FILE", help="print the page of these rows only")


def main(args: argparse.Namespace) -> int:
    """Play what is not in the store yet, write the rows next to it, print the page."""
    if args.rows is not None:
        with store.fitting(args.rows, "run python -m paper_checks tournament"):
            text = page(read(args.rows))
        print(printable(text), end="")
        return OK
    sweep.require_jobs(args.jobs)
    size = "quick" if args.quick else "full"
    chosen = tasks(size)
    require_known("task", args.tasks or (), chosen)
    require_known("method", args.methods or (), METHODS)
    wanted = matches(size, chosen, args.tasks or chosen, args.methods or METHODS)
    require_packages(wanted)
    store.require_writable(args.out)
    require_place(args.out.with_suffix(".jsonl"))
    with store.locked(args.out):
        order = [match.name for match in matches(size, chosen)]
        run = trials.opened(args.out, configuration(size, chosen), order)
        status = trials.take(run, wanted, args.jobs, play_match)
    if status == OK:
        print(page(export(run, chosen)), end="")
    return status


def require_packages(wanted: Iterable[Match]) -> None:
    """Raise ConfigError unless what the harness needs is installed, if any match trains with it."""
    if any(match.task == TRAINED for match in wanted):
        try:
            require("torch", "transformers", "sklearn")
        except ValueError as error:
            raise ConfigError(f"{error}, or add --quick, which needs none of them") from error


def matches(
    size: str,
    chosen: Mapping[str, Task],
    names: Iterable[str] | None = None,
    methods: Iterable[str] | None = None,
) -> list[Match]:
    """Return the matches of these tasks and methods, by default of all, in the order of play."""
    methods = set(METHODS if methods is None else methods)
    return [
        Match(size, name, network, method)
        for name in (chosen if names is None else names)
        for network in chosen[name].networks
        for method in methods_on(network)
        if method in methods
    ]


def configuration(size: str, chosen: Mapping[str, Task]) -> dict[str, Any]:
    """Return what the rows depend on; those of two configurations are not mixed."""
    found = provenance.configuration(size=size, seed=0, device="cpu")
    found["code"] = provenance.code_sum(*PLAYING)
    return found | {"tasks": {name: task.described() for name, task in chosen.items()}}


def play_match(match: Match, stop: Callable[[], bool]) -> sweep.Outcome:
    """Play one match, to its end even if it is to stop: that is a matter of a minute."""
    begun = time.process_time()
    rows = play(tasks(match.size)[match.task], match.network, match.method)
    line = "; ".join(map(summary, rows))
    return sweep.Outcome(match.name, "finished", line, 0, rows, time.process_time() - begun)


def summary(row: Mapping[str, Any]) -> str:
    """Return a row in a few words."""
    if row["status"] != "played":
        return f"{row['status']}, {row['why']}"
    mean = sum(row["own"]) / len(row["own"])
    return f"{row['budget']} {mean:.3f} after {row['rounds']} rounds at {row['lr']:g}"


def export(run: store.Run, chosen: Mapping[str, Task]) -> list[dict[str, Any]]:
    """Write the judged rows to one file next to the store, and return them.

    The first says what was run. The file lies in the folder where figures look for it.
    """
    about = {
        **{name: run.configuration[name] for name in ABOUT},
        "level": LEVEL,
        "matches": len(run.files),
        "minutes": round(run.seconds / 60, 1),
    }
    lower = {name: task.lower for name, task in chosen.items()}
    rows = [about, *map(told, judged(trials.rows_of(run), lower))]
    path = run.out.with_suffix(".jsonl")
    write_atomically(path, seal_lines(rows))
    return read(path)


def told(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page and the figure need of a judged row; missing: None or false."""
    needed = {field: value for field, value in row.items() if field not in LEFT_OUT}
    return {f: value for f, value in needed.items() if value is not None and value is not False}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of `export`. StoreError: missing or damaged."""
    return trials.read(path, "python -m paper_checks tournament")
