"""The command line of a sweep: its plan, its cells in processes, how far it is."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from decaf_theory.faults import OK, USAGE
from decaf_theory.interrupts import interruptions
from decaf_theory.terminal import wrapped
from paper_checks import baseline, protocol, sweep
from paper_checks import config as configs
from paper_checks.config import SWEPT, Config
from paper_checks.rules import CONTROLS, ConfigError
from verification import store

FAILED = 1


def add_options(command: Any) -> None:
    """Add the options of `sweep` that `run` does not have."""
    rows = f"{' '.join(SWEPT)}, and where a head is trained {' '.join(CONTROLS)}"
    command.add_argument("--methods", nargs="+", metavar="M", help=f"default: {rows}")
    command.add_argument("--graphs", nargs="+", metavar="G", help="default: the config's")
    command.add_argument("--partitions", nargs="+", metavar="P", help="default: the config's")
    command.add_argument("--seeds", type=seeds, default=[0], metavar="S", help="e.g. 0-4 or 0,2,5")
    sweep.add_places(command)
    command.add_argument(
        "--primary",
        metavar="CONTRAST",
        help="what the sweep is about, kept before it trains: 'decaf - dlora on ring, skew'",
    )
    command.add_argument("--status", action="store_true", help="say how far it is; train nothing")


def seeds(text: str) -> list[int]:
    """Return the seeds of "0-4", "0,2,5" or a mixture."""
    try:
        found: list[int] = []
        for part in text.split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f"must be seeds, such as 0-4 or 0,2,5; got {text!r}")
    return found


def main(args: argparse.Namespace, base: sweep.Cell, grid: dict[str, list[Any]]) -> int:
    """Train all cells and print a line for each, or say how far they are.

    base: the settings of all cells; grid: those of which several values are tried, all with all.
    """
    sweep.require_jobs(args.jobs)
    if args.primary is not None:
        base = base._replace(overrides=base.overrides | {"protocol.primary": args.primary})
    config = base.read()
    plan = plan_of(args, config, grid)
    wanted = sweep.cells(base, plan)
    if args.status:
        print(status(wanted))
        return OK
    folder = args.out / config.name
    store.require_writable(args.out)
    keep(folder, plan, config)
    try:
        baseline.keep(config, folder)
    except ValueError as error:  # missing data or model: reported once, before any process starts
        raise ConfigError(str(error)) from error
    return train(wanted, args)


def plan_of(args: argparse.Namespace, config: Config, grid: dict[str, list[Any]]) -> protocol.Plan:
    """Return what the command line asks for. ConfigError: a grid without examples to choose on."""
    if grid and config.data.validation is None:
        raise ConfigError(
            f"--set {next(iter(grid))} has several values, of which the best is chosen on "
            f"validation examples: set data.validation, such as data.validation=0.2"
        )
    rows = tuple(args.methods or config.swept)
    graphs = tuple(args.graphs or [config.mix.graph])
    partitions = tuple(args.partitions or [config.data.partition])
    return protocol.Plan(rows, graphs, partitions, tuple(args.seeds), grid)


def keep(folder: Any, plan: protocol.Plan, config: Config) -> None:
    """Store the plan and the primary contrast before the first result."""
    named = config.protocol.primary
    contrast = None if named is None else protocol.contrast_of(named)
    protocol.keep(folder, plan, contrast, sweep.count_finished(folder))


def train(wanted: Sequence[sweep.Cell], args: argparse.Namespace) -> int:
    """Train the cells; return the exit code."""
    statuses: list[str] = []
    begun = time.monotonic()
    with interruptions() as signals:
        for outcome in sweep.run_all(wanted, args.jobs, signals):
            statuses.append(outcome.status)
            left = time_left(statuses, len(wanted), time.monotonic() - begun)
            count = f"[{len(statuses)}/{len(wanted)}{left}]"
            line = f"{count} {outcome.cell}: {outcome.status}; {outcome.line}"
            print(wrapped(line), flush=True)
    if signals:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 128 + signals[0]
    print(f"table: python -m paper_checks table {args.out}")
    if "out of memory" in statuses:
        return USAGE
    return FAILED if "failed" in statuses else OK


def time_left(statuses: Sequence[str], wanted: int, seconds: float) -> str:
    """Return ", 12 min left" if the cells to come take as long as those that were trained.

    Those that are still to be skipped count as if they were to be trained; "" without any trained.
    """
    trained = sum(status != "skipped" for status in statuses)
    if not trained or len(statuses) == wanted:
        return ""
    left = seconds / trained * (wanted - len(statuses))
    return f", {left / 60:.0f} min left" if left >= 60 else f", {left:.0f} s left"


def status(wanted: Sequence[sweep.Cell]) -> str:
    """Return how many cells are in which state, and a line for each that is not finished.

    It fits the terminal.
    """
    found = [(cell, *sweep.state(cell)) for cell in wanted]
    names = [state for _, state, _ in found]
    counts = [f"{names.count(state)} {state}" for state in sweep.STATES if state in names]
    lines = [
        f"{cell.name}: {state}{line and '; '}{line}"
        for cell, state, line in found
        if state not in ("finished", "missing")
    ]
    missing = [cell.name for cell, state, _ in found if state == "missing"]
    if missing:
        lines.append(f"missing: {', '.join(missing)}")
    return "\n".join(map(wrapped, [f"{len(wanted)} cells: {', '.join(counts)}", *lines]))


def grid_of(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the settings of KEY=VALUE texts that have several values."""
    pairs = [text.partition("=")[::2] for text in texts]
    found = {key: values_of(text) for key, text in pairs}
    return {key: values for key, values in found.items() if len(values) > 1}


def values_of(text: str) -> list[Any]:
    """Return the values of a command line's text: several with commas between them, or one.

    A TOML value with commas, such as a list or a string in quotes, is one.
    """
    one = configs.value_of(text)
    several = isinstance(one, str) and one == text and "," in text
    return [configs.value_of(part.strip()) for part in text.split(",")] if several else [one]
