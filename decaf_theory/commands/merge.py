"""The command `decaf merge`: one adapter, the mix of the agents'."""

from __future__ import annotations

import argparse
from fractions import Fraction

from decaf_theory.terminal import paragraph, printable

HELP = "write one adapter, the mix of the agents'"
EXAMPLE = "decaf merge agent0 agent1 agent2 --weights 1/2,1/4,1/4 --out merged"


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `merge`."""
    p.description = (
        "Mix the agents' adapters into one adapter that peft loads. Heads and biases are averaged."
    )
    p.add_argument(
        "folders", nargs="+", metavar="DIR", help="adapter folders in peft's format, one per agent"
    )
    p.add_argument(
        "--rank", type=int, metavar="R", help="rank of the mix (default: that of the agents)"
    )
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the new adapter")
    p.add_argument(
        "--method",
        choices=("decaf", "dlora"),
        default="decaf",
        help="decaf: truncated mix of the products (default); dlora: average of the factors",
    )
    p.add_argument(
        "--weights",
        type=weights,
        metavar="W,W,...",
        help="weights of the agents, nonnegative with sum one, e.g. 1/2,1/4,1/4 (default: equal)",
    )
    p.add_argument("--force", action="store_true", help="replace an existing adapter")


def weights(text: str) -> list[float]:
    """Return numbers separated by commas; fractions such as 1/3 are allowed."""
    try:
        return [float(Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ArithmeticError):
        message = f"must be numbers separated by commas, such as 0.5,1/4,1/4; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def run(args: argparse.Namespace) -> int:
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
        print(paragraph(remark))
    return 0
