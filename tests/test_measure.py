"""Every measured quantity against its definition, on exact numbers and on random factors."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory import measure
from decaf_theory.lowrank import Factors, balance, gauge, mix_factors, mix_products, product
from decaf_theory.tsvd import grouping, tsvd, tsvd_of_mix
from tests.mixes import most_memory, sparse_star

EPS = np.finfo(np.float64).eps
NORM = {"fro": "fro", "op": 2, "nuc": "nuc"}
INF = float("inf")


def gaussian(d, k, r, *batch, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((*batch, d, r)), rng.standard_normal((*batch, r, k)))


def rows(n, N, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(N), size=n)


def slack(factors):
    """Ten times the longest sum in eps of the sum of all |B_j||A_j|."""
    size = np.linalg.norm(factors.B) * np.linalg.norm(factors.A)
    return 10 * max(*factors.shape, factors.rank) * EPS * size


def assert_near(left, right, allowed):
    assert np.shape(left) == np.shape(right)
    assert np.max(np.abs(np.asarray(left) - np.asarray(right)), initial=0.0) <= allowed


def orthogonal_pair():
    """Products e1 e1' and e2 e2'."""
    return Factors(np.eye(2)[:, :, None], np.eye(2)[:, None, :])


@pytest.mark.parametrize("norm", measure.NORMS)
def test_norms_of_singular_values_are_those_of_the_matrix(norm):
    M = gaussian(5, 4, 4, 3).B
    values = np.linalg.svd(M, compute_uv=False)
    expected = [np.linalg.norm(x, NORM[norm]) for x in M]
    # the sum of four singular values, each off by 2 max(d, k) eps of the largest in either SVD
    assert_near(measure.schatten(values, norm), expected, 4 * 2 * 10 * EPS * np.max(values))


def test_norms_of_exact_singular_values():
    values = np.array([4.0, 3.0])
    assert [float(measure.schatten(values, norm)) for norm in measure.NORMS] == [5.0, 4.0, 7.0]
    assert measure.schatten(values) == 5.0
    assert measure.schatten(values[::-1], "op") == 4.0


@pytest.mark.parametrize("norm", measure.NORMS)
def test_the_norm_of_nothing_and_of_zeros_is_zero(norm):
    assert np.array_equal(measure.schatten(np.zeros((2, 0)), norm), [0.0, 0.0])
    assert np.array_equal(measure.schatten(np.zeros((2, 3)), norm), [0.0, 0.0])


def test_the_frobenius_norm_neither_overflows_nor_vanishes():
    assert measure.schatten(np.array([3e300, 4e300])) == pytest.approx(5e300, rel=4 * EPS)
    assert measure.schatten(np.array([3e-300, 4e-300])) == pytest.approx(5e-300, rel=4 * EPS)
    assert measure.schatten(np.array([INF, 1.0])) == INF
    assert np.isnan(measure.schatten(np.array([np.nan, 1.0])))


def test_another_norm_is_an_error_that_names_the_three():
    with pytest.raises(ValueError, match=r"norm must be one of \('fro', 'op', 'nuc'\), got 'F'"):
        measure.schatten(np.ones(2), "F")


@pytest.mark.parametrize("norm", measure.NORMS)
def test_norms_and_distances_of_products_are_the_dense_ones(norm):
    left, right = gaussian(5, 3, 2, 4, seed=1), gaussian(5, 3, 4, 4, seed=2)
    for found, dense in (
        (measure.product_norm(left, norm), product(left)),
        (measure.product_distance(left, right, norm), product(left) - product(right)),
    ):
        expected = [np.linalg.norm(x, NORM[norm]) for x in dense]
        assert_near(found, expected, slack(left) + slack(right))


def test_consensus_distance_is_squared_and_per_agent():
    X = np.array([1.0, 2.0, 6.0])[:, None, None]  # mean 3, deviations -2, -1, 3
    assert np.array_equal(measure.deviations(X)[:, 0, 0], [-2.0, -1.0, 3.0])
    assert measure.consensus_distance(X) == pytest.approx(14 / 3, rel=4 * EPS)
    both = Factors(np.tile(X, (1, 2, 1)), 10 * X)
    assert measure.consensus_distance(both) == pytest.approx((2 + 100) * 14 / 3, rel=4 * EPS)


def test_consensus_distance_keeps_the_batch_and_runs_over_the_agents():
    factors = gaussian(4, 3, 2, 5, 6)
    found = measure.consensus_distance(factors)
    assert found.shape == (5,)
    for run in range(5):
        B, A = factors.B[run], factors.A[run]
        expected = sum(
            np.sum((B[i] - B.mean(0)) ** 2) + np.sum((A[i] - A.mean(0)) ** 2) for i in range(6)
        )
        assert found[run] == pytest.approx(expected / 6, rel=100 * EPS)
    same = factors.map(lambda X: np.repeat(X[:, :1], 6, axis=1))
    assert np.max(measure.consensus_distance(same)) <= (4 * EPS) ** 2 * np.sum(factors.B**2)


@pytest.mark.parametrize(("d", "k"), [(5, 3), (3, 5)])
def test_interference_is_the_mean_product_less_the_product_of_means(d, k):
    factors, Pi = gaussian(d, k, 2, 4, 3), rows(5, 3)
    found = measure.interference(factors, Pi)
    expected = mix_products(factors, Pi) - product(mix_factors(factors, Pi))
    assert_near(found, expected, slack(factors))
    for norm in measure.NORMS:
        norms = [[np.linalg.norm(x, NORM[norm]) for x in run] for run in expected]
        assert_near(measure.interference_norm(factors, Pi, norm), norms, slack(factors))


def test_interference_of_orthogonal_products_in_exact_numbers():
    found = measure.interference(orthogonal_pair(), np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert_near(found[0], [[0.25, -0.25], [-0.25, 0.25]], EPS)
    assert not found[1].any()


def test_interference_near_consensus_keeps_its_digits():
    # all agents within 1e-7: I = 1e-14 (cross-covariance), which M - Bbar Abar would lose
    common, apart = gaussian(5, 4, 2, 1, seed=1), gaussian(5, 4, 2, 3, seed=2)
    size = 2.0**-24
    near = Factors(common.B + size * apart.B, common.A + size * apart.A)
    rounded = Factors(near.B - common.B, near.A - common.A)  # exact, by Sterbenz' lemma or nearly
    Pi = rows(2, 3)
    expected = measure.interference(rounded, Pi)
    # a deviation is off by eps |B|, relative to its size: eps/size
    allowed = 20 * EPS / size * np.max(np.abs(expected))
    assert_near(measure.interference(near, Pi), expected, allowed)


def test_equal_agents_do_not_interfere_at_all():
    common = gaussian(5, 4, 2, 6, 1)
    same = common.map(lambda X: np.repeat(X, 3, axis=1))
    assert not measure.interference(same, rows(2, 3)).any()
    assert not measure.interference_norm(same, rows(2, 3)).any()


def test_negative_weights_that_sum_to_one_interfere_as_defined():
    factors, Pi = gaussian(4, 3, 2, 2, 3), np.array([[1.5, -0.75, 0.25]])
    expected = mix_products(factors, Pi) - product(mix_factors(factors, Pi))
    assert_near(measure.interference(factors, Pi), expected, 3 * slack(factors))


@pytest.mark.parametrize("kind", [sp.csr_array, sp.coo_array])
def test_interference_of_a_sparse_mixing_matrix_is_that_of_the_dense_one(kind):
    factors = gaussian(4, 3, 2, 2, 5)
    Pi = np.array([[0.5, 0.5, 0, 0, 0], [0, 0.25, 0.25, 0.5, 0]])
    expected = mix_products(factors, Pi) - product(mix_factors(factors, Pi))
    assert_near(measure.interference(factors, kind(Pi)), expected, slack(factors))
    assert_near(measure.interference(factors, Pi), expected, slack(factors))


def test_interference_on_a_star_of_ten_thousand_agents_takes_the_memory_of_its_entries():
    N, d, k = 10_000, 6, 5
    factors, Pi = gaussian(d, k, 1, N), sparse_star(N)
    found, held = most_memory(lambda: measure.interference_norm(factors, Pi))
    # ten copies of the factors of every entry; a single byte for every pair of agents is more
    assert held <= 10 * Pi.nnz * (d + k) * 8 < N**2
    for i in (0, 1, 5000, N - 1):
        near = Pi[[i]].indices
        local = Factors(*(X[near] for X in factors))
        weights = Pi[[i]].data[None]
        exact = measure.interference_norm(local, weights)
        assert_near(found[i : i + 1], exact, slack(local))
        dense = mix_products(local, weights) - product(mix_factors(local, weights))
        assert_near(exact, np.linalg.norm(dense, axis=(-2, -1)), slack(local))


@pytest.mark.parametrize("norm", measure.NORMS)
def test_rows_of_few_agents_go_apart_from_rows_of_many_in_their_order(norm, monkeypatch):
    monkeypatch.setattr(grouping, "WORTH", 0)
    factors, Pi = gaussian(5, 4, 2, 3, 6), np.zeros((5, 6))
    for row, count in enumerate((1, 6, 2, 1, 3)):
        Pi[row, :count] = 1 / count
    expected = mix_products(factors, Pi) - product(mix_factors(factors, Pi))
    assert_near(measure.interference(factors, Pi), expected, slack(factors))
    norms = [[np.linalg.norm(x, NORM[norm]) for x in run] for run in expected]
    assert_near(measure.interference_norm(factors, Pi, norm), norms, slack(factors))


def test_the_deviation_panels_multiply_to_the_interference_and_hold_the_variances():
    factors, weights = gaussian(4, 3, 2, 6, 5), rows(1, 5)[0]
    X, Y = measure.weighted_deviations(factors, weights)
    assert X.shape == (6, 4, 10)
    assert Y.shape == (6, 10, 3)
    assert_near(X @ Y, measure.interference(factors, weights[None])[:, 0], slack(factors))
    for panel, factor in ((X, factors.B), (Y, factors.A)):
        mean = np.einsum("j,ljab->lab", weights, factor)
        variance = sum(
            w * np.sum((factor[:, j] - mean) ** 2, axis=(-2, -1)) for j, w in enumerate(weights)
        )
        assert_near(np.sum(panel**2, axis=(-2, -1)), variance, 1000 * EPS * np.max(variance))


@pytest.mark.parametrize("norm", measure.NORMS)
def test_truncation_error_and_size_of_a_mix_are_norms_of_tail_and_spectrum(norm):
    factors, Pi = gaussian(6, 5, 2, 3), rows(4, 3)
    truncated = tsvd_of_mix(factors, Pi, 2)
    M = mix_products(factors, Pi)
    error = [np.linalg.norm(x, NORM[norm]) for x in M - product(truncated.factors)]
    assert_near(measure.truncation_error(truncated, norm), error, 10 * slack(factors))
    size = [np.linalg.norm(x, NORM[norm]) for x in M]
    assert_near(measure.mix_norm(truncated, norm), size, 10 * slack(factors))


def test_norms_of_a_truncation_default_to_frobenius():
    truncated = tsvd(np.diag([3.0, 4.0, 12.0]), 1)
    allowed = slack(truncated.factors)
    assert measure.truncation_error(truncated) == pytest.approx(5.0, abs=allowed)
    assert measure.mix_norm(truncated) == pytest.approx(13.0, abs=allowed)
    assert measure.product_norm(truncated.factors) == pytest.approx(12.0, abs=allowed)
    assert measure.product_distance(truncated.factors, truncated.factors) <= 2 * allowed
    pair = orthogonal_pair()
    norm = measure.interference_norm(pair, np.full((1, 2), 0.5))
    assert norm == pytest.approx(0.5, abs=slack(pair))


def test_factor_gradients_are_the_chain_rule():
    factors, g = gaussian(4, 3, 2, 5), gaussian(4, 3, 3, 5, seed=1).B @ np.ones((3, 3))
    s, step = 0.7, 1e-6
    found = measure.factor_gradients(g, factors, s)
    assert found.B.shape == factors.B.shape
    assert found.A.shape == factors.A.shape

    def value(B, A):  # the linear function W -> <g, W> has gradient g everywhere
        return np.sum(g * (s * B @ A))

    rng = np.random.default_rng(3)
    dB, dA = rng.standard_normal(factors.B.shape), rng.standard_normal(factors.A.shape)
    B, A = factors
    # value is bilinear, so that central differences are exact but for rounding / step
    slope = (value(B + step * dB, A + step * dA) - value(B - step * dB, A - step * dA)) / (2 * step)
    expected = np.sum(found.B * dB) + np.sum(found.A * dA)
    terms = np.sum(np.abs(g)) * np.max(np.abs(B)) * np.max(np.abs(A))
    assert slope == pytest.approx(expected, abs=10 * EPS * terms / step)


def test_sigma_max_is_the_larger_of_both_factors():
    factors = gaussian(4, 3, 2, 5)
    each = [np.linalg.svd(X, compute_uv=False)[:, 0] for X in factors]
    assert np.array_equal(each[0] > each[1], each[0] >= each[1])
    assert len({bool(x) for x in each[0] > each[1]}) == 2  # both cases are met
    largest = np.maximum(*each)
    assert_near(measure.sigma_max(factors), largest, 2 * 2 * 4 * EPS * np.max(largest))


def test_imbalance_is_zero_for_balanced_factors_and_scales_with_the_gauge():
    factors = gaussian(4, 3, 2, 5)
    least = np.min(measure.product_norm(factors))
    assert np.max(measure.imbalance(balance(factors))) <= slack(factors) / least
    B, A = np.array([[2.0], [0.0]]), np.array([[1.0, 0.0]])
    assert measure.imbalance(Factors(B, A)) == pytest.approx(1.5, rel=4 * EPS)  # |4 - 1| / 2
    assert measure.imbalance(Factors(B / 2, A * 2)) == pytest.approx(1.5, rel=4 * EPS)


def test_imbalance_without_a_product_is_zero_or_infinite():
    zero, one = np.zeros((2, 2, 1)), np.ones((2, 1, 3))
    assert np.array_equal(measure.imbalance(Factors(zero, 0 * one)), [0.0, 0.0])
    assert np.array_equal(measure.imbalance(Factors(zero, one)), [INF, INF])


def test_numerical_rank_counts_what_exceeds_the_rounding_of_the_largest():
    threshold = 7 * EPS
    values = np.array([[1, 2 * threshold, threshold], [1, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert np.array_equal(measure.numerical_rank(values, d=7, k=3), [2, 3, 0, 1])
    assert np.array_equal(measure.numerical_rank(values, d=3, k=7), [2, 3, 0, 1])
    assert np.array_equal(measure.numerical_rank(1e-200 * values, d=7, k=3), [2, 3, 0, 1])
    assert measure.numerical_rank(np.zeros(0), d=2, k=2) == 0
    wide = np.array([1.0, 1e-4, 1e-8], dtype=np.float32)
    assert measure.numerical_rank(wide, d=7, k=3) == 2


def test_kept_energy_is_the_kept_share_of_squares():
    truncated = tsvd(np.stack([np.diag([3.0, 4.0]), np.zeros((2, 2)), np.diag([5.0, 0.0])]), 1)
    assert_near(measure.kept_energy(truncated), [16 / 25, 1.0, 1.0], 20 * EPS)


def test_effective_rank_lies_between_one_and_the_rank():
    values = np.array([[1.0, 1.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    assert_near(measure.effective_rank(values), [3.0, 1.0, 0.0, 49 / 25], 20 * EPS)


QUANTITIES = {
    "schatten": lambda F, Pi: measure.schatten(abs(F.B[..., 0]), "nuc"),
    "product_norm": lambda F, Pi: measure.product_norm(F),
    "consensus_distance": lambda F, Pi: measure.consensus_distance(F),
    "interference": measure.interference,
    "interference_norm": lambda F, Pi: measure.interference_norm(F, Pi, "nuc"),
    "product_distance": lambda F, Pi: measure.product_distance(F, Factors(2 * F.B, F.A)),
    "sigma_max": lambda F, Pi: measure.sigma_max(F),
    "imbalance": lambda F, Pi: measure.imbalance(F),
    "truncation_error": lambda F, Pi: measure.truncation_error(tsvd_of_mix(F, Pi, 2)),
    "kept_energy": lambda F, Pi: measure.kept_energy(tsvd_of_mix(F, Pi, 2)),
    "effective_rank": lambda F, Pi: measure.effective_rank(abs(F.B[..., 0])),
    "numerical_rank": lambda F, Pi: measure.numerical_rank(abs(F.B[..., 0]), d=5, k=4),
}


@pytest.mark.parametrize("name", QUANTITIES)
def test_numpy_and_torch_agree(name):
    factors, Pi = gaussian(5, 4, 2, 3), rows(2, 3)
    ours = QUANTITIES[name](factors, Pi)
    theirs = QUANTITIES[name](factors.map(torch.from_numpy), torch.from_numpy(Pi))
    assert isinstance(theirs, torch.Tensor)
    assert_near(ours, theirs, 10 * slack(factors))


@pytest.mark.parametrize("name", QUANTITIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, np.float16, np.float32], ids=str)
def test_every_quantity_keeps_the_dtype(name, dtype):
    factors, Pi = gaussian(5, 4, 2, 3), rows(2, 3)
    if isinstance(dtype, torch.dtype):
        cast, unit = factors.map(lambda x: torch.from_numpy(x).to(dtype)), 2.0**-7
    else:
        cast, unit = factors.map(lambda x: x.astype(dtype)), float(np.finfo(dtype).eps)
    found = QUANTITIES[name](cast, Pi)
    assert name == "numerical_rank" or found.dtype == dtype
    expected = QUANTITIES[name](cast.map(lambda x: np.asarray(x.tolist())), Pi)
    # a chain of at most ten operations of that precision; squared differences lose twice
    assert_near(np.asarray(found.tolist()), expected, 20 * unit * np.max(np.abs(expected)))


@pytest.mark.parametrize("scale", [1.0, 1e-2, 2e-3])
def test_half_types_are_squared_in_float32(scale):
    factors = gaussian(5, 4, 2, 3).map(lambda X: (scale * X).astype(np.float16))
    exact = measure.consensus_distance(factors.B.astype(np.float64))
    found = measure.consensus_distance(factors.B)
    # one rounding to float16, whose subnormal numbers are 2^-24 apart
    assert abs(float(found) - exact) <= max(2.0**-10 * exact, 2.0**-24)


@pytest.mark.parametrize("e", [-300, -100, 400])
def test_imbalance_does_not_depend_on_the_size_of_the_factors(e):
    factors = gaussian(5, 4, 2, 3)
    scaled = factors.map(lambda X: np.ldexp(X, e))
    assert np.array_equal(measure.imbalance(scaled), measure.imbalance(factors))


def test_shares_of_spectra_near_the_largest_number_are_those_of_small_ones():
    values = np.array([6e4, 6e4], dtype=np.float16)
    assert measure.effective_rank(values) == 2
    huge = tsvd_of_mix(Factors(np.eye(4)[None] * 1.5e308, np.eye(4)[None]), np.eye(1), 1)
    assert measure.kept_energy(huge) == pytest.approx(0.25, rel=8 * EPS)  # four equal ones
    assert measure.effective_rank(np.full(3, 1.5e308)) == pytest.approx(3, rel=8 * EPS)


def test_what_is_not_a_number_is_neither_balanced_nor_kept():
    lost = Factors(np.full((4, 2), np.nan), np.ones((2, 3)))
    assert np.isnan(measure.imbalance(lost))
    M = np.diag([3.0, 2.0, 1.0])
    truncated = tsvd(M, 2)
    unknown = truncated._replace(tail=truncated.tail * np.nan)
    assert np.isnan(measure.kept_energy(unknown))
    assert np.isnan(measure.effective_rank(np.array([1.0, np.nan])))


@st.composite
def networks(draw):
    branch = draw(
        st.sampled_from(["generic", "one agent", "heavy weight", "equal agents", "gauge", "tiny"])
    )
    event(branch)
    d, k = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)).filter(lambda x: x[0] != x[1]))
    r, N = draw(st.integers(1, 3)), 1 if branch == "one agent" else draw(st.integers(2, 5))
    seed = draw(st.integers(0, 2**20))
    factors, Pi = gaussian(d, k, r, N, seed=seed), rows(2, N, seed)
    if branch == "heavy weight":
        light = 10.0 ** -draw(st.integers(2, 14))
        Pi = np.full((1, N), light / (N - 1))
        Pi[0, 0] = 1 - light
    if branch in ("equal agents", "gauge"):
        factors = factors.map(lambda X: np.repeat(X[:1], N, axis=0))
    if branch == "gauge":
        factors = gauge(factors, np.linalg.qr(gaussian(r, r, r, N, seed=seed + 1).B)[0])
    if branch == "tiny":
        factors = Factors(1e-8 * factors.B, 1e-8 * factors.A)
    return factors, Pi


@given(networks())
def test_interference_is_half_the_sum_over_pairs(network):
    factors, Pi = network
    B, A = factors
    pairs = (B[:, None] - B[None]) @ (A[:, None] - A[None])
    expected = np.einsum("ni,nj,ijab->nab", Pi, Pi, pairs) / 2
    assert_near(measure.interference(factors, Pi), expected, 4 * slack(factors))


def test_a_common_frame_is_not_taken_where_it_leaves_agents_farther_apart():
    """Numbers (b, a) = (-1, -1), (-2, 0), (-1, 2): turned by their signs they are 20/9 apart."""
    B, A = np.array([-1.0, -2.0, -1.0]), np.array([-1.0, 0.0, 2.0])
    factors = Factors(B[:, None, None], A[:, None, None])
    assert_near(measure.aligned_consensus(factors), 16 / 9, 10 * EPS)
