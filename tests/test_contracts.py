"""What every method promises, over the table METHODS: a new line is tested the day it is added."""

from typing import NamedTuple, get_args

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from scipy import sparse

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS, Clock, air_fedavg, salf
from decaf_theory.methods.base import Confidence
from decaf_theory.methods.state import message_bytes
from decaf_theory.topology import metropolis

EPS = np.finfo(np.float64).eps

ONE = Factors(np.ones((1, 1, 1)), np.ones((1, 1, 1)))
every_method = pytest.mark.parametrize("name", METHODS)
# without their draws, which test_methods_channel looks at
QUIET = {"air_fedavg": air_fedavg(sigma=0.0), "salf": salf(0.0)}


@every_method
def test_a_method_has_the_name_of_its_line(name):
    assert METHODS[name].name == name


@every_method
def test_a_method_says_where_it_comes_from_and_how_sure_that_is(name):
    rule, source, confidence = METHODS[name].origin
    assert source
    assert confidence in get_args(Confidence)
    assert ("reading, not confirmed" in rule) == (confidence in ("K", "?"))


def rule(name):
    """Return the method, or what is left of it where it draws no numbers."""
    return QUIET.get(name, METHODS[name])


class Round(NamedTuple):
    """One round of mixing: the state of N agents and Pi."""

    state: Factors
    Pi: np.ndarray


def build(name, *, N, d, k, r, seed, branch="generic", batch=()):
    """Return a round that fits the method: A shared if A is fixed, A = I for dsgd, Pi of a server.

    What a server is given for Pi does not matter to it, but the tests compute means with it.
    """
    rng = np.random.default_rng(seed)
    method = METHODS[name]
    r = k if (not method.form.low_rank) else r
    B, A = rng.standard_normal((*batch, N, d, r)), rng.standard_normal((*batch, N, r, k))
    if branch == "rank-deficient":
        B[..., -1] = 0.0
    elif branch == "zero":
        B[:] = 0.0
    elif branch == "one zero agent":
        B[..., 0, :, :], A[..., 0, :, :] = 0.0, 0.0
    elif branch == "tiny":
        B, A = 1e-8 * B, 1e-8 * A
    elif branch == "huge":
        B, A = 1e8 * B, 1e8 * A
    elif branch == "gauge":  # one product, turned at each agent
        Q = np.linalg.qr(rng.standard_normal((*batch, N, r, r)))[0]
        B = B[..., :1, :, :] @ np.swapaxes(Q, -1, -2)
        A = Q @ A[..., :1, :, :]
    if "B" in method.fixed:
        B = np.broadcast_to(B[..., :1, :, :], B.shape).copy()
    if "A" in method.fixed:
        A = np.broadcast_to(
            np.eye(k) if (not method.form.low_rank) else A[..., :1, :, :], A.shape
        ).copy()
    Pi = np.full((N, N), 1 / N) if method.meets == "server" else mixing(N, rng)
    return Round(Factors(B, A), Pi)


def exchanged(method, state, Pi):
    """Return the state after the first mix."""
    weights = method.weights(Pi, Pi.shape[0], Clock())
    begun = method.begin(state)
    return begun if weights is None else method.exchange(begun, weights, Clock()).state


def whole(method, state):
    """Return factors of W - W0 in units of B A: the agents' own, or that matrix itself and I."""
    if method.form.factored:
        return state.factors
    update = method.form.update(state, 1.0)
    k = update.shape[-1]
    return Factors(
        update, np.broadcast_to(np.eye(k, dtype=update.dtype), (*update.shape[:-2], k, k))
    )


def mix(name, state, Pi):
    """Return the factors after the first mix, `whole`."""
    method = rule(name)
    if method.form.factored:
        return method.mix(state, Pi, 0)
    return whole(method, exchanged(method, state, Pi))


def mixing(N, rng):
    """Return Metropolis weights of a random connected graph: a path and some more edges."""
    import networkx

    graph = networkx.path_graph(N)
    graph.add_edges_from(map(tuple, rng.integers(0, N, (N, 2))))
    graph.remove_edges_from(networkx.selfloop_edges(graph))
    return metropolis(graph)


BRANCHES = ("generic", "rank-deficient", "zero", "one zero agent", "tiny", "huge", "gauge")


