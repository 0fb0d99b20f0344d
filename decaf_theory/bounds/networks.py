r"""sqrt(rho) = |Pi - J|_op in closed form, for the mixing matrices of `topology` (T31).

All exact. A single agent mixes at once: 0.
"""

from __future__ import annotations

from math import cos, pi

from decaf_theory.bounds._checks import count


def sqrt_rho_complete(*, N: int) -> float:
    """Return sqrt(rho) of the complete graph with weights 1/N: 0, since Pi = J."""
    count(N=N)
    return 0.0


def sqrt_rho_ring(*, N: int) -> float:
    """Return sqrt(rho) of the ring with weights 1/3 (N = 2: self 1/3, other 2/3).

        |1 + 2 cos(2 pi/N)| / 3,   0 for N = 1

    The eigenvalues are (1 + 2 cos(2 pi j/N))/3, j = 0..N-1; those below zero are >= -1/3, which
    j = 1 exceeds in size from N = 5 on and equals for N = 2 and 4. Source: derived (T31).
    """
    count(N=N)
    return abs(1 + 2 * cos(2 * pi / N)) / 3 if N > 1 else 0.0


def sqrt_rho_path(*, N: int) -> float:
    """Return sqrt(rho) of the path with Metropolis weights (1/3 on every edge from N = 3 on).

        (1 + 2 cos(pi/N)) / 3,   0 for N <= 2

    The eigenvalues are (1 + 2 cos(pi j/N))/3, j = 0..N-1; for N = 2 Pi = J. Source: derived (T31).
    """
    count(N=N)
    return (1 + 2 * cos(pi / N)) / 3 if N > 2 else 0.0


def sqrt_rho_star(*, N: int) -> float:
    """Return sqrt(rho) of the star with Metropolis weights (1/N on every edge).

        1 - 1/N,   0 for N <= 2

    Pi = I - Lap/N, and Lap has the eigenvalues 0, 1 (N - 2 times) and N; for N = 2 the
    eigenvalue 1 is missing. Source: derived (T31).
    """
    count(N=N)
    return 1 - 1 / N if N > 2 else 0.0


def sqrt_rho_hypercube(*, D: int) -> float:
    """Return sqrt(rho) of the D-dimensional hypercube, N = 2^D, with weights 1/(D + 1).

        max(D - 1, 0) / (D + 1)

    The eigenvalues are (D + 1 - 2 j)/(D + 1), j = 0..D. Source: derived (T31).
    """
    count(least=0, D=D)
    return max(D - 1, 0) / (D + 1)


def sqrt_rho_torus(*, n: int) -> float:
    """Return sqrt(rho) of the n x n torus with weights 1/5 (coinciding neighbours add theirs).

        (3 + 2 cos(2 pi/n)) / 5 for n >= 3,   3/5 for n = 2,   0 for n = 1

    The eigenvalues are (1 + 2 cos a + 2 cos b)/5 with a, b in 2 pi {0..n-1}/n; at n = 2 the least
    of them, -3/5, is the largest in size. Source: derived (T31).
    """
    count(n=n)
    if n <= 2:
        return 0.6 * (n - 1)
    return (3 + 2 * cos(2 * pi / n)) / 5


def sqrt_rho_bipartite(*, n: int) -> float:
    """Return sqrt(rho) of K_{n,n} with Metropolis weights, 1/(n + 1) each.

        (n - 1) / (n + 1)

    The eigenvalues are 1, 1/(n + 1) (2 n - 2 times) and (1 - n)/(1 + n). Source: derived (T31).
    """
    count(n=n)
    return (n - 1) / (n + 1)


def sqrt_rho_bipartite_optimal(*, n: int) -> float:
    """Return sqrt(rho) of K_{n,n} with self weight 1/3 and edges 2/(3 n), n >= 2.

        1/3

    The least of all symmetric weights that treat the agents alike: a self weight w gives the
    eigenvalues 1, w (2 n - 2 times) and 2 w - 1. Source: derived (T31).
    """
    count(least=2, n=n)
    return 1 / 3
