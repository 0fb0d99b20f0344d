"""What the regimes of a claim reach in every run: the values that the claim stores of itself.

A regime that attains its bound in every run is stored as 1. Another with two decimals: the least
that it reached, lowered by twice what random draws made it vary, so that new draws stay above.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from verification.claim import RESOLUTION, Claim, Outcome, Row, collect
from verification.judge import regimes_of
from verification.run import Settings

QUICK = tuple(Settings(seed=seed) for seed in range(8))
FULL = Settings(size="full")  # of more instances, but not always of the same


def missing(claim: Claim, rows: Iterable[Row]) -> list[str]:
    """Return the regimes that come near to a bound, by some ratio, and of which none is stored.

    Of a false claim none is needed: its ratio is the size of a counterexample.
    """
    if claim.expected != Outcome.HOLDS:
        return []
    return [
        regime.name
        for regime in regimes_of(claim, rows)
        if regime.tightness is not None and regime.reaches is None
    ]


def found(claim: Claim) -> dict[str, float]:
    """Return what every regime of a claim that has a ratio reaches in runs of any seed and size."""
    quick = [ratios(claim, settings) for settings in QUICK]
    names = dict.fromkeys(name for run in quick for name in run)
    full = ratios(claim, FULL) if names else {}
    return {
        name: min(lowered([run.get(name, 0.0) for run in quick]), lowered([full.get(name, 0.0)]))
        for name in names
    }


def ratios(claim: Claim, settings: Settings) -> dict[str, float]:
    """Return the tightness of every regime that has one in a run."""
    regimes = regimes_of(claim, collect(claim, settings.context(claim.id)))
    return {regime.name: regime.tightness for regime in regimes if regime.tightness is not None}


def lowered(ratios: Sequence[float]) -> float:
    """Return 1 if all ratios attain it, else the least, less twice their spread, rounded down.

    One more normal draw lies below that of eight once in 10,000 times.
    """
    least = min(ratios) - 2 * (max(ratios) - min(ratios))
    return 1.0 if least >= 1 - RESOLUTION / 2 else max(math.floor(100 * least) / 100, 0.0)


def entry(values: Mapping[str, float]) -> str:
    """Return the field of a claim's record that stores its values."""
    lines = [f"            {json.dumps(name)}: {value:g}," for name, value in values.items()]
    return "\n".join(["        reaches={", *lines, "        },"])
