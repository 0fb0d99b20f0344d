"""Sparse mixing matrices, those of the table at any size; and matrices that change by the round."""

import tracemalloc
from functools import reduce
from math import log2
from re import escape

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

from decaf_theory.topology import (
    SCHEDULES,
    TOPOLOGIES,
    check_mixing_matrix,
    metropolis,
    mixing_eigenvalues,
    require_mixing,
    spectra,
    spectral_gap,
    sqrt_rho,
)
from tests.test_topology import CASES, CLOSED_FORMS

EPS = 2.0**-52
FULL = ("complete", "bipartite", "erdos_renyi")  # edges grow as N^2
LARGE = {"torus": (100**2, 316**2), "hypercube": (2**13, 2**17)}
SPARSE = [(name, N) for name in TOPOLOGIES for N in LARGE.get(name, (10**4, 10**5))]
SPARSE = [case for case in SPARSE if case[0] not in FULL]


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(("name", "N"), CASES)
def test_the_sparse_form_is_the_dense_one(name, N):
    dense, found = TOPOLOGIES[name](N), TOPOLOGIES[name](N, sparse=True)
    assert isinstance(found, sparse.csr_array)
    assert found.dtype == np.float64
    assert found.has_canonical_format
    assert found.nnz == np.count_nonzero(dense)  # no stored zero
    off = ~np.eye(N, dtype=bool)
    assert np.array_equal(found.toarray()[off], dense[off])
    # a row's weights are summed in another order: half an ulp of one for each of N at the most
    assert np.abs(found.diagonal() - np.diag(dense)).max() <= N * EPS / 2
    check_mixing_matrix(found, N)


@pytest.mark.parametrize("seed", range(5))
def test_the_sparse_metropolis_weights_of_a_graph_are_the_dense_ones(seed):
    graph = nx.gnp_random_graph(20, 0.2, seed=seed)
    graph.add_edges_from([(3, 3), (4, 4)])
    dense, found = metropolis(graph), metropolis(graph, sparse=True)
    assert isinstance(found, sparse.csr_array)
    assert np.abs(found.toarray() - dense).max() <= 20 * EPS / 2
    parallel = nx.MultiGraph(graph)
    parallel.add_edges_from(graph.edges)
    assert np.array_equal(metropolis(parallel), dense)


def test_letters_of_a_random_graph_reach_its_sparse_form():
    found = TOPOLOGIES["erdos_renyi"](40, p=0.2, seed=3, sparse=True)
    assert np.array_equal(found.toarray() != 0, TOPOLOGIES["erdos_renyi"](40, p=0.2, seed=3) != 0)


# how many entries there are, self-weights included
EDGES = {
    "ring": lambda N: 3 * N,
    "path": lambda N: 3 * N - 2,
    "star": lambda N: 3 * N - 2,
    "torus": lambda N: 5 * N,
    "hypercube": lambda N: (round(log2(N)) + 1) * N,
    # hops +-2^l below N; +-N/2 would be one, but no N here is a power of two
    "exponential": lambda N: (2 * (N - 1).bit_length() + 1) * N,
}


def traced(build):
    """Return a sparse matrix, the bytes that it keeps and the peak on the way."""
    tracemalloc.start()
    Pi = build()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Pi, kept, peak


@pytest.mark.slow
@pytest.mark.parametrize(("name", "N"), SPARSE)
def test_a_large_sparse_topology_takes_memory_of_its_edges(name, N):
    Pi, kept, peak = traced(lambda: TOPOLOGIES[name](N, sparse=True))
    assert Pi.shape == (N, N)
    if name in EDGES:
        assert Pi.nnz == EDGES[name](N)
    # 8 bytes a weight, 4 an index, and 4 a row; Python's own objects are below 100 kB
    assert kept <= 12 * Pi.nnz + 4 * N + 10**5
    # on the way at most eight numbers of 8 bytes an entry: both ends, their order, ones, two CSRs
    assert peak <= 64 * (Pi.nnz + N) + 10**5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "N"), SPARSE)
