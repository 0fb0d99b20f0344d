"""Mixing matrices: every topology at every N up to 31, closed forms, spectra, checks."""

from contextlib import nullcontext
from math import inf, nan
from re import escape

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from decaf_theory import bounds
from decaf_theory.topology import (
    TOPOLOGIES,
    NegativeWeightWarning,
    check_mixing_matrix,
    laplacian_weights,
    metropolis,
    mixing_eigenvalues,
    require_mixing,
    spectra,
    spectral_gap,
    sqrt_rho,
)
from verification.claims.networks.spectral_gaps import solver_error

EPS = 2.0**-52
VALID = {
    "torus": [1, 4, 9, 16, 25],
    "hypercube": [1, 2, 4, 8, 16],
    "bipartite": list(range(2, 32, 2)),
}
CASES = [(name, N) for name in TOPOLOGIES for N in VALID.get(name, range(1, 32))]
CLOSED_FORMS = {
    "complete": lambda N: bounds.sqrt_rho_complete(N=N),
    "ring": lambda N: bounds.sqrt_rho_ring(N=N),
    "path": lambda N: bounds.sqrt_rho_path(N=N),
    "star": lambda N: bounds.sqrt_rho_star(N=N),
    "torus": lambda N: bounds.sqrt_rho_torus(n=round(N**0.5)),
    "hypercube": lambda N: bounds.sqrt_rho_hypercube(D=round(np.log2(N))),
    "bipartite": lambda N: bounds.sqrt_rho_bipartite(n=N // 2),
}


def spectral_norm(Pi):
    return np.linalg.norm(Pi - np.ones_like(Pi) / len(Pi), 2)


# ---------------------------------------------------------------- topologies


@pytest.mark.parametrize(("name", "N"), CASES)
def test_a_topology_is_a_mixing_matrix_with_the_named_graph(name, N):
    Pi = TOPOLOGIES[name](N)
    assert Pi.shape == (N, N)
    assert Pi.dtype == np.float64
    assert np.array_equal(Pi, Pi.T)
    assert np.all(Pi >= 0)
    assert np.all(np.diag(Pi) > 0)
    assert np.abs(Pi.sum(axis=1) - 1).max() <= 4 * EPS
    check_mixing_matrix(Pi, N)
    require_mixing(Pi)


@pytest.mark.parametrize(("name", "N"), [case for case in CASES if case[0] in CLOSED_FORMS])
def test_sqrt_rho_is_its_closed_form(name, N):
    Pi = TOPOLOGIES[name](N)
    assert sqrt_rho(Pi) == pytest.approx(CLOSED_FORMS[name](N), abs=solver_error(N))
    # of norm 1 is what the other solver sees
    assert spectral_norm(Pi) == pytest.approx(CLOSED_FORMS[name](N), abs=solver_error(N, 1.0))
    assert spectral_gap(Pi) == 1 - sqrt_rho(Pi)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_optimal_weights_of_the_bipartite_graph_have_their_closed_form(n):
    graph = nx.to_numpy_array(nx.complete_bipartite_graph(n, n))
    Pi = np.eye(2 * n) / 3 + graph * 2 / (3 * n)
    allowed = solver_error(2 * n)
    assert sqrt_rho(Pi) == pytest.approx(bounds.sqrt_rho_bipartite_optimal(n=n), abs=allowed)
    # no self weight does better, and self weight 1/2 gives 1/2
    for w in np.linspace(0.01, 0.99, 99):
        Pi = w * np.eye(2 * n) + graph * (1 - w) / n
        assert sqrt_rho(Pi) >= 1 / 3 - allowed
    half = np.eye(2 * n) / 2 + graph / (2 * n)
    assert sqrt_rho(half) == pytest.approx(1 / 2, abs=allowed)


def test_the_small_rings_have_row_sums_of_exactly_one():
    assert np.array_equal(TOPOLOGIES["ring"](1), [[1.0]])
    assert np.array_equal(TOPOLOGIES["ring"](2), [[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    for N in (1, 2, 3, 10):
        assert np.all(TOPOLOGIES["ring"](N).sum(axis=1) == 1)


THIRD = 1 / 3
EXAMPLES = {
    ("complete", 3): np.full((3, 3), THIRD),
    ("ring", 3): np.full((3, 3), THIRD),
    ("ring", 5): [[THIRD if (i - j) % 5 in (0, 1, 4) else 0 for j in range(5)] for i in range(5)],
    ("path", 2): [[0.5, 0.5], [0.5, 0.5]],
    ("path", 3): [[2 / 3, THIRD, 0], [THIRD, THIRD, THIRD], [0, THIRD, 2 / 3]],
    ("star", 4): [[0.25, 0.25, 0.25, 0.25], *(0.25 * np.eye(4)[0] + 0.75 * np.eye(4))[1:]],
    ("torus", 1): [[1.0]],
    # agents 00, 01, 10, 11: the two neighbours along an axis coincide, 1/5 + 1/5
    ("torus", 4): np.array([[1, 2, 2, 0], [2, 1, 0, 2], [2, 0, 1, 2], [0, 2, 2, 1]]) / 5,
    ("hypercube", 4): np.array([[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]]) / 3,
    ("bipartite", 2): [[0.5, 0.5], [0.5, 0.5]],
    ("bipartite", 4): np.array([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 1]]) / 3,
    # hops +-1, +-2, +-4 of 8: all but 3 and 5
    ("exponential", 8): [[((i - j) % 8 not in (3, 5)) / 6 for j in range(8)] for i in range(8)],
    # hops +-1, +-2, +-4 of 9, and +-8 = -+1: all but 3 and 6
    ("exponential", 9): [[((i - j) % 9 not in (3, 6)) / 7 for j in range(9)] for i in range(9)],
}


@pytest.mark.parametrize(("name", "N"), EXAMPLES)
def test_a_small_topology_has_its_weights(name, N):
    assert TOPOLOGIES[name](N) == pytest.approx(np.array(EXAMPLES[name, N]), abs=2 * EPS)


def test_the_torus_has_four_neighbours_on_a_grid_that_wraps():
    graph = nx.grid_2d_graph(4, 4, periodic=True)
    expected = (np.eye(16) + nx.to_numpy_array(graph)) / 5
    assert TOPOLOGIES["torus"](16) == pytest.approx(expected, abs=EPS)


def test_the_hypercube_is_that_of_networkx():
    graph = nx.hypercube_graph(4)
    order = sorted(graph.nodes)
    expected = (np.eye(16) + nx.to_numpy_array(graph, nodelist=order)) / 5
    assert TOPOLOGIES["hypercube"](16) == pytest.approx(expected, abs=EPS)


@pytest.mark.parametrize(
    ("name", "N", "message"),
    [
        ("torus", 10, "N must be a square for the torus, got 10; valid nearby: 9, 16"),
        ("torus", 15, "N must be a square for the torus, got 15; valid nearby: 9, 16"),
        (
            "hypercube",
            10,
            "N must be a power of two for the hypercube, got 10; valid nearby: 8, 16",
        ),
        ("bipartite", 5, "N must be even for the bipartite, got 5; valid nearby: 4, 6"),
        ("bipartite", 7, "N must be even for the bipartite, got 7; valid nearby: 6, 8"),
        ("bipartite", 1, "N must be even for the bipartite, got 1; valid nearby: 2"),
        *((name, 0, "N must be an integer >= 1, got 0") for name in TOPOLOGIES),
        *((name, True, "N must be an integer >= 1, got True") for name in TOPOLOGIES),
        *((name, 4.0, "N must be an integer >= 1, got 4.0") for name in TOPOLOGIES),
    ],
)
def test_a_number_of_agents_that_does_not_fit_is_refused_with_those_that_do(name, N, message):
    with pytest.raises(ValueError, match=f"^{escape(message)}$"):
        TOPOLOGIES[name](N)


def test_numpy_integers_count_agents_too():
    assert TOPOLOGIES["hypercube"](np.int64(8)).shape == (8, 8)


def test_a_random_graph_is_fixed_by_its_seed():
    first, again, other = (TOPOLOGIES["erdos_renyi"](12, p=0.4, seed=s) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_random_graph_has_half_of_all_edges_unless_asked():
    assert np.array_equal(
        TOPOLOGIES["erdos_renyi"](31), TOPOLOGIES["erdos_renyi"](31, p=0.5, seed=0)
    )
    assert np.array_equal(TOPOLOGIES["erdos_renyi"](1, p=0), [[1.0]])


def test_a_random_graph_has_the_asked_share_of_edges():
    N, p = 60, 0.3
    edges = np.sum(np.triu(TOPOLOGIES["erdos_renyi"](N, p=p), k=1) > 0)
    pairs = N * (N - 1) // 2
    assert abs(edges - p * pairs) < 5 * np.sqrt(pairs * p * (1 - p))
    assert np.array_equal(TOPOLOGIES["erdos_renyi"](5, p=1), metropolis(nx.complete_graph(5)))


def test_a_random_graph_that_is_never_connected_names_the_threshold():
    # log(20)/20 = .14979
    message = r"p must be .* none of 100 graphs .* N = 20, p = 0\.01 .* log\(N\)/N = 0\.1498$"
    with pytest.raises(ValueError, match=message):
        TOPOLOGIES["erdos_renyi"](20, p=0.01)


@pytest.mark.parametrize(
    ("letters", "message"),
    [
        (dict(p=-0.1), r"^p must lie in \[0, 1\], got -0\.1"),
        (dict(p=1.01), r"^p must lie in \[0, 1\], got 1\.01"),
        (dict(p=nan), r"^p must lie in \[0, 1\], got nan"),
        (dict(seed=-1), "^seed must be an integer >= 0, got -1"),
    ],
)
def test_a_random_graph_refuses_bad_letters(letters, message):
    with pytest.raises(ValueError, match=message):
        TOPOLOGIES["erdos_renyi"](5, **letters)


# ---------------------------------------------------------------- weights of any graph


@st.composite
def graphs(draw):
    N = draw(st.integers(1, 9))
    return nx.gnp_random_graph(N, draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])), seed=N)


@given(graph=graphs())
def test_metropolis_weights_follow_the_degrees(graph):
    Pi = metropolis(graph)
    for i, j in graph.edges:
        assert Pi[i, j] == 1 / (1 + max(graph.degree(i), graph.degree(j)))
    assert np.count_nonzero(Pi) == 2 * graph.number_of_edges() + len(graph)
    check_mixing_matrix(Pi)
    assert np.all(np.diag(Pi) > 0)


@given(graph=graphs())
def test_laplacian_weights_keep_the_spectrum_above_one_third(graph):
    Pi = laplacian_weights(graph)
    check_mixing_matrix(Pi)
    assert np.all(Pi >= 0)
    eigenvalues = np.linalg.eigvalsh(Pi)
    allowed = solver_error(len(graph))
    assert eigenvalues[-1] == pytest.approx(1, abs=allowed)
    if graph.number_of_edges():
        assert eigenvalues[0] == pytest.approx(1 / 3, abs=allowed)
        laplacian = nx.laplacian_matrix(graph).toarray()
        weight = 2 / (3 * np.linalg.eigvalsh(laplacian)[-1])
        assert pytest.approx(np.eye(len(graph)) - weight * laplacian, abs=allowed) == Pi
    else:
        assert np.array_equal(Pi, np.eye(len(graph)))


@pytest.mark.parametrize("weights", [metropolis, laplacian_weights])
def test_self_loops_and_edge_weights_do_not_count(weights):
    plain, dressed = nx.path_graph(4), nx.path_graph(4)
    dressed.add_edge(2, 2)
    dressed[0][1]["weight"] = 7.0
    assert np.array_equal(weights(plain), weights(dressed))
    named = nx.relabel_nodes(plain, dict(enumerate("abcd")))
    assert np.array_equal(weights(plain), weights(named))


@pytest.mark.parametrize("weights", [metropolis, laplacian_weights])
def test_directed_and_empty_graphs_are_refused(weights):
    with pytest.raises(ValueError, match=r"^graph must be undirected with .* node, got directed"):
        weights(nx.DiGraph([(0, 1)]))
    with pytest.raises(ValueError, match=r"^graph must be undirected with .* node, got no nodes"):
        weights(nx.Graph())


# ---------------------------------------------------------------- spectra


def test_the_eigenvalues_leave_out_the_consensus_direction_only():
    assert mixing_eigenvalues(np.eye(3)) == pytest.approx([1, 1], abs=solver_error(3))
    assert mixing_eigenvalues(TOPOLOGIES["ring"](4)) == pytest.approx(
        [1 / 3, 1 / 3, -1 / 3], abs=solver_error(4)
    )
    assert mixing_eigenvalues([[1]]).shape == (0,)
    # negative weights put another eigenvalue, 3, above the 1 of consensus, which goes up to 4
    allowed = solver_error(2, norm=4.0)
    assert mixing_eigenvalues([[2.0, -1.0], [-1.0, 2.0]]) == pytest.approx([3], abs=allowed)
    assert sqrt_rho([[2.0, -1.0], [-1.0, 2.0]]) == pytest.approx(3, abs=allowed)


def test_the_eigenvalue_of_largest_size_counts_also_where_it_is_negative():
    Pi = np.array([[0.1, 0.9], [0.9, 0.1]])
    assert sqrt_rho(Pi) == pytest.approx(0.8, abs=solver_error(2))


def ring_of(N):
    i = np.arange(N)
    there = [i, (i + 1) % N, (i - 1) % N]
    data = np.full(3 * N, 1 / 3)
    return sparse.csr_array((data, (np.tile(i, 3), np.concatenate(there))), shape=(N, N))


@pytest.mark.parametrize("N", [5, 511, 512, 513, 4000])
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.coo_array, sparse.csc_matrix])
def test_a_sparse_ring_of_any_size_has_its_closed_form(N, kind):
    # the sparse solver adds N roundings of |Pi v|, less than the dense one is allowed
    closed = bounds.sqrt_rho_ring(N=N)
    assert sqrt_rho(kind(ring_of(N))) == pytest.approx(closed, abs=solver_error(N))


