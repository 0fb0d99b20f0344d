"""The claims on related methods and on sampled noise: single values, and properties."""

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory.lowrank import Factors
from decaf_theory.measure import deviations, interference_norm
from decaf_theory.topology import TOPOLOGIES, sqrt_rho
from verification.claim import Outcome
from verification.claims.problems import sampling_noise
from verification.claims.related import (
    alternating_phases,
    averaged_truncations,
    chained_blocks,
    frozen_factor,
    local_drift,
)
from verification.instances.quadratics import FAMILIES, Case, draw

EPS = np.finfo(float).eps


def test_additive_noise_would_pass_where_sampled_rows_do_not():
    """Columns that are equal after multiplication by A give no noise at all: the row can hold."""
    row = sampling_noise.replay({**sampling_noise.columns(), "X": [[2.0, 2.0]]})
    assert (row.outcome, row.measured) == (Outcome.HOLDS, 0.0)


def test_a_frozen_factor_costs_nothing_where_it_spans_the_target():
    W = np.array([[3.0, 0.0, 4.0]])
    inside = {"W": W.tolist(), "A": [[0.6, 0.0, 0.8]]}
    outside = {"W": W.tolist(), "A": [[0.0, 1.0, 0.0]]}
    assert frozen_factor.replay(inside).bound == pytest.approx(0, abs=20 * EPS)
    assert frozen_factor.replay(outside).bound == 5.0


def test_averaged_truncations_shrink_and_differences_do_not():
    W = np.diag([4.0, 2.0, 1.0])
    np.testing.assert_allclose(
        averaged_truncations.averaged(W, (1, 2)), np.diag([4.0, 1.0, 0.0]), atol=50 * EPS
    )
    one, targets = W[None], np.zeros((1, 2, 3, 3))
    same = averaged_truncations.with_differences(one, (1, 2), targets, 0)
    np.testing.assert_array_equal(same, one)
    # one step of size 1/16 toward 0 from B = A' = 2 e_1 takes 4 to 4 (1 - 4/16)^2 at both clients
    moved = averaged_truncations.with_differences(one, (1, 1), targets, 1)
    np.testing.assert_allclose(moved, [np.diag([2.25, 2.0, 1.0])], atol=50 * EPS)


def test_a_block_leaves_what_is_outside_its_rows():
    residual, A = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 2.0, 0.0]])
    np.testing.assert_allclose(chained_blocks.block(residual, A), [[1, 0, 3]], atol=8 * EPS)


@given(
    branch=st.sampled_from(["random", "eigenvector", "equal", "huge", "one agent far"]),
    graph=st.sampled_from(alternating_phases.GRAPHS),
    seed=st.integers(0, 2**32 - 1),
    t=st.integers(0, 8),
)
def test_a_mixed_frozen_factor_and_its_interference_decay(branch, graph, seed, t):
    event(branch)
    rng, (name, N) = np.random.default_rng(seed), graph
    Pi, A = TOPOLOGIES[name](N), rng.standard_normal((N, 2, 3))
    if branch == "eigenvector":
        A = np.linalg.eigh(Pi - 1 / N)[1][:, -1][:, None, None] * A[0]
    if branch == "equal":
        A[:] = A[0]
    if branch == "huge":
        A *= 1e8
    if branch == "one agent far":
        A[0] *= 1e6
    B, start = rng.standard_normal((N, 4, 2)), A
    for _ in range(t):
        A = np.tensordot(Pi, A, 1)
    slip = 40 * N * (t + 1) * EPS * np.linalg.norm(start)
    decayed = sqrt_rho(Pi) ** t * np.linalg.norm(deviations(start))
    assert np.linalg.norm(deviations(A)) <= decayed + slip
    mean = interference_norm(Factors(B, A), Pi, "nuc").mean()
    size = np.linalg.norm(B)
    assert mean <= decayed * np.linalg.norm(deviations(B)) / N + slip * size


@pytest.mark.parametrize(("name", "N"), alternating_phases.GRAPHS)
def test_an_unmixed_frozen_factor_leaves_no_interference_where_the_other_agrees(name, N):
    rng = np.random.default_rng(N)
    A, B = rng.standard_normal((N, 2, 3)), np.tile(rng.standard_normal((4, 2)), (N, 1, 1))
    assert np.linalg.norm(deviations(A)) > 1
    # a mean of N matrices, and a norm by QR and SVD of panels of 2 N rows
    slip = 10 * 2 * N * EPS * np.linalg.norm(A) * np.linalg.norm(B)
    assert interference_norm(Factors(B, A), TOPOLOGIES[name](N)).max() <= slip


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    graph=st.sampled_from([("ring", 5), ("path", 4), ("star", 5), ("bipartite", 6)]),
    K=st.integers(1, 4),
    share=st.sampled_from([0.99, 0.5, 0.01]),
    seed=st.integers(0, 2**32 - 1),
)
def test_local_steps_keep_the_points_within_the_bound(family, graph, K, share, seed):
    event(family)
    H, b, noise, x0 = draw(np.random.default_rng(seed), family, 2, graph[1], 2)
    Pi = TOPOLOGIES[graph[0]](graph[1])
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    lr = share * (sqrt_rho(Pi) ** (-1 / K) - 1) / L
    problem = local_drift.moments.quadratics(H, b=b, noise=0 * noise)
    row = local_drift.judged(Case(problem, Pi, lr, x0, {}), K, 8)
    assert row.params["instances"] == 2
    assert row.outcome is Outcome.HOLDS


def test_too_long_local_phases_are_outside_the_claim():
    instance = {**local_drift.drift_alone(5), "lr": 0.5}  # (3/2)^5 / 2 > 1
    assert local_drift.replay(instance).outcome is Outcome.NOT_APPLICABLE
