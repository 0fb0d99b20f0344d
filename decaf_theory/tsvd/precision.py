"""What the type of the data allows, and what the kernel promises for it; see docs/kernel.md."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Array, namespace

UNIT = float(np.finfo(np.float64).eps) / 2
SMALLEST = float(np.finfo(np.float64).smallest_normal)


class Precision(NamedTuple):
    """What the type of the data allows and requires."""

    double: bool
    unit: float  # roundoff
    promised: float  # error over sigma_1
    reach: float  # coefficients between 1/reach and reach keep their digits

    @classmethod
    def of(cls, x: Array) -> Precision:
        """Return the precision of the dtype of x, float32 or float64."""
        return _precision(namespace(x), x.dtype)


@lru_cache
def _precision(xp: Any, dtype: Any) -> Precision:
    info = xp.finfo(dtype)
    double, eps = info.bits == 64, float(info.eps)
    promised = 1e-13 if double else 1e-6
    return Precision(double, eps / 2, promised, eps / float(info.smallest_normal))


def attainable(n: int, longest: int, precision: Precision) -> bool:
    """Return whether n orthonormal directions of one size would pass `conditioning`.

    There |X'X|_F = sqrt(n) s_1: 2 eta sqrt(n) <= promised, n sqrt(max(d, k)) <= 450 in float64.
    """
    return bool(2 * n * longest**0.5 * UNIT <= precision.promised)
