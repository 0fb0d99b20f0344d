"""The command `decaf merge`: one adapter, the mix of the agents', or one per agent."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Any

from decaf_theory.commands.listed import graphs, meanings
from decaf_theory.commands.targets import STDOUT
from decaf_theory.files import place, require_free, require_writable, to_json, write_atomically
from decaf_theory.terminal import paragraph, printable, say, unsaid, wrapped

HELP = "write one adapter, the mix of the agents', or one per agent"
OPTIONS = ("topology", "weights", "method", "rank", "energy", "exact", "missing", "dtype", "resume")
EXAMPLE = "decaf merge agent0 agent1 agent2 --weights 1/2,1/4,1/4 --out merged"
ONE = "written, but not all could be printed or reported"  # what exit code 1 means


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `merge`."""
    p.description = (
        "Mix the agents' adapters into one adapter that peft loads. Heads and biases are averaged."
    )
    p.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="adapters, one per agent: folders of peft or diffusers, or files of safetensors",
    )
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the new adapter")
    p.add_argument(
        "--weights",
        type=weights,
        metavar="W,W,...",
        help="weights of the agents, nonnegative with sum one, e.g. 1/2,1/4,1/4 (default: equal)",
    )
    p.add_argument(
        "--topology",
        type=str.lower,
        metavar="NAME",
        help="one adapter per agent, mixed with its neighbours on a graph, see below: folders in "
        "DIR by the names of the inputs, or agent0, agent1, ...",
    )
    p.add_argument(
        "--method", default="decaf", metavar="NAME", help="how to mix, see below (default: decaf)"
    )
    p.add_argument(
        "--rank",
        type=rank,
        metavar="R",
        help="rank of the mix (default: that of the agents); auto: the least that keeps --energy",
    )
    p.add_argument(
        "--energy",
        type=float,
        metavar="E",
        help="share of the mix's squared norm that --rank auto keeps at each site (default: .99)",
    )
    p.add_argument(
        "--exact", action="store_true", help="drop nothing: the rank is the sum of the ranks"
    )
    p.add_argument(
        "--missing",
        default="refuse",
        metavar="HOW",
        help="zero: a matrix that an agent lacks counts as an update of zero (default: refuse)",
    )
    p.add_argument(
        "--dtype",
        metavar="TYPE",
        help="float32, float16 or bfloat16 (default: the widest of the inputs')",
    )
    p.add_argument(
        "--report",
        metavar="FILE",
        help="store what each site kept, dropped and rounded as JSON; -: to stdout, alone",
    )
    p.add_argument("--force", action="store_true", help="replace an existing adapter or report")
    p.add_argument(
        "--resume",
        action="store_true",
        help="keep what is computed if stopped, and go on with what an earlier call kept",
    )


def more_help() -> str:
    """Return the graphs, and the methods that merge, each with its rule, below the help."""
    from decaf_theory.adapters import MERGES
    from decaf_theory.methods import METHODS

    origins = {name: METHODS[name].origin for name in MERGES}
    rules = {name: origin.rule for name, origin in origins.items() if origin}
    return graphs() + meanings("methods", rules)


def weights(text: str) -> list[float]:
    """Return numbers separated by commas; fractions such as 1/3 are allowed."""
    try:
        return [float(Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ArithmeticError):
        message = f"must be numbers separated by commas, such as 0.5,1/4,1/4; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def refusal(words: Sequence[str]) -> str:
    """Return what is wrong with a command line whose weights have spaces between them, or ""."""
    parts = [part for word in words for part in word.split("=", 1)]
    given = parts[parts.index("--weights") + 1 :] if "--weights" in parts else []
    spaced = list(takewhile(lambda word: numbers(word) and not os.path.exists(word), given))
    if len(spaced) < 2:
        return ""
    joined = ",".join(word.strip(",") for word in spaced)
    return f"weights have commas between them and no spaces: --weights {joined}"


def numbers(word: str) -> bool:
    """Whether a word is numbers with commas between, before or after them, as "1/2,"."""
    with suppress(ValueError, ArithmeticError):
        return bool([Fraction(part) for part in word.strip(",").split(",")])
    return False


def rank(text: str) -> int | str:
    """Return a whole number, or "auto"."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        message = f"must be a whole number or auto, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def left_by(args: argparse.Namespace) -> str:
    """Return what a merge leaves that is interrupted."""
    if args.resume:
        return f"{args.out} is not written; the same command goes on where it stopped"
    return "nothing is written"


def run(args: argparse.Namespace) -> int:
    """Write the mix of the agents' adapters, and print a few lines about it."""
    from decaf_theory import adapters

    names = adapters.names_of(args.folders) if args.topology else ()
    adapters.check_target(args.out, overwrite=args.force, names=names)
    report = _report_path(args)
    opened = [adapters.opened(folder) for folder in args.folders]
    for remark in adapters.oversights(opened, args.missing):
        with suppress(OSError):
            print(paragraph(remark), file=sys.stderr, flush=True)
    options = {name: getattr(args, name) for name in OPTIONS}
    found = adapters.merge_to(args.out, opened, overwrite=args.force, **options)
    done = f"the merge is written to {args.out}"
    if args.report == STDOUT:
        return say([to_json(found).decode().rstrip()], done)
    if report:
        try:
            write_atomically(report, to_json(found))
        except OSError as error:
            return unsaid(error, done)
    return say(_lines(found, printable(args.out)), done)


def _report_path(args: argparse.Namespace) -> Path | None:
    """Return where the report is stored, a place that can be written; ValueError: within --out."""
    if args.report in (None, STDOUT):
        return None
    path = place(args.report).absolute()
    if path.is_relative_to(place(args.out).absolute()):
        raise ValueError(
            f"{args.report}: is in --out, which holds an adapter alone; name another place "
            f"(--report)"
        )
    require_free(path, overwrite=args.force)
    require_writable(path.parent)
    return path


def _lines(found: Mapping[str, Any], out: str) -> list[str]:
    """Return what is printed of a certificate."""
    from decaf_theory.adapters import certificate_words, count

    sites = {row["site"] for row in found["sites"]}
    ranks = sorted({row["rank"] for row in found["sites"]})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    others = f", {found['others']} other tensors averaged" if found["others"] else ""
    several = f" for each of {', '.join(found['adapters'])}" if any(found["adapters"]) else ""
    first = f"{found['method']} of {count(len(found['inputs']))}: {len(sites)} matrices of {rank}"
    return [wrapped(f"{first}{others}{several} -> {out}"), paragraph(certificate_words(found))]
