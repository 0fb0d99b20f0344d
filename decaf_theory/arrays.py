"""The namespace and the dtype rule that every numeric function shares."""

from __future__ import annotations

import operator
from math import sqrt
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any  # a NumPy array or a torch tensor; the same kind, device and dtype come back
Host: TypeAlias = np.ndarray[Any, Any]  # what `host` returns

DIVIDE = "; divide each by its sum, or take topology.metropolis of the graph"
NEIGHBOURS = (
    "of lists of neighbours, topology.metropolis(networkx.from_dict_of_lists(dict(enumerate(Pi)))) "
    "makes one"
)
_NAMESPACES: dict[tuple[type, ...], Any] = {}  # by the types of the arrays, which alone decide
_REAL: set[tuple[type, Any]] = set()  # types of arrays and numbers that were found to be real


def namespace(*arrays: Array) -> Any:
    """Return the array-API namespace of `arrays`; ValueError: not arrays, mixed, or masked."""
    kinds = tuple(map(type, arrays))
    known = _NAMESPACES.get(kinds)
    if known is not None:
        return known
    for kind in kinds:
        require_plain("arrays", kind)
    try:
        found = _NAMESPACES[kinds] = array_api_compat.array_namespace(*arrays)
    except TypeError:
        got = " and ".join(dict.fromkeys(f"{k.__module__}.{k.__qualname__}" for k in kinds))
        pair = "; factors are lowrank.Factors(B, A)" if tuple in kinds else ""
        raise ValueError(
            f"arrays must be NumPy's or torch's, all of one kind, got {got}; "
            f"convert them first{pair}"
        ) from None
    return found


def require_plain(name: str, kind: type) -> None:
    """Raise ValueError at the kinds of NumPy arrays on which the same code means something else."""
    if issubclass(kind, np.ma.MaskedArray | np.matrix):
        raise ValueError(
            f"{name} must be plain, got {kind.__module__}.{kind.__qualname__}; "
            f"fill what is masked (x.filled(0)), or convert it (numpy.asarray)"
        )


def transpose(x: Array) -> Array:
    """Return x with its last two axes exchanged: [..., d, k] -> [..., k, d]."""
    return x.mT


def eps(x: Array) -> float:
    """Return the spacing of x's dtype at 1, its machine epsilon (2.2e-16 for float64)."""
    return float(namespace(x).finfo(x.dtype).eps)


def scalar(x: Array) -> float:
    """Return a one-element array of any backend as a Python float."""
    return float(x)


def integer(name: str, value: Any, least: int | None = None) -> int:
    """Return value as an int; ValueError unless it is an integer, and >= `least` if given.

    True and False are not integers here: `rank=True` is a flag in the wrong place.
    """
    rule = "an integer" if least is None else f"an integer >= {least}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        shape = getattr(value, "shape", ())
        got = f"an array of shape {tuple(shape)}" if shape else repr(value)
        raise ValueError(f"{name} must be {rule}, got {got}")
    return number


def require_real(name: str, x: Array) -> None:
    """Raise ValueError unless x is real floating point of at most 64 bits.

    Integers are not converted silently, and LAPACK factors nothing wider.
    """
    kind = type(x), getattr(x, "dtype", None)
    if kind in _REAL:
        return
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "real floating") or xp.finfo(x.dtype).bits > 64:
        raise ValueError(
            f"{name} must be a real floating-point array of at most 64 bits, "
            f"got dtype {x.dtype}; convert it first"
        )
    _REAL.add(kind)


def require_weights(Pi: Array) -> None:
    """Raise ValueError unless Pi, dense or sparse, holds real numbers of any kind, none masked."""
    kind = getattr(Pi, "dtype", None)
    if type(Pi) is np.ndarray and kind == np.float64:
        return
    require_plain("Pi", type(Pi))
    if kind is None:  # a list of rows, or no matrix at all
        kind = _kind_of(Pi)
    odd = kind.kind not in "biuf" if isinstance(kind, np.dtype) else getattr(kind, "is_complex", 0)
    if odd:
        raise ValueError(f"Pi must be real, got dtype {kind}; give a matrix of floats")


def _kind_of(rows: Any) -> np.dtype[Any]:
    """Return the dtype of a list of rows; ValueError: they are of unequal length."""
    try:
        return np.asarray(rows).dtype
    except ValueError:
        raise ValueError(
            f"Pi must be a matrix, got rows of unequal length; give N in each; {NEIGHBOURS}"
        ) from None


def weight_tolerance(Pi: Array) -> float:
    """Return by how much sums and pairs of weights may be off: sqrt(eps) of their dtype.

    Rounded weights keep more than half of their digits, mistyped ones do not. Integers and lists
    are taken as float64.
    """
    kind = getattr(Pi, "dtype", np.dtype(np.float64))
    if isinstance(kind, np.dtype):
        return sqrt(np.finfo(kind if kind.kind == "f" else np.float64).eps)
    return sqrt(eps(Pi) if Pi.is_floating_point() else np.finfo(np.float64).eps)


def require_unit_sums(
    name: str, sums: Host, tolerance: float, line: str = "row", hint: str = ""
) -> None:
    """Raise ValueError unless all sums [n] of weights are one, naming the line that is worst."""
    off = np.abs(sums - 1)
    worst = int(off.argmax())
    if not off[worst] <= tolerance:
        raise ValueError(
            f"{name} must sum to one, got {sums[worst]:.6g} in {line} {worst}{hint or DIVIDE}"
        )


def working(x: Array) -> Array:
    """Return x in the dtype in which factorizations run: half types raised to float32."""
    if x.dtype.itemsize >= 4:
        return x
    xp = namespace(x)
    return xp.astype(x, xp.float32)


def like(x: Array, reference: Array) -> Array:
    """Return x in the dtype of `reference`."""
    if x.dtype == reference.dtype:
        return x
    if isinstance(x, np.ndarray):
        return x.astype(reference.dtype)
    return namespace(x).astype(x, reference.dtype)


def convert(x: Array, reference: Array) -> Array:
    """Return x, of any backend, as an array of the kind, device and dtype of `reference`."""
    if type(x) is type(reference) is np.ndarray:
        return x if x.dtype == reference.dtype else x.astype(reference.dtype)
    xp = namespace(reference)
    device = array_api_compat.device(reference)
    if array_api_compat.is_torch_array(x) and not array_api_compat.is_torch_array(reference):
        x = host(x)
    if isinstance(x, np.ndarray) and x.dtype == np.longdouble:  # torch has nothing as wide
        x = x.astype(np.float64)
    return xp.asarray(x, dtype=reference.dtype, device=device)


def host(x: Array) -> Host:
    """Return x as a NumPy array; bfloat16, for which NumPy has no type, as float32."""
    if not hasattr(x, "detach"):
        return np.asarray(x)
    x = x.detach().cpu()
    return np.asarray(x.float() if str(x.dtype) == "torch.bfloat16" else x)
