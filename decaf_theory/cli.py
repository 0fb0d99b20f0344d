"""The command line `decaf`: diagnose and merge adapters, check aggregation, list the methods."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fractions import Fraction

from decaf_theory import cli_check
from decaf_theory.faults import without_traceback
from decaf_theory.files import place
from decaf_theory.interrupts import in_one_line
from decaf_theory.terminal import prepare, printable

OK, MISSED = 0, 1
WIDTH = 96
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit code: 0 done, 1 a goal missed, 2 bad usage or input.

    Too little memory is 2 as well.
    Threads are set before NumPy is loaded: the matrices are small, and threads would only wait for
    each other. A benchmark is timed on one, whatever the environment says.
    """
    prepare()
    p = parser()
    refuse_unknown(p, sys.argv[1:] if argv is None else argv)
    args = p.parse_args(argv)
    for variable in THREADS:
        os.environ[variable] = "1" if args.command == "bench" else os.environ.get(variable, "1")
    return in_one_line(lambda: ended(args), f"decaf: interrupted; {left_by(args)}")


def ended(args: argparse.Namespace) -> int:
    """Run a command; return the exit code. What the user can mend is said in one line."""
    return without_traceback(
        lambda: COMMANDS[args.command](args),
        program="decaf: ",
        known=(ValueError,),
        elsewhere="--json",
    )


def left_by(args: argparse.Namespace) -> str:
    """Return what a command leaves that is interrupted, in words."""
    if args.command == "bench" and args.part == "scaling" and args.json:
        return f"{printable(args.json)} keeps what was measured, and the same command goes on"
    return "nothing is written"


