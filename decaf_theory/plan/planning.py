"""The plan itself: one record for each method on each graph, and the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from decaf_theory.arrays import integer
from decaf_theory.methods import METHODS, Method
from decaf_theory.methods.turns import interval_at
from decaf_theory.plan.assumed import Assumed, require_number
from decaf_theory.plan.mixing import DTYPES, Mix, graph_methods, measured, sent_bytes
from decaf_theory.plan.models import Site, checked
from decaf_theory.plan.networks import Network, network

TARGETS = ("rounds", "bytes", "accuracy")
DEFAULT_METHODS = ("decaf", "dlora", "dlora_fa")
FACTOR = 1e-3


@dataclass(frozen=True)
class Row:
    """One method on one graph of `agents`; None: not measured, or nothing is known.

    gap = 1 - sqrt(rho); links: directed, of all; busiest: the most neighbours of an agent.
    rounds: until averaging has reduced disagreement to `factor` of itself; averages: whether the
    method's mix is that average. interval: rounds between TAD-LoRA's switches, up to a constant.
    consensus and interference: bounds at `step` along a DLoRA run, inf where they say nothing;
    sharp_S: whether the noise's share is exact. Bytes: a message; a round of all agents, and of the
    busiest; all rounds. memory, milliseconds: of the busiest agent's mix; scaled: from fewer
    messages. held: its messages alone.
    """

    graph: str
    method: str
    agents: int
    gap: float
    source: str
    links: int
    busiest: int
    factor: float
    rounds: int
    averages: bool
    safe_step: float
    interval: float
    step: float
    consensus: float
    interference: float
    sharp_S: bool
    message_bytes: int
    round_bytes: int
    busiest_bytes: int
    total_bytes: int
    held: int
    memory: int | None
    milliseconds: float | None
    scaled: bool

    @property
    def beyond(self) -> bool:
        """Whether the step is larger than the safe one."""
        return self.step > self.safe_step

    def to_json(self) -> dict[str, Any]:
        """Return the record for a JSON file."""
        return asdict(self)


def plan(
    graphs: Sequence[str],
    agents: int,
    sites: Sequence[Site],
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    target: str = "rounds",
    assumed: Assumed | None = None,
    step: float | None = None,
    factor: float = FACTOR,
    dtype: str = "float32",
    measure: bool = True,
) -> list[Row]:
    """Return one record for each method on each graph, best first.

    step: of the bounds; by default the least of the graphs' safe steps, so that all have the same.
    target: "rounds" to consensus, "bytes" of all of them, or "accuracy", the bound on interference.
    measure: whether mixes are timed. ValueError names argument, rule and value.
    """
    assumed = Assumed() if assumed is None else assumed
    _require(target, dtype, factor, methods)
    sites, N = checked(sites), integer("agents", agents, 1)
    if not graphs:
        raise ValueError("graph must name at least one graph, got none; ring is one")
    networks = {graph: network(graph, N) for graph in graphs}
    if step is None:
        step = min(map(assumed.safe_step, networks.values()))
    require_number("step", step, "the step size of every local step")
    rows = [
        _row(graph, each, METHODS[name], sites, assumed, step, factor, dtype, measure)
        for graph, each in networks.items()
        for name in dict.fromkeys(methods)
    ]
    return sorted(rows, key=lambda row: merit(row, target))


def merit(row: Row, target: str) -> tuple[float, ...]:
    """Return what a target asks to be small, most important first.

    Of bytes, methods whose rounds have no law come last. Where two graphs agree, the fewer bytes.
    """
    if target == "rounds":
        return row.rounds, row.round_bytes
    if target == "bytes":
        return not row.averages, row.total_bytes, row.rounds
    return row.interference, row.consensus, row.round_bytes


def _row(
    graph: str,
    known: Network,
    method: Method,
    sites: Sequence[Site],
    assumed: Assumed,
    step: float,
    factor: float,
    dtype: str,
    measure: bool,
) -> Row:
    message, rounds = sent_bytes(method, sites, dtype), known.rounds(factor)
    # its own factors and neighbours' messages, and what it holds afterwards
    held = (known.degree + 2) * message
    mixes = measure and known.N > 1
    mix = measured(method, sites, known.degree + 1, dtype) if mixes else Mix(None, None)
    return Row(
        graph=graph,
        method=method.name,
        agents=known.N,
        gap=known.gap,
        source=known.source,
        links=known.links,
        busiest=known.degree,
        factor=factor,
        rounds=rounds,
        averages=method.space == "factors" and not method.one_graph,
        safe_step=assumed.safe_step(known),
        interval=interval_at(known.gap * (2 - known.gap)),
        step=step,
        consensus=assumed.consensus(known, step),
        interference=assumed.interference(known, step),
        sharp_S=known.sharp,
        message_bytes=message,
        round_bytes=known.links * message,
        busiest_bytes=known.degree * message,
        total_bytes=rounds * known.links * message,
        held=held,
        memory=None if mix.working is None else held + mix.working,
        milliseconds=mix.milliseconds,
        scaled=mix.scaled,
    )


def _require(target: str, dtype: str, factor: float, methods: Sequence[str]) -> None:
    """Raise ValueError for a word that is none of its table, or a factor outside (0, 1)."""
    known = {"target": TARGETS, "dtype": tuple(DTYPES), "method": tuple(graph_methods())}
    if not methods:
        raise ValueError("method must name at least one method, got none; dlora is one")
    given = [("target", target), ("dtype", dtype), *(("method", name) for name in methods)]
    for name, word in given:
        if word not in known[name]:
            near = get_close_matches(str(word).lower(), known[name], n=1, cutoff=0.0)[0]
            aside = " that mix on a graph" if name == "method" else ""
            raise ValueError(
                f"{name} must be one of {', '.join(known[name])}{aside}, got {word!r}; "
                f"the nearest is {near}"
            )
    if not 0 < factor < 1:
        raise ValueError(f"factor must lie in (0, 1), got {factor}; 0.001 is a thousandth")
