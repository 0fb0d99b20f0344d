"""Factors of any size: their powers of two taken out, so that no square overflows or vanishes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from decaf_theory.lowrank import Factors


def unit_size(small: Factors) -> tuple[Factors, tuple[int, int]]:
    """Return factors of size one, each over a power of two, and the two exponents, of B and of A.

    Squares of huge and tiny numbers would overflow or vanish; powers of two change no digit.
    """
    of_B, of_A = (int(np.frexp(np.max(np.abs(X)))[1]) for X in small)
    return Factors(np.ldexp(small.B, -of_B), np.ldexp(small.A, -of_A)), (of_B, of_A)


def times_power(x: Any, e: int) -> float:
    """Return x 2^e; infinite beyond float64."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(x, e))


def over(x: float, y: float) -> float:
    """Return the ratio of two norms: 0 / 0 is 0, else x / 0 is inf; nan stays nan."""
    if y != 0:
        return x / y
    return x * math.inf if x else 0.0
