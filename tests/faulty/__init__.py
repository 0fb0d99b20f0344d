"""Aggregation functions with seeded faults, written before the check was read."""

from __future__ import annotations

from tests.faulty import factors, graphs, products, states
from tests.faulty.table import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "factors", "graphs", "products", "states"]
