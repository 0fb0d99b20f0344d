"""How a value is chosen from a grid: by the best mean score, on what is not reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def best(means: Mapping[T, float], *, lower: bool = False) -> T | None:
    """Return the choice with the best mean score, the first of equals; None if there is none.

    lower: less is better.
    """
    sign = 1 if lower else -1
    return min(means, key=lambda choice: sign * means[choice], default=None)


def at_an_end(value: object, grid: Iterable[object]) -> bool:
    """Whether a number is the least or the largest of its grid: a better one may be beyond it."""
    numbers = {x for x in grid if isinstance(x, (int, float)) and not isinstance(x, bool)}
    return len(numbers) > 1 and value in (min(numbers), max(numbers))
