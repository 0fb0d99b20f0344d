"""Start by torchrun: a problem of the theory served by ranks, against the simulation of it.

    torchrun --nproc-per-node 4 -m decaf_theory.distributed --graph ring --method decaf dlora

Rank 0 prints a line for each method: the largest difference from the simulation whose sums have the
same order, which must be 0, and from that of one stack of all agents; the bytes that all ranks
sent, and those that the method declares; the time of a mix, and how many copies of what a rank
sends in it would take as long. With --overlap: the time of a round with messages that travel while
the gradient is computed, and with messages after it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter

import numpy as np

from decaf_theory.distributed.apart import by_blocks
from decaf_theory.distributed.collective import at_first
from decaf_theory.distributed.joining import enter
from decaf_theory.distributed.neighbourhood import blocks_of
from decaf_theory.distributed.running import Ran, rule_of, run
from decaf_theory.faults import without_traceback
from decaf_theory.interrupts import in_one_line
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, Trace, simulate
from decaf_theory.terminal import prepare
from decaf_theory.topology import SCHEDULES, TOPOLOGIES

COPIES = 50
TURNS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one problem; return 0 if iterates and bytes are right, 1 if not, 2 at a fault."""
    prepare()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings would join our one line
    args = parser().parse_args(argv)
    return in_one_line(
        lambda: without_traceback(lambda: served(args), known=(ValueError,)), "interrupted"
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="python -m decaf_theory.distributed", description=__doc__)
    graphs = sorted({*TOPOLOGIES, *SCHEDULES})
    p.add_argument(
        "--method",
        nargs="+",
        default=["decaf"],
        choices=sorted(METHODS),
        metavar="NAME",
        help=f"of {', '.join(sorted(METHODS))} (default: decaf)",
    )
    p.add_argument(
        "--graph",
        default="ring",
        choices=graphs,
        metavar="NAME",
        help=f"of {', '.join(graphs)} (default: ring)",
    )
    p.add_argument("--agents", type=int, metavar="N", help="by default one at each rank")
    p.add_argument("--size", type=int, nargs=2, default=(8, 6), metavar=("D", "K"))
    p.add_argument("--rank", type=int, default=2, help="of the adapters")
    p.add_argument("--lr", type=float, default=0.05)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument(
        "--overlap",
        action="store_true",
        help="time rounds of order combine: messages travel during the gradient, or after it",
    )
    p.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for other ranks")
    return p


def served(args: argparse.Namespace) -> int:
    """Run this rank for each method; let rank 0 compare and print."""
    import torch.distributed as dist

    _, ranks = enter(args.timeout)
    code = 0
    for name in args.method:
        config = config_of(args, name, args.agents or ranks)
        if args.overlap:
            print_overlap(replace(config, order="combine"), args.timeout)
            continue
        ran = run(config, timeout=args.timeout)
        gathered = at_first(ran, "as states were gathered")
        code = max(code, 0 if gathered is None else compared(config, gathered))
    dist.destroy_process_group()
    return code


def config_of(args: argparse.Namespace, method: str, N: int) -> Config:
    """Return the problem that is asked for: N agents with their own quadratics, exact gradients."""
    d, k = args.size
    graph = TOPOLOGIES[args.graph](N) if args.graph in TOPOLOGIES else SCHEDULES[args.graph](N)
    return Config(
        problem=PROBLEMS["P3"](N=N, d=d, k=k),
        method=method,
        Pi=graph,
        rank=args.rank,
        lr=args.lr,
        steps=args.steps,
    )


def compared(config: Config, ranks: Sequence[Ran]) -> int:
    """Print how far the ranks are from the simulation; return 0 where nothing differs, else 1."""
    blocks = blocks_of(config.problem.N, len(ranks))
    alike = replace(config, method=by_blocks(rule_of(config), blocks), record=("loss",))
    trace, whole = simulate(alike), simulate(replace(config, record=("loss",)))
    parts = zip(*(r.state.factors for r in ranks), strict=True)
    found = Factors(*(np.concatenate(X, axis=-3) for X in parts))
    apart, far = distance(found, trace), distance(found, whole)
    sent, declared = sum(r.sent_bytes for r in ranks), int(trace.comm_bytes[0, -1])
    each = median(t for r in ranks for t in r.seconds)
    copy = copy_seconds(max(r.sent_bytes for r in ranks) // config.steps)
    print(
        f"{config.named.name}, {config.problem.N} agents at {len(ranks)} ranks, {config.steps} "
        f"rounds: {apart:g} from the simulation in the same order of sums, {far:.1e} from one "
        f"stack; {sent} bytes sent, {declared} declared; {1e3 * each:.2f} ms a mix, "
        f"{each / copy:.0f} copies of its payload"
    )
    fewer = len(ranks) < config.problem.N  # what agents of one rank say does not travel
    return 0 if apart == 0 and (sent <= declared if fewer else sent == declared) else 1


def print_overlap(config: Config, timeout: float) -> None:
    """Let rank 0 print how long rounds take with messages that travel early, and with late ones.

    Runs of both take turns, so that both meet the same load.
    """
    rounds: dict[bool, list[float]] = {True: [], False: []}
    for early in [True, False] * TURNS:
        ran = run(config, timeout=timeout, overlap=early)
        for other in at_first(ran, "as times were gathered") or []:
            rounds[early] += other.rounds
    if rounds[True]:
        during, after = (1e3 * median(rounds[early]) for early in (True, False))
        print(
            f"{config.named.name}, {config.problem.N} agents, {TURNS} times {config.steps} rounds "
            f"of each: {during:.2f} ms a round with messages during the gradient, {after:.2f} ms "
            f"with messages after it"
        )


def distance(found: Factors, trace: Trace) -> float:
    """Return the largest difference of an entry over the largest entry."""
    gaps = (np.abs(X - Y).max() / np.abs(Y).max() for X, Y in zip(found, trace.final, strict=True))
    return float(max(gaps))


def copy_seconds(size: int) -> float:
    """Return the median time of a copy of so many bytes, that a rank sends in a round."""
    source, target = np.ones(max(size, 1), np.uint8), np.empty(max(size, 1), np.uint8)
    times = []
    for _ in range(COPIES):
        begun = perf_counter()
        np.copyto(target, source)
        times.append(perf_counter() - begun)
    return median(times)


if __name__ == "__main__":
    sys.exit(main())
