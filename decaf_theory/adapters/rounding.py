"""Numbers in the type in which a merged adapter is stored."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from decaf_theory.arrays import Array

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # and as safetensors writes them


def widest(stored: Iterable[str]) -> str:
    """Return the type that holds numbers of all these types of safetensors, at most float32."""
    kinds = set(stored)
    for name in ("float16", "bfloat16"):
        if kinds == {TYPES[name]}:
            return name
    return "float32"


def check_type(name: str) -> str:
    """Return the name of a type; ValueError: another."""
    if name not in TYPES:
        raise ValueError(f"dtype must be one of {', '.join(TYPES)}, got {name!r}")
    return name


def rounded(name: str, X: Array, dtype: str) -> Array:
    """Return the nearest numbers of a type, ties to even, in float64.

    ValueError names the tensor: numbers beyond the type, or all of them lost in it.
    """
    with np.errstate(over="ignore"):  # found below
        found = _bfloat16(X) if dtype == "bfloat16" else X.astype(dtype).astype(np.float64)
    if not np.all(np.isfinite(found)):
        wider = "" if dtype == "float32" else ", or take --dtype float32"
        raise ValueError(
            f"tensor {name} holds numbers beyond {dtype}; scale the adapters down{wider}"
        )
    if X.any() and not found.any():
        wider = "" if dtype == "float32" else ", or take --dtype float32"
        raise ValueError(f"tensor {name} is zero in {dtype}; scale the adapters up{wider}")
    return found


def in_bytes(X: Array, dtype: str) -> bytes:
    """Return the bytes, in safetensors' order, of numbers that are already of the type."""
    if dtype == "bfloat16":  # the upper half of a float32; NumPy has no such type
        stored = (X.astype("<f4").view("<u4") >> 16).astype("<u2")
    else:
        stored = X.astype(f"<f{np.dtype(dtype).itemsize}")
    return bytes(stored.tobytes())


def _bfloat16(X: Array) -> Array:
    """Return numbers of 8 significant bits and exponents as in float32, at least 2^-133.

    Not by way of float32, which would round twice.
    """
    exponent = np.maximum(np.frexp(X)[1], -125)
    found = np.ldexp(np.rint(np.ldexp(X, 8 - exponent)), exponent - 8)
    return np.where(np.abs(found) < 2.0**128, found, np.inf)