def test_a_sparse_ring_of_a_hundred_thousand_agents_keeps_its_gap():
    N = 10**5
    gap = 1 - bounds.sqrt_rho_ring(N=N)
    assert spectral_gap(ring_of(N)) == pytest.approx(gap, rel=1e-6)  # 16 digits less the nine of it


@pytest.mark.parametrize("graph", ["cycle", "regular", "star", "complete bipartite"])
def test_sparse_and_dense_spectra_agree_beyond_the_dense_size(graph):
    N = 600
    Pi = metropolis(
        {
            "cycle": lambda: nx.cycle_graph(N),
            "regular": lambda: nx.random_regular_graph(4, N, seed=0),
            "star": lambda: nx.star_graph(N - 1),
            "complete bipartite": lambda: nx.complete_bipartite_graph(N // 2, N // 2),
        }[graph]()
    )
    assert sqrt_rho(sparse.csr_array(Pi)) == pytest.approx(sqrt_rho(Pi), abs=solver_error(N))


def test_a_large_sparse_matrix_whose_least_eigenvalue_dominates_is_seen():
    # 0.05 I + 0.95 W, W the walk on an even cycle: eigenvalues .05 + .95 cos(2 pi j/N), least -.9
    N = 600
    walk = (ring_of(N) - sparse.eye_array(N) / 3) * 1.5
    assert sqrt_rho(0.05 * sparse.eye_array(N) + 0.95 * walk) == pytest.approx(
        0.05 + 0.95 * np.cos(2 * np.pi / N), abs=solver_error(N)
    )
    lazy = -0.3 * sparse.eye_array(N) + 1.3 * walk
    assert sqrt_rho(lazy) == pytest.approx(1.6, abs=solver_error(N))


def test_a_large_sparse_complete_graph_mixes_at_once():
    assert sqrt_rho(sparse.csr_array(np.full((520, 520), 1 / 520))) <= solver_error(520)


# ---------------------------------------------------------------- checks


def both(Pi):
    return [np.asarray(Pi, dtype=np.float64), sparse.csr_array(np.asarray(Pi, dtype=np.float64))]


BAD = [
    (np.ones((2, 3)) / 3, r"^Pi must be square with at least one agent, got shape \(2, 3\)"),
    (np.zeros((0, 0)), r"^Pi must be square with at least one agent, got shape \(0, 0\)"),
    ([[0.5, nan], [nan, 0.5]], "^Pi must be finite, got NaN or infinite weights"),
    ([[0.5, inf], [inf, 0.5]], "^Pi must be finite"),
    (
        [[0.5, 0.5], [0.3, 0.7]],
        r"^columns of Pi must sum to one, got 0\.8 in column 0; .* the mean of the agents; a "
        r"reversible Pi keeps a weighted mean, and is .*; others would need push-sum$",
    ),
    ([[0.5, 0.5], [0.5, 0.501]], r"^rows of Pi must sum to one, got 1\.001 in row 1"),
    ([[0.499, 0.5], [0.5, 0.5]], r"^rows of Pi must sum to one, got 0\.999 in row 0"),
    ([[0.5, 0.5], [0.5, 0.5 + 1e-7]], r"^rows of Pi must sum to one, got 1 in row 1"),
    ([[0.5, 0.5], [0.5 + 1e-7, 0.5]], "^rows of Pi must sum to one"),
    ([[0.5, 0.5], [0.5 + 1e-7, 0.5 - 1e-7]], "^columns of Pi must sum to one"),
]


@pytest.mark.parametrize(("Pi", "message"), [(form, m) for Pi, m in BAD for form in both(Pi)])
@pytest.mark.parametrize("check", [check_mixing_matrix, sqrt_rho, require_mixing])
def test_a_matrix_that_is_no_mixing_matrix_is_named(check, Pi, message):
    with pytest.raises(ValueError, match=message):
        check(Pi)


DIRECTED = (np.eye(3) + np.roll(np.eye(3), 1, axis=1)) / 2
SPECTRAL = {"sqrt_rho": sqrt_rho, "mixing_eigenvalues": mixing_eigenvalues}


@pytest.mark.parametrize("form", both(DIRECTED))
def test_a_directed_matrix_mixes_but_has_no_spectrum_of_a_symmetric_one(form):
    check_mixing_matrix(form, 3)
    for name, asked in SPECTRAL.items():
        message = (
            rf"^Pi must be symmetric for {name}, got Pi\[0, 1\] = 0\.5, Pi\[1, 0\] = 0; "
            r"a directed Pi can be simulated, and has .* = sqrt_rho\(Pi.T @ Pi\) \*\* 0\.5$"
        )
        with pytest.raises(ValueError, match=message):
            asked(form)
    for asked in (spectral_gap, require_mixing):
        with pytest.raises(ValueError, match=r"^Pi must be symmetric for sqrt_rho"):
            asked(form)
    # the hint: its singular values off consensus are |1 + e^(2 pi i/3)|/2 = 1/2
    assert sqrt_rho(form.T @ form) ** 0.5 == pytest.approx(0.5, abs=solver_error(3))
    assert spectral_norm(DIRECTED) == pytest.approx(0.5, abs=solver_error(3, 1.0))


@pytest.mark.parametrize(("off", "passes"), [(1e-9, True), (1e-7, False)])
def test_a_rounded_symmetric_matrix_is_symmetric(off, passes):
    Pi = np.full((3, 3), 1 / 3) + off * (DIRECTED - DIRECTED.T)
    with nullcontext() if passes else pytest.raises(ValueError, match=r"^Pi must be symmetric"):
        sqrt_rho(Pi)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"^Pi must be square .*, got shape \(3,\)"):
        check_mixing_matrix(np.ones(3))
    with pytest.raises(ValueError, match=r"^Pi must be real, got dtype complex128"):
        check_mixing_matrix(np.eye(2) * 1j)