@st.composite
def rounds(draw, branches=BRANCHES):
    """Draw the method, then the branch, then sizes that fit (d != k, N = 1 and r = 1 included)."""
    name = draw(st.sampled_from(sorted(METHODS)))
    branch = draw(st.sampled_from(branches))
    d, k = draw(st.sampled_from([(1, 1), (1, 4), (3, 2), (4, 7), (6, 3), (5, 5)]))
    r = draw(st.integers(1, min(d, k)))
    N = draw(st.integers(1, 6))
    event(f"{name}, {branch}")
    seed = draw(st.integers(0, 2**32 - 1))
    return name, build(name, N=N, d=d, k=k, r=r, seed=seed, branch=branch)


def size(state):
    """Return max_j |B_j|_F |A_j|_F and the largest entries' sizes, for tolerances."""
    norm_B, norm_A = (np.sqrt(np.sum(X**2, axis=(-2, -1))).max() for X in state)
    return norm_B, norm_A, norm_B * norm_A


def rounding(state, Pi):
    """Return what one mix may lose on a product: sums of N r terms and a QR of max(d, k) rows."""
    d, k = state.shape
    return 20 * (max(d, k) + Pi.shape[1] * state.rank) * EPS * size(state)[2]


def truncation_tolerance(state, Pi):
    """Return the rounding of each TSVD_r(M_i), times its condition number (T19); inf at a tie."""
    M = np.einsum("ij,jab->iab", Pi, product(state))
    S = np.linalg.svd(M, compute_uv=False)
    r = state.rank
    after = S[:, r] if S.shape[1] > r else np.zeros(len(S))
    loss = rounding(state, Pi)
    gap = S[:, r - 1] - after
    # the global form of T19 holds for perturbations below half the gap, here a tenth
    known = gap > 10 * loss
    condition = np.where(known, S[:, r - 1] / np.where(known, gap, 1.0) * 2, np.inf)
    return np.where(after <= loss, 2.0, condition)[:, None, None] * loss


def same_products(name, found, expected, state, Pi):
    """Assert equal products up to rounding, where the truncation is determined at all."""
    gap = np.abs(product(found) - product(expected))
    if METHODS[name].space == "products":
        assert np.all(gap <= truncation_tolerance(state, Pi))
    else:
        assert np.all(gap <= rounding(state, Pi))


@given(rounds())
def test_equal_agents_are_a_fixed_point(drawn):
    name, (state, Pi) = drawn
    equal = state.map(lambda X: np.broadcast_to(X[:1], X.shape))
    mixed = mix(name, equal, Pi)
    # of rank r, so that nothing is truncated and no gap matters
    assert np.all(np.abs(product(mixed) - product(equal)) <= rounding(equal, Pi))


@given(rounds(), st.randoms(use_true_random=False))
def test_permuting_the_agents_permutes_the_result(drawn, random):
    name, (state, Pi) = drawn
    order = list(range(len(Pi)))
    random.shuffle(order)
    permuted = state.map(lambda X: X[order])
    mixed = mix(name, permuted, Pi[np.ix_(order, order)])
    expected = mix(name, state, Pi).map(lambda X: X[order])
    same_products(name, mixed, expected, permuted, Pi[np.ix_(order, order)])


@given(rounds())
def test_what_mixing_promises_to_keep_is_kept(drawn):
    name, (state, Pi) = drawn
    mixed, norms = mix(name, state, Pi), size(state)
    factors = exchanged(METHODS[name], state, Pi).factors
    for X, Y, scale, label in zip(state, factors, norms, ("B", "A"), strict=False):
        if label in METHODS[name].keeps:
            gap = np.abs(X.mean(axis=0) - Y.mean(axis=0))
            assert np.all(gap <= 4 * len(Pi) * EPS * scale)
    mean = product(state).mean(axis=0)
    if "product" in METHODS[name].keeps:
        assert np.all(np.abs(product(mixed).mean(axis=0) - mean) <= rounding(state, Pi))
    if "product up to E" in METHODS[name].keeps:
        M = np.einsum("ij,jab->iab", Pi, product(state))
        E = M - product(mixed)
        tail = np.linalg.svd(M, compute_uv=False)[:, state.rank :]
        # E is no larger than the best approximation allows, and it is all that the mean loses
        optimal = np.sqrt(np.sum(tail**2, axis=1))
        loss = rounding(state, Pi)
        assert np.all(np.sqrt(np.sum(E**2, axis=(1, 2))) <= optimal + M[0].size * loss)
        kept = product(mixed).mean(axis=0) + E.mean(axis=0)
        assert np.all(np.abs(kept - mean) <= loss)


