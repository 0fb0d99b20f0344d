"""How the domain of each true bound is searched: ATTACKS[claim][variant]."""

from __future__ import annotations

from decaf_theory.adversary import Attack
from verification.attacks import mixes

ATTACKS: dict[str, dict[str, Attack]] = {**mixes.ATTACKS}
