"""Records of seeded faults: a wrong aggregation function, its rule, words for its report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """A wrong `function` called with `options`, and a pattern that its report has to contain."""

    function: Callable[..., Any]
    rule: str
    words: str
    options: dict[str, Any]


FAULTS: dict[str, Fault] = {}


def fault(rule: str, words: str, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator that adds a function to FAULTS."""

    def add(function: Any) -> Any:
        FAULTS[function.__name__] = Fault(function, rule, words, options)
        return function

    return add


def fresh(rule: str, words: str, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator for a function that makes an aggregator with memory."""

    def add(make: Any) -> Any:
        FAULTS[make.__name__] = Fault(make(), rule, words, options)
        return make

    return add
