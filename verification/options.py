"""The command line of `python -m verification`: its commands, their options, their help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory import extras
from decaf_theory.files import place
from decaf_theory.terminal import add_version, folded, legend
from verification import cluster

MAIN = "python -m verification"
DESCRIPTION = """\
Check the theory of decentralized LoRA: every claim is tested on exactly specified
instances and gets a verdict. Without a command, all claims are judged (`run`)."""
EXAMPLES = {
    "": "judge all claims, in about a minute",
    "--only T17 T18": "judge two of them",
    "explain T18": "what does T18 say, and why is it true?",
    "COMMAND --help": "the options of a command",
}
WORDS, WHOLE = 41, 79  # the column at which a line of the examples may be divided, and all columns
CODES = """\
exit code:
  0    every outcome is the expected one
  1    some outcome differs
  2    bad usage, or too little memory
  3    a defect of the program
  130  interrupted"""
# flags of earlier versions -> the commands that replace them
MOVED = {
    "--list": "list",
    "--explain": "explain",
    "--replay": "replay",
    "--attack": "attack",
    "--adapters": "adapters",
    "--all": "all",
    "--write-docs": "docs",
    "--store-counterexamples": "counterexamples",
}


class UsageError(Exception):
    """A request that cannot be carried out; exit code 2."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line, `command` among them; no command means `run`.

    UsageError: an unknown command, a flag that is now a command, or arguments that the command does
    not have.
    SystemExit: errors that argparse finds itself, and --help.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    refuse_moved(words)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "run")
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        hint = hint_for(words[0], list(COMMANDS), f"see {MAIN} --help")
        raise UsageError(f"unknown command {words[0]!r}; {hint}")
    args, rest = parser().parse_known_args(words)
    if rest:  # argparse would blame the program and show its usage, not the command's
        see = f"see {MAIN} {args.command} --help"
        raise UsageError(f"{args.command}: unrecognized arguments: {' '.join(rest)}; {see}")
    return args


def hint_for(name: str, known: Sequence[str], otherwise: str, n: int = 1) -> str:
    """Return the `n` names nearest to an unknown one as a question; `otherwise` if none is near."""
    lower = {other.lower(): other for other in known}
    close = get_close_matches(name.lower(), lower, n=n, cutoff=0.3)
    found = ", ".join(lower[other] for other in close)
    return f"did you mean {found}?" if found else otherwise