def test_rounded_rows_pass_in_the_precision_they_are_given_in():
    for form in both([[0.5, 0.5], [0.5, 0.5 + 1e-12]]):
        check_mixing_matrix(form)
    rounded = TOPOLOGIES["ring"](7).astype(
        np.float32
    )  # rows off by 3e-8, twice sqrt(eps) of float64
    check_mixing_matrix(rounded)
    require_mixing(rounded)
    assert sqrt_rho(rounded) == pytest.approx(bounds.sqrt_rho_ring(N=7), abs=1e-6)
    check_mixing_matrix(np.eye(3, dtype=np.int64))
    with pytest.raises(ValueError, match="rows of Pi must sum to one"):
        check_mixing_matrix(np.array([[0.5, 0.5], [0.5, 0.501]], dtype=np.float32))


def test_the_number_of_agents_must_be_that_of_the_matrix():
    check_mixing_matrix(np.eye(3), 3)
    with pytest.raises(ValueError, match=r"^Pi must be 4 x 4 for 4 agents, got shape \(3, 3\)"):
        check_mixing_matrix(np.eye(3), 4)


@pytest.mark.parametrize("form", both([[1.2, -0.2, 0.0], [-0.2, 0.9, 0.3], [0.0, 0.3, 0.7]]))
def test_a_negative_weight_is_a_warning_of_its_own_kind(form):
    with pytest.warns(NegativeWeightWarning, match=r"^Pi\[(0, 1|1, 0)\] = -0\.2 is negative"):
        check_mixing_matrix(form)
    assert issubclass(NegativeWeightWarning, UserWarning)


