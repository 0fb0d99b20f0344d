"""T31: sqrt(rho) of the graphs in closed form, and weights that do not mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues, spectral_gap, sqrt_rho
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import at_least, same, ulps

LARGEST = 31  # agents

Valid = tuple[str, Callable[[int], Any], Callable[[int], float], list[int]]


def rows(ctx: Context) -> Iterator[Row]:
    r"""sqrt(rho) is known in closed form for nine families of graphs and weights.

    $\sqrt\rho = \|\Pi - J\|_{op}$: complete 0; ring with weights 1/3
    $\max_{j \in \{1, \lfloor N/2 \rfloor\}} |1 + 2 \cos(2 \pi j/N)|/3$; path (Metropolis)
    $(1 + 2 \cos(\pi/N))/3$; star (Metropolis) $1 - 1/N$; hypercube $(D-1)/(D+1)$; $n \times n$
    torus with weights 1/5 $(3 + 2 \cos(2\pi/n))/5$; $K_{n,n}$ with Metropolis weights
    $(n-1)/(n+1)$, with self weight 1/3 and edges $2/(3n)$ 1/3, with self weight 1/2 and edges
    $1/(2n)$ 1/2. For the ring of 10 this is $\varphi^2/3 = 0.8727$, $\varphi = (1+\sqrt5)/2$.

    Assumptions: path and star: $N \ge 3$, below which $\Pi = J$; torus: $n \ge 3$ (3/5 for
    $n = 2$); $K_{n,n}$ with self weight 1/3 or 1/2: $n \ge 2$.

    Proof: the ring is circulant with the eigenvalues $(1 + 2\cos(2\pi j/N))/3$, largest in modulus
    at one of the ends $j = 1$, $\lfloor N/2 \rfloor$. The path has $\cos(\pi j (i - 1/2)/N)$ for
    eigenvectors. Star: $\Pi = I - \mathrm{Lap}/N$ and the Laplacian has the eigenvalues 0, 1, N.
    Hypercube and torus: sums over coordinates. $K_{n,n}$ with self weight $w$: 1, $w$ and
    $2w - 1$; the largest of $|w|$, $|2w - 1|$ is least at $w = 1/3$.

    Source: derived here.
    """
    for name, Pi, closed, sizes in graphs():
        for route, value in (("eigenvalues", sqrt_rho), ("operator norm", _operator_norm)):
            error = max(abs(value(Pi(n)) - closed(n)) for n in sizes)
            slip = solver_error(LARGEST)
            yield same(f"{name}, {route}", error, rounding=slip, sizes=len(sizes))
    golden = bounds.GOLDEN_RATIO**2 / 3
    found = sqrt_rho(TOPOLOGIES["ring"](10))
    yield same("ring of 10 is phi^2/3", found - golden, rounding=solver_error(10))
    yield from _no_equal_weights_are_better()


def solver_error(n: int, norm: float = 2.0) -> float:
    """Return 2 n eps |X|_op, the rounding of an eigenvalue or singular value of X [n, n].

    LAPACK's are exact for X + E, |E|_op <= p(n) eps |X|_op with a modest p (Users' Guide, 4.7 and
    4.9). Here p = 2 n: one eps for each side of the n reflections that condense X. The norm is 2
    for nonnegative weights with the consensus eigenvalue shifted up by 1, as in `sqrt_rho`.
    """
    return ulps(2 * n, norm)


def graphs() -> list[Valid]:
    """Return name, Pi of a size, its closed form, and the sizes (N, or n, or D) up to 31 agents."""
    every = list(range(1, LARGEST + 1))
    two = list(range(2, LARGEST // 2 + 1))
    graph = TOPOLOGIES
    return [
        ("complete", graph["complete"], lambda N: bounds.sqrt_rho_complete(N=N), every),
        ("ring", graph["ring"], lambda N: bounds.sqrt_rho_ring(N=N), every),
        ("path", graph["path"], lambda N: bounds.sqrt_rho_path(N=N), every),
        ("star", graph["star"], lambda N: bounds.sqrt_rho_star(N=N), every),
        (
            "hypercube",
            lambda D: graph["hypercube"](2**D),
            lambda D: bounds.sqrt_rho_hypercube(D=D),
            [0, 1, 2, 3, 4],
        ),
        (
            "torus",
            lambda n: graph["torus"](n * n),
            lambda n: bounds.sqrt_rho_torus(n=n),
            [1, 2, 3, 4, 5],
        ),
        (
            "bipartite, Metropolis",
            lambda n: graph["bipartite"](2 * n),
            lambda n: bounds.sqrt_rho_bipartite(n=n),
            [1, *two],
        ),
        (
            "bipartite, self 1/3",
            lambda n: two_sides(n, 1 / 3),
            lambda n: bounds.sqrt_rho_bipartite_optimal(n=n),
            two,
        ),
        ("bipartite, self 1/2", lambda n: two_sides(n, 1 / 2), lambda n: 1 / 2, two),
    ]


def two_sides(n: int, self_weight: float) -> np.ndarray:
    """Return K_{n,n} with a self weight and equal weights on the edges, [2 n, 2 n]."""
    across = np.kron([[0.0, 1.0], [1.0, 0.0]], np.ones((n, n)))
    return self_weight * np.eye(2 * n) + (1 - self_weight) / n * across


def _operator_norm(Pi: np.ndarray) -> float:
    """Return |Pi - J|_op by the singular values, on another path than `sqrt_rho`."""
    return float(np.linalg.norm(Pi - 1 / len(Pi), ord=2))


def _no_equal_weights_are_better() -> Iterator[Row]:
    """Yield that no self weight of K_{n,n} gives less than 1/3, over a grid of them."""
    for n in (2, 5, 15):
        least = min(sqrt_rho(two_sides(n, w)) for w in np.linspace(-0.5, 1.0, 181))
        slip = solver_error(LARGEST)
        optimal = bounds.sqrt_rho_bipartite_optimal(n=n)
        yield at_least("K_{n,n}, any self weight", least, optimal, rounding=slip, n=n)


def without_self_weight(ctx: Context) -> Iterator[Row]:
    r"""Uniform weights on the neighbours of a connected regular graph satisfy Assumption 5.

    $\pi_{ij} = 1/\deg$ on edges and 0 on the diagonal gives $\sqrt\rho < 1$, a positive spectral
    gap. FALSE where the graph is bipartite: $\Pi$ then has the eigenvalue -1, and the agents of
    the two sides exchange their values forever.

    Assumptions: the graph is connected and regular, so that $\Pi$ is symmetric and doubly
    stochastic.

    Proof (with an odd cycle): by Perron and Frobenius.

    Counterexample: $K_{2,2}$, as every $K_{n,n}$ and every ring of even length: the vector +1 on
    one side, -1 on the other is mapped to its negative.

    Source: derived here.
    """
    for n in (1, 2, 5):
        yield replay(two_sides_alone(n))
    for N in (3, 4, 5, 9, 10):
        yield replay({"Pi": cycle(N).tolist()})


def two_sides_alone(n: int = 2) -> Instance:
    """Return K_{n,n} with weights 1/n on the edges and none on the diagonal."""
    return {"Pi": two_sides(n, 0.0).tolist()}


def cycle(N: int) -> np.ndarray:
    """Return the ring with weights 1/2 on the two neighbours."""
    forward = np.roll(np.eye(N), 1, axis=1)
    return (forward + forward.T) / 2


def replay(instance: Instance) -> Row:
    """Return the row of the spectral gap of one stored Pi: beyond rounding, it must be positive."""
    Pi = np.array(instance["Pi"])
    rounding = ulps(len(Pi))  # of the eigenvalues of Pi, N eps
    least = float(mixing_eigenvalues(Pi)[-1])
    gap = spectral_gap(Pi)
    return at_least(
        "spectral gap > 0",
        gap,
        2 * rounding,
        rounding=rounding,
        N=len(Pi),
        least_eigenvalue=least,
    )


CLAIMS = [
    Claim(
        "T31",
        "networks",
        "derived",
        rows,
        bounds=(
            bounds.sqrt_rho_bipartite,
            bounds.sqrt_rho_bipartite_optimal,
            bounds.sqrt_rho_hypercube,
            bounds.sqrt_rho_path,
            bounds.sqrt_rho_ring,
            bounds.sqrt_rho_star,
            bounds.sqrt_rho_torus,
        ),
        not_attacked="closed forms",
        reaches={
            "K_{n,n}, any self weight": 1,
        },
    ),
    Claim(
        "T31-bipartite",
        "networks",
        "derived",
        without_self_weight,
        expected="violated",
        chosen_bound=True,
        replay=replay,
        instance=two_sides_alone,
        script="T31-bipartite",
    ),
]
