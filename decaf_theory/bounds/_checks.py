"""The domains of the letters: each check names argument, rule and value. NaN passes none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import fsum, inf, sqrt, ulp

ORDERS = ("MS", "CB")


class StepSizeWarning(UserWarning):
    """A step size beyond the range of a bound, which is then infinite: it says nothing."""


def not_applicable(rule: str) -> float:
    """Warn that a step size is beyond a bound's range, and return the bound: inf."""
    text = f"the bound is not applicable: {rule}; take a smaller step size"
    warnings.warn(text, StepSizeWarning, stacklevel=4)
    return inf


def known(**values: float | None) -> None:
    """Raise ValueError at None, an unknown constant of a problem, and at what is no one number."""
    for name, value in values.items():
        if value is None:
            raise ValueError(f"{name} is unknown (None), and this bound needs it; give a number")
        if not hasattr(value, "__float__") or getattr(value, "shape", None):
            raise ValueError(f"{name} must be one number, got {value!r}; call once for each")


def nonnegative(**values: float) -> None:
    """Raise ValueError unless every value is >= 0 (infinity passes, so that bounds compose)."""
    known(**values)
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, got {value}")


def positive(**values: float) -> None:
    """Raise ValueError unless every value is > 0."""
    known(**values)
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")


def at_least_one(**values: float) -> None:
    """Raise ValueError unless every value is >= 1; reals are let in."""
    known(**values)
    for name, value in values.items():
        if not value >= 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def count(*, least: int = 1, **values: float) -> None:
    """Raise ValueError unless every value is an integer >= `least` (1e3 counts as one)."""
    known(**values)
    for name, value in values.items():
        # True is a flag at the wrong place
        if isinstance(value, bool) or not (value >= least and value == value // 1):
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")


def below_one(**values: float) -> None:
    """Raise ValueError unless every value lies in [0, 1)."""
    known(**values)
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")


def at_most_one(**values: float) -> None:
    """Raise ValueError unless every value lies in [0, 1]."""
    known(**values)
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")


def largest_weight(pi_max: float) -> None:
    """Raise ValueError unless pi_max can be the largest of some weights that sum to one."""
    known(pi_max=pi_max)
    if not 0 < pi_max <= 1:
        raise ValueError(f"pi_max must lie in (0, 1], got {pi_max}")


def shares(pi: Sequence[float]) -> None:
    """Raise ValueError unless weights are >= 0 and sum to one."""
    for p in pi:
        nonnegative(pi=p)
    # half the digits: rounded weights pass, mistyped ones do not
    if not abs(fsum(pi) - 1) <= sqrt(ulp(1)):
        raise ValueError(f"pi must sum to one, got {fsum(pi)}")


def network_order(order: str) -> None:
    """Raise ValueError unless the order is "MS" or "CB", the constants of a simulation's orders."""
    if order not in ORDERS:
        raise ValueError(
            f"order must be one of {ORDERS}, got {order!r}; of a simulation, 'step_first' and "
            f"'mix_first' are 'MS', 'combine' is 'CB'"
        )


def one_of(choices: tuple[str, ...], **values: str) -> None:
    """Raise ValueError unless every value is one of `choices`."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")
