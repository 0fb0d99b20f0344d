"""Mixing matrices Pi of graphs: symmetric, rows sum to one, one row per agent; and their spectra.

from decaf_theory.topology import SCHEDULES, TOPOLOGIES, sqrt_rho
TOPOLOGIES["ring"](10)                           # a NumPy array [10, 10]
TOPOLOGIES["ring"](10**5, sparse=True)           # the same matrix as scipy.sparse CSR, 3.6 MB
SCHEDULES["one_peer_hypercube"](8)(t)            # the matrix of round t

A mixing matrix is a plain array [N, N] or a scipy sparse one, checked once on entry by
`check_mixing_matrix`. sqrt(rho) = |Pi - J|_op with J = 11'/N; the graph mixes if it is below 1
(Assumption 5).
"""

from decaf_theory.topology.checks import Matrix, NegativeWeightWarning, check_mixing_matrix
from decaf_theory.topology.graphs import TOPOLOGIES, laplacian_weights, metropolis
from decaf_theory.topology.schedules import SCHEDULES
from decaf_theory.topology.spectra import (
    mixing_eigenvalues,
    require_mixing,
    spectral_gap,
    sqrt_rho,
)

__all__ = [
    "SCHEDULES",
    "TOPOLOGIES",
    "Matrix",
    "NegativeWeightWarning",
    "check_mixing_matrix",
    "laplacian_weights",
    "metropolis",
    "mixing_eigenvalues",
    "require_mixing",
    "spectral_gap",
    "sqrt_rho",
]
