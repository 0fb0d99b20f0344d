"""Names: tables that answer an unknown one with the nearest, and what a command line asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NoReturn, TypeVar

T = TypeVar("T")


class Table(dict[str, T]):
    """A dictionary whose KeyError says which name was meant."""

    def __missing__(self, name: str) -> NoReturn:
        """Raise KeyError with the nearest name, whatever its case, and all names."""
        raise KeyError(self.unknown("name", name))

    def unknown(self, argument: str, name: str) -> str:
        """Return what to say of a name that is not there."""
        by_lower = {each.lower(): each for each in self}
        near = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.0)
        hint = f"; the nearest name is {by_lower[near[0]]}" if near else ""
        return f"{argument} must be one of {', '.join(self)}, got {name!r}{hint}"


def spelled(words: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return the names that words ask for, as `picked`; what fits none stays, to be refused."""

    def same(part: str) -> list[str]:
        try:
            return picked([part], known, ValueError)
        except ValueError:
            return [part.strip()]

    parts = (part for word in words for part in word.split(","))
    return list(dict.fromkeys(name for part in parts if part.strip() for name in same(part)))


def picked(
    words: Iterable[str], known: Sequence[str], unknown: Callable[[str], Exception]
) -> list[str]:
    """Return the names that words ask for, in that order, each once.

    A word is a name in any case, a pattern (T13*), or several of them with commas between. What
    fits nothing raises `unknown` of it.
    """
    found: list[str] = []
    for word in words:
        for part in word.split(",") if "," in word else [word]:
            if not part.strip() and "," in word:  # "T1, T2" comes as "T1," and "T2"
                continue
            fitting = [name for name in known if fnmatchcase(name.lower(), part.strip().lower())]
            if not fitting:
                raise unknown(part)
            found += fitting
    return list(dict.fromkeys(found))
