"""Mixing matrices from a file of contacts: who met whom in which round."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from decaf_theory.arrays import Host, integer
from decaf_theory.rng import generator
from decaf_theory.topology.checks import Matrix
from decaf_theory.topology.graphs import counts, metropolis_weights
from decaf_theory.topology.spectra import sqrt_rho

THEN = ("repeat", "end", "draw")


@dataclass(frozen=True, eq=False)
class Contacts:
    """Rounds of contacts: round t -> Pi_t, Metropolis weights of the contacts of that round.

    A round without contacts is the identity. period: the number of rounds; meetings: the links
    [2, n] of those that have contacts. then: after the last round they "repeat" or "end"; with
    "draw" each round is any one of the file, drawn independently with the seed.
    """

    file: str
    N: int
    period: int
    meetings: Mapping[int, Host] = field(repr=False)
    then: str
    seed: int
    sparse: bool

    def __call__(self, t: int) -> Matrix:
        """Return Pi_t; ValueError: t is not an integer >= 0, or beyond rounds that end."""
        t = integer("t", t, 0)
        if self.then == "draw":
            t = int(generator(self.seed, "contacts", t).integers(self.period))
        elif t >= self.period and self.then == "end":
            raise ValueError(
                f"t must be below {self.period}, the rounds of {self.file}, got {t}; "
                f"then='repeat' starts again"
            )
        return self._weights(self.meetings.get(t % self.period, np.empty((2, 0), np.int64)))

    def rho(self) -> float:
        """Return |mean of Pi_t'Pi_t over the file - J|_op, exact up to rounding.

        It is below 1 where all contacts together connect the agents, and is the rho of bounds for
        rounds drawn independently ("draw"). In the order of the file it bounds nothing: the same
        contact many times in a row mixes no more than once.
        """
        alone = self.period - len(self.meetings)
        total = alone * self._weights(np.empty((2, 0), np.int64))
        for links in self.meetings.values():
            Pi = self._weights(links)
            total = total + Pi.T @ Pi
        return sqrt_rho(total / self.period)

    def _weights(self, links: Host) -> Matrix:
        i, j = np.concatenate([links, links[::-1]], axis=1)
        return metropolis_weights(counts(self.N, i, j, self.sparse))


def contacts(
    N: int,
    *,
    file: str | Path,
    then: str = "repeat",
    rounds: int | None = None,
    least: float = 0.0,
    seed: int = 0,
    sparse: bool = False,
) -> Contacts:
    """Return the rounds of a file of contacts, a line for each: round, i, j and maybe a duration.

    Agents are numbered 0 ... N - 1 and rounds from 0, in any order. Fields are separated by commas,
    semicolons or blanks; a first line "round, ..." is a header, "#" starts a comment. Durations of
    a pair in one round add up, and it is linked if they reach `least`; weights do not depend on
    them. rounds: how many there are, if the last ones have no contacts. ValueError names file,
    line, rule and value.
    """
    N = integer("N", N, 1)
    if then not in THEN:
        raise ValueError(f"then must be one of {THEN}, got {then!r}")
    if not 0 <= least < math.inf:
        raise ValueError(f"least must be finite and >= 0, got {least}")
    totals = _totals(file, N, least)
    period = max(totals) + 1
    if rounds is not None and integer("rounds", rounds, 1) < period:
        raise ValueError(f"rounds must be >= {period}, as {file} has round {period - 1}: {rounds}")
    linked = {
        t: [pair for pair, total in pairs.items() if total >= least] for t, pairs in totals.items()
    }
    meetings = {t: np.array(pairs).T for t, pairs in sorted(linked.items()) if pairs}
    seed = integer("seed", seed, 0)
    return Contacts(str(file), N, rounds or period, meetings, then, seed, sparse)


def _totals(file: str | Path, N: int, least: float) -> dict[int, dict[tuple[int, int], float]]:
    """Return how long each pair i < j met in each round."""
    totals: dict[int, dict[tuple[int, int], float]] = {}
    for contact in _read(file, N, least):
        pairs = totals.setdefault(contact.round, {})
        pair = min(contact.i, contact.j), max(contact.i, contact.j)
        pairs[pair] = pairs.get(pair, 0.0) + contact.duration
    if not totals:
        raise ValueError(f"{file}: holds no contacts; each line is a round and two agents")
    return totals


class _Contact(NamedTuple):
    round: int
    i: int
    j: int
    duration: float


def _read(file: str | Path, N: int, least: float) -> Iterator[_Contact]:
    """Yield the contacts of a file, line by line."""
    may_be_header = True
    for number, line in enumerate(_text(file).split("\n"), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        fields = re.split(r"\s*[,;]\s*|\s+", text)
        if not (may_be_header and fields[0].lower() == "round"):
            yield _contact(fields, f"{file}, line {number}", N, least)
        may_be_header = False


def _text(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8"
    raise ValueError(f"file must be a readable list of contacts, got {str(file)!r}: {reason}")


def _contact(fields: list[str], where: str, N: int, least: float) -> _Contact:
    """Return the contact of one line."""
    if len(fields) not in (3, 4):
        _refuse(where, "a contact", "round, i, j and maybe a duration", ", ".join(fields))
    t, i, j = (_whole(name, x, where) for name, x in zip(("round", "i", "j"), fields, strict=False))
    for name, agent in (("i", i), ("j", j)):
        if agent >= N:
            _refuse(where, name, f"an agent below N = {N}, counted from 0", agent)
    if i == j:
        _refuse(where, "j", "another agent than i", j)
    if len(fields) == 3:
        if least > 0:
            _refuse(where, "a contact", "given a duration, as least > 0", ", ".join(fields))
        return _Contact(t, i, j, 0.0)
    return _Contact(t, i, j, _duration(fields[3], where))


def _duration(text: str, where: str) -> float:
    try:
        duration = float(text)
    except ValueError:
        duration = math.nan
    if not 0 < duration < math.inf:
        _refuse(where, "duration", "a finite number > 0", text)
    return duration


def _whole(name: str, text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()):
        _refuse(where, name, "an integer >= 0", text)
    return int(text)


def _refuse(where: str, name: str, rule: str, value: object) -> NoReturn:
    raise ValueError(f"{where}: {name} must be {rule}, got {value!r}")
