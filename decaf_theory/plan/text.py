"""A plan in words: two tables, the recommended row, and what every number means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from decaf_theory.formats import digits, size
from decaf_theory.plan.assumed import MEANINGS, Assumed
from decaf_theory.plan.planning import Row
from decaf_theory.terminal import groups, paragraph

GRAPH = (
    ("graph", ""),
    ("links", ""),
    ("busiest", ""),
    ("gap", "T31"),
    ("rounds", "T31"),
    ("safe step", "T25"),
    ("interval", "TAD-LoRA"),
    ("apart", "T25"),
    ("interference", "T14"),
)
METHOD = (
    ("graph", ""),
    ("method", ""),
    ("message", ""),
    ("a round", "all"),
    ("a round", "busiest"),
    ("all rounds", "all"),
    ("mix", "busiest"),
    ("memory", "busiest"),
)
COMPUTED = (
    "gap (*): not in T31; the eigenvalues of the graph as it is built are computed, those of the "
    "exponential graph by its symmetry."
)
DERIVED = (
    "gap (**): not in T31; 2/log2(N), derived in decaf_theory.plan.networks. Its S is "
    "(N - 1)/(1 - rho), never below the exact one (T37)."
)
AVERAGING = (
    "all rounds (~): what averaging would take. A mix of products or of compressed messages has no "
    "such law, and truncated products need not agree at all (T22)."
)
SCALED = (
    "mix, memory (~): fewer messages were mixed than the agent gets; time is scaled by the flops, "
    "memory by the messages."
)


def text(rows: Sequence[Row], target: str, assumed: Assumed, given: Mapping[str, object]) -> str:
    """Return the plan as text that fits the terminal.

    rows: those of `plan`, for the same target and constants. given: the constants that the caller
    chose, by name; the others are said to be assumed.
    """
    graphs = {row.graph: row for row in rows}.values()
    parts = [
        _table(GRAPH, [_of_graph(row) for row in graphs]),
        _table(METHOD, [_of_method(row) for row in rows], named=2),
        paragraph(recommended(rows, target)),
        "\n".join(map(paragraph, _legend(rows, assumed, given))),
    ]
    return "\n\n".join(parts)


def recommended(rows: Sequence[Row], target: str) -> str:
    """Return one sentence: the first row, and why; the next graph or method, as a comparison."""
    best = rows[0]
    graphs = [row for row in rows if row.graph != best.graph]
    name, others = best.graph, []
    if target == "bytes":
        why = f"{_bytes(best.total_bytes)} in {_rounds(best)} are the fewest until agreement"
        others = [f"{r.method} on {r.graph} {_bytes(r.total_bytes)}" for r in rows[1:]]
        name = f"{best.method} on {best.graph}"
    elif target == "rounds":
        why = f"{_rounds(best)} to agreement, to {best.factor:g} of the start, are the fewest"
        others = [f"{r.graph} {_count(r.rounds)}" for r in graphs]
    elif best.interference < math.inf:
        why = f"the bound on a mix's interference, {digits(best.interference)}, is the least"
        others = [f"{r.graph} {digits(r.interference)}" for r in graphs]
    else:
        return f"recommended for {target}: none, as every bound is inf at step {digits(best.step)}."
    compared = f" (next: {others[0]})" if others else ""
    price = f"with {best.method} its busiest agent sends {_bytes(best.busiest_bytes)} a round"
    return f"recommended for {target}: {name}, as {why}{compared}; {price}."


def _of_graph(row: Row) -> tuple[str, ...]:
    mark = {"T31": "", "derived": "**"}.get(row.source, "*")
    return (
        row.graph,
        _count(row.links),
        _count(row.busiest),
        digits(row.gap) + mark,
        _count(row.rounds),
        digits(row.safe_step),
        _count(row.interval),
        digits(math.sqrt(row.consensus)),
        digits(row.interference),
    )


def _of_method(row: Row) -> tuple[str, ...]:
    mark = "~" if row.scaled else ""
    return (
        row.graph,
        row.method,
        _bytes(row.message_bytes),
        _bytes(row.round_bytes),
        _bytes(row.busiest_bytes),
        ("" if row.averages else "~") + _bytes(row.total_bytes),
        "-" if row.milliseconds is None else mark + _duration(row.milliseconds),
        _bytes(row.held) if row.memory is None else mark + _bytes(row.memory),
    )


def _legend(rows: Sequence[Row], assumed: Assumed, given: Mapping[str, object]) -> Iterator[str]:
    """Yield what the columns mean, and what they rest on."""
    first = rows[0]
    yield (
        "links: messages of a round, of all agents; busiest: the most neighbours of an agent, and "
        "what that agent sends, computes and holds; all "
        "rounds: until agreement. gap: 1 - sqrt(rho)."
    )
    yield (
        f"rounds: until averaging has brought every disagreement to {first.factor:g} of itself: "
        "sqrt(rho)^t, attained by the worst start. interval: 1/sqrt(1 - rho), rounds between the "
        "switches of TAD-LoRA (arXiv 2602.00451): an order, its constant is not known."
    )
    yield (
        f"safe step: the condition of T25, lr L* <= 1 and lr L* q <= 1/2, with L* = s (2 s L c^2 + "
        f"G) = {digits(assumed.smoothness)} (T2-sharp), q = lam/(1 - lam), lam = sqrt(rho); one "
        "local step, then a mix."
    )
    yield (
        f"apart, interference: bounds for DLoRA at step {digits(first.step)}"
        f"{'' if 'step' in given else ', the least of the safe steps'}, all agents starting equal, "
        "in every round. apart: root mean square distance of the agents' factors from their "
        "mean, after a mix (T25, T5). interference: what averaging the factors loses in a mix, "
        "mean_i s |I_i|_*, in nuclear norm (T14, from T10 and T25). A DeCAF mix truncates no more "
        "than that of the same factors (T17); dlora_fa loses nothing, as its A is frozen and "
        "common (R1). The adapted matrices count as one W, block-diagonal."
    )
    yield from _constants(assumed, given)
    yield from _marks(rows)


def _constants(assumed: Assumed, given: Mapping[str, object]) -> Iterator[str]:
    """Yield the values of the constants, those that the caller chose and the others."""
    for name, value in asdict(assumed).items():
        yield f"{name} = {value:g}{'' if name in given else ' (assumed)'}: {MEANINGS[name]}"
    if not MEANINGS.keys() <= given.keys():
        yield "What is assumed is not known of your loss; the bounds are as good as these numbers."


def _marks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what the signs next to numbers mean, those that occur."""
    sources = {row.source for row in rows}
    if sources - {"T31", "derived"}:
        yield COMPUTED
    if "derived" in sources:
        yield DERIVED
    if not all(row.averages for row in rows):
        yield AVERAGING
    if any(row.milliseconds is not None for row in rows):
        yield (
            "mix, memory: measured here and now on this machine, for all matrices one after the "
            "other, with the method's own code (half types in float32); memory is that of the "
            "messages, the result and the work."
        )
    if any(row.milliseconds is None for row in rows):
        yield "mix (-): not measured; memory is then that of the messages and the result alone."
    if any(row.scaled for row in rows):
        yield SCALED
    beyond = dict.fromkeys(row.graph for row in rows if row.beyond)
    if beyond:
        yield (
            f"step {digits(rows[0].step)} is beyond the safe step of {', '.join(beyond)}: T25 "
            "promises no rate there, and a bound that says nothing is inf."
        )


