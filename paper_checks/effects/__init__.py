"""Reported effects of methods that train, align or average LoRA factors, tried at small scale.

Settings are fixed here; step sizes are tuned for each method on seeds that do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from decaf_theory.files import to_json, write_atomically
from paper_checks.effects import aggregation, alternating
from paper_checks.effects.engine import FULL, QUICK, Comparison, Effort, judge

SIZES = {"full": FULL, "quick": QUICK}
Show = Callable[[str, Comparison], None]

EFFECTS: dict[str, Callable[[Effort], Iterator[Comparison]]] = {
    "rolora": alternating.rolora,
    "thinning": alternating.thinning,
    "interval": alternating.interval,
    "alignment": aggregation.alignment,
    "ranks": aggregation.ranks,
}
WITH_DIGITS = ("rolora", "alignment", "ranks")


def comparisons(name: str, effort: Effort) -> Iterator[Comparison]:
    """Yield the comparisons of an effect one by one, those on vit-digits last."""
    yield from EFFECTS[name](effort)
    if effort.digits and name in WITH_DIGITS:
        from paper_checks.effects import digits  # here: it needs torch and transformers

        yield from getattr(digits, name)()


def require_packages(names: Sequence[str], effort: Effort) -> None:
    """Raise ValueError unless what vit-digits needs is installed, if it is to be run."""
    if effort.digits and {*names} & {*WITH_DIGITS}:
        from paper_checks.tasks.models import require

        require("transformers", "sklearn")


def run(names: Sequence[str], size: str, out: Path, show: Show) -> dict[str, Any]:
    """Return the findings of these effects by name, as plain values, with a core's seconds.

    They are written to `out` after each effect, so that an interrupted run leaves what it has.
    """
    found: dict[str, Any] = {}
    results = {"size": size, "effects": found}
    for name in names:
        start, seen = time.process_time(), []
        for one in comparisons(name, SIZES[size]):
            show(name, one)
            seen.append(one)
        rows = [finding._asdict() for finding in judge(seen)]
        found[name] = {"core_seconds": round(time.process_time() - start, 1), "findings": rows}
        write_atomically(out, to_json(results))
    return results
