"""A hundred thousand agents on a ring and a star: graph, rho, one mix, a run; time and memory."""

import time
import tracemalloc

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from decaf_theory.problems.approximation import approximation
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import TOPOLOGIES, check_mixing_matrix, spectra, spectral_gap, sqrt_rho
from decaf_theory.tsvd import tsvd, tsvd_of_mix
from tests.test_topology import CLOSED_FORMS

N, D, K, R = 10**5, 8, 8, 2
MATRICES = 8 * N * D * K  # bytes of one d x k matrix for each agent
EPS = 2.0**-52
pytestmark = pytest.mark.night


@pytest.fixture(scope="module", params=["ring", "star"])
def graph(request):
    name = request.param
    return name, watched(name, lambda: TOPOLOGIES[name](N, sparse=True))


def watched(what, call, limit=np.inf):
    """Return a call's result; its time and the peak of its memory are printed, and limited."""
    tracemalloc.start()
    begun = time.process_time()
    found = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{what}: {time.process_time() - begun:.1f} s, {peak / 1e6:.0f} MB")
    assert peak <= limit, what
    return found


def gaussian():
    draw = np.random.default_rng(0)
    return Factors(draw.standard_normal((N, D, R)), draw.standard_normal((N, R, K)))


def test_a_graph_and_its_rho(graph):
    name, Pi = graph
    check_mixing_matrix(Pi, N)
    exact = CLOSED_FORMS[name](N)
    assert watched(f"{name}, rho", lambda: sqrt_rho(Pi)) == pytest.approx(exact, abs=N * EPS)
    assert spectral_gap(Pi) == pytest.approx(1 - exact, rel=spectra.ACCURACY)


def test_one_mix_is_the_truncated_svd_of_each_row(graph):
    name, Pi = graph
    factors = gaussian()
    # of three neighbours at most: their factors, the mix, its SVD and the results, in units of W
    mixed = watched(f"{name}, one mix", lambda: tsvd_of_mix(factors, Pi, R), 12 * MATRICES)
    for agent in (0, 1, N // 2, N - 1):  # 0 is the star's hub, with N neighbours
        row = Pi[[agent]].tocoo()
        near = product(factors.map(lambda X, j=row.coords[1]: X[j]))
        M = np.einsum("j,jab->ab", row.data, near)
        exact = tsvd(M, R)
        size = np.linalg.norm(near, axis=(-2, -1)) @ row.data
        # sums of as many terms as the row has, then a QR and an SVD of d + k numbers
        allowed = (row.nnz + 10 * (D + K)) * EPS * size
        np.testing.assert_allclose(
            mixed.singular_values[agent], exact.singular_values, rtol=0, atol=allowed
        )
        np.testing.assert_allclose(
            np.linalg.norm(mixed.tail[agent]), np.linalg.norm(exact.tail), rtol=0, atol=allowed
        )


@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_a_run_lowers_the_loss_in_memory_of_some_matrices_an_agent(graph, method):
    name, Pi = graph
    draw = np.random.default_rng(1)
    A = np.broadcast_to(draw.standard_normal((1, R, K)), (N, R, K))
    config = Config(
        problem=approximation(draw.standard_normal((N, D, K))),
        method=method,
        Pi=Pi,
        start=Factors(np.zeros((N, D, R)), A),
        lr=0.1,
        steps=3,
        record_every=3,
        record=("loss", "consensus_factors", "interference"),
    )
    # W, gradient, their like at the mean, both factors twice, and a mix as above
    found = watched(f"{name}, {method}, 3 rounds", lambda: simulate(config), 20 * MATRICES)
    trace = found.require_finished()
    assert trace.loss[0, -1] < trace.loss[0, 0]
    assert trace.consensus_factors[0, -1] > 0
