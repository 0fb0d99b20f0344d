"""Trained LoRA adapters in peft's file format <-> factors: read, check, mix, diagnose, write.

agents = load_agents(["run/agent0", "run/agent1"])
diagnose(agents, mixing_matrix("ring", 2))      # what averaging the factors would lose, per site
save(merge(agents, method="decaf"), "run/merged")
"""

from decaf_theory.adapters.agents import Agents, count, load_agents, mixing_matrix
from decaf_theory.adapters.diagnosis import compress, diagnose, pool, site_numbers, truncate_mix
from decaf_theory.adapters.merging import MERGES, check_target, check_weights, merge, save
from decaf_theory.adapters.reading import Adapter, Opened, load, opened
from decaf_theory.adapters.tables import LEGEND, notes, plain_words, remarks, table

__all__ = [
    "LEGEND",
    "MERGES",
    "Adapter",
    "Agents",
    "Opened",
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
    "opened",
    "plain_words",
    "pool",
    "remarks",
    "save",
    "site_numbers",
    "table",
    "truncate_mix",
]
