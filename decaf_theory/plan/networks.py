"""What is known of a graph of N agents without building it: gap, links, S, up to 10^12 agents.

`gap` is 1 - sqrt(rho), written so that it keeps its digits where sqrt(rho) itself rounds to one: at
a billion agents the ring's gap is 1.3e-17. S is that of order CB, sum_mu 1/(1 - mu^2) over the
eigenvalues without the leading 1; that of order MS is S - (N - 1), as mu^2/(1 - mu^2) is one less.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, comb, fsum, isqrt, log, log1p, log2, pi, sin, sqrt, ulp
from typing import NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import Array, integer
from decaf_theory.names import Table
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues
from decaf_theory.topology.graphs import dimension, require_member

LARGEST = 10**12  # agents
SPECTRUM = 2**20  # agents of a circulant graph whose eigenvalues are all computed
BUILT = 512  # agents of a graph that is built, as it has no closed form


class Network(NamedTuple):
    """A graph of N agents: 1 - sqrt(rho), directed links, most neighbours of an agent, S.

    sharp: whether S is exact, or (N - 1)/(1 - rho), which is never below it. source: of the gap.
    """

    N: int
    gap: float
    links: int
    degree: int
    S: float
    sharp: bool = True
    source: str = "T31"

    @property
    def lam(self) -> float:
        """sqrt(rho), which rounds to one where the gap is below the spacing there."""
        return 1 - self.gap

    @property
    def q(self) -> float:
        """q of order MS, lam/(1 - lam)."""
        return self.lam / self.gap

    @property
    def q_combine(self) -> float:
        """q of order CB, 1/(1 - lam); 0 for one agent, which has no one to differ from."""
        return 1 / self.gap if self.N > 1 else 0.0

    @property
    def S_mixed(self) -> float:
        """S of order MS."""
        return max(0.0, self.S - (self.N - 1))

    def rounds(self, factor: float) -> int:
        """Return the least t with sqrt(rho)^t <= factor."""
        return rounds_to(factor, self.gap) if self.N > 1 else 0


def rounds_to(factor: float, gap: float) -> int:
    """Return the least t >= 1 with (1 - gap)^t <= factor, up to the rounding of the logarithms."""
    if gap >= 1:
        return 1
    return max(1, ceil(log(factor) / log1p(-gap) * (1 - 8 * ulp(1.0))))


def network(graph: str, N: int) -> Network:
    """Return what is known of a graph of `NETWORKS`.

    ValueError: an unknown name, with the nearest; N outside 1 ... 10^12, or that the graph cannot
    have, with the nearest that it can; a graph without a closed form that is too large to compute.
    """
    try:
        of = NETWORKS[graph]
    except KeyError as error:
        raise ValueError(f"graph: {error.args[0]}") from None
    if integer("agents", N, 1) > LARGEST:
        raise ValueError(f"agents must be at most {LARGEST:.0e}, got {N}")
    return of(int(N))


def complete(N: int) -> Network:
    """Return the complete graph: all other eigenvalues are 0."""
    return Network(N, 1.0, N * (N - 1), N - 1, float(N - 1))


def ring(N: int) -> Network:
    """Return the ring: 1 - mu = (4/3) sin^2(pi j/N), and 1 - cos x = 2 sin^2(x/2).

    S = (sum 1/(1 - mu) + sum 1/(1 + mu))/2, with sum_j 1/sin^2(pi j/N) = (N^2 - 1)/3.
    """
    above = 3 * circular_sum(N, 2.0, 2.0) - 0.5
    degree = min(N - 1, 2)
    return Network(N, ring_gap(N), N * degree, degree, ((N**2 - 1) / 4 + above) / 2)


def ring_gap(N: float) -> float:
    """Return 4 sin^2(pi/N) / 3 of the ring for N >= 3; 2/3 for N = 2 (mu = -1/3), 1 for N = 1."""
    if N < 3:
        return 1 - bounds.sqrt_rho_ring(N=int(N))
    return 4 * sin(pi / N) ** 2 / 3


def path(N: int) -> Network:
    """Return the path: its eigenvalues are half of those of a ring of 2 N, and N = 2 is J."""
    if N <= 2:
        return complete(N)
    # of the 2 N frequencies 0 gives 1/2, N gives 3/2, the others come in pairs
    above = (3 * circular_sum(2 * N, 2.0, 2.0) - 2) / 2
    gap = 4 * sin(pi / (2 * N)) ** 2 / 3
    return Network(N, gap, 2 * (N - 1), 2, ((N**2 - 1) / 2 + above) / 2)


def star(N: int) -> Network:
    """Return the star: eigenvalues 1 - 1/N (N - 2 times) and 0; N = 2 is J."""
    if N <= 2:
        return complete(N)
    return Network(N, 1 / N, 2 * (N - 1), N - 1, (N - 2) / (2 / N - 1 / N**2) + 1)


def torus(N: int) -> Network:
    """Return the n x n torus: 1 - mu = (4 - 2 cos a - 2 cos b)/5, summed over b in closed form."""
    n = isqrt(N)
    require_member("torus", N, "a square", {n**2, (n + 1) ** 2})
    half = np.pi * np.arange(n) / n
    sines, cosines = 4 * np.sin(half) ** 2, 4 * np.cos(half) ** 2  # 2 -+ 2 cos a
    below = 5 * float(np.sum(circular_sum(n, sines[1:], -2.0))) + 5 * (n**2 - 1) / 12
    # 6 + 2 cos a + 2 cos b
    above = 5 * float(np.sum(circular_sum(n, 2 + cosines, 2.0))) - 0.5
    degree = (0, 0, 2)[n] if n < 3 else 4
    return Network(N, torus_gap(N), N * degree, degree, (below + above) / 2)


def torus_gap(N: float) -> float:
    """Return 4 sin^2(pi/n) / 5 of the torus, N = n^2, n >= 3; 2/5 for n = 2, 1 for one agent."""
    n = sqrt(N)
    if n < 3:
        return 1 - bounds.sqrt_rho_torus(n=int(n))
    return 4 * sin(pi / n) ** 2 / 5


def hypercube(N: int) -> Network:
    """Return the hypercube: mu = 1 - 2 j/(D + 1), as often as D over j."""
    D = dimension("hypercube", N)
    gap = 2 / (D + 1) if D else 1.0
    # 1 - mu^2 = (1 - mu)(1 + mu) = 4 j (D + 1 - j)/(D + 1)^2
    S = fsum(comb(D, j) * (D + 1) ** 2 / (4 * j * (D + 1 - j)) for j in range(1, D + 1))
    return Network(N, gap, N * D, D, S)


def bipartite(N: int) -> Network:
    """Return K_{n,n}: eigenvalues 1/(n + 1) (2 n - 2 times) and -(n - 1)/(n + 1)."""
    require_member("bipartite", N, "even", {max(2, N - N % 2), N + N % 2})
    n = N // 2
    # 1 - mu^2 = n (n + 2)/(n + 1)^2 and 4 n/(n + 1)^2
    S = (n + 1) ** 2 * ((2 * n - 2) / (n * (n + 2)) + 1 / (4 * n))
    return Network(N, 2 / (n + 1), N * n, n, S)


def exponential(N: int) -> Network:
    """Return the exponential graph, of more than 2^20 agents only for N = 2^tau."""
    hops = sorted({hop for j in range((N - 1).bit_length()) for hop in (2**j, N - 2**j)})
    degree = len(hops)
    if N <= SPECTRUM:
        row = np.zeros(N)
        row[[0, *hops]] = 1 / (1 + degree)
        mu = np.fft.fft(row).real[1:]
        gap = 1 - float(np.max(np.abs(mu), initial=0.0))
        source = "eigenvalues computed"
        return Network(N, gap, N * degree, degree, float(np.sum(1 / (1 - mu**2))), True, source)
    near = 2 ** (N.bit_length() - 1)
    rule = f"a power of two beyond {SPECTRUM}, where its gap has a closed form,"
    require_member("exponential graph", N, rule, {near, 2 * near})
    gap = exponential_gap(N)
    return Network(N, gap, N * degree, degree, (N - 1) / (gap * (2 - gap)), False, "derived")


def exponential_gap(N: float) -> float:
    """Return 2/tau of the undirected exponential graph, N = 2^tau >= 32.

    Each agent has 2 tau - 1 neighbours, at hops of 2^l in both directions, the last of which meet;
    all weights are 1/(2 tau). So frequency j has the eigenvalue 1 - loss/(2 tau),

        loss = sum_{l < tau - 1} 2 (1 - cos(2^l x)) + 1 - cos(2^(tau - 1) x),   x = 2 pi j / N.

    2^l x doubles from hop to hop until it is pi, where 1 - cos is 2, and is a multiple of 2 pi from
    then on. If it is pi at the last hop (j odd), this loses 2, and the hop before, at an odd
    multiple of pi/2, another 2; at any other hop pi alone loses 4, and at the first hop
    (j = N/2) nothing else does. So the least loss is 4. Two hops in a row, of cosines c and
    2 c^2 - 1, lose 6 - 2 c - 4 c^2 <= 6.25, all together less than 4 tau - 4 from tau = 5 on: no
    eigenvalue is below 2/tau - 1, and that of j = N/2 is the largest in size.
    """
    return 2 / log2(N)


def erdos_renyi(N: int) -> Network:
    """Return the random graph of `topology`, p = 1/2 and seed 0, built, for N up to 512."""
    if N > BUILT:
        raise ValueError(
            f"agents must be at most {BUILT} for erdos_renyi, got {N}: it has no closed form, and "
            f"is built; exponential has few links and a closed form"
        )
    Pi = TOPOLOGIES["erdos_renyi"](N)
    mu = mixing_eigenvalues(Pi)
    degrees = np.count_nonzero(Pi, axis=1) - 1
    gap = 1 - float(np.max(np.abs(mu), initial=0.0))
    S = float(np.sum(1 / (1 - mu**2)))
    return Network(N, gap, int(degrees.sum()), int(degrees.max()), S, True, "eigenvalues computed")


def circular_sum(n: int, above: Array, b: float) -> Array:
    """Return sum_{j < n} 1/(a + b cos(2 pi j/n)) with a = |b| + above, above > 0, elementwise.

        n/root (1 + w)/(1 - w),   root = sqrt(a^2 - b^2),   w = (-(a - root)/b)^n

    From 1/(a + b cos x) = (1 + 2 sum_m z^m cos(m x))/root, z = -(a - root)/b: the sum over j keeps
    the multiples of n.
    """
    root = (above * (above + 2 * abs(b))) ** 0.5
    w = (-(above + abs(b) - root) / b) ** n
    return n / root * (1 + w) / (1 - w)


NETWORKS: Table[Callable[[int], Network]] = Table(
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
