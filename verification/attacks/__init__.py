"""How the domain of each true bound is searched: ATTACKS[claim][variant]."""

from __future__ import annotations

from decaf_theory.adversary import Attack
from verification.attacks import mixes, smoothness

ATTACKS: dict[str, dict[str, Attack]] = {**smoothness.ATTACKS, **mixes.ATTACKS}
