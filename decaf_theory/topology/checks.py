"""The rules for a mixing matrix, dense or sparse, and whether its graph can mix at all."""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import numpy as np
import scipy

from decaf_theory.arrays import (
    NEIGHBOURS,
    host,
    require_unit_sums,
    require_weights,
    weight_tolerance,
)

Matrix: TypeAlias = Any  # a NumPy array or a scipy sparse array, [N, N] float

MOVES = (
    "; mixing would move the mean of the agents; a reversible Pi keeps a weighted mean, and is "
    "simulated with Config(target=...); others would need push-sum"
)
LARGEST = 2**32  # bytes of a Pi; a larger one is more often a mistake than intended


class NegativeWeightWarning(UserWarning):
    """A weight of Pi is negative: Pi may mix, but averages leave the convex hull."""


def check_mixing_matrix(Pi: Matrix, N: int | None = None) -> None:
    """Raise ValueError unless Pi is square, finite, with rows and columns that sum to one.

    It must be N x N if the number of agents N is given. Deviations up to sqrt(eps) of the dtype
    pass: rounded weights keep more than half of their digits, mistyped ones do not. A negative
    weight gives a NegativeWeightWarning. It need not be symmetric; what is said of its eigenvalues
    asks for that (`sqrt_rho`). Whether Pi mixes is checked by `require_mixing`.
    Time and memory are those of a few passes over the entries.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import topology
        >>> topology.check_mixing_matrix(np.array([[0.5, 0.5], [0.4, 0.6]]))
        Traceback (most recent call last):
            ...
        ValueError: columns of Pi must sum to one, got 1.1 in column 1; mixing would ...
    """
    Pi = structure(Pi, N)
    entries = scipy.sparse.coo_array(Pi)
    if entries.nnz and entries.data.min() < 0:
        i, j = (axis[entries.data.argmin()] for axis in entries.coords)
        text = f"Pi[{i}, {j}] = {entries.data.min():g} is negative: mixing is not averaging"
        warnings.warn(text, NegativeWeightWarning, stacklevel=2)


def structure(Pi: Matrix, N: int | None = None, *, columns: bool = True) -> Matrix:
    """Return Pi as a float64 array, dense or CSR, after the checks that raise.

    columns: whether those must sum to one as well.
    """
    _require_matrix(Pi, N)
    require_weights(Pi)
    tolerance = weight_tolerance(Pi)
    Pi = Pi.tocsr() if is_sparse(Pi) else host(Pi)
    if Pi.ndim != 2 or Pi.shape[0] != Pi.shape[1] or 0 in Pi.shape:
        hint = f"; {NEIGHBOURS}" if Pi.ndim == 2 and Pi.dtype.kind in "iu" else ""
        raise ValueError(f"Pi must be square with at least one agent, got shape {Pi.shape}{hint}")
    if N is not None and Pi.shape != (N, N):
        raise ValueError(
            f"Pi must be {N} x {N} for {N} agents, got shape {Pi.shape}; give each agent one row"
        )
    require_weights(Pi)  # of lists, too
    Pi = Pi.astype(np.float64)
    if not np.isfinite(Pi.data if is_sparse(Pi) else Pi).all():
        raise ValueError("Pi must be finite, got NaN or infinite weights; 0 means no edge")
    for axis, line in ((1, "row"), (0, "column"))[: 1 + columns]:
        sums = np.asarray(Pi.sum(axis=axis)).ravel()
        hint = "" if axis else MOVES
        require_unit_sums(f"{line}s of Pi", sums, tolerance, line, hint)
    return Pi


def _require_matrix(Pi: Any, N: int | None) -> None:
    """Raise ValueError at what stands for a graph but is no matrix, naming what makes one."""
    if isinstance(Pi, str):
        raise ValueError(f"Pi must be a matrix, got {Pi!r}; TOPOLOGIES[{Pi!r}]({N or 'N'}) is one")
    if hasattr(Pi, "number_of_nodes"):  # a networkx graph; the library loads without networkx
        raise ValueError(f"Pi must be a matrix, got {Pi}; topology.metropolis(graph) makes one")
    if isinstance(Pi, dict):
        raise ValueError(
            "Pi must be a matrix, got a dict; "
            "of neighbours by agent, topology.metropolis(networkx.from_dict_of_lists(Pi)) makes one"
        )
    if callable(Pi):
        raise ValueError(f"Pi must be a matrix, got {_name_of(Pi)}; call it for N agents")


def _name_of(builder: Any) -> str:
    return f"the function {getattr(builder, '__name__', builder)}"


def symmetric(Pi: Matrix, wanted: str) -> Matrix:
    """Return Pi as `structure` does; ValueError unless it is symmetric, as `wanted` needs it."""
    tolerance = weight_tolerance(Pi)
    Pi = structure(Pi)
    excess = scipy.sparse.coo_array(Pi - Pi.T)
    if excess.nnz and excess.data.max() > tolerance:
        i, j = (int(axis[excess.data.argmax()]) for axis in excess.coords)
        here, there = f"Pi[{i}, {j}] = {Pi[i, j]:.6g}", f"Pi[{j}, {i}] = {Pi[j, i]:.6g}"
        raise ValueError(
            f"Pi must be symmetric for {wanted}, got {here}, {there}; a directed Pi can be "
            f"simulated, and has |Pi - J|_op = sqrt_rho(Pi.T @ Pi) ** 0.5"
        )
    return Pi


def is_sparse(Pi: Matrix) -> bool:
    """Return whether Pi is one of scipy's sparse arrays or matrices."""
    # scipy.sparse takes longer to load than all of this library: not for an array
    return not isinstance(Pi, np.ndarray) and bool(scipy.sparse.issparse(Pi))


def require_room(N: int, size: int, hint: str) -> None:
    """Raise ValueError if a Pi of `size` bytes for N agents is beyond LARGEST."""
    if size > LARGEST:
        raise ValueError(
            f"N must be smaller, got {N}: Pi would take {size / 1e9:.3g} GB, "
            f"more than {LARGEST / 1e9:.2g}; {hint}"
        )


def components(Pi: Matrix) -> int:
    """Return the number of connected components of the graph of a mixing matrix."""
    # a stored zero is not an edge; of half types scipy.sparse takes the pattern alone
    return parts(Pi.tocsr() != 0 if is_sparse(Pi) else scipy.sparse.csr_array(host(Pi) != 0))


def parts(pattern: Matrix) -> int:
    """Return the number of connected components of a graph."""
    return int(scipy.sparse.csgraph.connected_components(pattern)[0])


def obstacle(Pi: Matrix) -> str:
    """Return why the graph of Pi cannot mix, or "" if it can."""
    weights: Matrix = scipy.sparse.csr_array(Pi)
    pattern = weights != 0  # a stored zero is not an edge
    if parts(pattern) != 1:
        return "the graph is disconnected"
    # walking to and fro between two copies reaches all unless every closed walk is even
    double_cover: Matrix = scipy.sparse.block_array([[None, pattern], [pattern, None]])
    if parts(double_cover) != 1:
        return "the graph is bipartite without self-weights"
    return ""
