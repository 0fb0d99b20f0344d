"""What looks like an oversight in the choice of adapters, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from decaf_theory.adapters.agents import Agents, base_name, stack, twins
from decaf_theory.adapters.reading import Opened
from decaf_theory.lowrank import Factors

# settings that adapters of one model share; of a merge they are those of the first
SHARED = {"task_type": "task types", "revision": "revisions of the base model"}


def remarks(agents: Agents) -> list[str]:
    """Return what looks like an oversight: a single agent, one given twice, bases that differ."""
    return _remarks(agents.names, agents.factors.values(), agents.bases)


def oversights(adapters: Sequence[Opened]) -> list[str]:
    """Return the same of adapters that are not read, and settings that should not differ."""
    sites = [site for site in adapters[0].sites if all(site in each.sites for each in adapters)]
    factors = (stack([each.sites[site].read() for each in adapters]) for site in sites)
    bases = [base_name(each.config.get("base_model_name_or_path")) for each in adapters]
    found = _remarks([each.name for each in adapters], factors, bases)
    for setting, name in SHARED.items():
        values = list(dict.fromkeys(str(each.config.get(setting)) for each in adapters))
        if len(values) > 1:
            found.append(f"The agents have different {name} ({', '.join(values)}).")
    return found


def _remarks(names: Sequence[str], factors: Iterable[Factors], bases: Sequence[str]) -> list[str]:
    found = []
    if len(names) == 1:
        found.append(
            "A single agent has nobody to mix with, so averaging its factors loses nothing: "
            "give one folder per agent."
        )
    for first, again in twins(len(names), factors):
        found.append(
            f"{names[first]} and {names[again]} hold equal factors: an agent given twice counts "
            f"twice."
        )
    if len(set(bases)) > 1:
        found.append(
            f"The agents name different base models ({', '.join(sorted(set(bases)))}): "
            f"their updates can be mixed only if these are one and the same."
        )
    return found
