"""The search for counterexamples to bounds that are called true: `attack ID [--minutes M]`.

Each attack starts from random instances only. It reports the largest measured/bound that the
claim's own `replay` confirms, and how long it took to break the bound made 2 % smaller: a test of
the searcher, if the bound is attained.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from decaf_theory.files import write_atomically
from decaf_theory.sums import sealed
from verification.claim import Claim, Instance, Outcome, Row
from verification.options import MAIN
from verification.replay import ReplayError, Stored, dump, load, picked, recompute
from verification.run import Ledger
from verification.store import StoreError, read_records, strict

if TYPE_CHECKING:  # it loads torch
    from decaf_theory.adversary import Attack

WEAKENED = 0.98
PATIENCE_S = 120.0  # for a weakened bound that must break, if less time was given
TABLE = "attacks.json"
SIGNS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}  # as they are spelled in names of files


@dataclass(frozen=True)
class Attempt:
    """The result of one attack; `broken_s` is None if the weakened bound withstood.

    `loose` says why the bound is not attained; it is empty if it is.
    """

    claim: str
    variant: str
    loose: str
    ratio: float
    searcher: str
    rounds: int
    broken_s: float | None
    seconds: float
    outcome: str

    @property
    def failed(self) -> bool:
        """The true bound is broken, or the weakened one withstood although the bound is tight."""
        return self.outcome == Outcome.VIOLATED or (not self.loose and self.broken_s is None)

    @property
    def file(self) -> str:
        """The name of the file of the best instance."""
        return file_of(self.claim, self.variant)

    def line(self) -> str:
        """Return the attempt as one line of a table."""
        weakened = "withstood" if self.broken_s is None else f"broken in {self.broken_s:5.2f} s"
        verdict = "BROKEN" if self.outcome == Outcome.VIOLATED else "withstood"
        name, kind = f"{self.claim} {self.variant}", "loose" if self.loose else "attained"
        why = f"; {self.loose}" if self.loose else ""
        return (
            f"{name:<30} {self.ratio:<9.6f} {kind:<9} {verdict:<10} {weakened:<18} "
            f"{self.seconds:6.1f} s, {self.searcher}{why}"
        )


def file_of(claim: str, variant: str) -> str:
    """Return the name of the file of the best instance of an attack; no two attacks share one."""
    spelled = re.sub("[<>]=?", lambda sign: SIGNS[sign[0]], f"{claim}-{variant}")
    return re.sub(r"[^A-Za-z0-9]+", "-", spelled).strip("-") + ".json"


BOUND, WHOLE = 51, 101  # the column at which a line may be divided, and all columns
HEADER = (
    f"{'attack':<30} {'best':<9} {'bound is':<9} {'the bound':<10} {'98 % of it':<18} "
    "time, searcher"
)


def chosen(names: Sequence[str], ledger: Ledger) -> list[Claim]:
    """Return the claims to attack; "all" means all that have an attack.

    ReplayError: unknown claims, and those that have none, with the reason.
    """
    attacked = [claim for claim in ledger.claims if claim.attacks]
    if list(names) == ["all"]:
        return attacked
    claims = picked(ledger.claims, names)
    for claim in claims:
        if claim.expected == Outcome.VIOLATED:
            kept = os.path.relpath(ledger.counterexample(claim.id))
            raise ReplayError(
                f"claim {claim.id} is false as worded and its counterexample is stored: "
                f"{MAIN} replay {kept}"
            )
        if not claim.attacks:
            why = f" ({claim.not_attacked})" if claim.not_attacked else ""
            those = ", ".join(other.id for other in attacked)
            raise ReplayError(f"claim {claim.id} has no attack{why}; these have: {those}")
    return claims


def variants(claim: Claim) -> Mapping[str, Attack]:
    """Return the attacks on a claim by name, none if it has none."""
    return claim.attacks() if claim.attacks else {}


def campaign(
    claims: Sequence[Claim], *, seconds: float, seed: int, folder: Path
) -> Iterator[tuple[Attempt, Kept]]:
    """Return an iterator over the attacks on the claims, each as it ends with what is kept of it.

    `seconds` for each claim, shared by its variants. Before the first: ReplayError, what is stored
    cannot be read; ModuleNotFoundError, the searchers need what is not installed.
    """
    _table(folder)
    for claim in claims:
        for variant in variants(claim):
            stored_row(claim, folder / file_of(claim.id, variant))
    return _attempts(claims, seconds=seconds, seed=seed, folder=folder)


def _attempts(
    claims: Sequence[Claim], *, seconds: float, seed: int, folder: Path
) -> Iterator[tuple[Attempt, Kept]]:
    for claim in claims:
        names = list(variants(claim))
        for variant in names:
            share = seconds / len(names)
            attempt, instance = run(claim, variant, seconds=share, seed=seed)
            yield attempt, keep(claim, attempt, instance, folder)


def progress(
    found: Iterator[tuple[Attempt, Kept]], claims: Sequence[Claim]
) -> Iterator[tuple[Attempt, Kept]]:
    """Pass attempts through, with a bar on stderr if that is a terminal."""
    total = sum(len(variants(claim)) for claim in claims)
    with tqdm(total=total, unit="attack", leave=False, disable=not sys.stderr.isatty()) as bar:
        for attempt, kept in found:
            bar.set_postfix_str(f"{attempt.claim} {attempt.ratio:.6f}")
            bar.update()
            bar.clear()  # or the attempt would be printed behind it
            yield attempt, kept


def run(
    claim: Claim, variant: str, *, seconds: float, seed: int, enough: float = float("inf")
) -> tuple[Attempt, Instance | None]:
    """Return the best instance of one attack within about `seconds`, judged by `claim.replay`.

    Nine tenths of the time go to gradient ascent, the rest to hypothesis, if it is installed.
    The search ends as soon as the ratio exceeds `enough`; if the bound is attained it continues
    until the weakened bound is broken, for `PATIENCE_S` at most.
    """
    # torch loads here and not with the module: verification itself needs only NumPy
    from decaf_theory.adversary import ascend, target

    attack, begin = variants(claim)[variant], time.monotonic()
    first: list[float] = []

    def told(rounds: int, ratio: float) -> None:
        if ratio > WEAKENED and not first:
            first.append(time.monotonic() - begin)

    judge = _judge(claim)
    hunt: dict[str, Any] = {"seed": seed, "seconds": 0.9 * seconds, "enough": enough, "tell": told}
    if not attack.loose:
        hunt |= {"goal": min(WEAKENED, enough), "patience": max(PATIENCE_S, seconds)}
    best = ascend(attack, judge, **hunt)
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
        attack.loose,
        best.ratio,
        best.searcher,
        best.rounds,
        first[0] if first else None,
        time.monotonic() - begin,
        outcome.value,
    )
    return attempt, best.instance


def _judge(claim: Claim) -> Callable[[Mapping[str, Any]], float | None]:
    """Return the ratio of an instance by the claim's own replay; None if it does not apply."""
    if claim.replay is None:
        raise ValueError(f"claim {claim.id} has an attack but no replay")
    replay = claim.replay
    return lambda instance: replay(instance).tightness


