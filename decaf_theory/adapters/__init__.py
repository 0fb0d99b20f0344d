"""Trained LoRA adapters in peft's file format <-> factors: read, check, mix, diagnose, write.

agents = load_agents(["run/agent0", "run/agent1"])
sites = diagnose(agents, mixing_matrix("ring", 2))  # what averaging the factors would lose
advise(sites).text                                  # what to do about it, and why
save(merge(agents, method="decaf"), "run/merged")
"""

from decaf_theory.adapters.advice import Advice, advise
from decaf_theory.adapters.agents import Agents, count, load_agents, mixing_matrix
from decaf_theory.adapters.diagnosis import compress, diagnose, pool, site_numbers, truncate_mix
from decaf_theory.adapters.merging import MERGES, check_target, check_weights, merge, save
from decaf_theory.adapters.reading import Adapter, load
from decaf_theory.adapters.reasons import CAUSES, causes, share, where, worst
from decaf_theory.adapters.tables import LEGEND, notes, plain_words, remarks, table

__all__ = [
    "CAUSES",
    "LEGEND",
    "MERGES",
    "Adapter",
    "Advice",
    "Agents",
    "advise",
    "causes",
    "check_target",
    "check_weights",
    "compress",
    "count",
    "diagnose",
    "load",
    "load_agents",
    "merge",
    "mixing_matrix",
    "notes",
    "plain_words",
    "pool",
    "remarks",
    "save",
    "share",
    "site_numbers",
    "table",
    "truncate_mix",
    "where",
    "worst",
]
