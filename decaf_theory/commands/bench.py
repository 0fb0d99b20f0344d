"""The command `decaf bench`: how fast is the kernel, against what others use?"""

from __future__ import annotations

import argparse
import sys

from decaf_theory.commands.listed import meanings
from decaf_theory.commands.targets import check_targets
from decaf_theory.files import place
from decaf_theory.terminal import folded, printable, wrapped

HELP = "how fast is the kernel, against what others use?"
EXAMPLE = "decaf bench --quick --only G1 sizes"
ONE = "a goal that ran is missed by more than 20 percent"  # what exit code 1 means


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench`."""
    p.description = (
        "Time the kernel and its peers in one run on one thread, and check its accuracy: one line "
        "per goal. With scaling: what a step costs with each of six methods and 10 to 100,000 "
        "agents, and on paper beyond."
    )
    p.add_argument(
        "part",
        nargs="?",
        choices=("goals", "scaling"),
        default="goals",
        help="goals (default), or scaling, which goes on from what --json FILE already has",
    )
    p.add_argument("--quick", action="store_true", help="fewer repeats and peers, about a minute")
    p.add_argument("--only", nargs="+", metavar="G", help="goals, see below (default: all)")
    p.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: torch only, wall time; speed on GPUs has not been measured yet",
    )
    p.add_argument("--json", metavar="FILE", help="store every measurement, one JSON line each")
    p.add_argument("--force", action="store_true", help="goals: replace FILE if it exists")


def more_help() -> str:
    """Return the goals below the help."""
    from decaf_theory.bench import GOALS

    return meanings("goals", {name: str(goal.__doc__) for name, goal in GOALS.items()})


def run(args: argparse.Namespace) -> int:
    """Print one line for each goal, as it is reached or missed."""
    from decaf_theory import bench
    from decaf_theory.bench.rows import MEASURE, WHOLE

    if args.part == "scaling":
        return scale(args)
    check_targets(args.json, force=args.force)
    rows = bench.run(
        bench.chosen(args.only),
        bench.settings(quick=args.quick, device=args.device),
        to=place(args.json) if args.json else None,
        show=lambda text: print(folded(text, MEASURE, WHOLE), flush=True),
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    return 1 if bench.failed(rows) else 0


def scale(args: argparse.Namespace) -> int:
    """Print what a step costs against the number of agents, and what that comes to beyond."""
    from decaf_theory import bench
    from decaf_theory.bench import extrapolation, scaling

    if args.only or args.device != "cpu":
        raise ValueError("--only and --device belong to the goals; scaling runs whole, on the CPU")
    if args.force:
        raise ValueError("--force belongs to the goals; scaling goes on from what FILE has")

    def show(text: str) -> None:
        title = text == scaling.TITLE
        fits = wrapped(text) if title else folded(text, scaling.SPREAD, scaling.WHOLE)
        print(fits, flush=True)

    rows = scaling.run(
        bench.settings(quick=args.quick), to=place(args.json) if args.json else None, show=show
    )
    print(f"\n{extrapolation.table(rows)}")
    return 0


def left_by(args: argparse.Namespace) -> str:
    """Return what an interrupted benchmark leaves, in words."""
    if not args.json:
        return "nothing is written"
    more = ", and the same command goes on" if args.part == "scaling" else ""
    return f"{printable(args.json)} keeps what was measured{more}"
