"""The command `decaf diagnose`: what would averaging the factors lose, why, and what to do?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from decaf_theory.commands.listed import graphs
from decaf_theory.commands.targets import add_json, check_targets, deliver
from decaf_theory.files import place, write_atomically
from decaf_theory.terminal import legend, paragraph

if TYPE_CHECKING:
    from decaf_theory.adapters import Agents

HELP = "what would averaging the factors lose, why, and what to do?"
EXAMPLE = "decaf diagnose agent0 agent1 agent2 --topology ring --plot losses.svg"
ELSEWHERE = "--json or --plot"


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `diagnose`."""
    p.description = (
        "Report, for each adapted matrix and in total, how far the agents' factors are "
        "apart, and how much of the mixed update is lost by averaging the factors, as they are or "
        "aligned, or by truncating the mixed product; say which matrices matter, and what to do."
    )
    p.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="adapters, one per agent: folders of peft or diffusers, or files of safetensors",
    )
    p.add_argument(
        "--rank", type=int, metavar="R", help="rank of the mix (default: that of the agents)"
    )
    p.add_argument(
        "--topology",
        type=str.lower,
        default="complete",
        metavar="NAME",
        help="who mixes with whom: a graph, see below (default: complete)",
    )
    p.add_argument("--plot", metavar="FILE", help="draw it by layer: .svg, .png or .pdf")
    p.add_argument("--all", action="store_true", help="show every matrix, however many there are")
    add_json(p)


def more_help() -> str:
    """Return the graphs below the help."""
    return graphs()


def run(args: argparse.Namespace) -> int:
    """Print the numbers of each adapted matrix, what they mean, and one sentence of advice."""
    from tqdm import tqdm

    from decaf_theory import adapters
    from decaf_theory.adapters.drawing import draw
    from decaf_theory.pictures import format_of

    form = format_of(args.plot, "--plot") if args.plot else ""
    check_targets(args.json, args.plot, force=args.force)
    agents = adapters.load_agents(args.folders)
    Pi = adapters.mixing_matrix(args.topology, len(agents.names))
    total, quiet = len(agents.factors), not sys.stderr.isatty()
    with tqdm(total=total, unit="matrix", leave=False, disable=quiet) as bar:
        sites = adapters.diagnose(agents, Pi, args.rank, done=bar.update)
    if form:
        write_atomically(place(args.plot), draw(sites, form, args.topology))
    deliver(
        report(agents, args.topology, sites),
        text(agents, args.topology, sites, args.all),
        args.json,
    )
    return 0


def text(agents: Agents, topology: str, sites: list[dict[str, Any]], every: bool) -> str:
    """Return the tables, their legends, and what they mean in words, the advice last."""
    from decaf_theory import adapters

    N = len(agents.names)
    shown = sites if every else adapters.worst(sites)
    left = len(sites) - len(shown)
    cut = f"the {len(shown)} that lose most by averaging; {left} more are in the total (--all)"
    found = adapters.advise(sites)
    words = (adapters.plain_words(sites, N), adapters.where(sites), *adapters.notes(agents))
    return "\n".join(
        [
            f"{adapters.count(N)}, {topology} graph" + (f", {cut}" if left else ""),
            f"{adapters.table(sites, shown)}\n\n{legend(adapters.LEGEND)}\n",
            f"{adapters.causes(sites, shown)}\n\n{legend(adapters.CAUSES)}\n",
            *(paragraph(each) for each in words if each),
            paragraph(f"Advice: {found.text}"),
        ]
    )


def report(agents: Agents, topology: str, sites: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all that a diagnosis found, for JSON."""
    from decaf_theory import adapters

    total = adapters.pool(sites)
    shares = {"share_of_interference": "interference", "share_of_truncation": "truncation"}
    parts = [
        {name: adapters.share(site, total, loss) for name, loss in shares.items()} for site in sites
    ]
    return {
        "agents": list(agents.names),
        "topology": topology,
        "total": total,
        "sites": [site | own for site, own in zip(sites, parts, strict=True)],
        "advice": adapters.advise(sites)._asdict(),
        "notes": adapters.notes(agents),
    }
