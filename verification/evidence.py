"""The words in which claims give evidence: each function returns a row, or says that it is tight.

A comparison is of two numbers, or of two arrays of many instances. Of arrays the row shows the
instance that is nearest to breaking the claim, and `instances` says how many were judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, overload

import numpy as np

from decaf_theory.arrays import host
from verification.claim import Row, Value

EPS = float(np.finfo(np.float64).eps)
NEAR = 1e-6  # how near to its bound an extremal family is brought by its parameters


@overload
def ulps(count: float, *sizes: float) -> float: ...
@overload
def ulps(count: Any, *sizes: Any) -> Any: ...
def ulps(count: Any, *sizes: Any) -> Any:
    """Return `count` roundings, each of eps times the product of `sizes` (of eps for none)."""
    return math.prod(sizes, start=count * EPS)


def at_most(
    name: str,
    measured: Any,
    bound: Any,
    /,
    *,
    rounding: Any,
    held: Any = True,
    low: Any = None,
    high: Any = None,
    **where: Value,
) -> Row:
    """Return the row measured <= bound, up to `rounding`, where the assumptions are `held`.

    `low` and `high` enclose an estimated number; a computed one is its own interval. `where` are
    the coordinates of the row: r, N, topology, ...
    """
    return _row(name, measured, "<=", bound, rounding, held, low, high, where)


def at_least(
    name: str,
    measured: Any,
    bound: Any,
    /,
    *,
    rounding: Any,
    held: Any = True,
    low: Any = None,
    high: Any = None,
    **where: Value,
) -> Row:
    """Return the row measured >= bound; see `at_most`."""
    return _row(name, measured, ">=", bound, rounding, held, low, high, where)


def same(name: str, residual: Any, /, *, rounding: Any, held: Any = True, **where: Value) -> Row:
    """Return the row of an identity: |left - right| = 0 up to `rounding`; see `at_most`."""
    return _row(name, abs(residual), "==", 0.0, rounding, held, None, None, where)


def attained(row: Row) -> Iterator[Row]:
    """Yield a row "<=", and that its measured value is at least 1 - 1e-6 of the bound."""
    yield row
    nearly = (1 - NEAR) * row.bound
    yield at_least(
        f"{row.case}, reached",
        row.measured,
        nearly,
        rounding=row.rounding,
        held=row.assumptions_held,
        **row.params,
    )


def _row(
    name: str,
    measured: Any,
    relation: str,
    bound: Any,
    rounding: Any,
    held: Any,
    low: Any,
    high: Any,
    where: dict[str, Value],
) -> Row:
    """Return the row of two numbers, or that of the instance nearest to breaking the relation."""
    columns = [host(x) for x in (measured, bound, rounding, held)]
    if any(x.ndim for x in columns):
        measured, bound, rounding, held, instances = _nearest(relation, *columns)
        where = {"instances": instances, **where}
    value = float(measured)
    return Row(
        name,
        relation,
        value,
        float(bound),
        float(rounding),
        value if low is None else float(low),
        value if high is None else float(high),
        bool(held),
        where,
    )


def _nearest(relation: str, *columns: np.ndarray) -> tuple[float, float, float, bool, int]:
    """Return measured, bound, rounding, held of the instance nearest to breaking the relation.

    And how many were judged. Nearest relative to the size of its numbers, so that instances of all
    scales compete; where any breaks, such a one is shown. Instances whose assumptions fail are left
    out, unless they all do.
    """
    values, limits, slips, held = (x.ravel() for x in np.broadcast_arrays(*columns))
    judged = held != 0  # a mask of floats would index
    if judged.any():
        values, limits, slips = values[judged], limits[judged], slips[judged]
    room = values - (limits - slips) if relation == ">=" else limits + slips - values
    size = np.abs(values) + np.abs(limits) + slips
    share = np.divide(room, size, out=np.zeros_like(room), where=size > 0)
    at = int(np.argmin(share))
    return values[at], limits[at], slips[at], bool(judged.any()), len(values)
