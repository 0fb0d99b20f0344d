"""DeCAF with error feedback: rounds by hand, what it keeps, and where it is DeCAF."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import sparse

from decaf_theory.lowrank import Factors, gauge, product
from decaf_theory.measure import truncation_error
from decaf_theory.methods import METHODS, Clock, error_feedback, keeping_directions
from decaf_theory.methods.state import message_bytes
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, visits
from decaf_theory.topology import TOPOLOGIES

EPS = np.finfo(np.float64).eps


def factors(*shape, d=5, k=4, r=2, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((*shape, d, r)), rng.standard_normal((*shape, r, k)))


def whole(state):
    """P_i + E_i."""
    return product(state.factors) + product(state.memory["residual"])


def mixed(method, start, Pi, rounds=1):
    state = method.begin(start)
    for t in range(rounds):
        state = method.exchange(state, Pi, Clock(t)).state
    return state


def test_three_rounds_are_those_of_fractions():
    w = Fraction(3, 5)
    B, A = np.zeros((2, 4, 1)), np.zeros((2, 1, 3))
    B[0, 0, 0] = B[1, 1, 0] = A[0, 0, 0] = A[1, 0, 1] = 1.0
    Pi = np.array([[0.6, 0.4], [0.4, 0.6]])
    # agent 1 has diag(x, y) as P + E, agent 2 diag(y, x); P is the larger entry and is mixed
    rounds = [
        (w, 1 - w),  # P_1 = x e_1 e_1'
        (w * w, 1 - w * w),  # y is larger now
        (w**2 + (1 - w) * (1 - w**2), w * (1 - w**2)),  # P_1 was y e_2 e_2', x is larger again
    ]
    for t, (x, y) in enumerate(rounds, start=1):
        state = mixed(error_feedback(), Factors(B, A), Pi, t)
        expected = np.zeros((2, 4, 3))
        expected[0, 0, 0] = expected[1, 1, 1] = float(x)
        expected[0, 1, 1] = expected[1, 0, 0] = float(y)
        largest = expected == float(max(x, y))
        # a few sums and a TSVD of 4 x 3 numbers below 1 each round
        slip = 20 * EPS * t
        found = product(state.factors)
        np.testing.assert_allclose(found, expected * largest, rtol=0, atol=slip)
        found = product(state.memory["residual"])
        np.testing.assert_allclose(found, expected * ~largest, rtol=0, atol=slip)
    assert rounds[2] == (Fraction(77, 125), Fraction(48, 125))


@pytest.mark.parametrize("graph", ["ring", "star"])
def test_the_mean_of_products_and_residuals_is_kept_where_nothing_is_lost(graph):
    start, Pi = factors(2, 6), TOPOLOGIES[graph](6)
    mean = product(start).mean(axis=1)
    size = (
        np.linalg.norm(start.B, axis=(-2, -1)).max() * np.linalg.norm(start.A, axis=(-2, -1)).max()
    )
    state = mixed(error_feedback(2), start, Pi, 5)
    # a round sums seven products of size one and decomposes them, 20 (max(d, k) + N r) roundings
    slip = 5 * 20 * (5 + 14) * EPS * size
    np.testing.assert_allclose(whole(state).mean(axis=1), mean, rtol=0, atol=slip)
    # of rank 1 it loses the fourth direction of each mix
    short = mixed(error_feedback(1), start, Pi, 5)
    assert short.memory["residual"].rank == 1
    assert np.abs(whole(short).mean(axis=1) - mean).max() > 1e3 * slip


def test_a_residual_is_the_next_singular_directions_of_the_mix():
    start, Pi = factors(3, d=6, k=7, r=2), TOPOLOGIES["path"](3)
    method = error_feedback(2)
    once = mixed(method, start, Pi)
    M = np.einsum("ij,jdk->idk", Pi, product(once.factors)) + product(once.memory["residual"])
    after = method.exchange(once, Pi, Clock(1))
    U, S, Vh = np.linalg.svd(M)
    assert np.min(S[:, :4] - S[:, 1:5]) > S.max() / 100  # so that all directions are determined
    slip = 100 * 20 * 7 * EPS * S.max()
    for rest, low, high in ((after.state.factors, 0, 2), (after.state.memory["residual"], 2, 4)):
        expected = (U[..., low:high] * S[:, None, low:high]) @ Vh[:, low:high]
        np.testing.assert_allclose(product(rest), expected, rtol=0, atol=slip)
        balanced = np.swapaxes(rest.B, 1, 2) @ rest.B - rest.A @ np.swapaxes(rest.A, 1, 2)
        np.testing.assert_allclose(balanced, 0, rtol=0, atol=slip)
    dropped = np.linalg.norm(S[:, 2:], axis=1)
    np.testing.assert_allclose(truncation_error(after.truncated), dropped, rtol=0, atol=slip)


@pytest.mark.parametrize(("rank", "r"), [(0, 2), (3, 4), (None, 4)])
def test_without_a_residual_it_is_decaf(rank, r):
    start, Pi = factors(4, r=r), TOPOLOGIES["ring"](4)
    state = mixed(error_feedback(rank), start, Pi, 3)
    assert not state.memory
    for X, Y in zip(state.factors, mixed(METHODS["decaf"], start, Pi, 3).factors, strict=True):
        np.testing.assert_array_equal(X, Y)


def test_its_messages_are_those_of_decaf_whatever_it_keeps():
    start, Pi = factors(4), TOPOLOGIES["ring"](4)
    for rank in (0, 1, 2):
        state = mixed(error_feedback(rank), start, Pi, 2)
        sent = error_feedback(rank).send(state, Clock(2))
        assert sent.keys() == METHODS["decaf"].send(state, Clock(2)).keys()
        assert message_bytes(sent) == (5 + 4) * 2 * 8


def test_gauges_of_the_start_change_no_product_and_no_residual():
    start, Pi = factors(4), TOPOLOGIES["ring"](4)
    # condition numbers of some tens, which the products' rounding is multiplied by
    R = np.random.default_rng(1).standard_normal((4, 2, 2)) + 3 * np.eye(2)
    one, other = (mixed(error_feedback(), x, Pi, 3) for x in (start, gauge(start, R)))
    size = np.abs(product(start)).max()
    for pair in (lambda s: s.factors, lambda s: s.memory["residual"]):
        np.testing.assert_allclose(
            product(pair(one)), product(pair(other)), rtol=0, atol=1e5 * EPS * size
        )


@pytest.mark.parametrize("to", [np.asarray, sparse.csr_array, torch.tensor])
def test_kinds_of_Pi_one_row_for_all_and_a_batch_are_the_same_mix(to):
    start, Pi = factors(2, 4), TOPOLOGIES["complete"](4)
    every = mixed(error_feedback(), start, Pi, 3)
    found = mixed(error_feedback(), start, to(Pi), 3)
    row = mixed(error_feedback(), start, Pi[:1], 3)
    for other in (found, row):
        for X, Y in zip(every.memory["residual"], other.memory["residual"], strict=True):
            np.testing.assert_array_equal(X, Y)


def test_kept_directions_leave_the_residual():
    problem = PROBLEMS["P12"]()
    B, A = (np.asarray(X) for X in factors(2, d=problem.d, k=problem.k, r=1))
    state = mixed(keeping_directions(error_feedback()), Factors(0 * B, A), np.full((2, 2), 0.5))
    np.testing.assert_array_equal(state.factors.A, A)
    assert state.memory["residual"].rank == 1


def test_the_simulator_carries_the_residual_from_round_to_round():
    problem = PROBLEMS["P2"](d=4, k=3, rank=3, tau=0.0)
    options = {"problem": problem, "Pi": TOPOLOGIES["ring"](4), "start": factors(4, d=4, k=3, r=1)}
    *_, last = visits(Config(method="decaf_ef", lr=0.1, steps=4, **options))
    state = METHODS["decaf_ef"].begin(options["start"])
    for t in range(4):
        B, A = state.factors
        g = problem.grad(B @ A)
        B, A = B - 0.1 * g @ A.mT, A - 0.1 * B.mT @ g
        held = state._replace(factors=Factors(B, A))
        state = METHODS["decaf_ef"].exchange(held, options["Pi"], Clock(t)).state
    size = np.abs(whole(state)).max()
    # four rounds of the same operations, in a batch of one there
    np.testing.assert_allclose(whole(last.state)[0], whole(state), rtol=0, atol=1000 * EPS * size)
    plain = visits(Config(method="decaf", lr=0.1, steps=4, **options))
    *_, other = plain
    assert np.abs(product(other.factors) - product(last.factors)).max() > 1e-3 * size
    assert last.comm_bytes == other.comm_bytes
