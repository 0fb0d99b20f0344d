"""The search for counterexamples of bounds that are called true: `--attack ID [--minutes M]`.

Each attack starts from random instances only. It reports the largest measured/bound that the
claim's own `replay` confirms, and how long it took to break the bound made 2 % smaller: the test
of the searcher, where the bound is attained.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verification.claim import Claim, Instance, Outcome
from verification.replay import Stored, dump
from verification.store import strict, write_atomically

WEAKENED = 0.98


@dataclass(frozen=True)
class Attempt:
    """What one attack found; `broken_s` is None where the weakened bound withstood."""

    claim: str
    variant: str
    tight: bool
    ratio: float
    searcher: str
    rounds: int
    broken_s: float | None
    seconds: float
    outcome: str

    @property
    def failed(self) -> bool:
        """The true bound is broken, or the weakened one withstood although the bound is tight."""
        return self.outcome == Outcome.VIOLATED or (self.tight and self.broken_s is None)

    def line(self) -> str:
        """Return the attempt as one line of a table."""
        weakened = "withstood" if self.broken_s is None else f"broken in {self.broken_s:6.2f} s"
        verdict = "BROKEN" if self.outcome == Outcome.VIOLATED else "withstood"
        kind = "attained" if self.tight else "loose"
        name = f"{self.claim} {self.variant}"
        return (
            f"{name:<28} {self.ratio:<9.6f} {kind:<9} {verdict:<10} {weakened:<20} "
            f"{self.seconds:6.1f} s, {self.searcher}"
        )


HEADER = (
    f"{'attack':<28} {'best':<9} {'bound is':<9} {'and it':<10} {'2 % less is':<20} time, searcher"
)


def run(
    claim: Claim, variant: str, *, seconds: float, seed: int, enough: float = float("inf")
) -> tuple[Attempt, Instance | None]:
    """Return the best instance of one attack within about `seconds`, judged by `claim.replay`.

    Nine tenths of the time go to gradient ascent, the rest to hypothesis, where it is installed.
    The search ends as soon as the ratio exceeds `enough`.
    """
    # torch loads here and not with the module: verification itself runs on NumPy alone
    from decaf_theory.adversary import ascend, target
    from verification.attacks import ATTACKS

    attack, begin = ATTACKS[claim.id][variant], time.monotonic()
    first: list[float] = []

    def told(rounds: int, ratio: float) -> None:
        if ratio > WEAKENED and not first:
            first.append(time.monotonic() - begin)

    judge = _judge(claim)
    best = ascend(attack, judge, seed=seed, seconds=0.9 * seconds, enough=enough, tell=told)
    if best.ratio <= enough and importlib.util.find_spec("hypothesis"):
        other = target(attack, judge, seed=seed, seconds=0.1 * seconds)
        told(other.rounds, other.ratio)
        best = max(best, other, key=lambda found: found.ratio)
    outcome = Outcome.NOT_APPLICABLE
    if best.instance is not None and claim.replay is not None:
        outcome = claim.replay(best.instance).outcome
    attempt = Attempt(
        claim.id,
        variant,
        not attack.loose,
        best.ratio,
        best.searcher,
        best.rounds,
        first[0] if first else None,
        time.monotonic() - begin,
        outcome.value,
    )
    return attempt, best.instance


def _judge(claim: Claim) -> Callable[[Mapping[str, Any]], float | None]:
    """Return the ratio of an instance by the claim's own replay; None where it does not apply."""
    if claim.replay is None:
        raise ValueError(f"claim {claim.id} has an attack but no replay")
    replay = claim.replay
    return lambda instance: replay(instance).tightness


def keep(claim: Claim, attempt: Attempt, instance: Instance, folder: Path) -> Path:
    """Store the instance as a file that `--replay` reads, with the attempt beside it."""
    assert claim.replay is not None
    row = claim.replay(instance)
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{claim.id}-{attempt.variant}").strip("-")
    found = Stored(claim.id, row.relation, row.measured, row.bound, dict(instance))
    path = folder / f"{name}.json"
    write_atomically(path, dump(found).encode())
    record = json.dumps(strict(asdict(attempt)), sort_keys=True)
    write_atomically(folder / f"{name}.attempt.json", record.encode())
    return path