def test_the_warning_points_at_the_caller():
    with pytest.warns(NegativeWeightWarning) as caught:
        check_mixing_matrix([[1.5, -0.5], [-0.5, 1.5]])
    assert caught[0].filename == __file__


def test_small_and_stored_zero_weights_are_not_negative():
    check_mixing_matrix(TOPOLOGIES["complete"](100))
    require_mixing(TOPOLOGIES["complete"](100))
    stored = sparse.csr_array(([1.0, 0.0, 0.0, 1.0], ([0, 0, 1, 1], [0, 1, 0, 1])), shape=(2, 2))
    assert stored.nnz == 4
    check_mixing_matrix(stored)
    with pytest.raises(ValueError, match="the graph is disconnected"):
        require_mixing(stored)


PAIR = np.array([[0.5, 0.5], [0.5, 0.5]])
APART = np.block([[PAIR, 0 * PAIR], [0 * PAIR, PAIR]])
SWAP = np.array([[0.0, 1.0], [1.0, 0.0]])
SIDES = np.block(
    [[np.zeros((3, 3)), np.full((3, 3), 1 / 3)], [np.full((3, 3), 1 / 3), np.eye(3) * 0]]
)
NOT_MIXING = [
    (APART, "1.000000; the graph is disconnected"),
    (np.eye(2), "1.000000; the graph is disconnected"),
    (SWAP, "1.000000; the graph is bipartite without self-weights"),
    (SIDES, "1.000000; the graph is bipartite without self-weights"),
    (np.kron(np.eye(2), SWAP), "1.000000; the graph is disconnected"),
    ([[2.0, -1.0], [-1.0, 2.0]], "3.000000; negative weights amplify"),
    ([[1 - 1e-17, 1e-17], [1e-17, 1 - 1e-17]], "1.000000; the gap is lost in rounding"),
]


