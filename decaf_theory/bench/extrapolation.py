"""A million agents and more, on paper: rounds to consensus, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil, log2
from typing import NamedTuple

from decaf_theory.bench.rows import Row
from decaf_theory.bench.scaling import GRAPHS, Case, D, K, R, a_round, compared
from decaf_theory.formats import digits
from decaf_theory.plan import networks as plan
from decaf_theory.terminal import folded, legend, wrapped

ACCURACY = 1e-3
MANY = (10**6, 10**7, 10**8, 10**9)
LAST, ROUNDS = 51, 97  # the column at which a line on rounds may be divided, and all columns
EACH, COST = 58, 94  # the same of the lines on cost
SAMPLE = 1024  # agents of a graph on which a round is counted: a square and a power of two


class Law(NamedTuple):
    """How a graph reaches consensus: its gap, None where it does so exactly, and in words."""

    gap: Callable[[float], float] | None
    words: str


LAWS = {
    "ring": Law(plan.ring_gap, "(4/3) sin^2(pi/N): ~ N^2 rounds"),
    "torus": Law(plan.torus_gap, "(4/5) sin^2(pi/sqrt N): ~ N rounds"),
    "exponential": Law(plan.exponential_gap, "2/log2(N): ~ log N rounds"),
    "one_peer_exponential": Law(None, "exact after log2(N) rounds"),
}


def rounds_to(accuracy: float, graph: str, N: float) -> int:
    """Return the rounds after which the worst disagreement of N agents is `accuracy` of itself.

    The least t with sqrt(rho)^t <= accuracy, |Pi^t - J|_op = sqrt(rho)^t; ceil(log2 N) where the
    product of the rounds is J.
    """
    gap = LAWS[graph].gap
    if gap is None:
        return ceil(log2(N))
    return plan.rounds_to(accuracy, gap(N))


def table(rows: Sequence[Row]) -> str:
    """Return what rounds, bytes, flops and time come to at a million agents and more, as text.

    It fits the terminal. rows: those of `scaling.run`, whose time at the most agents is scaled;
    others are left out.
    """
    rounds, *below = _of_rounds()
    cost, *lines = _of_cost(rows)
    return "\n".join(
        [
            *(wrapped(rounds), *(folded(line, LAST, ROUNDS) for line in below), ""),
            *(wrapped(cost), *(folded(line, EACH, COST) for line in lines), ""),
            legend(ASSUMPTIONS),
        ]
    )


def _of_rounds() -> Iterator[str]:
    """Yield the lines on rounds to consensus."""
    yield f"on paper: rounds until the worst disagreement is {ACCURACY:g} of itself"
    yield f"{'graph':<21} " + " ".join(f"{f'N = {N:.0e}':>9}" for N in MANY) + "  1 - sqrt(rho)"
    for graph, law in LAWS.items():
        counts = " ".join(f"{digits(rounds_to(ACCURACY, graph, N)):>9}" for N in MANY)
        yield f"{graph:<21} {counts}  {law.words}"


def _of_cost(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines on the cost of a round, and of all rounds to consensus."""
    few, many = MANY[0], MANY[-1]
    yield f"on paper: what a round costs all of {many:.0e} agents, and one agent until then"
    yield f"{'':<31} {'all, a round':>26} {f'one, N = {few:.0e}':>17} {f'one, N = {many:.0e}':>17}"
    pair = f"{'bytes':>8} {'flops':>8}"
    yield f"{'graph':<21} {'method':<9} {pair} {'core-h':>8} {pair} {pair}"
    seconds = _seconds(rows)
    for graph in GRAPHS:
        for method in compared(graph):
            each = a_round(Case(graph, method, SAMPLE))
            sent, flops = (None if x is None else x / SAMPLE for x in each.values())
            hours = seconds.get((graph, method))
            numbers = [
                _scaled(many, sent),
                _scaled(many, flops),
                _scaled(many / 3600, hours),
                *(
                    _scaled(rounds_to(ACCURACY, graph, N), x)
                    for N in (few, many)
                    for x in (sent, flops)
                ),
            ]
            yield f"{graph:<21} {method:<9} " + " ".join(f"{number:>8}" for number in numbers)


def _seconds(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return the seconds of one agent's step, by graph and method, of the row of most agents."""
    own = sorted((row for row in rows if row["kind"] == "scaling"), key=lambda row: row["N"])
    return {(row["graph"], row["method"]): 1e-6 * row["median"] for row in own}


def _scaled(times: float, x: float | None) -> str:
    return "-" if x is None else digits(times * x)


ASSUMPTIONS = f"""\
Assumed: one {D} x {K} matrix of rank {R}, one local step a round, messages in float32, flops to
leading order. A round costs an agent the same at any N on these graphs; its time is that of one
core, from the row of most agents above. Rounds are those of averaging alone, from the worst start:
local steps keep agents apart, compression (choco) slows averaging, and truncation (decaf) may end
elsewhere. N is the nearest square (torus) or power of two (exponential, and one_peer_exponential,
which is exact only there)."""