def test_what_is_not_promised_is_not_kept():
    lost = {
        "dlora": lambda s, m: product(s).mean(0) - product(m).mean(0),
        "fedavg": lambda s, m: product(s).mean(0) - product(m).mean(0),
        "decaf": lambda s, m: s.B.mean(0) - m.B.mean(0),
    }
    for name, difference in lost.items():
        state, Pi = build(name, N=4, d=5, k=3, r=2, seed=1)
        assert np.abs(difference(state, METHODS[name].mix(state, Pi, 0))).max() > 0.01


@given(rounds(), st.data())
def test_a_subset_of_rows_gives_the_same_rows(drawn, data):
    name, (state, Pi) = drawn
    N = len(Pi)
    chosen = data.draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=N, unique=True))
    method = METHODS[name]
    if not method.merges or method.meets == "none":
        if len(chosen) == N and method.form.factored:
            return  # the agents in their order, which is no choice
        whose = f"needs all {N} rows of Pi" if method.form.factored else "its factors alone do not"
        with pytest.raises(ValueError, match=f"{name} .*{whose}"):
            method.mix(state, Pi[chosen], 0)
        return
    every = method.mix(state, Pi, 0)
    same_products(
        name,
        method.mix(state, Pi[chosen], 0),
        every.map(lambda X: X[chosen]),
        state,
        Pi[chosen],
    )


@given(rounds())
def test_a_sparse_Pi_gives_what_the_dense_one_gives(drawn):
    name, (state, Pi) = drawn
    found = mix(name, state, sparse.csr_array(Pi))
    same_products(name, found, mix(name, state, Pi), state, Pi)


@every_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("to", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_kind_dtype_and_shape_are_kept(name, dtype, to):
    state, Pi = build(name, N=4, d=5, k=3, r=2, seed=0, batch=(2,))
    given = state.map(lambda X: to(X.astype(dtype)))
    after, arrays = exchanged(rule(name), given, Pi), []
    after.each(lambda X: arrays.append(X) or X)
    kinds = {(type(X), X.dtype) for X in arrays if "int" not in str(X.dtype)}  # agents' numbers
    assert kinds == {(type(given.B), given.B.dtype)}
    mixed = whole(rule(name), after.each(np.asarray))
    for X, Y in zip(given, after.factors, strict=True):
        assert Y.shape == X.shape
    exact = product(mix(name, state, Pi))
    unit = 2.0**-23 if dtype == "float32" else EPS
    # in units of eps: sums of N r terms, and condition numbers below 100 for this seed
    assert np.all(np.abs(product(mixed) - exact) <= 1000 * unit * size(state)[2])


@every_method
def test_a_batch_of_three_is_three_singles(name):
    state, Pi = build(name, N=4, d=3, k=5, r=2, seed=0, batch=(3,))
    mixed = mix(name, state, Pi)
    for run in range(3):
        single = Factors(state.B[run], state.A[run])
        found = Factors(mixed.B[run], mixed.A[run])
        same_products(name, found, mix(name, single, Pi), single, Pi)


@every_method
def test_the_input_is_left_as_it_was(name):
    state, Pi = build(name, N=3, d=4, k=3, r=2, seed=0)
    before = [X.copy() for X in (*state, Pi)]
    for X in (*state, Pi):
        X.setflags(write=False)
    mix(name, state, Pi)
    for X, old in zip((*state, Pi), before, strict=True):
        np.testing.assert_array_equal(X, old)


@every_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bytes_of_a_message_are_those_of_one_agents_part_of_it(name, dtype):
    state, _ = build(name, N=5, d=7, k=4, r=3, seed=0, batch=(2,))
    begun = METHODS[name].begin(Factors(*(X.astype(dtype) for X in state)))
    message = METHODS[name].send(begun, Clock())
    assert all(X.shape[:-2] == (2, 5) for X in message.values())
    numbers = [X for X in message.values() if X.dtype.kind == "f"]  # others count, as places do
    assert all(X.dtype == dtype for X in numbers)
    assert numbers or not message
    assert message_bytes(message) == sum(X[0, 0].nbytes for X in message.values())


@every_method
def test_one_rank_with_its_neighbours_messages_does_what_the_network_does(name):
    method = METHODS[name]
    state, Pi = build(name, N=5, d=4, k=3, r=2, seed=3)
    begun = method.begin(state)
    weights = method.weights(Pi, 5, Clock())
    if weights is None:
        return
    every = whole(method, method.exchange(begun, weights, Clock()).state)
    message = method.send(begun, Clock())
    for agent in range(5):
        row = weights[min(agent, len(weights) - 1)]
        near = np.flatnonzero(row)
        heard = {part: X[near] for part, X in message.items()}
        own = method.receive(begun.take([agent]), heard, row[None, near], Clock()).state
        same_products(
            name, whole(method, own), Factors(*(X[[agent]] for X in every)), state, Pi[[agent]]
        )


@every_method
@pytest.mark.parametrize("local", [0, 1])
def test_one_rank_steps_as_the_network_does(name, local):
    method, clock = METHODS[name], Clock(2, local, 4)
    state, _ = build(name, N=5, d=4, k=3, r=2, seed=3)
    gradients, _ = build(name, N=5, d=4, k=3, r=2, seed=4)
    begun = method.begin(state)
    every = method.step(begun, gradients, clock)
    for agent in range(5):
        own = gradients.map(lambda X, agent=agent: X[[agent]])
        found = method.step(begun.take([agent]), own, clock)
        for X, Y in zip(found.gradients, every.gradients, strict=True):
            # a field of condition below 100, the same operations on a batch of one
            assert np.abs(X - Y[[agent]]).max() <= 1000 * EPS * np.abs(Y[agent]).max()


@given(rounds(), st.integers(0, 2**32 - 1))
def test_product_methods_do_not_see_the_gauge_of_an_agent(drawn, seed):
    name, (state, Pi) = drawn
    method, r = METHODS[name], state.rank
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(Pi), r, r)))[0]
    stretch = 2.0 ** rng.integers(-2, 3, (len(Pi), 1, r))  # exact, condition at most 16
    turned = Factors(
        (state.B * stretch) @ Q, np.swapaxes(Q, 1, 2) @ (state.A / stretch.swapaxes(1, 2))
    )
    if method.space != "products":
        return
    mixed, other = method.mix(state, Pi, 0), method.mix(turned, Pi, 0)
    gap = np.abs(product(mixed) - product(other))
    # each mix rounds, and so does the turning, whose products are as large as the turned ones
    allowed = truncation_tolerance(state, Pi) + 2 * truncation_tolerance(turned, Pi)
    assert np.all(gap <= allowed)