def refuse_moved(words: Sequence[str]) -> None:
    """Raise UsageError for a flag of an earlier version, with what to type now."""
    for i, word in enumerate(words):
        flag, *value = word.split("=", 1)
        if flag in MOVED:
            values = value or takewhile(lambda text: not text.startswith("-"), words[i + 1 :])
            raise UsageError(f"{flag} is now: {' '.join([MAIN, MOVED[flag], *values])}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    examples = (f"{f'  {MAIN} {words}':<{WORDS}}{does}" for words, does in EXAMPLES.items())
    lines = (folded(line, WORDS, WHOLE) for line in examples)
    p = argparse.ArgumentParser(
        prog=MAIN,
        description=legend(DESCRIPTION),
        epilog="\n".join(["examples:", *lines, "", CODES]),
        formatter_class=raw,
    )
    add_version(p)
    subparsers = p.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for name, command in COMMANDS.items():
        examples = (f"  {MAIN} {example}".rstrip() for example in command.examples)
        about = (f"{command.does[0].upper()}{command.does[1:]}.", command.more)
        subparsers.add_parser(
            name,
            help=command.does,
            description="\n\n".join(map(legend, about)),
            epilog="\n".join(["examples:", *examples]),
            parents=command.arguments,
            formatter_class=raw,
        )
    return p


class Command(NamedTuple):
    """A command: its line in the program's help, its description, examples, its arguments."""

    does: str
    more: str
    examples: tuple[str, ...]
    arguments: tuple[argparse.ArgumentParser, ...]


def option(*names: str, **settings: Any) -> argparse.ArgumentParser:
    """Return a parser of one argument, a parent of the commands that take it."""
    p = argparse.ArgumentParser(add_help=False)
    p.add_argument(*names, **settings)
    return p


def whole(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers that are at least `least`."""

    def read(text: str) -> int:
        with suppress(ValueError):
            if (value := int(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, got {text!r}")

    return read


def positive(text: str) -> float:
    """Return a number > 0."""
    with suppress(ValueError):
        if (value := float(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"must be a number > 0, got {text!r}")


def device(text: str) -> str:
    """Return the name of a device. ArgumentTypeError: torch or a GPU is missing for it."""
    if text in ("torch", "cuda") and (line := extras.missing("torch")):
        raise argparse.ArgumentTypeError(line)
    if text == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise argparse.ArgumentTypeError("cuda needs a GPU, and torch sees none; try torch")
    return text


COUNT: dict[str, Any] = {
    "type": whole(1),
    "default": 1,
    "metavar": "N",
    "help": "processes (default 1)",
}


def places() -> argparse.ArgumentParser:
    """Return the parser of --jobs or --scheduler, both as `jobs`."""
    p = argparse.ArgumentParser(add_help=False)
    either = p.add_mutually_exclusive_group()
    either.add_argument("--jobs", **COUNT)
    cluster.add_option(either)
    return p


IDS = option("ids", nargs="*", metavar="ID", help="only these claims, T13* too (default: all)")
SIZE = option(
    "--size",
    choices=("quick", "full"),
    default="quick",
    help="number of instances: quick (default), or full, which takes minutes",
)
SEED = option(
    "--seed", type=whole(0), default=0, metavar="S", help="seed of all random draws (default 0)"
)
DEVICE = option(
    "--device",
    type=device,
    choices=("cpu", "torch", "cuda"),
    default="cpu",
    help="cpu: NumPy (default); torch: torch on the CPU; cuda: torch on a GPU",
)
JOBS = option("--jobs", **COUNT)
OUT = option(
    "--out",
    type=place,
    default=Path("results"),
    metavar="DIR",
    help="folder of the results (default: results)",
)
MINUTES = option(
    "--minutes",
    type=positive,
    default=1.0,
    metavar="M",
    help="time per claim (default 1); where a bound is attained, the search in each variant goes "
    "on until the bound made 2 %% smaller breaks, for 120 s at most or its share of M if longer",
)
TOPOLOGY = option(
    "--topology",
    type=str.lower,
    default="complete",
    metavar="NAME",
    help="who mixes with whom: complete (default), ring, star, ...",
)

COMMANDS = {
    "run": Command(
        "judge the claims (the default)",
        "Stores the rows of every claim and its verdict, and prints a table of the verdicts.\n"
        "The word `run` may be left out.",
        (
            "",
            "--only T17 T18",
            "--only 'T13*',T18",
            "--size full --jobs 2 --resume",
            "--seed 1 --out results/seed1",
        ),
        (
            option(
                "--only", nargs="+", dest="ids", metavar="ID", help="only these claims, T13* too"
            ),
            SIZE,
            SEED,
            DEVICE,
            places(),
            OUT,
            option(
                "--resume",
                action="store_true",
                help="keep the claims that an interrupted run has finished",
            ),
        ),
    ),
    "list": Command(
        "list the claims",
        "Prints id, area and status of each claim; how near its regimes come to their bounds, the\n"
        "least and the most, and their number; and its statement.",
        ("list", "list T17 T18"),
        (IDS,),
    ),
    "explain": Command(
        "show a claim: statement, proof, deciding rows, regimes, counterexample",
        "The rows are those of the last run that wrote to the folder --out. They show how near\n"
        "every regime (norm, order, ...) comes to its bound, and how near it should come.",
        ("explain T18",),
        (option("id", metavar="ID", help="a claim"), OUT),
    ),
    "replay": Command(
        "recompute a stored instance, such as a counterexample",
        "Prints a line of numbers for each; the exit code is 1 if they are not those stored.",
        (
            "replay T18-op",
            "replay verification/counterexamples/T18-op.json",
            "replay verification/counterexamples/T18-op.json --script | python -",
        ),
        (
            option(
                "file",
                type=place,
                metavar="FILE",
                help="a stored instance (JSON), or false claims, 'T13*' or T4a,T4b too",
            ),
            option("--script", action="store_true", help="print a program that needs only NumPy"),
        ),
    ),
    "attack": Command(
        "search for counterexamples to bounds that are called true",
        "Climbs from random instances, prints the largest ratio measured/bound it finds, and\n"
        "stores the instance for `replay`, unless a stored one is as strong. As a test of the\n"
        "search, the bound made 2 % smaller is attacked as well: if the bound is attained, the\n"
        "smaller one must break.",
        ("attack T18", "attack T17 T18 --minutes 5", "attack all"),
        (
            option("ids", nargs="+", metavar="ID", help="claims, or `all` that have an attack"),
            MINUTES,
            SEED,
            OUT,
        ),
    ),
    "adapters": Command(
        "report on your own trained LoRA adapters",
        "Shows, per adapted matrix and in total, what averaging the factors would lose compared\n"
        "with mixing the products, and how tight the theory's bounds are. Adapters are folders in\n"
        "peft's format.",
        (
            "adapters tests/adapters/agent0 tests/adapters/agent1",
            "adapters agent0 agent1 agent2 agent3 --topology ring",
        ),
        (
            option("folders", nargs="+", metavar="DIR", help="adapter folders, one per agent"),
            TOPOLOGY,
            option("--rank", type=int, metavar="R", help="rank of the mix (default: theirs)"),
            OUT,
        ),
    ),
    "all": Command(
        "judge, time the kernel, draw the figures, write the report",
        "The report is one page, report.html in the folder --out. What is already done is\n"
        "skipped: after an interruption, run the same command again.",
        ("all", "all --size full --jobs 2"),
        (SIZE, SEED, DEVICE, JOBS, OUT),
    ),
    "docs": Command(
        "for maintainers: write the page of all claims",
        "Run it whenever the text of a claim changes.",
        ("docs", "docs page.md"),
        (option("file", nargs="?", type=place, metavar="FILE", help="default: docs/claims.md"),),
    ),
    "counterexamples": Command(
        "for maintainers: store the counterexamples of false claims",
        "Writes verification/counterexamples/ID.json for each claim expected to be violated.",
        ("counterexamples", "counterexamples T18-op"),
        (IDS,),
    ),
    "reaches": Command(
        "for maintainers: print how near regimes come to their bounds",
        "Prints the field `reaches` of the claims in which a value is missing, or of those named,\n"
        "from eight quick runs and a full one.",
        ("reaches", "reaches T18"),
        (option("ids", nargs="*", metavar="ID", help="these claims (default: the incomplete)"),),
    ),
}
