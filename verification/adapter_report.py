"""The report on trained adapters: what mixing them loses, and how tight the bounds are on them.

Every number is that of the update itself: B carries the LoRA scale. The bounds are those of
`adapter_evidence`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory import adapters
from decaf_theory.adapters.agents import require_rank
from decaf_theory.formats import ratio
from decaf_theory.lowrank import Factors
from decaf_theory.terminal import legend, paragraph, width
from verification.adapter_evidence import EVIDENCE, Case, rounding_of
from verification.claim import Claim, Outcome, Row, Value
from verification.judge import Verdict, judge

NORMS_OF_MIX = ("mix", "interference", "truncation")  # in every row: a figure relates them


@dataclass(frozen=True)
class Report:
    """The measurements on the adapters of N agents that mix over a graph.

    rows: the evidence by claim of `EVIDENCE`, for each matrix and norm the row of Pi with the least
    slack. sites: one flat dict per matrix, the keys of `decaf_theory.adapters.diagnose`.
    total: the same, pooled. verdicts: one per claim, in the order of `rows`.
    """

    agents: adapters.Agents
    topology: str
    rows: dict[str, list[Row]]
    sites: list[dict[str, Any]]
    total: dict[str, Any]
    verdicts: list[Verdict]

    @property
    def as_expected(self) -> bool:
        """Whether every bound held, or (T21 away from consensus, a rank cut) did not apply."""
        fine = (Outcome.HOLDS, Outcome.NOT_APPLICABLE)
        return all(verdict.outcome in fine for verdict in self.verdicts)

    def text(self) -> str:
        """Return the report for a terminal: numbers, verdicts, and their meaning in words."""
        N = len(self.agents.names)
        paragraphs = (adapters.plain_words(self.sites, N), *adapters.notes(self.agents))
        return "\n\n".join(
            [
                f"{adapters.count(N)}, {self.topology} graph\n{adapters.table(self.sites)}",
                legend(adapters.LEGEND),
                _verdict_table(self.verdicts, self.rows),
                "\n".join(map(paragraph, paragraphs)),
            ]
        )


def report(
    folders: Iterable[str | Path], topology: str = "complete", rank: int | None = None
) -> Report:
    """Return the report on adapters in peft's format, one folder per agent.

    `rank` is that of the truncation, by default the agents'. ValueError: folders that are not LoRA
    adapters or do not belong together, an unknown topology, a rank beyond a matrix's shape.
    """
    agents = adapters.load_agents(folders)
    return report_on(agents, adapters.mixing_matrix(topology, len(agents.names)), topology, rank)


def report_on(
    agents: adapters.Agents, Pi: np.ndarray[Any, Any], topology: str, rank: int | None = None
) -> Report:
    """Return the report on agents in memory that mix by the rows of Pi [n, N].

    `topology` is the name of Pi in the rows and the text.
    """
    small = {site: (adapters.compress(f), f.shape) for site, f in agents.factors.items()}
    return report_of(agents, small, Pi, topology, rank)


def report_of(
    agents: adapters.Agents,
    compressed: Mapping[str, tuple[Factors, tuple[int, int]]],
    Pi: np.ndarray[Any, Any],
    topology: str,
    rank: int | None = None,
) -> Report:
    """Return the report of `report_on` from every site's compressed factors and shape (d, k)."""
    require_rank(rank, {site: shape for site, (_, shape) in compressed.items()})
    sites: list[dict[str, Any]] = []
    rows: dict[str, list[Row]] = {claim: [] for claim in EVIDENCE}
    for site, (small, shape) in compressed.items():
        numbers = adapters.site_numbers(site, shape, small, Pi, rank)
        unit, e = unit_size(small)
        truncated = adapters.truncate_mix(unit, shape, Pi, rank)
        params: dict[str, Value] = {"site": site, "topology": topology, "N": len(Pi)}
        for name in ("d", "k", "r", *NORMS_OF_MIX):
            params[name] = numbers[name]
        case = Case(unit, Pi, truncated, rounding_of(unit, shape), params)
        sites.append(numbers)
        for claim, (_, evidence) in EVIDENCE.items():
            rows[claim] += (resized(row, e) for row in evidence(case))
    verdicts = [
        judge(Claim(claim, area, "derived", lambda _: iter(())), rows[claim])
        for claim, (area, _) in EVIDENCE.items()
    ]
    return Report(agents, topology, rows, sites, adapters.pool(sites), verdicts)


def unit_size(small: Factors) -> tuple[Factors, int]:
    """Return factors of size one, each over a power of two, and the exponent of the product.

    Every bound is a norm of products, or a ratio of their squares, which would vanish or overflow.
    """
    exponents = [int(np.frexp(np.max(np.abs(X)))[1]) for X in small]
    return Factors(*map(np.ldexp, small, [-e for e in exponents])), sum(exponents)


def resized(row: Row, e: int) -> Row:
    """Return a row of norms of products times 2^e."""
    names = ("measured", "low", "high", "bound", "rounding")
    numbers: dict[str, Any] = {name: float(np.ldexp(getattr(row, name), e)) for name in names}
    return replace(row, **numbers)


def _verdict_table(verdicts: Sequence[Verdict], rows: Mapping[str, Sequence[Row]]) -> str:
    """Return one line per claim: outcome, tightness, rows that apply, and why if none do.

    Where that does not fit, what the bound is and why it does not apply stand below.
    """
    lines = [f"{'bounds on these adapters':<39}{'outcome':<16}tightness   applies"]
    for verdict in verdicts:
        bound, condition = WORDS[verdict.claim]
        held = sum(row.assumptions_held for row in rows[verdict.claim])
        tight = ratio(verdict.tightness)
        lines.append(
            f"{verdict.claim:<11}{bound:<28}{verdict.outcome.value:<16}{tight:>9}   "
            f"{held} of {verdict.rows}" + ("" if held else f": {condition}")
        )
    if max(map(len, lines)) <= width():
        return "\n".join(lines)
    lines = [f"{'claim':<11}{'outcome':<16}tightness   applies"]
    for verdict in verdicts:
        bound, condition = WORDS[verdict.claim]
        held = sum(row.assumptions_held for row in rows[verdict.claim])
        tight = f"{ratio(verdict.tightness):>9}   {held} of {verdict.rows}"
        lines.append(f"{verdict.claim:<11}{verdict.outcome.value:<16}{tight}")
        lines.append(f"    {bound}" + ("" if held else f": {condition}"))
    return "\n".join(lines)


# claim -> (its bound, the condition that is broken if it does not apply)
WORDS = {
    "T9": ("|I| <= factor deviations", ""),
    "T13-data": ("|D| <= (|M| + |M - 2Q|)/2", ""),
    "T17": ("|E| <= |I|", "r < agents' rank"),
    "T18": ("|D| <= 1.618 |I| or 2 |I|", "r < agents' rank"),
    "T21": ("|E| second order", "near consensus only"),
    "T21-global": ("|E| <= agents' spread", "r < agents' rank"),
}
