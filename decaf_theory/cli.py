"""The command line `decaf`: diagnose, merge, check aggregation, list the methods, plan a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from decaf_theory.commands import bench, check, diagnose, merge, methods, plan
from decaf_theory.faults import without_traceback
from decaf_theory.interrupts import in_one_line
from decaf_theory.terminal import add_version, prepare

COMMANDS = {
    "diagnose": diagnose,
    "merge": merge,
    "check": check,
    "methods": methods,
    "bench": bench,
    "plan": plan,
}
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit code: 0 done, 1 a goal missed, 2 bad usage or input.

    Too little memory is 2 as well, and an output that takes nothing, such as a full disk.
    Threads are set before NumPy is loaded: the matrices are small, and threads would only wait for
    each other. A benchmark is timed on one, whatever the environment says.
    """
    prepare()
    p = parser()
    refuse_wrong(p, sys.argv[1:] if argv is None else argv)
    args = p.parse_args(argv)
    for variable in THREADS:
        os.environ[variable] = "1" if args.command == "bench" else os.environ.get(variable, "1")
    return in_one_line(lambda: ended(args), f"decaf: interrupted; {left_by(args)}")


def ended(args: argparse.Namespace) -> int:
    """Run a command; return the exit code. What the user can mend is said in one line."""
    command = COMMANDS[args.command]
    return without_traceback(
        lambda: command.run(args),
        program="decaf: ",
        known=(ValueError,),
        elsewhere=getattr(command, "ELSEWHERE", "--json"),
    )


def left_by(args: argparse.Namespace) -> str:
    """Return what a command leaves that is interrupted, in words."""
    own = getattr(COMMANDS[args.command], "left_by", None)
    return str(own(args)) if own else "nothing is written"


def refuse_wrong(p: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with bad usage where argparse would say less: the message names what is meant."""
    if words and words[0] in COMMANDS:
        refusal = getattr(COMMANDS[words[0]], "refusal", lambda words: "")
        if line := refusal(words[1:]):
            p.error(line)
    elif words and not words[0].startswith("-"):
        near = get_close_matches(words[0].lower(), COMMANDS, n=1, cutoff=0.0)[0]
        known = ", ".join(COMMANDS)
        p.error(f"unknown command {words[0]!r}; the nearest of {known} is {near}")


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with lines that are found out when it is asked for."""

    more_help = staticmethod(str)

    def format_help(self) -> str:
        """Return the help."""
        return super().format_help() + self.more_help()


def codes(command: object) -> str:
    """Return what the exit codes of a command mean."""
    one = getattr(command, "ONE", None)
    return f"0 done, {f'1 {one}, ' if one else ''}2 bad usage or input, 3 a defect, 130 interrupted"


def parser() -> Parser:
    """Return the parser of the command line."""
    p = Parser(
        prog="decaf",
        description="Mix LoRA adapters of several agents.",
        epilog="decaf COMMAND --help explains a command, with an example",
    )
    add_version(p)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        example = f"example: {command.EXAMPLE} | exit code: {codes(command)}"
        one = commands.add_parser(name, help=command.HELP, epilog=example)
        one.more_help = getattr(command, "more_help", one.more_help)
        command.add_arguments(one)
    return p
