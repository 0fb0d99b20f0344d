"""The command `decaf diagnose`: what would averaging the factors lose?"""

from __future__ import annotations

import argparse

from decaf_theory.terminal import paragraph

HELP = "what would averaging the factors lose?"
EXAMPLE = "decaf diagnose agent0 agent1 agent2 --topology ring"


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `diagnose`."""
    p.description = (
        "Report, for each adapted matrix and in total, how far the agents' factors are "
        "apart, and how much of the mixed update is lost by averaging the factors or by "
        "truncating the mixed product."
    )
    p.add_argument(
        "folders", nargs="+", metavar="DIR", help="adapter folders in peft's format, one per agent"
    )
    p.add_argument(
        "--rank", type=int, metavar="R", help="rank of the mix (default: that of the agents)"
    )
    p.add_argument(
        "--topology",
        default="complete",
        metavar="NAME",
        help="who mixes with whom: complete (default), ring, star, ...",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table of the numbers of each adapted matrix, and what they mean."""
    from decaf_theory import adapters

    agents = adapters.load_agents(args.folders)
    N = len(agents.names)
    sites = adapters.diagnose(agents, adapters.mixing_matrix(args.topology, N), args.rank)
    print(f"{adapters.count(N)}, {args.topology} graph")
    print(adapters.table(sites))
    print(f"\n{adapters.LEGEND}\n")
    for text in (adapters.plain_words(sites, N), *adapters.notes(agents)):
        print(paragraph(text))
    return 0
