"""Searches for the largest measured / bound of a claim, from random starts only.

Two searchers share one description of the domain, `Attack`: gradient ascent (torch, many restarts
in one batch by Adam, the best of them polished by BFGS) and hypothesis' targeted search. Neither is
believed: what they find is handed to a judge that recomputes the ratio with the library itself.
"""

from decaf_theory import extras

try:
    from decaf_theory.adversary.ascent import ascend, climb, polish
    from decaf_theory.adversary.attack import Attack, Found, Judge
    from decaf_theory.adversary.drawing import target
    from decaf_theory.adversary.spectral import clip_singular_values, truncate
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(extras.unmet(error), name=error.name) from None

__all__ = [
    "Attack",
    "Found",
    "Judge",
    "ascend",
    "climb",
    "clip_singular_values",
    "polish",
    "target",
    "truncate",
]
