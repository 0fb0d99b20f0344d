"""The command `decaf methods`: which methods are there, and what each sends."""

from __future__ import annotations

import argparse

from decaf_theory.commands.listed import graphs
from decaf_theory.commands.targets import add_json, check_targets, deliver

HELP = "which methods are there, and what each sends"
EXAMPLE = "decaf methods --topology star --agents 16 --rank 4"


def add_arguments(p: argparse.ArgumentParser) -> None:
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
    p.add_argument("--agents", type=int, default=8, metavar="N", help="on the graph (default: 8)")
    p.add_argument(
        "--topology",
        type=str.lower,
        default="ring",
        metavar="NAME",
        help="graph, see below (default: ring)",
    )
    add_json(p)


def more_help() -> str:
    """Return the graphs below the help."""
    return graphs()


def run(args: argparse.Namespace) -> int:
    """Print the table of methods."""
    from decaf_theory import adapters
    from decaf_theory.methods import METHODS
    from decaf_theory.methods.listing import listing, rows

    check_targets(args.json, force=args.force)
    Pi = adapters.mixing_matrix(args.topology, args.agents)
    d, k = args.shape
    found = rows(METHODS, Pi, d=d, k=k, r=args.rank)
    deliver(found, listing(found), args.json)
    return 0
