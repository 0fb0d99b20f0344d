"""The command `decaf check`: is somebody's aggregation function right?"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout

from decaf_theory.commands.listed import graphs, meanings, names
from decaf_theory.commands.targets import add_json, check_targets, deliver

HELP = "is somebody's aggregation function right?"
EXAMPLE = "decaf check mix.py:aggregate --rule fedavg"
ONE = "something is wrong"  # what exit code 1 means


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    p.description = (
        "Feed adapters of every kind (square and not, 1 to 11 agents, unequal weights and ranks, "
        "gauges, signs, zero, near consensus, half precision) to an aggregation function, compare "
        "the update that it returns with the rule's exact one, and say in words what is wrong. "
        "Your module is executed."
    )
    p.add_argument("function", metavar="MODULE:FUNCTION", help="the function, or FILE.py:FUNCTION")
    p.add_argument(
        "--rule",
        default="decaf",
        metavar="NAME",
        help="what it should compute, see below (default: decaf)",
    )
    p.add_argument(
        "--topology",
        type=str.lower,
        metavar="NAME",
        help="one result per agent, mixed with its neighbours on a graph, see below",
    )
    p.add_argument(
        "--call",
        metavar="SHAPE",
        help="how to call it, see below (default: the first that gives a readable result)",
    )
    p.add_argument("--samples", action="store_true", help="give numbers of samples as weights")
    p.add_argument("--no-heads", action="store_true", help="give factors alone, without a head")
    p.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the random adapters (default: 0)"
    )
    add_json(p)


def more_help() -> str:
    """Return the rules, the graphs, and the shapes of a call below the help."""
    from decaf_theory.conformance.calls import SHAPES
    from decaf_theory.conformance.rules import RULES

    return names("rules", RULES) + graphs() + meanings("calls", SHAPES)


def run(args: argparse.Namespace) -> int:
    """Print what is wrong with somebody's aggregation function; return the exit code."""
    from decaf_theory import conformance

    check_targets(args.json, force=args.force)
    with redirect_stdout(sys.stderr):  # what the function prints is no part of the report
        report = conformance.check(
            conformance.load(args.function),
            args.rule,
            topology=args.topology,
            shape=args.call,
            samples=args.samples,
            heads=not args.no_heads,
            seed=args.seed,
        )
    deliver(report.to_json(), str(report), args.json)
    return 0 if report else 1
