"""What looks like an oversight in the choice of adapters, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from decaf_theory.adapters.agents import Agents, base_of, idle, matched, parts, said, stack, twins
from decaf_theory.adapters.reading import Opened
from decaf_theory.lowrank import Factors


def remarks(agents: Agents) -> list[str]:
    """Return what looks like an oversight: one agent, one given twice or idle, unequal bases."""
    return [*_remarks(agents.names, agents.factors.values, agents.bases), *agents.said]


def oversights(adapters: Sequence[Opened], missing: str = "refuse") -> list[str]:
    """Return the same of adapters that are not read. ValueError: what `matched` raises."""
    sites = matched(adapters, missing)
    bases = [base_of(each.config) for each in adapters]

    def factors() -> Iterable[Factors]:
        return (stack(parts(held)) for held in sites.values())

    found = _remarks([each.name for each in adapters], factors, bases)
    return [*found, *said(adapters, sites)]


def _remarks(
    names: Sequence[str], factors: Callable[[], Iterable[Factors]], bases: Sequence[str]
) -> list[str]:
    found = []
    if len(names) == 1:
        found.append(
            "A single agent has nobody to mix with, so averaging its factors loses nothing: "
            "give one folder per agent."
        )
    for first, again in twins(len(names), factors()):
        found.append(
            f"{names[first]} and {names[again]} hold equal factors: an agent given twice counts "
            f"twice."
        )
    for agent in idle(len(names), factors()):
        found.append(
            f"{names[agent]} has an update of zero at every matrix, as B or A is zero: it counts "
            f"in the mean all the same."
        )
    if len(set(bases)) > 1:
        found.append(
            f"The agents name different base models ({', '.join(sorted(set(bases)))}): "
            f"their updates can be mixed only if these are one and the same."
        )
    return found
