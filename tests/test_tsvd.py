"""The truncated SVD of a mix: every path against an independent dense computation."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory.lowrank import Factors, gauge, pad_rank, product
from decaf_theory.tsvd import PATHS, tsvd, tsvd_of_mix
from tests.mixes import (
    EPS,
    assert_near,
    assert_same_result,
    assert_truncation_of,
    gaussian,
    mix,
    most_memory,
    rows,
    slack,
    sparse_star,
)

METHODS = PATHS
PROMISED = 1e-13  # by panels, over sigma_1
# N, d, k, r_in, rank: wide, tall, more columns than rows when stacked, vectors, scalars
SIZES = [
    (3, 6, 5, 2, 2),
    (4, 3, 9, 1, 2),
    (2, 9, 3, 2, 3),
    (3, 4, 7, 3, 1),
    (1, 5, 4, 2, 2),
    (2, 1, 4, 1, 1),
    (2, 4, 1, 2, 1),
    (1, 1, 1, 1, 1),
    (2, 12, 11, 1, 4),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_there_may_be_fewer_rows_than_agents_or_more(method, n):
    factors, Pi = gaussian(4, 9, 8, 2), rows(n, 4)
    Pi[np.arange(n), np.arange(n) % 4] = 0.0
    truncated = tsvd_of_mix(factors, Pi, 2, method=method)
    assert_truncation_of(mix(factors, Pi), truncated, 2, slack(factors, Pi))


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_path_truncates_the_mix(method, size):
    N, d, k, r_in, rank = size
    factors, Pi = gaussian(N, d, k, r_in, 2), rows(3, N)
    truncated = tsvd_of_mix(factors, Pi, rank, method=method)
    assert truncated.tail.shape == (2, 3, max(min(N * r_in, d, k) - rank, 0))
    assert_truncation_of(mix(factors, Pi), truncated, rank, slack(factors, Pi))


@pytest.mark.parametrize(("d", "k", "rank"), [(6, 4, 2), (4, 6, 4), (1, 5, 1), (5, 1, 1)])
def test_the_dense_oracle_truncates_a_matrix(d, k, rank):
    M = np.random.default_rng(0).standard_normal((2, 3, d, k))
    truncated = tsvd(M, rank)
    assert truncated.tail.shape == (2, 3, min(d, k) - rank)
    assert (truncated.info.path, truncated.info.elements) == ("dense", 6)
    allowed = 10 * max(d, k) * EPS * np.max(np.linalg.norm(M, axis=(-2, -1)))
    assert_truncation_of(M, truncated, rank, allowed)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_singles(method):
    factors, Pi = gaussian(3, 5, 4, 2, 2, 2), rows(2, 3)
    together = tsvd_of_mix(factors, Pi, 2, method=method)
    for a in range(2):
        for b in range(2):
            for i in range(2):
                single = Factors(factors.B[a, b], factors.A[a, b])
                alone = tsvd_of_mix(single, Pi[i : i + 1], 2, method=method)
                allowed = slack(factors, Pi)
                assert_near(product(together.factors)[a, b, i], product(alone.factors)[0], allowed)
                assert_near(together.singular_values[a, b, i], alone.singular_values[0], allowed)
                assert_near(together.tail[a, b, i], alone.tail[0], allowed)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_call_gives_the_same_bits(method):
    factors, Pi = gaussian(3, 5, 4, 2), rows(2, 3)
    first, second = (tsvd_of_mix(factors, Pi, 2, method=method) for _ in range(2))
    for left, right in zip(first.factors, second.factors, strict=True):
        assert np.array_equal(left, right)


@pytest.mark.parametrize("method", METHODS)
def test_renaming_the_agents_changes_nothing(method):
    factors, Pi = gaussian(4, 5, 6, 2), rows(3, 4)
    order = [2, 0, 3, 1]
    renamed = Factors(factors.B[order], factors.A[order])
    first = tsvd_of_mix(factors, Pi, 2, method=method)
    second = tsvd_of_mix(renamed, Pi[:, order], 2, method=method)
    # the condition number of the truncation multiplies the slack
    condition = np.max(
        first.singular_values[:, -1] / (first.singular_values[:, -1] - first.tail[:, 0])
    )
    assert_near(product(first.factors), product(second.factors), condition * slack(factors, Pi))
    swapped = tsvd_of_mix(factors, Pi[[1, 2, 0]], 2, method=method)
    assert_near(swapped.singular_values, first.singular_values[[1, 2, 0]], slack(factors, Pi))


@pytest.mark.parametrize("method", METHODS)
def test_gauges_of_single_agents_change_nothing(method):
    factors, Pi = gaussian(3, 6, 5, 2), rows(2, 3)
    other = gauge(factors, np.random.default_rng(5).standard_normal((3, 2, 2)) + 3 * np.eye(2))
    first, second = (tsvd_of_mix(F, Pi, 2, method=method) for F in (factors, other))
    allowed = slack(factors, Pi) + slack(other, Pi)
    assert_near(first.singular_values, second.singular_values, allowed)
    condition = np.max(
        first.singular_values[:, -1] / (first.singular_values[:, -1] - first.tail[:, 0])
    )
    assert_near(product(first.factors), product(second.factors), condition * allowed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numpy_and_torch_agree_and_keep_the_dtype(method, dtype):
    factors, Pi = gaussian(3, 6, 5, 2, 2), rows(4, 3)
    cast = factors.map(lambda X: X.astype(dtype))
    ours = tsvd_of_mix(cast, Pi, 2, method=method)
    theirs = tsvd_of_mix(cast.map(torch.from_numpy), torch.from_numpy(Pi), 2, method=method)
    allowed = 10 * slack(factors, Pi) * np.finfo(dtype).eps / EPS
    for left, right in (
        (ours.singular_values, theirs.singular_values),
        (ours.tail, theirs.tail),
        (product(ours.factors), product(theirs.factors)),
    ):
        assert left.dtype == dtype
        assert right.dtype == getattr(torch, dtype.__name__)
        assert_near(left, right.numpy(), allowed)
    assert ours.info == theirs.info


@pytest.mark.parametrize("method", METHODS)
def test_zero_gives_zero(method):
    zero = Factors(np.zeros((3, 4, 2)), np.ones((3, 2, 5)))
    for factors, Pi in ((zero, rows(2, 3)), (gaussian(3, 4, 5, 2), np.zeros((2, 3)))):
        truncated = tsvd_of_mix(factors, Pi, 2, method=method)
        for X in (*truncated.factors, truncated.singular_values, truncated.tail):
            assert not X.any()
    assert not tsvd(np.zeros((3, 2)), 1).factors.B.any()


@pytest.mark.parametrize("method", METHODS)
def test_a_tie_gives_some_best_truncation(method):
    # the mix is the identity of R^5 over 3: any two-dimensional projection is best
    factors = Factors(np.eye(6).reshape(6, 3, 2).swapaxes(0, 1)[:, :5], np.eye(6).reshape(3, 2, 6))
    Pi = np.full((1, 3), 1 / 3)
    truncated = tsvd_of_mix(factors, Pi, 2, method=method)
    assert_truncation_of(mix(factors, Pi), truncated, 2, slack(factors, Pi))
    P = 3 * product(truncated.factors)[0]
    assert_near(P @ P.T @ P, P, 10 * slack(factors, Pi))


@pytest.mark.parametrize("method", METHODS)
def test_directions_beyond_the_rank_of_the_mix_vanish(method):
    factors, Pi = gaussian(3, 6, 5, 1), np.array([[0.5, 0.5, 0.0]])
    truncated = tsvd_of_mix(factors, Pi, 4, method=method)
    assert truncated.tail.shape == (1, 0)
    allowed = slack(factors, Pi)
    assert np.all(truncated.singular_values[:, 2:] <= allowed)
    assert_near(product(truncated.factors), mix(factors, Pi), allowed)
    assert np.max(np.abs(truncated.factors.B[..., 2:])) <= allowed**0.5


@pytest.mark.parametrize("method", METHODS)
def test_the_width_of_the_tail_does_not_depend_on_the_path(method):
    factors, Pi = gaussian(3, 6, 5, 1), np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert tsvd_of_mix(factors, Pi, 1, method=method).tail.shape == (2, 1)
    assert tsvd_of_mix(factors, Pi, 2, method=method).tail.shape == (2, 0)
    assert tsvd_of_mix(factors, np.ones((2, 3)), 1, method=method).tail.shape == (2, 2)


@pytest.mark.parametrize("method", METHODS)
def test_cancellation_between_agents_leaves_only_rounding_of_the_parts(method):
    factors = gaussian(2, 6, 5, 2)
    small = gaussian(1, 6, 5, 2, seed=1)
    opposite = Factors(
        np.stack([factors.B[0], -factors.B[0] - 1e-9 * small.B[0]]),
        np.stack([factors.A[0], factors.A[0]]),
    )
    Pi = np.full((1, 2), 0.5)
    truncated = tsvd_of_mix(opposite, Pi, 2, method=method)
    expected = -0.5e-9 * small.B[0] @ factors.A[0]
    assert_near(product(truncated.factors)[0], expected, slack(opposite, Pi))


@pytest.mark.parametrize("method", METHODS)
def test_one_heavy_weight_leaves_the_light_agents_visible(method):
    factors, Pi = gaussian(3, 6, 5, 1), np.array([[1 - 3e-9, 1e-9, 2e-9]])
    truncated = tsvd_of_mix(factors, Pi, 1, method=method)
    assert_truncation_of(mix(factors, Pi), truncated, 1, slack(factors, Pi))
    assert truncated.tail[0, 0] > 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [sp.csr_array, sp.coo_array, sp.csc_matrix])
def test_a_sparse_mixing_matrix_gives_the_bits_of_the_dense_one(method, kind):
    factors = gaussian(5, 4, 6, 2)
    Pi = np.array([[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0.25, 0.25, 0, -1.5]])
    for dense in (Pi, np.vstack([Pi, rows(1, 5)])):  # without and with a row of all agents
        found, expected = (tsvd_of_mix(factors, X, 2, method=method) for X in (kind(dense), dense))
        assert_same_result(found, expected)
        exact = tsvd(mix(factors, dense), 2)
        # the truncation multiplies the slack by its condition number; a row of zeros has none
        gap = exact.singular_values[:, -1] - exact.tail[:, 0]
        kept = exact.singular_values[:, -1]
        condition = np.max(kept / np.where(kept > 0, gap, 1.0))
        allowed = condition * slack(factors, dense)
        assert_near(product(found.factors), product(exact.factors), allowed)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_torch_sparse_mixing_matrices_and_lists_work_too():
    factors, Pi = gaussian(3, 4, 6, 2), np.array([[0.5, 0.5, 0], [0, 0.25, 0.75]])
    expected = tsvd_of_mix(factors, Pi, 2)
    for other in (torch.from_numpy(Pi).to_sparse_csr(), torch.from_numpy(Pi), Pi.tolist()):
        assert_same_result(tsvd_of_mix(factors, other, 2), expected)


def test_repeated_entries_of_a_sparse_row_add_up_and_the_matrix_stays_as_it_was():
    factors = gaussian(3, 4, 6, 2)
    twice = sp.csr_array(
        (np.array([0.25, 0.25, 0.5]), np.array([0, 0, 1]), np.array([0, 3])), shape=(1, 3)
    )
    expected = tsvd_of_mix(factors, np.array([[0.5, 0.5, 0]]), 2)
    assert_same_result(tsvd_of_mix(factors, twice, 2), expected)
    assert twice.nnz == 3


def test_rows_need_be_neither_stochastic_nor_positive():
    factors, Pi = gaussian(3, 6, 5, 2), np.array([[1.0, -2.0, 3.0], [0.1, 0.1, 0.0]])
    truncated = tsvd_of_mix(factors, Pi, 3)
    assert_truncation_of(mix(factors, Pi), truncated, 3, slack(factors, Pi))


@pytest.mark.parametrize("method", METHODS)
def test_unequal_ranks_are_padded_without_loss(method):
    short, long = gaussian(2, 6, 5, 1), gaussian(2, 6, 5, 3, seed=1)
    padded = pad_rank(short, 3)
    joined = Factors(np.concatenate([padded.B, long.B]), np.concatenate([padded.A, long.A]))
    Pi = rows(2, 4)
    expected = mix(short, Pi[:, :2]) + mix(long, Pi[:, 2:])
    truncated = tsvd_of_mix(joined, Pi, 2, method=method)
    assert_truncation_of(expected, truncated, 2, slack(joined, Pi))


def chosen(m, r_in, d, k, dtype=np.float64):
    """Return the path that auto takes for a row of weight on m of 6 agents."""
    Pi = np.zeros((1, 6))
    Pi[0, :m] = 1.0
    return tsvd_of_mix(gaussian(6, d, k, r_in).map(lambda X: X.astype(dtype)), Pi, 1).info.path


def test_the_path_is_chosen_by_the_size_of_the_stack():
    # m r_in >= 0.75 min(d, k): dense
    assert chosen(3, 1, 4, 9) == chosen(3, 1, 9, 4) == "dense"
    assert chosen(2, 1, 4, 9) == chosen(2, 1, 9, 4) == "panel"
    assert chosen(3, 2, 8, 9) == "dense"
    assert chosen(3, 2, 9, 9) == "panel"
    assert chosen(6, 1, 8, 8) == "dense"
    assert chosen(2, 7, 19, 30) == "panel"  # 14 < 14.25


def test_narrow_types_go_by_panels_until_factoring_gains_nothing():
    assert chosen(3, 2, 8, 9, np.float32) == chosen(3, 2, 9, 7, np.float32) == "panel"
    assert chosen(4, 2, 8, 9, np.float32) == chosen(4, 2, 9, 8, np.float32) == "dense"


def test_float64_goes_by_qr_where_gram_matrices_cannot_keep_the_promise():
    # 1e-13 = 2 n sqrt(max(d, k)) u at n = 18, max(d, k) = 626
    assert chosen(6, 3, 30, 624) == chosen(6, 3, 624, 30) == "panel"
    assert chosen(6, 3, 30, 628) == chosen(6, 3, 628, 30) == "qr"
    assert chosen(6, 3, 30, 628, np.float32) == "panel"


@pytest.mark.parametrize("method", METHODS)
def test_info_tells_what_ran(method):
    info = tsvd_of_mix(gaussian(3, 4, 5, 2, 2), rows(4, 3), 2, method=method).info
    assert info[:3] == (method, 8, ())


@pytest.mark.parametrize("method", ["qr", "panel"])
def test_a_ring_of_ten_thousand_agents_needs_no_dense_matrix(method):
    N = 10_000
    factors = gaussian(N, 8, 6, 1)
    third = np.full(N, 1 / 3)
    Pi = sp.diags_array([third, third, third, third[:1], third[:1]],
                        offsets=[-1, 0, 1, N - 1, 1 - N], shape=(N, N))  # fmt: skip
    truncated = tsvd_of_mix(factors, Pi, 1, method=method)
    assert truncated.tail.shape == (N, 2)
    for i in (0, 1, 5000, N - 1):
        near = [(i - 1) % N, i, (i + 1) % N]
        local = Factors(factors.B[near], factors.A[near])
        expected = tsvd(mix(local, np.full((1, 3), 1 / 3)), 1)
        allowed = slack(local, np.full((1, 3), 1 / 3))
        assert_near(truncated.singular_values[i : i + 1], expected.singular_values, allowed)
        assert_near(truncated.tail[i : i + 1], expected.tail[:, :2], allowed)


def test_a_star_of_ten_thousand_agents_takes_the_memory_of_its_entries():
    N, d, k = 10_000, 6, 5
    factors, Pi = gaussian(N, d, k, 1), sparse_star(N)
    truncated, held = most_memory(lambda: tsvd_of_mix(factors, Pi, 1))
    # ten copies of the factors of every entry; a single byte for every pair of agents is more
    assert held <= 10 * Pi.nnz * (d + k) * 8 < N**2
    assert truncated.info.path == "dense and panel"
    allowed = slack(factors, Pi.max(axis=0).toarray())
    for i in (0, 1, 5000, N - 1):
        near = Pi[[i]].indices
        weights = Pi[[i]].data[None]
        exact = tsvd(mix(Factors(factors.B[near], factors.A[near]), weights), 1)
        assert_near(truncated.singular_values[i : i + 1], exact.singular_values, allowed)
        assert_near(truncated.tail[i, : exact.tail.shape[-1]], exact.tail[0], allowed)


@st.composite
def drawn_mixes(draw):
    branches = ["generic", "rank-deficient", "tie", "heavy weight", "gauge", "one agent", "scale"]
    branch = draw(st.sampled_from(branches))
    event(branch)
    N = 1 if branch == "one agent" else draw(st.integers(2, 4))
    d, k = draw(st.tuples(st.integers(2, 8), st.integers(2, 8)).filter(lambda x: x[0] != x[1]))
    r, seed = draw(st.integers(1, 3)), draw(st.integers(0, 2**20))
    factors, Pi = gaussian(N, d, k, r, seed=seed), rows(2, N, seed)
    if branch == "rank-deficient":
        factors.B[:, :, -1] = factors.B[:1, :, 0]
    if branch == "tie":
        factors = factors.map(lambda X: np.repeat(np.eye(*X.shape[1:])[None], N, axis=0))
    if branch == "heavy weight":
        Pi = np.full((1, N), 10.0 ** -draw(st.integers(2, 15)))
        Pi[0, -1] = 1.0
    if branch == "gauge":
        one = factors.map(lambda X: np.repeat(X[:1], N, axis=0))
        factors = gauge(one, np.linalg.qr(gaussian(N, r, r, r, seed=seed).B)[0])
    if branch == "scale":
        power = draw(st.integers(-8, 8))
        factors = factors.map(lambda X: X * 10.0**power)
    return factors, Pi, draw(st.integers(1, min(d, k)))


@given(drawn_mixes(), st.sampled_from(METHODS))
def test_any_mix_is_truncated_on_every_path(drawn, method):
    factors, Pi, rank = drawn
    truncated = tsvd_of_mix(factors, Pi, rank, method=method)
    M = mix(factors, Pi)
    promised = PROMISED * np.max(np.linalg.norm(M, 2, axis=(-2, -1))) if method == "panel" else 0.0
    assert_truncation_of(M, truncated, rank, slack(factors, Pi) + promised)
