"""Graphs to mixing matrices Pi: symmetric, rows sum to one, agents by rows; and their spectra.

A mixing matrix is a plain array [N, N] or a scipy sparse one, checked once at the door by
`check_mixing_matrix`. sqrt(rho) = |Pi - J|_op with J = 11'/N; the graph mixes where it is below 1
(Assumption 5).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import isqrt, log, sqrt
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from decaf_theory.arrays import host, integer

Matrix: TypeAlias = Any  # a NumPy array or a scipy sparse array, [N, N] float

DENSE_UP_TO = 512  # agents; beyond, a sparse Pi keeps its structure
DRAWS = 100  # of a random graph, before it is called unlikely to be connected


class NegativeWeightWarning(UserWarning):
    """A weight of Pi is negative: Pi may mix, but averages leave the convex hull."""


# ---------------------------------------------------------------- weights


def metropolis(graph: Any) -> Matrix:
    """Return Metropolis weights of a networkx graph, agents in the order of its nodes, [N, N].

    pi_ij = 1 / (1 + max(deg_i, deg_j)) on edges, the rest on the diagonal, which is then positive.
    Self-loops and edge weights are ignored. ValueError: no node, or a directed graph.
    """
    return _metropolis(_adjacency(graph))


def laplacian_weights(graph: Any) -> Matrix:
    """Return I - 2 Lap / (3 lambda_max(Lap)) of a networkx graph, in the order of its nodes.

    Its eigenvalues lie in [1/3, 1]. Self-loops and edge weights are ignored; without edges it is
    the identity. ValueError: no node, or a directed graph.
    """
    adjacency = _adjacency(graph)
    if not adjacency.any():
        return np.eye(len(adjacency))
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    return _with_self_weights(adjacency * 2 / (3 * np.linalg.eigvalsh(laplacian)[-1]))


def _adjacency(graph: Any) -> Matrix:
    import networkx  # here, so that the library loads without it

    if graph.number_of_nodes() == 0 or graph.is_directed():
        kind = "directed" if graph.is_directed() else "no nodes"
        raise ValueError(f"graph must be undirected with at least one node, got {kind}")
    adjacency = networkx.to_numpy_array(graph, weight=None).astype(bool)
    np.fill_diagonal(adjacency, False)
    return adjacency.astype(np.float64)


def _metropolis(adjacency: Matrix) -> Matrix:
    degree = adjacency.sum(axis=1)
    return _with_self_weights(adjacency / (1 + np.maximum(degree[:, None], degree[None, :])))


def _with_self_weights(edges: Matrix) -> Matrix:
    return edges + np.diag(1 - edges.sum(axis=1))


# ---------------------------------------------------------------- topologies


def complete(N: int) -> Matrix:
    """Return J, weights 1/N, for N >= 1."""
    N = _agents(N)
    return np.full((N, N), 1 / N)


def ring(N: int) -> Matrix:
    """Return the ring with weights 1/3, for N >= 1.

    Coinciding neighbours add their weights: self 1/3 and other 2/3 for N = 2, [[1]] for N = 1.
    """
    N = _agents(N)
    return (np.eye(N) + _both_neighbours(N)) / 3


def path(N: int) -> Matrix:
    """Return the path with Metropolis weights, for N >= 1."""
    N = _agents(N)
    return _metropolis(np.eye(N, k=1) + np.eye(N, k=-1))


def star(N: int) -> Matrix:
    """Return the star around agent 0 with Metropolis weights, for N >= 1."""
    N = _agents(N)
    adjacency = np.zeros((N, N))
    adjacency[0, 1:] = adjacency[1:, 0] = 1
    return _metropolis(adjacency)


def torus(N: int) -> Matrix:
    """Return the n x n torus with weights 1/5, for N = n^2; coinciding neighbours add theirs."""
    N = _agents(N)
    n = isqrt(N)
    _require_member("torus", N, "a square", {n**2, (n + 1) ** 2})
    along, stay = _both_neighbours(n), np.eye(n)
    return (np.eye(N) + np.kron(along, stay) + np.kron(stay, along)) / 5


def hypercube(N: int) -> Matrix:
    """Return the D-dimensional hypercube with weights 1/(D + 1), for N = 2^D."""
    N = _agents(N)
    D = N.bit_length() - 1
    _require_member("hypercube", N, "a power of two", {2**D, 2 ** (D + 1)})
    flips = np.arange(N)[:, None] ^ np.arange(N)[None, :]
    return (np.eye(N) + (np.bitwise_count(flips) == 1)) / (D + 1)


def bipartite(N: int) -> Matrix:
    """Return K_{n,n} with Metropolis weights, for N = 2 n; agents below n on one side."""
    N = _agents(N)
    _require_member("bipartite", N, "even", {max(2, N - N % 2), N + N % 2})
    side = np.repeat([0, 1], N // 2)
    return _metropolis((side[:, None] != side[None, :]).astype(np.float64))


def exponential(N: int) -> Matrix:
    """Return the undirected exponential graph, i to i +- 2^l, Metropolis weights, for N >= 1."""
    N = _agents(N)
    hops = [2**level for level in range(N.bit_length())]
    distance = (np.arange(N)[:, None] - np.arange(N)[None, :]) % N
    return _metropolis((np.isin(distance, hops) | np.isin(-distance % N, hops)).astype(np.float64))


def erdos_renyi(N: int, *, p: float = 0.5, seed: int = 0) -> Matrix:
    """Return a connected random graph with Metropolis weights, for N >= 1.

    Each edge is present with probability p; the first connected one of 100 draws (from
    p = log(N)/N on a third of all draws or more is). ValueError: none of them is, p outside [0, 1],
    seed < 0.
    """
    N = _agents(N)
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    seed = integer("seed", seed, 0)
    random = np.random.default_rng(seed)
    for _ in range(DRAWS):
        above = np.triu(random.random((N, N)) < p, k=1)
        adjacency = (above | above.T).astype(np.float64)
        if _parts(adjacency) == 1:
            return _metropolis(adjacency)
    raise ValueError(
        f"p must be larger: none of {DRAWS} graphs with N = {N}, p = {p} was connected; "
        f"p is below the connectivity threshold log(N)/N = {log(N) / N:.4f}"
    )


TOPOLOGIES: dict[str, Callable[..., Matrix]] = {
    "complete": complete,
    "ring": ring,
    "path": path,
    "star": star,
    "torus": torus,
    "hypercube": hypercube,
    "bipartite": bipartite,
    "exponential": exponential,
    "erdos_renyi": erdos_renyi,
}


def _both_neighbours(N: int) -> Matrix:
    forward = np.roll(np.eye(N), 1, axis=1)
    return forward + forward.T


def _agents(N: int) -> int:
    return integer("N", N, 1)


def _require_member(name: str, N: int, rule: str, nearby: set[int]) -> None:
    if N not in nearby:
        valid = ", ".join(map(str, sorted(nearby)))
        raise ValueError(f"N must be {rule} for the {name}, got {N}; valid nearby: {valid}")


# ---------------------------------------------------------------- spectra


def mixing_eigenvalues(Pi: Matrix) -> Matrix:
    """Return the eigenvalues of Pi but the one of the consensus direction, decreasing, [N - 1].

    ValueError as `check_mixing_matrix`.
    """
    return _eigenvalues(_structure(Pi))


def _eigenvalues(Pi: Matrix) -> Matrix:
    dense = Pi.toarray() if _is_sparse(Pi) else Pi
    # shifted up, the consensus eigenvalue is the largest even where weights are negative
    shift = np.abs(dense).sum(axis=1).max()
    return np.linalg.eigvalsh(dense + shift / len(dense))[-2::-1]


def sqrt_rho(Pi: Matrix) -> float:
    """Return sqrt(rho) = |Pi - J|_op, the largest |eigenvalue| but the consensus one; 0 for N = 1.

    Never below 1 where the graph itself forbids mixing (disconnected, or bipartite without
    self-weights), whatever rounding does. ValueError as `check_mixing_matrix`.
    """
    Pi = _structure(Pi)
    N, _ = Pi.shape
    if _is_sparse(Pi) and N > DENSE_UP_TO:
        largest = _largest_in_size(Pi)
    else:
        largest = float(np.max(np.abs(_eigenvalues(Pi)), initial=0.0))
    return max(1.0, largest) if _obstacle(Pi) else largest


def spectral_gap(Pi: Matrix) -> float:
    """Return 1 - sqrt(rho). ValueError as `check_mixing_matrix`."""
    return 1 - sqrt_rho(Pi)


def _largest_in_size(Pi: Matrix) -> float:
    """Return the largest |eigenvalue| mu of a sparse Pi on the complement of consensus.

    By Lanczos on the inverse of (end^2 - Pi^2) = (end - Pi)(end + Pi), for an end just outside the
    spectrum: on a long ring the eigenvalues crowd at 1, where Lanczos on Pi would not converge.
    """
    from scipy.sparse import linalg

    N, _ = Pi.shape
    # outside by the size of the smallest gap of a ring
    end = float(abs(Pi).sum(axis=1).max()) + N**-2
    shift: Matrix = sparse.csc_array(end * sparse.eye_array(N))
    below, above = linalg.splu(shift + Pi.tocsc()), linalg.splu(shift - Pi.tocsc())

    def inverse(x: Matrix) -> Matrix:
        y = below.solve(above.solve(x))
        return y - y.mean()

    operator = linalg.LinearOperator((N, N), matvec=inverse, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(N)  # fixed, so that results repeat
    _, vectors = linalg.eigsh(operator, k=1, v0=start)
    # |Pi v| and not the eigenvalue: it keeps all digits where mu is small
    return float(np.linalg.norm(Pi @ (vectors - vectors.mean())))


# ---------------------------------------------------------------- checks


def check_mixing_matrix(Pi: Matrix, N: int | None = None) -> None:
    """Raise ValueError unless Pi is square, finite, symmetric, with rows that sum to one.

    And is N x N where the number of agents N is given. Deviations up to sqrt(eps) of the dtype
    pass: rounded weights keep more than half of their digits, mistyped ones do not. A negative
    weight is a NegativeWeightWarning. Whether Pi mixes is the question of `require_mixing`.
    """
    Pi = _structure(Pi)
    if N is not None and Pi.shape != (N, N):
        raise ValueError(f"Pi must be {N} x {N} for {N} agents, got shape {Pi.shape}")
    entries = sparse.coo_array(Pi)
    if entries.nnz and entries.data.min() < 0:
        i, j = (axis[entries.data.argmin()] for axis in entries.coords)
        text = f"Pi[{i}, {j}] = {entries.data.min():g} is negative: mixing is no averaging"
        warnings.warn(text, NegativeWeightWarning, stacklevel=2)


def require_mixing(Pi: Matrix) -> None:
    """Raise ValueError unless sqrt(rho) < 1 (Assumption 5), saying why it is not.

    ValueError also as `check_mixing_matrix`.
    """
    lam, Pi = sqrt_rho(Pi), _structure(Pi)
    N, _ = Pi.shape
    # the error to expect of N rounded rotations
    if lam < 1 - sqrt(N) * np.finfo(np.float64).eps:
        return
    reason = _obstacle(Pi)
    if not reason:
        negative = sparse.coo_array(Pi).data.min() < 0
        reason = "negative weights amplify" if negative else "the gap is lost in rounding"
    raise ValueError(f"Pi does not mix: sqrt(rho) = {lam:.6f}; {reason}")


def _structure(Pi: Matrix) -> Matrix:
    """Return Pi as a float array, dense or sparse, after the checks that raise."""
    Pi = Pi.tocsr() if _is_sparse(Pi) else host(Pi)
    if Pi.ndim != 2 or Pi.shape[0] != Pi.shape[1] or 0 in Pi.shape:
        raise ValueError(f"Pi must be square with at least one agent, got shape {Pi.shape}")
    if Pi.dtype.kind not in "fiub":
        raise ValueError(f"Pi must be real, got dtype {Pi.dtype}")
    Pi = Pi if Pi.dtype.kind == "f" else Pi.astype(np.float64)
    tolerance = sqrt(np.finfo(Pi.dtype).eps)
    Pi = Pi.astype(np.float64)
    if not np.isfinite(Pi.data if _is_sparse(Pi) else Pi).all():
        raise ValueError("Pi must be finite, got NaN or infinite weights")
    _require_symmetric(Pi, tolerance)
    sums = np.asarray(Pi.sum(axis=1)).ravel()
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > tolerance:
        raise ValueError(f"rows of Pi must sum to one, got {sums[worst]:.6g} in row {worst}")
    return Pi


def _require_symmetric(Pi: Matrix, tolerance: float) -> None:
    excess = sparse.coo_array(Pi - Pi.T)
    if excess.nnz and excess.data.max() > tolerance:
        i, j = (int(axis[excess.data.argmax()]) for axis in excess.coords)
        here, there = f"Pi[{i}, {j}] = {Pi[i, j]:.6g}", f"Pi[{j}, {i}] = {Pi[j, i]:.6g}"
        raise ValueError(f"Pi must be symmetric, got {here}, {there}")


def _is_sparse(Pi: Matrix) -> bool:
    return bool(sparse.issparse(Pi))


def _parts(pattern: Matrix) -> int:
    return int(sparse.csgraph.connected_components(pattern)[0])


def _obstacle(Pi: Matrix) -> str:
    """Return why the graph of Pi cannot mix, or "" if it can."""
    weights: Matrix = sparse.csr_array(Pi)
    pattern = weights != 0  # a stored zero is no edge
    if _parts(pattern) != 1:
        return "the graph is disconnected"
    # walking to and fro between two copies reaches all unless every closed walk is even
    double_cover: Matrix = sparse.block_array([[None, pattern], [pattern, None]])
    if _parts(double_cover) != 1:
        return "the graph is bipartite without self-weights"
    return ""
