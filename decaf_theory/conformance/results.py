"""What a function returned: the update of each result, whatever the form it came in.

A tuple is one thing, a list several: (B, A), (B, A, added to W0) or (B, A, scale) and the update
itself are read for a matrix, each with an axis of agents or in a list for one result per agent;
state dicts, and (state, {site: added to W0}), for an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from decaf_theory.arrays import Array, host
from decaf_theory.conformance.calls import BY_MATRIX, Call
from decaf_theory.conformance.cases import SITES, SPACING, Case


class UnreadableError(ValueError):
    """What was returned holds no update that can be read; says what it is."""


@dataclass(frozen=True)
class Given:
    """What one result says of one matrix, in float64: factors, and what is added to their product.

    dtype: the coarsest in which it came.
    """

    B: Array | None = None
    A: Array | None = None
    added: Array | None = None
    scale: float = 1.0
    dtype: str = "float64"


@dataclass(frozen=True)
class Result:
    """One result: for all agents, or for one of them. head: None where none came back."""

    sites: Mapping[str, Given]
    head: Array | None = None


def read(call: Call, case: Case, returned: Mapping[str, Any]) -> list[Result]:
    """Return the results: one for all, or one per agent in order. UnreadableError: neither."""
    if call.shape not in BY_MATRIX:
        return _of_states(call, case, returned[""])
    by_site = {site: _of_matrix(call, case, value) for site, value in returned.items()}
    numbers = {len(given) for given in by_site.values()}
    if len(numbers) > 1:
        raise UnreadableError("returns unlike numbers of results for two matrices of one shape")
    return [Result({site: by_site[site][i] for site in SITES}) for i in range(numbers.pop())]


def _of_matrix(call: Call, case: Case, value: Any) -> list[Given]:
    if (isinstance(value, tuple) and len(value) in (2, 3)) or _is_pair(case, value):
        B, A, *rest = value if not call.A_first else (*value[1::-1], *value[2:])
        if _fit(case, A, B) and not _fit(case, B, A):
            raise UnreadableError("returns A and B swapped: in another order than it is given them")
        return _with(B, A, rest[0] if rest else None)
    if isinstance(value, list):
        return [given for each in value for given in _of_matrix(call, case, each)]
    if _is_array(value):
        return [_given(added=X) for X in _matrices(value)]
    raise UnreadableError(f"returns {_kind(value)}, where (B, A) or an update is read")


def _is_pair(case: Case, value: Any) -> bool:
    """Return whether a list is one of B and A, in either order, and not of two updates."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    first, second = value
    updates = _shape(first) == _shape(second) == case.shape
    return not updates and (_fit(case, first, second) or _fit(case, second, first))


def _fit(case: Case, B: Any, A: Any) -> bool:
    """Return whether two have the shapes of B [..., d, r] and A [..., r, k]."""
    of_B, of_A = _shape(B), _shape(A)
    fits = len(of_B) == len(of_A) == 2 and of_B[1] == of_A[0]
    return fits and (of_B[0], of_A[1]) == case.shape


def _shape(X: Any) -> tuple[int, ...]:
    """Return the shape of a matrix, or of the first in an array or in a list of them."""
    if isinstance(X, list | tuple) and X:
        return _shape(X[0])
    return tuple(X.shape[-2:]) if _is_array(X) else ()


def _with(B: Any, A: Any, rest: Any) -> list[Given]:
    """Return the results of B, A and what is added, or of a scale, with or without agents."""
    scale = float(rest) if isinstance(rest, int | float) else 1.0
    added = None if isinstance(rest, int | float) else rest
    parts = [[None] if X is None else _matrices(X) for X in (B, A, added)]
    n = max(map(len, parts))
    if any(len(part) not in (1, n) for part in parts):
        raise UnreadableError(f"returns {[len(part) for part in parts]} of B, A and a residual")
    full = [part * n if len(part) == 1 else part for part in parts]
    return [_given(B=b, A=a, added=x, scale=scale) for b, a, x in zip(*full, strict=True)]


def _of_states(call: Call, case: Case, value: Any) -> list[Result]:
    extra: Any = None
    if isinstance(value, tuple) and len(value) == 2:
        value, extra = value
    if call.shape == "results" and isinstance(value, list | tuple):
        names = call.names(case)
        many = value if value and not _is_array(value[0]) else [value]
        if all(len(arrays) == len(names) for arrays in many):
            return [_result(dict(zip(names, arrays, strict=True)), extra) for arrays in many]
    if isinstance(value, Mapping) and not any(isinstance(v, Mapping) for v in value.values()):
        return [_result(value, extra)]
    if isinstance(value, Mapping) and {*value} >= {str(j) for j in range(case.N)}:
        value = [value[str(j)] for j in range(case.N)]
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        return [_result(v, extra) for v in value]
    raise UnreadableError(f"returns {_kind(value)}, where one state or one per agent is read")


def _result(state: Mapping[str, Any], extra: Any) -> Result:
    """Return what a state says of each site, and the head."""
    parts: dict[str, dict[str, Any]] = {site: {} for site in SITES}
    scale = float(extra) if isinstance(extra, int | float) else 1.0
    added = extra if isinstance(extra, Mapping) else {}
    head = None
    for key, X in [*state.items(), *added.items()]:
        sites = [site for site in SITES if site in key]
        if sites and _is_array(X):
            which = next((letter for letter in "AB" if f"lora_{letter}" in key), "added")
            parts[sites[0]][which] = X
        elif "classifier" in key and _is_array(X):
            head = np.asarray(host(X), dtype=np.float64)
    return Result({site: _given(**part, scale=scale) for site, part in parts.items()}, head)


def _given(**parts: Any) -> Given:
    scale = parts.pop("scale", 1.0)
    arrays = {name: X for name, X in parts.items() if X is not None}
    dtypes = [str(X.dtype).removeprefix("torch.") for X in arrays.values()]
    for name, dtype in zip(arrays, dtypes, strict=True):
        if dtype not in SPACING:
            raise UnreadableError(f"returns {name} in {dtype}, which is not real floating point")
    coarsest = max(dtypes, key=SPACING.__getitem__, default="float64")
    wide = {name: _float64(X) for name, X in arrays.items()}
    return Given(**wide, scale=scale, dtype=coarsest)


def _float64(X: Any) -> Array:
    return np.asarray(host(X.double() if hasattr(X, "double") else X), dtype=np.float64)


def _matrices(X: Any) -> list[Any]:
    """Return the matrices of an array [d, k] or [N, d, k], or of a list of them."""
    if isinstance(X, list | tuple):
        return [matrix for each in X for matrix in _matrices(each)]
    if not _is_array(X) or X.ndim not in (2, 3):
        raise UnreadableError(f"returns {_kind(X)}, where a matrix is read")
    return [X] if X.ndim == 2 else list(X)


def _is_array(X: Any) -> bool:
    return hasattr(X, "dtype") and hasattr(X, "ndim")


def _kind(X: Any) -> str:
    if _is_array(X):
        return f"an array of shape {tuple(X.shape)}"
    size = f" of {len(X)}" if hasattr(X, "__len__") else ""
    return f"{type(X).__name__}{size}"
