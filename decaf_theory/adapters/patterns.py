"""Regular expressions out of a file: matched in a number of steps that is bounded beforehand.

Python's own matcher backtracks, and `(a+)+!` takes time exponential in the length of the name. The
time limit of the package `regex` does not hold for `((a{999}){999}){999}!`, hence a matcher here:
all ends that a part of the pattern can reach are followed together. What the language of a pattern
is does not depend on the order of trying, so both agree.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from threading import Lock
from typing import Any

Ends = frozenset[int]
LONGEST = 1000  # characters of a pattern or a name
KEPT = 256  # patterns, the latest, as they were parsed
STEPS = 100_000  # a pattern as peft writes them takes some hundreds
CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT)
AHEAD = (op.ASSERT, op.ASSERT_NOT)
ONE_THREAD = Lock()  # catch_warnings puts back the filters of all threads as it found them
STARTS = (op.AT_BEGINNING, op.AT_BEGINNING_STRING)


class PatternError(ValueError):
    """A pattern that is none, or that is not followed here; the message says which."""


def matches(pattern: str, name: str) -> bool:
    """Return re.match(pattern, name) is not None; PatternError: see there.

    Not followed: back references, look-behind, possessive repeats, flags, and what takes too many
    steps.
    """
    if max(len(pattern), len(name)) > LONGEST:
        raise PatternError(f"longer than {LONGEST} characters")
    try:
        return bool(_Walk(name).sequence(_parsed(pattern), frozenset((0,))))
    except RecursionError:
        raise PatternError("brackets are nested too deeply") from None


@lru_cache(KEPT)
def _parsed(pattern: str) -> Any:
    try:
        with ONE_THREAD, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the future meaning of [[
            parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a regular expression: {error}") from None
    if parsed.state.flags != re.UNICODE:
        raise PatternError("flags inside of a pattern are not followed")
    return parsed


class _Walk:
    """One name, and the steps taken along it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps = 0

    def sequence(self, items: Any, starts: Ends) -> Ends:
        """Return where matches of all items in a row, begun at `starts`, can end."""
        for code, argument in items:
            self.steps += 1 + len(starts)
            if self.steps > STEPS:
                raise PatternError("takes too many steps to match; write it without nested repeats")
            starts = self.item(code, argument, starts)
        return starts

    def item(self, code: Any, argument: Any, starts: Ends) -> Ends:
        """Return where matches of one item can end."""
        if code in REPEATS:
            least, most, repeated = argument
            return self.repeat(least, most, repeated, starts)
        if code is op.BRANCH:
            return frozenset().union(*(self.sequence(each, starts) for each in argument[1]))
        if code is op.SUBPATTERN and not argument[1] and not argument[2]:
            return self.sequence(argument[3], starts)
        if code in AHEAD and argument[0] == 1:
            wanted = code is op.ASSERT
            return frozenset(
                i for i in starts if bool(self.sequence(argument[1], frozenset((i,)))) is wanted
            )
        if code is op.AT:
            return frozenset(i for i in starts if self.stands(argument, i))
        n = len(self.name)
        return frozenset(i + 1 for i in starts if i < n and fits(code, argument, self.name[i]))

    def repeat(self, least: int, most: int, item: Any, starts: Ends) -> Ends:
        """Return where between `least` and `most` matches of an item in a row can end."""
        for _ in range(least):
            following = self.sequence(item, starts)
            if following == starts:  # more of them change nothing
                break
            starts = following
        found, fresh, count = starts, starts, least
        while fresh and count < most:
            fresh = self.sequence(item, fresh) - found
            found, count = found | fresh, count + 1
        return found

    def stands(self, where: Any, i: int) -> bool:
        """Return whether an anchor holds before character i."""
        n = len(self.name)
        if where in STARTS:
            return i == 0
        if where is op.AT_END:
            return i == n or (i == n - 1 and self.name[i] == "\n")
        if where is op.AT_END_STRING:
            return i == n
        left, right = (
            bool(re.match(r"\w", c)) for c in (self.name[i - 1 : i], self.name[i : i + 1])
        )
        return (left != right) is (where is op.AT_BOUNDARY)


def fits(code: Any, argument: Any, character: str) -> bool:
    """Return whether one character is matched by an item that takes one."""
    if code is op.LITERAL:
        return bool(ord(character) == argument)
    if code is op.NOT_LITERAL:
        return bool(ord(character) != argument)
    if code is op.ANY:
        return character != "\n"
    if code is op.IN:
        return _within(argument, character)
    raise PatternError(f"{str(code).lower().replace('_', ' ')} is not followed in a pattern")


def _within(members: Sequence[tuple[Any, Any]], character: str) -> bool:
    """Return whether a character is in a set such as [^a-z_\\d]."""
    negated = members[0][0] is op.NEGATE
    return negated is not any(_is_one_of(*member, character) for member in members[negated:])


def _is_one_of(code: Any, argument: Any, character: str) -> bool:
    if code is op.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    if code is op.CATEGORY:
        return re.match(CATEGORIES[argument], character) is not None
    return fits(code, argument, character)