@pytest.mark.parametrize(("Pi", "reason"), [(form, r) for Pi, r in NOT_MIXING for form in both(Pi)])
def test_a_matrix_that_does_not_mix_is_an_error_with_its_reason(Pi, reason):
    assert sqrt_rho(Pi) >= 1 - solver_error(Pi.shape[0])
    size, why = reason.replace(".000000", "").split("; ")
    with pytest.raises(
        ValueError, match=f"^Assumption 5 fails: {escape(f'sqrt(rho) = {size}, {why}')};"
    ):
        require_mixing(Pi)


def test_a_graph_that_cannot_mix_has_sqrt_rho_of_at_least_one_whatever_rounding_does():
    for seed in range(20):
        graph = nx.gnp_random_graph(12, 0.1, seed=seed)
        connected = nx.is_connected(graph)
        assert (sqrt_rho(metropolis(graph)) >= 1) == (not connected)
    sides = nx.to_numpy_array(nx.complete_bipartite_graph(7, 7)) / 7
    assert sqrt_rho(sides) >= 1
    assert sqrt_rho(sides - np.eye(14) * 0) >= 1
    # one self-weight opens odd walks
    sides[0, 0], sides[0, 7], sides[7, 0], sides[7, 7] = 1 / 14, 1 / 14, 1 / 14, 1 / 14
    assert sqrt_rho(sides) < 1


