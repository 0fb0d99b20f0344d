"""Every method by name. A new one is a line in this table."""

from __future__ import annotations

from decaf_theory.methods.base import Method
from decaf_theory.methods.factor import CENTRALIZED, DLORA, DLORA_FA, DSGD, FEDAVG, LOCAL
from decaf_theory.methods.product import DECAF

__all__ = ["METHODS", "Method"]

METHODS: dict[str, Method] = {
    method.name: method for method in (DSGD, LOCAL, CENTRALIZED, FEDAVG, DLORA, DLORA_FA, DECAF)
}
