"""Spectra of mixing matrices: sqrt(rho), the gap, and whether Pi mixes.

For a large sparse Pi the largest |eigenvalue| mu off consensus comes from Lanczos, started at
random. Chains (rings, paths, trees) have eigenvalues that crowd at 1, so that Lanczos on Pi^2 would
not converge, but they factor in memory of the order of N: for these it runs on an inverse. Either
way the answer is given only if its vector v is an eigenvector of Pi^2 up to 1e-4 of the gap
1 - mu^2 (or up to rounding): some eigenvalue is then that close to mu^2.
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import scipy

from decaf_theory.topology.checks import (
    Matrix,
    is_sparse,
    obstacle,
    require_room,
    structure,
    symmetric,
)

DENSE_UP_TO = 512  # agents; beyond, a sparse Pi keeps its structure
ENVELOPE = 32  # numbers per agent that a factorization may fill; a ring takes 3
VECTORS, RESTARTS = 40, 100  # of Lanczos; a torus of 1e5 agents takes 30 restarts
TOLERANCE = 1e-12  # of Lanczos; eigenvalues are accurate to its square over their distance
ACCURACY = 1e-4  # of the gap 1 - mu^2, in the residual; the error is of the order of its square
ROUNDING = 64 * float(np.finfo(np.float64).eps)  # of a residual of numbers of size one


def mixing_eigenvalues(Pi: Matrix) -> Matrix:
    """Return all eigenvalues of Pi except that of the consensus direction, decreasing, [N - 1].

    From a dense Pi. ValueError: Pi is not symmetric or takes too much memory, or as in
    `check_mixing_matrix`.

    Examples:
        >>> from decaf_theory import topology
        >>> topology.mixing_eigenvalues(topology.TOPOLOGIES["ring"](4)).round(4).tolist()
        [0.3333, 0.3333, -0.3333]
    """
    return _eigenvalues(symmetric(Pi, "mixing_eigenvalues"))


def _eigenvalues(Pi: Matrix) -> Matrix:
    N, _ = Pi.shape
    require_room(N, 8 * N**2, "all eigenvalues need a dense Pi; sqrt_rho needs only the largest")
    dense = Pi.toarray() if is_sparse(Pi) else Pi
    # shifted up, the consensus eigenvalue is the largest even if weights are negative
    shift = np.abs(dense).sum(axis=1).max()
    return np.linalg.eigvalsh(dense + shift / len(dense))[-2::-1]


def sqrt_rho(Pi: Matrix) -> float:
    """Return sqrt(rho) = |Pi - J|_op, the largest |eigenvalue| off consensus; 0 for N = 1.

    Never below 1 if the graph itself rules out mixing (disconnected, or bipartite without
    self-weights), whatever rounding does. ValueError as in `check_mixing_matrix`, if Pi is not
    symmetric, and if a large sparse Pi has a gap too small to be resolved.

    Examples:
        >>> from decaf_theory import TOPOLOGIES, sqrt_rho
        >>> round(sqrt_rho(TOPOLOGIES["ring"](8)), 4)
        0.8047
    """
    Pi = symmetric(Pi, "sqrt_rho")
    N, _ = Pi.shape
    if is_sparse(Pi) and N > DENSE_UP_TO:
        largest = _largest_in_size(Pi)
    else:
        largest = float(np.max(np.abs(_eigenvalues(Pi)), initial=0.0))
    return max(1.0, largest) if obstacle(Pi) else largest


def spectral_gap(Pi: Matrix) -> float:
    """Return 1 - sqrt(rho). ValueError as in `sqrt_rho`.

    Examples:
        >>> from decaf_theory import TOPOLOGIES, spectral_gap
        >>> [round(spectral_gap(TOPOLOGIES[name](16)), 4) for name in ("torus", "ring")]
        [0.4, 0.0507]
    """
    return 1 - sqrt_rho(Pi)


def require_mixing(Pi: Matrix) -> None:
    """Raise ValueError unless sqrt(rho) < 1 (Assumption 5), saying why it is not.

    ValueError also as in `sqrt_rho`.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import topology
        >>> topology.require_mixing(np.eye(4))
        Traceback (most recent call last):
            ...
        ValueError: Assumption 5 fails: sqrt(rho) = 1, the graph is disconnected; Pi ...
    """
    lam, Pi = sqrt_rho(Pi), structure(Pi)
    N, _ = Pi.shape
    # the error to expect of N rounded rotations
    if lam < 1 - sqrt(N) * np.finfo(np.float64).eps:
        return
    reason = obstacle(Pi)
    if not reason:
        negative = scipy.sparse.coo_array(Pi).data.min() < 0
        reason = "negative weights amplify" if negative else "the gap is lost in rounding"
    size = f"{lam:.6f}".rstrip("0").rstrip(".")
    raise ValueError(
        f"Assumption 5 fails: sqrt(rho) = {size}, {reason}; Pi does not mix: "
        f"add edges, or weights of an agent's own, such as (I + Pi) / 2"
    )


# ---------------------------------------------------------------- one eigenvalue of a large Pi


def _largest_in_size(Pi: Matrix) -> float:
    """Return the largest |eigenvalue| mu of a sparse Pi on the complement of consensus."""
    from scipy.sparse import linalg

    order = scipy.sparse.csgraph.reverse_cuthill_mckee(Pi, symmetric_mode=True)
    narrow = Pi[order][:, order]
    chain = _envelope(narrow) <= ENVELOPE * len(order)
    operator = _inverse(narrow) if chain else _square(narrow)
    start = np.random.default_rng(0).standard_normal(len(order))  # fixed, so that results repeat
    start -= start.mean()
    try:
        _, vectors = linalg.eigsh(
            operator, k=1, v0=start, ncv=VECTORS, tol=TOLERANCE, maxiter=RESTARTS
        )
    except linalg.ArpackNoConvergence:
        raise ValueError(_unresolved(f"{RESTARTS} restarts of Lanczos do not resolve it")) from None
    v = vectors[:, 0] - vectors[:, 0].mean()
    v /= np.linalg.norm(v)
    image = narrow @ v
    mu = float(np.linalg.norm(image))  # and not the eigenvalue: keeps all digits when mu is small
    residual = float(np.linalg.norm(narrow @ image - mu**2 * v))
    if not residual <= max(ACCURACY * abs(1 - mu**2), ROUNDING):
        raise ValueError(_unresolved(f"the residual {residual:.1e} is not small compared with it"))
    return mu


def _unresolved(reason: str) -> str:
    return (
        f"sqrt(rho) of this Pi is too close to 1 to resolve the gap: {reason}; "
        f"for a graph of the table use bounds.sqrt_rho_<graph>, else a smaller N"
    )


def _envelope(Pi: Matrix) -> int:
    """Return the sum over rows of the distance from the first entry to the diagonal.

    A Cholesky factor fills no more than that.
    """
    rows = np.arange(Pi.shape[0])
    first = np.minimum(rows, np.minimum.reduceat(Pi.indices, Pi.indptr[:-1]))
    return int(np.sum(rows - first))


def _inverse(Pi: Matrix) -> Any:
    """Return the inverse of end^2 - Pi^2 = (end - Pi)(end + Pi), for an end outside the spectrum.

    The end is outside by the size of the smallest gap of a ring.
    """
    from scipy.sparse import linalg

    N, _ = Pi.shape
    end = float(abs(Pi).sum(axis=1).max()) + N**-2
    shift: Matrix = scipy.sparse.csc_array(end * scipy.sparse.eye_array(N))
    # symmetric positive definite: no pivots, so that the fill stays in the envelope
    factorize = partial(
        linalg.splu,
        permc_spec="NATURAL",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    below = factorize(shift + Pi.tocsc())
    above = factorize(shift - Pi.tocsc())

    def inverse(x: Matrix) -> Matrix:
        y = below.solve(above.solve(x))
        return y - y.mean()

    return linalg.LinearOperator((N, N), matvec=inverse, dtype=np.float64)


def _square(Pi: Matrix) -> Any:
    """Return I + Pi^2 off consensus; without I, Lanczos would have nothing to do at Pi = J."""
    from scipy.sparse import linalg

    def square(x: Matrix) -> Matrix:
        y = x + Pi @ (Pi @ x)
        return y - y.mean()

    return linalg.LinearOperator(Pi.shape, matvec=square, dtype=np.float64)