@pytest.mark.parametrize(
    ("Pi", "mu"),
    [
        (np.kron(np.eye(2), np.full((2, 2), 0.5)), 1),
        (np.kron(np.eye(3), TOPOLOGIES["ring"](7)), 1),
        (np.kron([[0, 1], [1, 0]], np.full((3, 3), 1 / 3)), -1),
    ],
)
def test_bounds_refuse_the_spectrum_of_a_graph_that_cannot_mix(Pi, mu):
    found = mixing_eigenvalues(Pi).tolist()
    assert min(found, key=lambda x: abs(x - mu)) == pytest.approx(mu, abs=1e-14)
    with pytest.raises(ValueError, match=r"eigenvalues must lie in \(-1, 1\), got .*that mixes"):
        bounds.network_S(eigenvalues=found, order="MS")


def test_a_large_disconnected_or_bipartite_sparse_matrix_does_not_mix():
    two = sparse.block_diag([ring_of(400), ring_of(400)], format="csr")
    with pytest.raises(ValueError, match=r"= 1, the graph is disconnected"):
        require_mixing(two)
    walk = (ring_of(600) - sparse.eye_array(600) / 3) * 1.5
    walk.eliminate_zeros()
    with pytest.raises(ValueError, match=r"= 1, the graph is bipartite"):
        require_mixing(walk)


def test_a_slow_but_mixing_graph_is_let_through():
    require_mixing(ring_of(4000))
    require_mixing(np.array([[1 - 1e-13, 1e-13], [1e-13, 1 - 1e-13]]))


def test_a_gap_below_sqrt_N_eps_is_lost_in_rounding(monkeypatch):
    Pi = TOPOLOGIES["ring"](400)
    for gap, mixes in ((20 * EPS, False), (21 * EPS, True)):
        monkeypatch.setattr(spectra, "sqrt_rho", lambda Pi, gap=gap: 1 - gap)
        with nullcontext() if mixes else pytest.raises(ValueError, match="lost in rounding"):
            require_mixing(Pi)


def test_lists_are_arrays_and_inputs_stay_as_they_are():
    Pi = ring_of(6)
    before = Pi.toarray()
    sqrt_rho(Pi)
    check_mixing_matrix(Pi)
    assert np.array_equal(Pi.toarray(), before)
    assert sqrt_rho([[0.75, 0.25], [0.25, 0.75]]) == pytest.approx(0.5, abs=solver_error(2))


def test_one_agent_mixes_at_once_in_every_form():
    for form in both([[1.0]]):
        assert sqrt_rho(form) == 0
        require_mixing(form)