def refuse_unknown(p: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with bad usage if the command is unknown; the message names the nearest."""
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = get_close_matches(words[0].lower(), COMMANDS, n=1, cutoff=0.0)[0]
        known = ", ".join(COMMANDS)
        p.error(f"unknown command {words[0]!r}; the nearest of {known} is {near}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="decaf", description="Mix LoRA adapters of several agents.")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    find = commands.add_parser(
        "diagnose",
        help="what would averaging the factors lose?",
        description="Report, for each adapted matrix and in total, how far the agents' factors are "
        "apart, and how much of the mixed update is lost by averaging the factors or by "
        "truncating the mixed product.",
    )
    mix = commands.add_parser(
        "merge",
        help="write one adapter, the mix of the agents'",
        description="Mix the agents' adapters into one adapter that peft loads. Heads and biases "
        "are averaged.",
    )
    for command in (find, mix):
        command.add_argument(
            "folders",
            nargs="+",
            metavar="DIR",
            help="adapter folders in peft's format, one per agent",
        )
        command.add_argument(
            "--rank", type=int, metavar="R", help="rank of the mix (default: that of the agents)"
        )
    find.add_argument(
        "--topology",
        default="complete",
        metavar="NAME",
        help="who mixes with whom: complete (default), ring, star, ...",
    )
    mix.add_argument("--out", required=True, metavar="DIR", help="folder of the new adapter")
    mix.add_argument(
        "--method",
        choices=("decaf", "dlora"),
        default="decaf",
        help="decaf: truncated mix of the products (default); dlora: average of the factors",
    )
    mix.add_argument(
        "--weights",
        type=weights,
        metavar="W,W,...",
        help="weights of the agents, nonnegative with sum one, e.g. 1/2,1/4,1/4 (default: equal)",
    )
    mix.add_argument("--force", action="store_true", help="replace an existing adapter")
    cli_check.add_arguments(
        commands.add_parser("check", help="is somebody's aggregation function right?")
    )
    add_methods(commands.add_parser("methods", help="which methods are there, and what each sends"))
    add_bench(commands.add_parser("bench", help="how fast is the kernel, against what others use?"))
    return p


def add_methods(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `methods`."""
    p.description = (
        "List every method with what mixing preserves of the means over agents, what an agent "
        "sends, the bytes that all send and the flops that all compute in a round for one matrix "
        "in float32 (one local step, given the gradient of W; a multiply-add is two flops; first / "
        "second round where they differ), how sure its rule is (C: its paper, C(code): its "
        "authors' code, N: notes or code of others, K: general knowledge, ?: not confirmed), the "
        "rule and its source."
    )
    p.add_argument(
        "--shape",
        nargs=2,
        type=int,
        default=(768, 768),
        metavar=("D", "K"),
        help="of the adapted matrix (default: 768 768)",
    )
    p.add_argument("--rank", type=int, default=8, metavar="R", help="of the factors (default: 8)")
    p.add_argument("--agents", type=int, default=8, metavar="N", help="how many (default: 8)")
    p.add_argument(
        "--topology", default="ring", metavar="NAME", help="of the graph (default: ring)"
    )


def add_bench(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench`."""
    p.description = (
        "Time the kernel and its peers in one run on one thread, and check its accuracy: one line "
        "per goal. Exit code 1 if a goal that ran is missed by more than 20 %. With scaling: what "
        "a step costs with each of six methods and 10 to 100,000 agents, and on paper beyond."
    )
    p.add_argument(
        "part",
        nargs="?",
        choices=("goals", "scaling"),
        default="goals",
        help="goals (default), or scaling, which goes on from what --json FILE already has",
    )
    p.add_argument("--quick", action="store_true", help="fewer repeats and sizes, under a minute")
    p.add_argument("--only", nargs="+", metavar="G", help="of G1 ... G10 sizes (default: all)")
    p.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: torch only, wall time; speed on GPUs has not been measured yet",
    )
    p.add_argument("--json", metavar="FILE", help="store every measurement, one JSON line each")


def weights(text: str) -> list[float]:
    """Return numbers separated by commas; fractions such as 1/3 are allowed."""
    try:
        return [float(Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ArithmeticError):
        message = f"must be numbers separated by commas, such as 0.5,1/4,1/4; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def diagnose(args: argparse.Namespace) -> int:
    """Print the table of the numbers of each adapted matrix, and what they mean."""
    from decaf_theory import adapters

    agents = adapters.load_agents(args.folders)
    N = len(agents.names)
    sites = adapters.diagnose(agents, adapters.mixing_matrix(args.topology, N), args.rank)
    print(f"{adapters.count(N)}, {args.topology} graph")
    print(adapters.table(sites))
    print(f"\n{adapters.LEGEND}\n")
    for paragraph in (adapters.plain_words(sites, N), *adapters.notes(agents)):
        print(textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False))
    return OK


def merge(args: argparse.Namespace) -> int:
    """Write the mix of the agents' adapters, and print one line about it."""
    from decaf_theory import adapters

    adapters.check_target(args.out, overwrite=args.force)
    agents = adapters.load_agents(args.folders)
    mixed = adapters.merge(agents, weights=args.weights, method=args.method, rank=args.rank)
    adapters.save(mixed, args.out, overwrite=args.force)
    rank = max(factors.rank for factors in mixed.sites.values())
    print(
        f"{mixed.name}: {len(mixed.sites)} matrices of rank {rank}"
        + (f", {len(mixed.others)} other tensors averaged" if mixed.others else "")
        + f" -> {printable(args.out)}"
    )
    for remark in adapters.remarks(agents):
        print(textwrap.fill(remark, WIDTH, break_long_words=False, break_on_hyphens=False))
    return OK


def methods(args: argparse.Namespace) -> int:
    """Print the table of methods."""
    from decaf_theory import adapters
    from decaf_theory.methods import METHODS
    from decaf_theory.methods.listing import listing

    Pi = adapters.mixing_matrix(args.topology, args.agents)
    d, k = args.shape
    print(listing(METHODS, Pi, d=d, k=k, r=args.rank))
    return OK


def benchmark(args: argparse.Namespace) -> int:
    """Print one line for each goal, as it is reached or missed."""
    from decaf_theory import bench

    if args.part == "scaling":
        return scale(args)
    rows = bench.run(
        bench.chosen(args.only, quick=args.quick),
        bench.settings(quick=args.quick, device=args.device),
        to=place(args.json) if args.json else None,
        show=lambda text: print(text, flush=True),
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    return MISSED if bench.failed(rows) else OK


def scale(args: argparse.Namespace) -> int:
    """Print what a step costs against the number of agents, and what that comes to beyond."""
    from decaf_theory import bench
    from decaf_theory.bench import extrapolation, scaling

    if args.only or args.device != "cpu":
        raise ValueError("--only and --device belong to the goals; scaling runs whole, on the CPU")
    rows = scaling.run(
        bench.settings(quick=args.quick),
        to=place(args.json) if args.json else None,
        show=lambda text: print(text, flush=True),
    )
    print(f"\n{extrapolation.table(rows)}", end="")
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "diagnose": diagnose,
    "merge": merge,
    "check": cli_check.run,
    "methods": methods,
    "bench": benchmark,
}
