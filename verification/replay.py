"""Stored instances: recompute one, print it as a program, store the counterexamples.

A file holds one JSON object: claim, relation, measured, bound, and `instance`, the plain numbers
and lists from which `Claim.replay` recomputes the row.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

from decaf_theory import names
from decaf_theory.files import from_json, write_atomically
from decaf_theory.formats import size
from verification.claim import RELATIONS, Claim, Outcome, Row
from verification.formulas import plain
from verification.options import MAIN, hint_for
from verification.run import Ledger
from verification.store import number, strict

READING = """
import json
import sys

import numpy as np

with open(sys.argv[1]) as file:
    instance = json.load(file)["instance"]
"""
LARGEST, LARGEST_FILE = 256, 2**24
# what the code of a claim may raise on plain numbers and lists that are not an instance of it
MISFITS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(MemoryError, RecursionError),
)
FIELDS = ("claim", "relation", "measured", "bound", "instance")


class ReplayError(ValueError):
    """A file that cannot be replayed; the message says what is wrong with it."""


@dataclass(frozen=True)
class Stored:
    """An instance as it was stored, with the row it gave then."""

    claim: str
    relation: str
    measured: float
    bound: float
    instance: dict[str, Any]


def nearest(claim: str, ids: Sequence[str]) -> str:
    """Return the ids closest to an unknown one, for an error message."""
    return f"unknown claim {claim!r}; {hint_for(claim, ids, f'see {MAIN} list', n=3)}"


def picked(claims: Iterable[Claim], words: Iterable[str]) -> list[Claim]:
    """Return the claims that words ask for. ReplayError: unknown, with the nearest ids."""
    by_id = {claim.id: claim for claim in claims}

    def unknown(word: str) -> ReplayError:
        return ReplayError(nearest(word, list(by_id)))

    return [by_id[name] for name in names.picked(words, list(by_id), unknown)]


def load(path: Path) -> Stored:
    """Return the instance stored in a file. ReplayError: unreadable, or not such an object."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ReplayError(f"{path} must be at most {size(LARGEST_FILE)}: no instance is larger")
        found = from_json(path.read_bytes())
    except OSError as error:
        raise ReplayError(f"cannot read {path}: {error.strerror}") from None
    except ReplayError:
        raise
    except ValueError as error:
        raise ReplayError(f"{path} is not JSON: {error}") from None
    missing = [name for name in FIELDS if not isinstance(found, dict) or name not in found]
    if missing:
        raise ReplayError(f"{path} must be an object with {', '.join(FIELDS)}; missing: {missing}")
    if not isinstance(found["instance"], dict):
        raise ReplayError(f"{path}: instance must be an object, got {found['instance']!r}")
    if found["relation"] not in RELATIONS:
        raise ReplayError(f"{path}: relation must be one of {RELATIONS}, got {found['relation']!r}")
    try:
        numbers = number(found["measured"]), number(found["bound"])
    except ValueError as error:
        raise ReplayError(f"{path}: measured and bound must be numbers: {error}") from None
    return Stored(str(found["claim"]), found["relation"], *numbers, found["instance"])


def dump(stored: Stored) -> str:
    """Return the text of a file, with one field of the object or of the instance per line."""
    head = {name: getattr(stored, name) for name in FIELDS[:-1]}
    entry = [f'  "{name}": {json.dumps(strict(value))}' for name, value in head.items()]
    inner = [f'    "{k}": {json.dumps(v, allow_nan=False)}' for k, v in stored.instance.items()]
    body = ",\n".join([*entry, '  "instance": {\n' + ",\n".join(inner) + "\n  }"])
    return "{\n" + body + "\n}\n"


def find(claims: Iterable[Claim], name: str) -> Claim:
    """Return the claim of an id. ReplayError: unknown, with the nearest ids."""
    by_id = {claim.id: claim for claim in claims}
    if name not in by_id:
        raise ReplayError(nearest(name, list(by_id)))
    return by_id[name]


def recompute(claim: Claim, stored: Stored) -> Row:
    """Return the row of a stored instance, computed anew. ReplayError if it makes no sense."""
    if claim.replay is None:
        raise ReplayError(f"claim {claim.id} has no replay")
    require_modest(claim, stored.instance)
    try:
        return claim.replay(stored.instance)
    except MISFITS as error:
        raise ReplayError(
            f"the instance does not fit claim {claim.id}: {type(error).__name__}: {error}"
        ) from error


def require_modest(claim: Claim, instance: Mapping[str, Any]) -> None:
    """Raise ReplayError if an instance asks for more than a replay should take.

    An integer, a size or a number of rounds, may be that of the claim's own instance or LARGEST.
    """
    own = claim.instance() if claim.instance is not None else {}
    for name, value in instance.items():
        known = own.get(name)
        limit = max(LARGEST, known) if isinstance(known, int) else LARGEST
        if isinstance(value, int) and abs(value) > limit:
            raise ReplayError(
                f"the instance asks claim {claim.id} for too much: {name} is beyond {limit} in size"
            )


def equal(row: Row, stored: Stored) -> bool:
    """Return whether a row has the stored numbers, up to rounding.

    Each of the two computations may be off by the row's rounding. If that is 0 (exact numbers) a
    few units in the last place are still allowed: another BLAS may add in another order.
    """

    def near(a: float, b: float) -> bool:
        slip = max(2 * row.rounding, 8 * sys.float_info.epsilon * abs(b))
        return a == b or abs(a - b) <= slip or (math.isnan(a) and math.isnan(b))

    same = near(row.measured, stored.measured) and near(row.bound, stored.bound)
    return same and row.relation == stored.relation


def line(claim: Claim, row: Row, stored: Stored) -> str:
    """Return the one line of numbers that a replay prints."""
    value = "-" if row.bound == 0 else f"{row.measured / row.bound:.6g}"
    verb = "equals" if equal(row, stored) else "DIFFERS FROM"
    return (
        f"{claim.id}: claimed measured {row.relation} bound; measured {row.measured:.15g}, "
        f"bound {row.bound:.15g}, ratio {value}: {row.outcome.value}; "
        f"{verb} the stored {stored.measured:.15g} and {stored.bound:.15g}"
    )


def program(claim: Claim, stored: Stored, ledger: Ledger) -> str:
    """Return the claim's NumPy program, with the instance in it instead of code to read a file.

    ReplayError: the claim has no program, or one that does not begin as they all do.
    """
    if claim.script is None:
        raise ReplayError(f"claim {claim.id} has no script; replay without --script recomputes it")
    literal = pformat(stored.instance, sort_dicts=False, width=92)
    claimed = f"# claimed: measured {stored.relation} bound; the numbers refute it"
    head = f"# {claim.id}: {plain(claim.statement)}\n{claimed}\n"
    path = ledger.program(claim.script)
    _, reading, body = path.read_text(encoding="utf-8").partition(READING)
    if not reading:
        raise ReplayError(f"{path} must begin with a docstring and these lines:\n{READING}")
    return f"{head}instance = {literal}\nimport numpy as np\n{body}"


def store(claim: Claim, path: Path) -> Row:
    """Write the counterexample of a false claim; ReplayError if it violates nothing."""
    if claim.instance is None or claim.replay is None:
        raise ReplayError(f"claim {claim.id} has no instance to store")
    instance = dict(claim.instance())
    row = claim.replay(instance)
    if row.outcome is not Outcome.VIOLATED:
        raise ReplayError(f"the instance of claim {claim.id} violates nothing: {row}")
    found = Stored(claim.id, row.relation, row.measured, row.bound, instance)
    write_atomically(path, dump(found).encode())
    return row
