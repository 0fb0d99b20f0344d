"""The laws of small steps against their double sums, worked flows, and each other."""

from math import log, sqrt

import numpy as np
import pytest

from decaf_theory import small_steps
from decaf_theory.rng import generator
from decaf_theory.topology import TOPOLOGIES

EPS = 2.0**-52
N = 5
GRAPHS = ("ring", "star")


def setting():
    """Deviations of mean zero and the factors of one fit, sizes of order one."""
    rng = generator(0, "small steps")
    D = rng.standard_normal((N, 3, 4))
    return D - D.mean(axis=0), rng.standard_normal((3, 2)), rng.standard_normal((2, 4))


@pytest.mark.parametrize("name", GRAPHS)
def test_the_kernels_have_the_eigenvalues_of_their_series(name):
    Pi = TOPOLOGIES[name](N)
    values, vectors = np.linalg.eigh(Pi)
    mu = values[:-1]
    U = vectors[:, :-1]
    # entries of size 1/gap <= 10 from SVDs of 5 x 5
    allowed = 1e3 * N * EPS
    expected = (U * ((1 + mu) / (1 - mu))) @ U.T
    assert np.abs(small_steps.interference_kernel(Pi) - expected).max() < allowed
    for order, series in (("MS", mu / (1 - mu)), ("CB", 1 / (1 - mu))):
        assert np.abs(small_steps.drift_kernel(Pi, order) - (U * series) @ U.T).max() < allowed


def test_nothing_drifts_on_the_complete_graph():
    J = np.full((N, N), 1 / N)
    assert np.abs(small_steps.drift_kernel(J)).max() < 10 * N * EPS
    assert np.abs(small_steps.interference_kernel(J) - (np.eye(N) - J)).max() < 10 * N * EPS


def test_what_mixing_adds_is_the_double_sum():
    D, B, A = setting()
    Pi = TOPOLOGIES["ring"](N)
    Gamma = small_steps.interference_kernel(Pi)
    pairs = [Gamma[j, i] * D[j] @ (B @ A).T @ D[i] for j in range(N) for i in range(N)]
    found = small_steps.added_by_mixing(Pi, D, B @ A)
    np.testing.assert_allclose(found, sum(pairs), rtol=0, atol=1e4 * EPS)


def test_the_drift_is_the_double_sum_graph_by_graph():
    D, B, A = setting()
    Pi = np.stack([TOPOLOGIES[name](N) for name in GRAPHS])
    found = small_steps.gauge_drift(Pi, D, np.stack([B, 2 * B]), np.stack([A, A]), 0.75)
    for g, b in enumerate((B, 2 * B)):
        Gamma = small_steps.drift_kernel(Pi[g])
        pairs = [
            Gamma[j, i] * (A @ D[i].T @ D[j] @ A.T - b.T @ D[j] @ D[i].T @ b)
            for j in range(N)
            for i in range(N)
        ]
        expected = -2 * 0.75**2 / N * sum(pairs)
        np.testing.assert_allclose(found[g], expected, rtol=0, atol=1e4 * EPS)


def test_the_slow_flow_keeps_a_balanced_start_where_both_sides_spread_alike():
    u, v = np.eye(3)[0], np.eye(4)[1]
    D = np.stack([x * np.outer(u, v) for x in (1.0, -1.0, 0.5, -0.5, 0.0)])
    # x = y: dK/dtau is proportional to K, and K = 0 stays
    found = small_steps.slow_flow(TOPOLOGIES["ring"](N), D, u, v, size=2.0, s=0.75, tau=3.0)
    assert found == pytest.approx(sqrt(2), rel=1e-12)


def test_the_slow_flow_of_one_side_alone_obeys_its_closed_form():
    u, v = np.eye(3)[0], np.eye(4)[1]
    across = np.eye(4)[2]  # off v: x = 0, and q = b^2/size obeys dq (q^2 + 1)/q^3 = 2 s^2 y dtau
    numbers = np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    D = numbers[:, None, None] * np.outer(u, across)
    Pi = TOPOLOGIES["ring"](N)
    y = numbers @ small_steps.drift_kernel(Pi) @ numbers / N
    found = small_steps.slow_flow(Pi, D, u, v, size=2.0, s=0.75, tau=0.5)
    q = found**2 / 2.0 if y > 0 else 2.0 / found**2
    # h^4 of the method, h < 1e-3 with rates of order one
    assert abs(log(q) - 1 / (2 * q**2) + 1 / 2 - 2 * 0.75**2 * y * 0.5) < 1e-11


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_the_slope_of_disagreement_is_the_derivative_of_half_its_double_sum(order):
    rng = generator(0, "psi")
    Pi = TOPOLOGIES["path"](N)
    Gamma = small_steps.drift_kernel(Pi, order)
    H, b, x = (rng.standard_normal(shape) for shape in ((N, 3, 3), (N, 3), 3))
    H = H + H.transpose(0, 2, 1)

    def half_psi(x):
        g = [H[i] @ x - b[i] for i in range(N)]
        return sum(Gamma[i, j] * g[i] @ g[j] for i in range(N) for j in range(N)) / (2 * N)

    # central differences of a quadratic are exact up to the rounding of numbers below 1000
    slopes = [(half_psi(x + e) - half_psi(x - e)) / 2 for e in np.eye(3)]
    found = small_steps.disagreement_slope(Gamma, H @ x - b, H)
    assert found == pytest.approx(slopes, abs=1e3 * N**2 * EPS)


def test_a_kernel_of_another_order_is_refused():
    with pytest.raises(ValueError, match=r"^order must be one of"):
        small_steps.drift_kernel(np.eye(2), "mix_first")