def test_factor_methods_do_see_it_but_not_a_common_rotation():
    gauge_free = {"fedrot", "choco"}  # turns gauges; sees a common one, too
    mixing = (m for m in METHODS.values() if {*m.send(m.begin(ONE), Clock())} >= {"B", "A"})
    factors = (m for m in mixing if m.space == "factors" and "product" not in m.keeps)
    names = {method.name for method in factors} - gauge_free
    assert {"dlora", "fedavg", "heavy_ball"} < names
    for name in names:
        state, Pi = build(name, N=3, d=4, k=5, r=2, seed=0)
        mix, rng = rule(name).mix, np.random.default_rng(1)
        Q = np.linalg.qr(rng.standard_normal((3, 2, 2)))[0]
        own = Factors(state.B @ Q, np.swapaxes(Q, 1, 2) @ state.A)
        common = Factors(state.B @ Q[0], Q[0].T @ state.A)
        mixed = product(mix(state, Pi, 0))
        assert np.abs(product(mix(own, Pi, 0)) - mixed).max() > 0.01
        assert np.abs(product(mix(common, Pi, 0)) - mixed).max() <= rounding(state, Pi)


@given(rounds())
def test_truncated_mixes_are_balanced_and_carry_their_error(drawn):
    name, (state, Pi) = drawn
    method = METHODS[name]
    if method.space != "products":
        return
    weights = method.weights(Pi, len(Pi), Clock())
    truncated = method.exchange(method.begin(state), weights, Clock()).truncated
    B, A = method.mix(state, Pi, 0)
    np.testing.assert_array_equal(B, truncated.factors.B)
    np.testing.assert_array_equal(A, truncated.factors.A)
    loss = rounding(state, Pi)
    gram_B, gram_A = np.swapaxes(B, 1, 2) @ B, A @ np.swapaxes(A, 1, 2)
    assert np.all(np.abs(gram_B - gram_A) <= loss)
    M = np.einsum("ij,jab->iab", Pi, product(state))
    tail = np.linalg.svd(M, compute_uv=False)[:, state.rank :]
    for norm, error in (("op", tail.max(axis=1, initial=0.0)), ("nuc", tail.sum(axis=1))):
        found = truncated.tail.max(axis=-1, initial=0.0) if norm == "op" else truncated.tail.sum(-1)
        assert np.all(np.abs(found - error) <= tail.shape[1] * loss + loss)
