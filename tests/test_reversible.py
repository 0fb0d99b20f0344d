"""Mixing that keeps a weighted mean: reversible matrices, their spectra, and what is refused."""

from fractions import Fraction
from re import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from decaf_theory.topology import (
    TOPOLOGIES,
    check_mixing_matrix,
    check_reversible,
    mixing_eigenvalues,
    reversible,
    reversible_eigenvalues,
    target_weights,
)
from verification.claims.networks.spectral_gaps import solver_error

EPS = 2.0**-52
GRAPHS = ("ring", "path", "star", "complete", "exponential")


def drawn(N, seed=0):
    return 10.0 ** np.random.default_rng(seed).uniform(-2, 2, N)


def test_the_weights_are_those_of_metropolis_and_hastings_in_rational_numbers():
    N, target = 4, [Fraction(n, 11) for n in (5, 3, 2, 1)]
    Q = TOPOLOGIES["path"](N)
    exact = [[Fraction(0)] * N for _ in range(N)]
    for i in range(N):
        for j in range(N):
            if j != i:
                exact[i][j] = Fraction(round(3 * Q[i, j]), 3) * min(1, target[j] / target[i])
        exact[i][i] = 1 - sum(exact[i])
    for i in range(N):
        assert sum(target[k] * exact[k][i] for k in range(N)) == target[i]
        for j in range(N):
            assert target[i] * exact[i][j] == target[j] * exact[j][i]
    found = reversible(Q, [5, 3, 2, 1])
    assert np.abs(found - np.array(exact, dtype=float)).max() <= 4 * EPS


@given(graph=st.sampled_from(GRAPHS), N=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_the_weighted_mean_is_kept_and_deviations_contract(graph, N, seed):
    target = drawn(N, seed)
    P = reversible(TOPOLOGIES[graph](N), target)
    shares = target / target.sum()
    check_reversible(P, target, N)
    assert np.all(P >= 0)
    assert np.abs(shares @ P - shares).max() <= 4 * N * EPS
    x = np.random.default_rng(seed).standard_normal(N)
    apart, after = x - shares @ x, P @ x - shares @ x
    lam = np.abs(reversible_eigenvalues(P, target)).max(initial=0.0)
    size, left = (np.sqrt(np.sum(shares * y**2)) for y in (apart, after))
    assert left <= lam * size + 20 * N * EPS * np.abs(x).max()


@pytest.mark.parametrize("graph", GRAPHS)
def test_eigenvalues_are_those_of_a_general_solver(graph):
    N, target = 7, drawn(7)
    P = reversible(TOPOLOGIES[graph](N), target)
    # symmetric in the norm of the target, so that conditioning is the root of its spread
    expected = np.sort(np.linalg.eigvals(P).real)[-2::-1]
    allowed = 100 * N * EPS * (target.max() / target.min()) ** 0.5
    for form in (P, sparse.csr_array(P)):
        assert np.abs(reversible_eigenvalues(form, target) - expected).max() <= allowed
    assert reversible_eigenvalues(np.eye(1), [3]).shape == (0,)


@pytest.mark.parametrize("graph", GRAPHS)
def test_equal_weights_leave_the_matrix_as_it_is(graph):
    Pi = TOPOLOGIES[graph](6)
    P = reversible(Pi, [2] * 6)
    assert np.abs(P - Pi).max() <= 4 * EPS
    check_mixing_matrix(P, 6)
    found = reversible_eigenvalues(P, [2] * 6)
    assert np.abs(found - mixing_eigenvalues(Pi)).max() <= 2 * solver_error(6)


def test_the_sparse_form_is_the_same_and_takes_the_memory_of_its_edges():
    target = drawn(9)
    thin = reversible(TOPOLOGIES["torus"](9, sparse=True), target)
    assert sparse.issparse(thin)
    # a row's weights are summed in another order
    assert np.abs(thin.toarray() - reversible(TOPOLOGIES["torus"](9), target)).max() <= 9 * EPS
    N = 2**17
    many = reversible(TOPOLOGIES["ring"](N, sparse=True), drawn(N))
    assert many.nnz == 3 * N
    check_reversible(many, drawn(N), N)


def test_deviations_of_rounding_pass_and_those_of_typing_do_not():
    target = [1e-6, 1.0, 1e3]
    P = reversible(TOPOLOGIES["complete"](3), target)
    check_reversible(P.astype(np.float32), target)
    wrong = P.copy()
    wrong[0, :2] += [1e-6, -1e-6]
    with pytest.raises(ValueError, match="Pi must be reversible for target"):
        check_reversible(wrong, target)


CYCLE = np.array([[0.5, 0.4, 0.1], [0.1, 0.5, 0.4], [0.3, 0.2, 0.5]])  # has no such target


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: check_reversible(CYCLE, [1, 1, 1]),
            "Pi must be reversible for target: target_i Pi[i, j] = target_j Pi[j, i], got "
            "0.133333 for (0, 1), 0.0333333 for (1, 0); topology.reversible makes one of a "
            "symmetric Pi, and others would need push-sum",
        ),
        (lambda: check_reversible(0.9 * np.eye(3), [1, 1, 1]), "rows of Pi must sum to one"),
        (lambda: check_reversible(np.eye(3), [1, 1]), "target must be 3 numbers for 3 agents"),
        (lambda: check_reversible(np.eye(3), [1, 1, 1], 4), "Pi must be 4 x 4 for 4 agents"),
        (lambda: target_weights([1, 0, 2], 3), "target must be finite and > 0, got 0 for agent 1"),
        (lambda: target_weights([1, 2, np.inf], 3), "target must be finite and > 0, got inf"),
        (lambda: target_weights([1e308] * 3, 3), "target must have a finite sum, got inf"),
        (lambda: target_weights([1, np.nan, 2], 3), "target must be finite and > 0, got nan"),
        (lambda: target_weights(["a"], 1), "target must be 1 numbers for 1 agents, got ['a']"),
        (lambda: reversible(CYCLE, [1, 1, 1]), "columns of Pi must sum to one, got 0.9"),
        (
            lambda: reversible((np.eye(3) + np.roll(np.eye(3), 1, 1)) / 2, [1, 1, 1]),
            "Pi must be symmetric for reversible, got Pi[0, 1] = 0.5",
        ),
    ],
)
def test_what_is_not_reversible_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=f"^{escape(message)}"):
        call()
