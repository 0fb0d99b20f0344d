"""Tables by name, which answer an unknown name with the nearest that they have."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NoReturn, TypeVar

T = TypeVar("T")


class Table(dict[str, T]):
    """A dictionary whose KeyError says which name was meant."""

    def __missing__(self, name: str) -> NoReturn:
        """Raise KeyError with the nearest name, whatever its case, and all names."""
        by_lower = {each.lower(): each for each in self}
        near = get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.0)
        hint = f"; the nearest name is {by_lower[near[0]]}" if near else ""
        raise KeyError(f"name must be one of {', '.join(self)}, got {name!r}{hint}")
