"""The cost of a method against the number of agents: time and memory of a step, for each agent.

from decaf_theory.bench import scaling, settings
rows = scaling.run(settings(quick=True), to=Path("results/scaling.jsonl"), show=print)

A row is written as soon as it is measured, and one that the file already has is not measured again:
a run that was stopped goes on where it was.

Time is CPU time of a step of a run that is under way, on one thread: local step, mix, and the look
for numbers that are not finite. It is the least of some steps, three times over. Memory is what
Python and NumPy hold at most during the first steps, with graph and problem.
"""

from __future__ import annotations

import statistics
import tracemalloc
from collections.abc import Callable
from math import isqrt
from pathlib import Path
from typing import NamedTuple

from decaf_theory.bench import machine
from decaf_theory.bench.race import Settings
from decaf_theory.bench.rows import Row
from decaf_theory.bench.timing import Contestant, interleaved
from decaf_theory.files import require_place, write_atomically
from decaf_theory.formats import digits
from decaf_theory.methods import METHODS
from decaf_theory.methods.cost import round_bytes, round_flops
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, visits
from decaf_theory.sums import seal_lines, unseal_lines
from decaf_theory.topology import SCHEDULES, TOPOLOGIES, Matrix, Schedule

D, K, R, LR = 16, 16, 2, 0.05
COMPARED = ("dsgd", "dlora", "dlora_fa", "choco", "decaf", "decaf_ef")
AGENTS = (10, 100, 1000, 10**4, 10**5)
FEW_AGENTS = (10, 100, 1000)  # of a quick run
MANY_STEPS = 10**9  # more than any measurement takes
WATCHED = 2  # steps whose memory is watched


class Graph(NamedTuple):
    """A graph by name: how it is built, and the number of agents nearest to one that it can have.

    build(N): a sparse mixing matrix, or a schedule of them.
    """

    build: Callable[[int], Matrix | Schedule]
    nearest: Callable[[int], int]


def _square(N: int) -> int:
    """Return the square nearest to N."""
    n = isqrt(N)
    return n**2 if N - n**2 <= (n + 1) ** 2 - N else (n + 1) ** 2


GRAPHS = {
    "ring": Graph(lambda N: TOPOLOGIES["ring"](N, sparse=True), lambda N: N),
    "torus": Graph(lambda N: TOPOLOGIES["torus"](N, sparse=True), _square),
    "one_peer_exponential": Graph(
        lambda N: SCHEDULES["one_peer_exponential"](N, sparse=True), lambda N: N
    ),
}


class Case(NamedTuple):
    """What is measured: a method on a graph of N agents."""

    graph: str
    method: str
    N: int


def cases(*, quick: bool) -> list[Case]:
    """Return all cases, those of few agents first; a method of one graph meets no schedule."""
    return [
        Case(graph, method, GRAPHS[graph].nearest(N))
        for N in (FEW_AGENTS if quick else AGENTS)
        for graph in GRAPHS
        for method in compared(graph)
    ]


def compared(graph: str) -> list[str]:
    """Return the methods that are measured on a graph."""
    return [name for name in COMPARED if graph in TOPOLOGIES or not METHODS[name].one_graph]


def run(
    settings: Settings,
    *,
    to: Path | None = None,
    show: Callable[[str], object] = lambda text: None,
) -> list[Row]:
    """Return the rows of all cases, first that of the machine; show each as a line.

    `to` is a file of JSON lines, whole after every row. ValueError, before anything is timed: its
    folder does not exist, it is damaged, or its rows were measured on another machine or otherwise.
    UnwritableError.
    """
    if to is not None and not to.parent.is_dir():
        raise ValueError(f"{to}: there is no folder {to.parent}; make it first")
    if to is not None:
        require_place(to)
    rows = _begun(machine(settings), to)
    done = {Case(row["graph"], row["method"], row["N"]): row for row in rows[1:]}
    show(TITLE)
    show(HEADER)
    for case in cases(quick=settings.quick):
        if case not in done:
            done[case] = measured(case, settings)
            rows.append(done[case])
            if to is not None:
                write_atomically(to, seal_lines(rows))
        show(line(done[case]))
    return rows


