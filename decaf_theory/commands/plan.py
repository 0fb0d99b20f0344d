"""The command `decaf plan`: what will a run cost, and how well will it mix?"""

from __future__ import annotations

import argparse
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from decaf_theory.commands.listed import meanings, names
from decaf_theory.commands.targets import add_json, check_targets, deliver

if TYPE_CHECKING:
    from decaf_theory.plan import Site

HELP = "what will a run cost, and how well will it mix?"
EXAMPLE = "decaf plan --graph ring star --agents 10 --model llama2-7b --target bytes"
CONSTANTS = ("L", "c", "G", "sigma", "kappa", "scale")


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the arguments of `plan`."""
    p.description = (
        "For each graph: spectral gap, rounds to consensus, safe step size, TAD-LoRA's interval, "
        "bounds on consensus and interference; for each method: bytes, and the time and memory of "
        "a mix, measured here in about a second. Closed forms go up to 1e12 agents. See "
        "docs/plan.md."
    )
    p.add_argument(
        "--graph",
        nargs="+",
        default=["ring"],
        metavar="NAME",
        help="graphs, see below; patterns and commas, too (default: ring)",
    )
    p.add_argument(
        "--agents", type=agents, default=10, metavar="N", help="10 (default), 1e6, 1e9, ..."
    )
    p.add_argument(
        "--method",
        nargs="+",
        metavar="NAME",
        help="methods, see below (default: decaf dlora dlora_fa)",
    )
    p.add_argument(
        "--target",
        default="rounds",
        metavar="T",
        help="what orders the rows: rounds (default), bytes or accuracy",
    )
    p.add_argument("--model", metavar="NAME", help="model, see below (default: llama2-7b)")
    p.add_argument("--rank", type=int, metavar="R", help="of the model's factors (default: 8)")
    p.add_argument(
        "--sites", nargs="+", metavar="D,K,R,COUNT", help="your own matrices, instead of --model"
    )
    p.add_argument(
        "--dtype",
        default="float32",
        metavar="TYPE",
        help="of messages: float32 (default), float64, float16 or bfloat16",
    )
    p.add_argument(
        "--factor",
        type=float,
        default=1e-3,
        metavar="X",
        help="agents agree at this share of their first disagreement (default: 0.001)",
    )
    for name in CONSTANTS:
        p.add_argument(
            f"--{name}", type=float, metavar="X", help="constant, see below (default: 1)"
        )
    p.add_argument(
        "--step", type=float, metavar="LR", help="step size (default: the least safe step)"
    )
    add_json(p)
    p.add_argument(
        "--no-measure", action="store_true", help="time no mix: the text is the same every time"
    )


def more_help() -> str:
    """Return the graphs, the methods, the models and the constants below the help."""
    from decaf_theory.plan.assumed import MEANINGS
    from decaf_theory.plan.mixing import graph_methods
    from decaf_theory.plan.models import MODELS
    from decaf_theory.plan.networks import NETWORKS

    known = {"graphs": NETWORKS, "methods": graph_methods(), "models": MODELS}
    lists = (names(title, table) for title, table in known.items())
    return "".join(lists) + meanings("constants", MEANINGS)


def agents(text: str) -> int:
    """Return a whole number >= 1, as 10, 1e6 or 1_000."""
    try:
        number = Decimal(text)
        whole = number.is_finite() and number >= 1 and number.adjusted() < 30
        if whole and number == number.to_integral_value():
            return int(number)
    except InvalidOperation:
        pass
    raise argparse.ArgumentTypeError(f"must be a whole number >= 1, as 10 or 1e6; got {text!r}")


def run(args: argparse.Namespace) -> int:
    """Print the plan; return the exit code."""
    from decaf_theory import plan
    from decaf_theory.names import spelled
    from decaf_theory.plan.mixing import graph_methods
    from decaf_theory.plan.networks import NETWORKS
    from decaf_theory.plan.planning import DEFAULT_METHODS

    check_targets(args.json, force=args.force)
    given = {name: getattr(args, name) for name in CONSTANTS if getattr(args, name) is not None}
    assumed = plan.Assumed(**given)
    sites = matrices(args)
    rows = plan.plan(
        spelled(args.graph, list(NETWORKS)),
        args.agents,
        sites,
        methods=spelled(args.method, graph_methods()) if args.method else DEFAULT_METHODS,
        target=args.target,
        assumed=assumed,
        step=args.step,
        factor=args.factor,
        dtype=args.dtype,
        measure=not args.no_measure,
    )
    shapes = ", ".join(f"{s.copies} of {s.d} x {s.k}, rank {s.rank}" for s in sites)
    name = "own matrices" if args.sites else args.model or "llama2-7b"
    head = f"{count(args.agents)}; {name}: {shapes}; {args.dtype}\n"
    chosen = given if args.step is None else {**given, "step": args.step}
    report = {
        **{"target": args.target, "assumed": vars(assumed), "given": sorted(given)},
        "sites": [site._asdict() for site in sites],
        "rows": [row.to_json() for row in rows],
    }
    deliver(report, f"{head}\n{plan.text(rows, args.target, assumed, chosen)}", args.json)
    return 0


def count(N: int) -> str:
    """Return "1 agent", "10 agents", "1e+09 agents"."""
    number = str(N) if N < 10**6 else f"{N:.4g}"
    return f"{number} agent{'s' * (N > 1)}"


def matrices(args: argparse.Namespace) -> list[Site]:
    """Return the adapted matrices; ValueError: both or neither of a model and its rank fit."""
    from decaf_theory import plan

    if args.sites and (args.model or args.rank is not None):
        other = "--model" if args.model else "--rank"
        raise ValueError(f"{other} and --sites exclude each other: D,K,R,COUNT says all of it")
    if args.sites:
        return plan.parse_sites(args.sites)
    return plan.sites_of(args.model or "llama2-7b", 8 if args.rank is None else args.rank)