def _table(
    heads: Sequence[tuple[str, str]], lines: Sequence[tuple[str, ...]], named: int = 1
) -> str:
    """Return a table with a head of two lines; the first `named` columns stand at the left.

    In parts that fit, each with those columns.
    """
    full = [tuple(head for head, _ in heads), tuple(below for _, below in heads), *lines]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]

    def row(line: Sequence[str], chosen: Sequence[int]) -> str:
        pads = (str.ljust if i < named else str.rjust for i in chosen)
        cells = (pad(line[i], widths[i]) for pad, i in zip(pads, chosen, strict=True))
        return "  ".join(cells).rstrip()

    parts = groups(widths, named)
    return "\n\n".join("\n".join(row(line, part) for line in full) for part in parts)


def _rounds(row: Row) -> str:
    return f"{_count(row.rounds)} round{'s' * (row.rounds != 1)}"


def _bytes(number: int) -> str:
    """Return a number of bytes; from 1e15 on with an exponent."""
    return size(number) if number < 10**15 else f"{number:.1e} B"


def _count(number: float) -> str:
    """Return a whole number, in three digits from a million on."""
    return f"{number:.0f}" if number < 10**6 else digits(float(number))


def _duration(milliseconds: float) -> str:
    """Return a time in ms, in s from a second on, in hours from an hour on."""
    if milliseconds < 1e3:
        return f"{digits(milliseconds)} ms"
    seconds = milliseconds / 1e3
    return f"{digits(seconds)} s" if seconds < 3600 else f"{digits(seconds / 3600)} h"