def test_a_large_sparse_topology_is_a_mixing_matrix(name, N):
    Pi = TOPOLOGIES[name](N, sparse=True)
    check_mixing_matrix(Pi, N)
    assert abs(Pi - Pi.T).max() == 0
    # half an ulp for each weight of the longest row, which the star's hub has
    assert np.abs(Pi.sum(axis=1) - 1).max() <= np.diff(Pi.indptr).max() * EPS
    assert Pi.diagonal().min() > 0


@pytest.mark.parametrize(
    ("name", "letters", "size"),
    [
        ("ring", {}, "80 GB"),
        ("exponential", {}, "80 GB"),
        ("complete", {}, "80 GB"),
        ("complete", {"sparse": True}, "120 GB"),
        ("bipartite", {"sparse": True}, "60 GB"),
        ("erdos_renyi", {"sparse": True, "p": 0.1}, "12 GB"),
    ],
)
def test_a_matrix_that_would_fill_the_memory_is_refused_with_its_size(name, letters, size):
    message = rf"^N must be smaller, got 100000: Pi would take {size}, more than 4\.3; "
    hint = "use sparse=True" if name in ("ring", "exponential") else "its graph has too many edges"
    with pytest.raises(ValueError, match=message + hint):
        TOPOLOGIES[name](10**5, **letters)


# ---------------------------------------------------------------- spectra


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "path", "star", "torus", "hypercube"])
def test_sqrt_rho_of_a_large_sparse_topology_is_its_closed_form(name):
    N = LARGE.get(name, (10**4,))[0]
    Pi, exact = TOPOLOGIES[name](N, sparse=True), CLOSED_FORMS[name](N)
    # the rounding of sums of N squares, and of a solve as badly conditioned as the gap is small
    assert sqrt_rho(Pi) == pytest.approx(exact, abs=N * EPS)
    assert spectral_gap(Pi) == pytest.approx(1 - exact, rel=spectra.ACCURACY)
    require_mixing(Pi)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exponential", "erdos_renyi", "bipartite", "complete"])
def test_sparse_and_dense_spectra_agree_on_graphs_that_are_not_chains(name):
    N = spectra.DENSE_UP_TO + 88
    dense = TOPOLOGIES[name](N)
    assert sqrt_rho(TOPOLOGIES[name](N, sparse=True)) == pytest.approx(sqrt_rho(dense), abs=N * EPS)


def test_a_gap_that_lanczos_does_not_resolve_is_an_error(monkeypatch):
    Pi = TOPOLOGIES["ring"](10**4, sparse=True)  # gap 1.3e-7
    monkeypatch.setattr(spectra, "ENVELOPE", 0)  # as for a graph that is as slow, but wide
    monkeypatch.setattr(spectra, "RESTARTS", 3)
    start = "sqrt(rho) of this Pi is too close to 1 to resolve the gap: 3 restarts"
    for ask in (sqrt_rho, spectral_gap, require_mixing):
        with pytest.raises(ValueError, match=f"^{escape(start)}.*bounds.sqrt_rho_<graph>"):
            ask(Pi)


def test_a_vector_that_is_no_eigenvector_is_an_error(monkeypatch):
    Pi = TOPOLOGIES["exponential"](600, sparse=True)
    monkeypatch.setattr(spectra, "TOLERANCE", 0.9)  # Lanczos stops at once
    monkeypatch.setattr(spectra, "VECTORS", 3)
    with pytest.raises(ValueError, match=r"the residual \d\.\de-0\d is not small compared with it"):
        sqrt_rho(Pi)


def test_all_eigenvalues_of_a_large_matrix_are_refused():
    Pi = TOPOLOGIES["ring"](10**5, sparse=True)
    with pytest.raises(ValueError, match=r"Pi would take 80 GB, .* needs only the largest"):
        mixing_eigenvalues(Pi)
    small = TOPOLOGIES["ring"](10, sparse=True)
    assert np.array_equal(mixing_eigenvalues(small), mixing_eigenvalues(small.toarray()))


