"""Mixing matrices Pi: rows and columns sum to one, one row per agent; graphs and their spectra.

from decaf_theory.topology import SCHEDULES, TOPOLOGIES, reversible, sqrt_rho
TOPOLOGIES["ring"](10)                           # a NumPy array [10, 10]
TOPOLOGIES["ring"](10**5, sparse=True)           # the same matrix as scipy.sparse CSR, 3.6 MB
SCHEDULES["one_peer_hypercube"](8)(t)            # the matrix of round t
SCHEDULES["pairwise_gossip"](8, seed=0)(t)       # a random one; .rho() of its law
SCHEDULES["contacts"](8, file="met.csv")(t)      # who met whom, read from a file
reversible(TOPOLOGIES["ring"](3), [70, 20, 10])  # keeps the mean weighted by these

A mixing matrix is a plain array [N, N] or a scipy sparse one, checked once on entry by
`check_mixing_matrix`. Those of `TOPOLOGIES` are symmetric: sqrt(rho) = |Pi - J|_op, J = 11'/N, is
then an eigenvalue; the graph mixes if it is below 1 (Assumption 5).
"""

from decaf_theory.topology.checks import Matrix, NegativeWeightWarning, check_mixing_matrix
from decaf_theory.topology.contacts import Contacts
from decaf_theory.topology.graphs import TOPOLOGIES, laplacian_weights, metropolis
from decaf_theory.topology.reversible import (
    check_reversible,
    reversible,
    reversible_eigenvalues,
    target_weights,
)
from decaf_theory.topology.schedules import SCHEDULES, RandomSchedule, Schedule
from decaf_theory.topology.spectra import (
    mixing_eigenvalues,
    require_mixing,
    spectral_gap,
    sqrt_rho,
)

__all__ = [
    "SCHEDULES",
    "TOPOLOGIES",
    "Contacts",
    "Matrix",
    "NegativeWeightWarning",
    "RandomSchedule",
    "Schedule",
    "check_mixing_matrix",
    "check_reversible",
    "laplacian_weights",
    "metropolis",
    "mixing_eigenvalues",
    "require_mixing",
    "reversible",
    "reversible_eigenvalues",
    "spectral_gap",
    "sqrt_rho",
    "target_weights",
]
