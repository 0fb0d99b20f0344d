r"""Mixing that keeps a weighted mean: reversible P, for agents that count by their data.

With target weights pi, pi_i P_ij = pi_j P_ji and rows that sum to one: pi'P = pi', so that
sum_i pi_i x_i is kept, and P is symmetric in <x, y> = sum_i pi_i x_i y_i. It is similar to the
symmetric S = D^(1/2) P D^(-1/2), D = diag(pi), so that deviations from that mean contract by the
second largest |eigenvalue| of P in every round, in the norm of pi.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

from decaf_theory.arrays import Host, host, weight_tolerance
from decaf_theory.topology.checks import Matrix, is_sparse, require_room, structure, symmetric
from decaf_theory.topology.graphs import with_self_weights


def target_weights(target: Sequence[float] | Host, N: int, name: str = "target") -> Host:
    """Return the weights over their sum, [N]: numbers of samples, for instance.

    ValueError: not N finite numbers > 0 with a finite sum; the argument is called by its name.
    """
    weights = host(target)
    if weights.shape != (N,) or weights.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be {N} numbers for {N} agents, got {target!r}")
    odd = np.flatnonzero(~((weights > 0) & (weights < np.inf)))
    if odd.size:
        at = int(odd[0])
        raise ValueError(f"{name} must be finite and > 0, got {weights[at]} for agent {at}")
    total = sum(weights.tolist())  # of Python's numbers, which do not warn
    if total == np.inf:
        raise ValueError(f"{name} must have a finite sum, got inf; only the ratios count")
    shares: Host = weights / weights.sum()
    return shares


def reversible(Pi: Matrix, target: Sequence[float] | Host) -> Matrix:
    """Return P_ij = Pi_ij min(1, target_j / target_i), the rest of each row on the diagonal.

    The rule of Metropolis and Hastings for a symmetric proposal Pi [N, N], dense or sparse; the
    weighted mean sum_i target_i x_i is kept. Equal weights give Pi. ValueError: Pi is not
    symmetric, and as in `check_mixing_matrix` and `target_weights`.

    Examples:
        >>> from decaf_theory import topology
        >>> Pi = topology.reversible(topology.TOPOLOGIES["ring"](4), [1, 2, 1, 4])
        >>> (([1, 2, 1, 4] @ Pi) / 8).tolist()  # the shares are kept
        [0.125, 0.25, 0.125, 0.5]
    """
    Pi = symmetric(Pi, "reversible")
    N, _ = Pi.shape
    weights = target_weights(target, N)
    links = scipy.sparse.coo_array(Pi)
    i, j = links.coords
    edges: Matrix = scipy.sparse.csr_array(
        (np.where(i == j, 0.0, links.data * np.minimum(1, weights[j] / weights[i])), (i, j)),
        shape=(N, N),
    )
    edges.eliminate_zeros()
    return with_self_weights(edges if is_sparse(Pi) else edges.toarray())


def check_reversible(Pi: Matrix, target: Sequence[float] | Host, N: int | None = None) -> None:
    """Raise ValueError unless rows of Pi sum to one and target_i Pi_ij = target_j Pi_ji.

    Deviations of weights up to sqrt(eps) of the dtype pass, as in `check_mixing_matrix`. Any other
    Pi moves that weighted mean.
    """
    detailed_balance(Pi, target, N)


def reversible_eigenvalues(Pi: Matrix, target: Sequence[float] | Host) -> Host:
    """Return all eigenvalues of a reversible Pi but the leading 1, decreasing, [N - 1].

    The largest in size is lam, by which deviations contract. From a dense Pi. ValueError as in
    `check_reversible`, and if it takes too much memory.
    """
    Pi, weights = detailed_balance(Pi, target)
    require_room(len(weights), 8 * len(weights) ** 2, "all eigenvalues need a dense Pi")
    root = np.sqrt(weights)
    dense = Pi.toarray() if is_sparse(Pi) else Pi
    S = root[:, None] * dense / root
    # shifted up, the consensus eigenvalue is the largest even if weights are negative
    shift = np.abs(S).sum(axis=1).max()
    values: Host = np.linalg.eigvalsh((S + S.T) / 2 + shift * np.outer(root, root))[-2::-1]
    return values


def detailed_balance(
    Pi: Matrix, target: Sequence[float] | Host, N: int | None = None
) -> tuple[Matrix, Host]:
    """Return Pi in float64 and the shares of the target, after the checks of both."""
    tolerance = weight_tolerance(Pi)
    Pi = structure(Pi, N, columns=False)
    N, _ = Pi.shape
    weights = target_weights(target, N)
    entries = scipy.sparse.csr_array(Pi)
    back = scipy.sparse.diags_array(1 / weights) @ entries.T @ scipy.sparse.diags_array(weights)
    excess = scipy.sparse.coo_array(abs(entries - back))
    if excess.nnz and excess.data.max() > tolerance:
        i, j = (int(axis[excess.data.argmax()]) for axis in excess.coords)
        there, here = weights[i] * Pi[i, j], weights[j] * Pi[j, i]
        raise ValueError(
            f"Pi must be reversible for target: target_i Pi[i, j] = target_j Pi[j, i], got "
            f"{there:.6g} for ({i}, {j}), {here:.6g} for ({j}, {i}); topology.reversible makes "
            f"one of a symmetric Pi, and others would need push-sum"
        )
    return Pi, weights