# ---------------------------------------------------------------- schedules


SIZES = {"one_peer_hypercube": [1, 2, 4, 8, 16], "one_peer_exponential": [*range(1, 20), 31, 32]}
ROUNDS = [(name, N) for name, sizes in SIZES.items() for N in sizes]


def period(N):
    return max(1, (N - 1).bit_length())


@pytest.mark.parametrize(("name", "N"), ROUNDS)
def test_a_round_of_one_peer_halves_and_keeps_the_mean(name, N):
    schedule = SCHEDULES[name](N)
    for t in range(period(N)):
        Pi = schedule(t)
        # exactly: sums of halves
        assert np.all(Pi.sum(axis=0) == 1)
        assert np.all(Pi.sum(axis=1) == 1)
        assert np.all(np.diag(Pi) == (0.5 if N > 1 else 1))
        assert np.count_nonzero(Pi) == (2 * N if N > 1 else 1)
        assert np.array_equal(Pi, schedule(t + period(N)))
        assert np.array_equal(SCHEDULES[name](N, sparse=True)(t).toarray(), Pi)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("tau", range(6))
def test_the_product_over_tau_rounds_is_the_mean(name, tau):
    N = 2**tau
    schedule = SCHEDULES[name](N)
    for first in range(3):
        rounds = [schedule(t) for t in range(first, first + period(N))]
        # powers of two: exact
        assert np.array_equal(reduce(np.matmul, rounds), np.full((N, N), 1 / N))
    if tau > 1:
        assert not np.array_equal(reduce(np.matmul, rounds[1:]), np.full((N, N), 1 / N))


def test_the_product_is_no_mean_where_n_is_not_a_power_of_two():
    rounds = [SCHEDULES["one_peer_exponential"](6)(t) for t in range(3)]
    assert np.ptp(reduce(np.matmul, rounds)) > 0


def test_peers_of_the_hypercube_exchange_and_those_of_the_exponential_graph_do_not():
    for t in range(3):
        pairs, directed = (SCHEDULES[name](8)(t) for name in SIZES)
        hop = 2**t
        for i in range(8):
            assert directed[i, (i + hop) % 8] == 0.5
            assert pairs[i, i ^ hop] == 0.5
        check_mixing_matrix(pairs)
        assert 1 <= sqrt_rho(pairs) <= 1 + 16 * EPS  # a round by itself does not mix
        check_mixing_matrix(directed)
        if hop != 4:
            with pytest.raises(ValueError, match=r"^Pi must be symmetric"):
                sqrt_rho(directed)


def test_a_round_of_a_large_schedule_takes_memory_of_its_agents():
    N = 2**17
    for name in SIZES:
        Pi, kept, peak = traced(lambda name=name: SCHEDULES[name](N, sparse=True)(5))
        assert Pi.nnz == 2 * N
        assert kept <= 12 * Pi.nnz + 4 * N + 10**5
        assert peak <= 64 * (Pi.nnz + N) + 10**5


@pytest.mark.parametrize(
    ("name", "N", "t", "message"),
    [
        ("pairwise_gossip", 0, 0, "N must be an integer >= 1, got 0"),
        ("random_matching", 4, -1, "t must be an integer >= 0, got -1"),
        (
            "one_peer_hypercube",
            10,
            0,
            "N must be a power of two for the one-peer hypercube, got 10",
        ),
        ("one_peer_exponential", 0, 0, "N must be an integer >= 1, got 0"),
        ("one_peer_exponential", 4, -1, "t must be an integer >= 0, got -1"),
        ("one_peer_hypercube", 4, 0.5, "t must be an integer >= 0, got 0.5"),
    ],
)
def test_bad_schedules_and_rounds_are_refused(name, N, t, message):
    with pytest.raises(ValueError, match=f"^{escape(message)}"):
        SCHEDULES[name](N)(t)