def _begun(here: Row, to: Path | None) -> list[Row]:
    """Return the rows that a file has; that of the machine alone where there is no file."""
    if to is None or not to.exists():
        return [here]
    try:
        rows = unseal_lines(to.read_bytes())
    except ValueError as error:
        raise ValueError(f"{to} is damaged ({error}); remove it") from None
    if not rows or rows[0] != here:
        raise ValueError(f"{to} was measured on another machine or otherwise; name another file")
    return rows


def measured(case: Case, settings: Settings) -> Row:
    """Return the row of a case: microseconds and bytes for each agent, bytes and flops of a round.

    The last two are of all agents and of messages in float32, as `decaf methods` lists them; the
    runs are in float64.
    """
    step, memory = begun(case)
    field = [Contestant(case.method, "numpy", step, 1e6 / case.N)]
    (timed,) = interleaved(
        field, settings.clock, rounds=settings.rounds, budget=settings.budget, turn=1
    )
    least = timed.seconds
    return {
        **{"kind": "scaling", **case._asdict(), "d": D, "k": K, "r": R},
        **{"low": min(least), "median": statistics.median(least), "high": max(least)},
        **{"repeats": sum(timed.repeats), "memory": memory, **a_round(case)},
    }


def begun(case: Case) -> tuple[Callable[[], object], float]:
    """Return the function that takes the next step of a run, and the run's bytes for each agent.

    They are what Python and NumPy hold at most in the first steps, with graph and problem.
    """
    started(case._replace(N=GRAPHS[case.graph].nearest(AGENTS[0])))()  # loads what is loaded once
    tracemalloc.start()
    try:
        step = started(case)
        for _ in range(WATCHED):
            step()
        return step, tracemalloc.get_traced_memory()[1] / case.N
    finally:
        tracemalloc.stop()


def started(case: Case) -> Callable[[], object]:
    """Return the function that takes the next step of a run of a case; its start lies behind."""
    config = Config(
        problem=PROBLEMS["P3"](N=case.N, d=D, k=K),
        method=case.method,
        Pi=GRAPHS[case.graph].build(case.N),
        rank=R,
        lr=LR,
        steps=MANY_STEPS,
    )
    tracemalloc.reset_peak()  # what it took to build the problem
    run = visits(config)
    next(run)
    return lambda: next(run)


def a_round(case: Case) -> dict[str, float | None]:
    """Return the bytes that all agents of a case send in its first round, and their flops."""
    graph = GRAPHS[case.graph].build(case.N)
    Pi = graph(0) if callable(graph) else graph
    method = METHODS[case.method]
    flops = round_flops(method, Pi, d=D, k=K, r=R)
    sent, _ = round_bytes(method, Pi, d=D, k=K, r=R)
    return {"comm_bytes": sent, "flops": flops[0] if flops else None}


TITLE = (
    f"time and memory of one agent's step, {D} x {K}, rank {R}, float64; "
    f"bytes and flops of a round, float32"
)
SPREAD, WHOLE = 49, 97  # the column at which a line may be divided, and all columns
HEADER = (
    f"{'graph':<21} {'method':<9} {'N':>6} {'us':>8}  {'spread':<17} {'memory':>8} "
    f"{'bytes':>9} {'flops':>9}"
)


def line(row: Row) -> str:
    """Return a row as a line of the table."""
    spread = f"{digits(row['low'])} ... {digits(row['high'])}"
    flops = digits(row["flops"]) if row["flops"] else "not counted"
    return (
        f"{row['graph']:<21} {row['method']:<9} {row['N']:>6} {digits(row['median']):>8}  "
        f"{spread:<17} {digits(row['memory']):>8} {digits(row['comm_bytes']):>9} {flops:>9}"
    )
