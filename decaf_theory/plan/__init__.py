"""What a run would cost and how well it would mix, before it is run: gap, rounds, bytes, bounds.

from decaf_theory.plan import Assumed, plan, sites_of
rows = plan(["ring", "star"], 10, sites_of("llama2-7b", 8), assumed=Assumed(L=0.5), target="bytes")
rows[0].rounds, rows[0].total_bytes              # the best row first
"""

from decaf_theory.plan.assumed import Assumed
from decaf_theory.plan.models import MODELS, Site, parse_sites, sites_of
from decaf_theory.plan.networks import NETWORKS, Network, network, rounds_to
from decaf_theory.plan.planning import TARGETS, Row, plan
from decaf_theory.plan.text import text

__all__ = [
    "MODELS",
    "NETWORKS",
    "TARGETS",
    "Assumed",
    "Network",
    "Row",
    "Site",
    "network",
    "parse_sites",
    "plan",
    "rounds_to",
    "sites_of",
    "text",
]
