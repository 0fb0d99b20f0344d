"""Every topology by name: a graph of N agents and its weights, dense or sparse.

Each is built from its edges. The sparse form takes time and memory proportional to them, and is
the same matrix: both hold the same weights, and self-weights up to the rounding of a row's sum.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt, log
from typing import Any

import numpy as np
import scipy

from decaf_theory.arrays import Host, integer
from decaf_theory.names import Table
from decaf_theory.topology.checks import Matrix, is_sparse, parts, require_room

DRAWS = 100  # of a random graph, before it is given up as unlikely to be connected
BYTES = 12  # of a weight in CSR: a float64 and an int32 index
DENSE_HINT = "use sparse=True, which stores only the edges"
FULL_HINT = "its graph has too many edges; use one with fewer, such as exponential or torus"


# ---------------------------------------------------------------- weights


def metropolis(graph: Any, *, sparse: bool = False) -> Matrix:
    """Return Metropolis weights of a networkx graph, agents in the order of its nodes, [N, N].

    pi_ij = 1 / (1 + max(deg_i, deg_j)) on edges, the rest on the diagonal, which is then positive.
    Self-loops and edge weights are ignored. ValueError: no node, or a directed graph.

    Examples:
        >>> import networkx
        >>> from decaf_theory import topology
        >>> topology.metropolis(networkx.path_graph(3)).round(4).tolist()
        [[0.6667, 0.3333, 0.0], [0.3333, 0.3333, 0.3333], [0.0, 0.3333, 0.6667]]
    """
    links = _links_of(graph)
    return metropolis_weights(links if sparse else links.toarray())


def laplacian_weights(graph: Any) -> Matrix:
    """Return I - 2 Lap / (3 lambda_max(Lap)) of a networkx graph, in the order of its nodes.

    Its eigenvalues lie in [1/3, 1]. Self-loops and edge weights are ignored; without edges it is
    the identity. ValueError: no node, or a directed graph.
    """
    adjacency = _links_of(graph).toarray()
    if not adjacency.any():
        return np.eye(len(adjacency))
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    return with_self_weights(adjacency * 2 / (3 * np.linalg.eigvalsh(laplacian)[-1]))


def _links_of(graph: Any) -> Matrix:
    import networkx  # here, so that the library loads without it

    if not isinstance(graph, networkx.Graph):
        rows = "from_dict_of_lists", "of the neighbours by agent"
        named = "Graph", "of edges; TOPOLOGIES has matrices by name"
        of: dict[type[Any], tuple[str, str]] = {dict: rows, list: rows, str: named}
        maker, source = of.get(type(graph), ("from_numpy_array", "of an adjacency matrix"))
        raise ValueError(
            f"graph must be a networkx graph, got {type(graph).__name__}; "
            f"networkx.{maker} makes one {source}"
        )
    if graph.number_of_nodes() == 0 or graph.is_directed():
        kind = "directed" if graph.is_directed() else "no nodes"
        raise ValueError(f"graph must be undirected with at least one node, got {kind}")
    i, j = networkx.to_scipy_sparse_array(graph, weight=None, format="coo").coords
    apart = i != j
    # parallel edges are one link
    return (counts(len(graph), i[apart], j[apart], sparse=True) != 0).astype(np.float64)


def _links(N: int, i: Host, j: Any, sparse: bool) -> Matrix:
    """Return how often agents are linked, [N, N], for undirected edges i - j."""
    ends = np.broadcast_arrays(i, j)
    return counts(N, np.concatenate(ends), np.concatenate(ends[::-1]), sparse)


def counts(N: int, i: Host, j: Host, sparse: bool, weights: Host | None = None) -> Matrix:
    """Return how often j is a neighbour of i, [N, N], or the sum of these weights of i and j.

    ValueError if dense takes too many bytes.
    """
    weights = np.ones(len(i)) if weights is None else weights
    if sparse:
        index = i.astype(np.int32), j.astype(np.int32)
        return scipy.sparse.csr_array((weights, index), shape=(N, N))
    require_room(N, 8 * N**2, DENSE_HINT)
    dense = np.zeros((N, N))
    np.add.at(dense, (i, j), weights)
    return dense


def metropolis_weights(links: Matrix) -> Matrix:
    """Return the weights of a graph whose links are all one; it is overwritten."""
    degree = links.sum(axis=1)
    i, j = links.nonzero()
    weights = 1 / (1 + np.maximum(degree[i], degree[j]))
    if is_sparse(links):
        links.data = weights
    else:
        links[i, j] = weights
    return with_self_weights(links)


def with_self_weights(edges: Matrix) -> Matrix:
    """Return these weights of the edges, the rest of each row on the diagonal, [N, N].

    A dense matrix is overwritten.
    """
    rest = 1 - edges.sum(axis=1)
    if is_sparse(edges):
        return (edges + scipy.sparse.diags_array(rest)).tocsr()
    np.fill_diagonal(edges, rest)
    return edges


def _equal(links: Matrix, share: int) -> Matrix:
    """Return weights 1/share for each link and for the agent itself."""
    N, _ = links.shape
    if not is_sparse(links):
        return (np.eye(N) + links) / share
    Pi: Matrix = (links + scipy.sparse.eye_array(N, format="csr")).tocsr()
    Pi.data /= share  # and not Pi / share, which multiplies by 1 / share
    return Pi


# ---------------------------------------------------------------- topologies


def complete(N: int, *, sparse: bool = False) -> Matrix:
    """Return J, weights 1/N, for N >= 1."""
    N = _agents(N)
    require_room(N, (BYTES if sparse else 8) * N**2, FULL_HINT)
    Pi = np.full((N, N), 1 / N)
    return scipy.sparse.csr_array(Pi) if sparse else Pi


def ring(N: int, *, sparse: bool = False) -> Matrix:
    """Return the ring with weights 1/3, for N >= 1.

    Coinciding neighbours add their weights: self 1/3 and other 2/3 for N = 2, [[1]] for N = 1.
    """
    i = np.arange(_agents(N))
    return _equal(_links(N, i, (i + 1) % N, sparse), 3)


def path(N: int, *, sparse: bool = False) -> Matrix:
    """Return the path with Metropolis weights, for N >= 1."""
    i = np.arange(_agents(N) - 1)
    return metropolis_weights(_links(N, i, i + 1, sparse))


def star(N: int, *, sparse: bool = False) -> Matrix:
    """Return the star around agent 0 with Metropolis weights, for N >= 1."""
    leaves = np.arange(1, _agents(N))
    return metropolis_weights(_links(N, leaves, 0, sparse))


def torus(N: int, *, sparse: bool = False) -> Matrix:
    """Return the n x n torus with weights 1/5, for N = n^2; coinciding neighbours add theirs."""
    N = _agents(N)
    n = isqrt(N)
    require_member("torus", N, "a square", {n**2, (n + 1) ** 2})
    i = np.arange(N)
    row, column = np.divmod(i, n)
    down = (row + 1) % n * n + column
    right = row * n + (column + 1) % n
    return _equal(_links(N, np.tile(i, 2), np.concatenate([down, right]), sparse), 5)


def hypercube(N: int, *, sparse: bool = False) -> Matrix:
    """Return the D-dimensional hypercube with weights 1/(D + 1), for N = 2^D."""
    N = _agents(N)
    D = dimension("hypercube", N)
    i, axis = np.arange(N)[:, None], 1 << np.arange(D)
    below, along = np.nonzero(i & axis == 0)
    return _equal(_links(N, below, below | axis[along], sparse), D + 1)


def bipartite(N: int, *, sparse: bool = False) -> Matrix:
    """Return K_{n,n} with Metropolis weights, for N = 2 n; agents below n on one side."""
    N = _agents(N)
    require_member("bipartite", N, "even", {max(2, N - N % 2), N + N % 2})
    require_room(N, BYTES * N**2 // 2, FULL_HINT)
    left, right = np.indices((N // 2, N // 2)).reshape(2, -1)
    return metropolis_weights(_links(N, left, right + N // 2, sparse))


def exponential(N: int, *, sparse: bool = False) -> Matrix:
    """Return the undirected exponential graph, i to i +- 2^l, Metropolis weights, for N >= 1."""
    N = _agents(N)
    hops = 1 << np.arange((N - 1).bit_length())
    i = np.tile(np.arange(N), len(hops))
    links = _links(N, i, (i + np.repeat(hops, N)) % N, sparse)
    # hops of 2^l and N - 2^m may coincide
    return metropolis_weights((links != 0).astype(np.float64))


def erdos_renyi(N: int, *, p: float = 0.5, seed: int = 0, sparse: bool = False) -> Matrix:
    """Return a connected random graph with Metropolis weights, for N >= 1.

    Each edge is present with probability p; the first connected one of 100 draws (from
    p = log(N)/N on a third of all draws or more is). A draw visits each pair of agents: time N^2,
    also in the sparse form. ValueError: none is connected, p outside [0, 1], seed < 0.
    """
    N = _agents(N)
    check_probability(p)
    seed = integer("seed", seed, 0)
    require_room(N, int(BYTES * p * N**2), FULL_HINT)
    random = np.random.default_rng(seed)
    for _ in range(DRAWS):
        links = random_links(random, N, p, sparse)
        if parts(links) == 1:
            return metropolis_weights(links)
    raise ValueError(
        f"p must be larger: none of {DRAWS} graphs with N = {N}, p = {p} was connected; "
        f"p is below the connectivity threshold log(N)/N = {log(N) / N:.4f}"
    )


def random_links(random: np.random.Generator, N: int, p: float, sparse: bool) -> Matrix:
    """Return the links of a random graph, each present with probability p, [N, N]."""
    # row by row, in memory N
    later = [np.flatnonzero(random.random(N)[i + 1 :] < p) + i + 1 for i in range(N)]
    i = np.repeat(np.arange(N), [len(j) for j in later])
    return _links(N, i, np.concatenate(later), sparse)


def check_probability(p: float) -> None:
    """Raise ValueError unless p lies in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")


TOPOLOGIES: Table[Callable[..., Matrix]] = Table(
    {
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
)


def _agents(N: int) -> int:
    return integer("N", N, 1)


def dimension(name: str, N: int) -> int:
    """Return D for N = 2^D; ValueError otherwise."""
    D = N.bit_length() - 1
    require_member(name, N, "a power of two", {2**D, 2 ** (D + 1)})
    return D


def require_member(name: str, N: int, rule: str, nearby: set[int]) -> None:
    """Raise ValueError unless N is one of the sizes nearby that the graph can have."""
    if N not in nearby:
        valid = ", ".join(map(str, sorted(nearby)))
        raise ValueError(f"N must be {rule} for the {name}, got {N}; valid nearby: {valid}")