class Kept(NamedTuple):
    """What the folder holds of an attack after it: the file, and a line about it."""

    path: Path | None
    line: str = ""
    violated: bool = False


def keep(claim: Claim, attempt: Attempt, instance: Instance | None, folder: Path) -> Kept:
    """Keep the strongest instance for `replay`, that of this attempt or the stored one.

    The table has the attempt that found it. The instance is written first: killed in between, the
    table has an earlier ratio, which the next attempt mends.
    """
    path, old = folder / attempt.file, stored_row(claim, folder / attempt.file)
    row = None if instance is None or claim.replay is None else claim.replay(instance)
    if old is not None and _strength(old) >= _strength(row):
        _enter(folder, attempt, path.name, old)
        line = f"{path} is kept: its ratio {_ratio(old):.6f} is not smaller"
        return Kept(path, line, old.outcome == Outcome.VIOLATED)
    if instance is None or row is None:
        _enter(folder, attempt, None)
        return Kept(None)
    found = Stored(claim.id, row.relation, row.measured, row.bound, dict(instance))
    write_atomically(path, dump(found).encode())
    _enter(folder, attempt, path.name)
    before = "" if old is None else f", in place of one with ratio {_ratio(old):.6f}"
    return Kept(path, f"-> {path}{before}", row.outcome == Outcome.VIOLATED)


def stored_row(claim: Claim, path: Path) -> Row | None:
    """Return the row of a stored instance, computed anew; None if there is none.

    ReplayError: a file that cannot be replayed, which may be evidence of another version.
    """
    if not path.exists():
        return None
    try:
        return recompute(claim, load(path))
    except ReplayError as error:
        raise ReplayError(f"{path} would be replaced: {error}; move it elsewhere first") from None


def _ratio(row: Row) -> float:
    return -math.inf if row.tightness is None else row.tightness


def _strength(row: Row | None) -> tuple[bool, float]:
    """Return what instances are compared by: a broken bound first, then the ratio."""
    if row is None or row.outcome == Outcome.NOT_APPLICABLE:
        return False, -math.inf
    return row.outcome == Outcome.VIOLATED, _ratio(row)


def _enter(folder: Path, attempt: Attempt, file: str | None, held: Row | None = None) -> None:
    """Enter an attempt into the folder's table; if `held`, the entry of that instance stays."""
    key = ("claim", "variant")
    record = {**asdict(attempt), "file": file}
    rows = _table(folder)
    same = [row for row in rows if all(row.get(k) == record[k] for k in key)]
    if held is not None:
        found = {"loose": attempt.loose, "ratio": _ratio(held), "outcome": held.outcome.value}
        record = (same[0] if same else record) | found | {"file": file}
    records = [sealed(row) for row in [*(row for row in rows if row not in same), record]]
    lines = ",\n".join(json.dumps(strict(row), sort_keys=True) for row in records)
    write_atomically(folder / TABLE, f"[\n{lines}\n]\n".encode())


def _table(folder: Path) -> list[dict[str, Any]]:
    """Return the attempts stored so far; ReplayError if the table cannot be read."""
    path = folder / TABLE
    if not path.exists():
        return []
    try:
        return read_records(path, "remove it; the instances next to it are kept")
    except StoreError as error:
        raise ReplayError(str(error)) from None
