"""Trained LoRA adapters in peft's file format <-> factors: read, check, mix, diagnose, write.

agents = load_agents(["run/agent0", "run/agent1"])
sites = diagnose(agents, mixing_matrix("ring", 2))  # what averaging the factors would lose
advise(sites).text                                  # what to do about it, and why
save(merge(agents, method="decaf"), "run/merged")
"""

from decaf_theory.adapters.advice import Advice, advise
from decaf_theory.adapters.agents import Agents, count, load_agents, mixing_matrix
from decaf_theory.adapters.certificate import certificate_words
from decaf_theory.adapters.diagnosis import compress, diagnose, pool, site_numbers, truncate_mix
from decaf_theory.adapters.merging import merge, merge_to, names_of
from decaf_theory.adapters.oversights import oversights, remarks
from decaf_theory.adapters.reading import Adapter, Opened, load, opened
from decaf_theory.adapters.reasons import CAUSES, causes, share, where, worst
from decaf_theory.adapters.rules import MERGES, check_weights
from decaf_theory.adapters.tables import LEGEND, notes, plain_words, table
from decaf_theory.adapters.targets import check_target
from decaf_theory.adapters.writing import save

__all__ = [
    "CAUSES",
    "LEGEND",
    "MERGES",
    "Adapter",
    "Advice",
    "Agents",
    "Opened",
    "advise",
    "causes",
    "certificate_words",
    "check_target",
    "check_weights",
    "compress",
    "count",
    "diagnose",
    "load",
    "load_agents",
    "merge",
    "merge_to",
    "mixing_matrix",
    "names_of",
    "notes",
    "opened",
    "oversights",
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
