"""Numbers as text: measurements, ratios and sizes look the same wherever they are printed."""

from __future__ import annotations

import math

UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}


def digits(x: float) -> str:
    """Return a number with three significant digits."""
    if x == 0 or not math.isfinite(x):
        return f"{x:g}"
    decimals = 2 - math.floor(math.log10(abs(x)))
    return f"{x:.{max(decimals, 0)}f}" if -3 <= decimals <= 5 else f"{x:.2e}"


def ratio(x: float | None, none: str = "-") -> str:
    """Return a ratio of measured to bound with four decimals, or with an exponent; `none`: None."""
    if x is None:
        return none
    return f"{x:.4f}" if x == 0 or 1e-3 <= abs(x) < 1e4 else f"{x:.1e}"


def size(number: float) -> str:
    """Return a number of bytes with at most four digits and a decimal unit."""
    for unit, scale in UNITS.items():
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return f"{number:g} bytes"
