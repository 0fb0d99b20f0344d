"""Cases and rows shared by the claims on smoothness and interference: Omega_c, exact identities.

Mixes of several agents come from `_mixes`; here they are brought onto the set of Assumption 2,
Omega_c = {sigma_1(A) <= c, sigma_1(B) <= c}.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors
from verification.claim import Row, Value, identity
from verification.claims._mixes import EPS, Mix, worst


def on_omega(factors: Factors, c: float) -> Factors:
    """Return each matrix scaled to largest singular value c, on the boundary of Omega_c.

    Zero matrices stay zero. The result exceeds c by rounding only: see `inside_omega`.
    """
    xp = namespace(factors.B)

    def scaled(X: Any) -> Any:
        top = xp.linalg.matrix_norm(X, ord=2)[..., None, None]
        return c * X / xp.where(top > 0, top, xp.ones_like(top))

    return Factors(scaled(factors.B), scaled(factors.A))


def mix_on_omega(mix: Mix, c: float) -> Mix:
    """Return the mix with every agent's factors on the boundary of Omega_c."""
    return mix._replace(factors=on_omega(mix.factors, c))


def inside_omega(factors: Factors, c: float) -> Any:
    """Return a mask [...] of the factors that lie in Omega_c, up to the rounding of an SVD.

    LAPACK's singular values are off by at most a small multiple of max(d, k) eps sigma_1.
    """
    xp = namespace(factors.B)
    allowed = c * (1 + 4 * max(*factors.shape, factors.rank) * EPS)
    top_B, top_A = (xp.linalg.matrix_norm(X, ord=2) for X in factors)
    return xp.logical_and(top_B <= allowed, top_A <= allowed)


def worst_identity(case: str, residual: Any, *, rounding: Any, **params: Value) -> Row:
    """Return the row of the largest |residual| of many instances, relative to its rounding."""
    row = worst(case, abs(residual), "<=", 0.0, rounding=rounding, **params)
    return identity(
        case, row.measured, rounding=row.rounding, held=row.assumptions_held, **row.params
    )


def each(bound: Any, **letters: Any) -> np.ndarray:
    """Return bound(letter=...) at every point of the broadcast arrays `letters`."""
    arrays = np.broadcast_arrays(*letters.values())
    points = zip(*(array.ravel().tolist() for array in arrays), strict=True)
    values = [bound(**dict(zip(letters, point, strict=True))) for point in points]
    return np.reshape(values, arrays[0].shape)
