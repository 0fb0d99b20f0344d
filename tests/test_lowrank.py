"""Products of factors without forming them: against dense linear algebra, on NumPy and torch."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory.lowrank import (
    Factors,
    align,
    balance,
    check_factors,
    gauge,
    inner,
    mean_over_agents,
    mix_factors,
    mix_products,
    orthogonal_core,
    pad_rank,
    product,
    spectrum,
    subtract,
)

EPS = np.finfo(np.float64).eps
# (d, k, r): wide, tall, r equal to and above each side, vectors, scalars
SHAPES = [(5, 4, 2), (4, 7, 3), (3, 6, 3), (6, 3, 5), (2, 9, 4), (1, 4, 1), (4, 1, 2), (1, 1, 1)]


def gaussian(d, k, r, *batch, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((*batch, d, r)), rng.standard_normal((*batch, r, k)))


def slack(*factors):
    """Ten times the longest sum, in eps of |B||A|: products, QR and SVD are backward stable."""
    sizes = [np.linalg.norm(X.B) * np.linalg.norm(X.A) for X in factors]
    longest = max(max(*X.shape, X.rank) for X in factors)
    return 10 * longest * EPS * sum(sizes)


def assert_near(left, right, allowed):
    assert np.shape(left) == np.shape(right)
    assert np.max(np.abs(np.asarray(left) - np.asarray(right)), initial=0.0) <= allowed


@pytest.mark.parametrize(("d", "k", "r"), SHAPES)
def test_factors_know_their_rank_and_the_shape_of_their_product(d, k, r):
    factors = gaussian(d, k, r, 2, 3)
    assert factors.rank == r
    assert factors.shape == (d, k)
    assert product(factors).shape == (2, 3, d, k)


@pytest.mark.parametrize(
    ("B", "A"),
    [
        ((4,), (4, 3)),
        ((4, 2), (2,)),
        ((4, 2), (3, 5)),
        ((2, 4, 2), (3, 2, 5)),
        ((4, 2), (1, 2, 5)),
    ],
)
def test_factors_whose_shapes_do_not_belong_together_are_refused(B, A):
    with pytest.raises(ValueError, match=r"factors must be B \[\.\.\., d, r\]"):
        check_factors(Factors(np.ones(B), np.ones(A)))


def test_factors_of_two_dtypes_are_refused():
    with pytest.raises(ValueError, match="share one dtype, got float32 and float64; convert"):
        check_factors(Factors(np.ones((4, 2), np.float32), np.ones((2, 3))))
    check_factors(gaussian(4, 3, 2, 5))
    check_factors(gaussian(4, 3, 2))


@pytest.mark.parametrize(("d", "k", "r"), SHAPES)
def test_the_orthogonal_core_rebuilds_the_product_from_orthonormal_columns(d, k, r):
    factors = gaussian(d, k, r, 3)
    Q_B, core, Q_A = orthogonal_core(factors)
    assert Q_B.shape == (3, d, min(d, r))
    assert Q_A.shape == (3, k, min(k, r))
    for Q in (Q_B, Q_A):
        gap = Q.swapaxes(-1, -2) @ Q - np.eye(Q.shape[-1])
        assert np.max(np.abs(gap)) <= 10 * max(d, k) * EPS
    assert_near(Q_B @ core @ Q_A.swapaxes(-1, -2), product(factors), slack(factors))


@pytest.mark.parametrize(("d", "k", "r"), SHAPES)
def test_the_spectrum_is_that_of_the_dense_product(d, k, r):
    factors = gaussian(d, k, r, 2)
    dense = np.linalg.svd(factors.B @ factors.A, compute_uv=False)
    p = min(d, k, r)
    assert_near(spectrum(factors), dense[..., :p], slack(factors))
    assert np.all(dense[..., p:] <= slack(factors))


def test_a_small_singular_value_beside_a_large_one_keeps_its_digits():
    # a Gram matrix would hold its square, 1e-20, below eps
    left, right = (np.linalg.qr(gaussian(6, 5, 5, seed=s).B)[0] for s in (1, 2))
    values = np.array([1.0, 1e-5, 1e-10])
    factors = Factors(left[:, :3] * values, right[:, :3].T)
    assert_near(spectrum(factors), values, slack(factors))


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_the_spectrum_of_opposite_scales_neither_overflows_nor_vanishes(scale):
    factors = gaussian(5, 4, 2)
    scaled = Factors(factors.B * scale, factors.A / scale)
    assert_near(spectrum(scaled), spectrum(factors), slack(factors))


def test_the_inner_product_is_that_of_the_dense_products():
    left, right = gaussian(5, 4, 2, 3, seed=1), gaussian(5, 4, 3, 3, seed=2)
    dense = np.sum(product(left) * product(right), axis=(-2, -1))
    assert_near(inner(left, right), dense, slack(left) * slack(right) / EPS)
    exact = Factors(np.array([[1.0], [2.0]]), np.array([[3.0, 0.0, 1.0]]))
    assert inner(exact, exact) == 50.0  # |(1, 2)|^2 |(3, 0, 1)|^2


def test_subtraction_stacks_the_ranks():
    left, right = gaussian(5, 4, 2, 3, seed=1), gaussian(5, 4, 3, 3, seed=2)
    difference = subtract(left, right)
    assert difference.rank == 5
    assert_near(product(difference), product(left) - product(right), slack(left, right))


@pytest.mark.parametrize(("d", "k", "r"), SHAPES)
def test_balancing_keeps_the_product_and_makes_both_grams_the_singular_values(d, k, r):
    factors = gaussian(d, k, r, 2)
    balanced = balance(factors)
    assert balanced.B.shape == factors.B.shape
    assert balanced.A.shape == factors.A.shape
    assert_near(product(balanced), product(factors), slack(factors))
    values = np.zeros((2, r))
    values[:, : min(d, k, r)] = spectrum(factors)
    diagonal = values[:, :, None] * np.eye(r)
    assert_near(balanced.B.swapaxes(-1, -2) @ balanced.B, diagonal, slack(factors))
    assert_near(balanced.A @ balanced.A.swapaxes(-1, -2), diagonal, slack(factors))


def test_surplus_directions_of_a_balanced_product_are_exactly_zero():
    B, A = balance(gaussian(3, 2, 5))
    assert not B[:, 2:].any()
    assert not A[2:].any()
    assert B[:, :2].all()


def test_balancing_zero_gives_zero():
    B, A = balance(Factors(np.zeros((4, 2)), np.ones((2, 3))))
    assert not B.any()
    assert not A.any()


def test_padding_adds_zero_directions_and_never_cuts():
    factors = gaussian(4, 5, 2, 3)
    B, A = pad_rank(factors, 6)
    assert B.shape == (3, 4, 6)
    assert A.shape == (3, 6, 5)
    assert np.array_equal(B[..., :2], factors.B)
    assert np.array_equal(A[..., :2, :], factors.A)
    assert not B[..., 2:].any()
    assert not A[..., 2:, :].any()
    assert pad_rank(factors, 2) is factors
    assert pad_rank(factors, 1) is factors


def test_a_gauge_changes_the_factors_as_written_and_not_the_product():
    B, A = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]]), np.array([[1.0, 4.0], [0.0, 2.0]])
    R = np.array([[2.0, 1.0], [0.0, 1.0]])  # its inverse is [[1/2, -1/2], [0, 1]]
    other = gauge(Factors(B, A), R)
    assert_near(other.B, np.array([[0.5, 1.5], [0.0, 1.0], [1.5, -0.5]]), 20 * EPS)
    assert np.array_equal(other.A, np.array([[2.0, 10.0], [0.0, 2.0]]))
    assert_near(product(other), B @ A, 100 * EPS)


def test_every_agent_may_have_a_gauge_of_its_own():
    factors, R = gaussian(4, 5, 2, 3, seed=1), gaussian(2, 2, 2, 3, seed=2).B
    together = gauge(factors, R)
    for j in range(3):
        alone = gauge(Factors(factors.B[j], factors.A[j]), R[j])
        assert np.array_equal(together.B[j], alone.B)
        assert np.array_equal(together.A[j], alone.A)


def test_alignment_finds_the_rotation_that_was_applied():
    reference = gaussian(5, 4, 3, seed=1)
    O = np.linalg.qr(gaussian(3, 3, 3, seed=2).B)[0]  # noqa: E741
    turned = Factors(reference.B @ O, O.T @ reference.A)
    found = align(turned, reference)
    assert_near(found.B, reference.B, slack(reference))
    assert_near(found.A, reference.A, slack(reference))


def test_alignment_is_nearer_than_any_other_rotation_and_keeps_the_product():
    factors, reference = gaussian(5, 4, 3, seed=1), gaussian(5, 4, 3, seed=2)

    def distance(candidate):
        return sum(np.sum((X - Y) ** 2) for X, Y in zip(candidate, reference, strict=True))

    aligned = align(factors, reference)
    assert_near(product(aligned), product(factors), slack(factors))
    for seed in range(50):
        O = np.linalg.qr(gaussian(3, 3, 3, seed=seed).B)[0]  # noqa: E741
        turned = Factors(aligned.B @ O, O.T @ aligned.A)
        assert distance(aligned) <= distance(turned)
    assert distance(aligned) < distance(factors)


def test_the_mean_over_agents_is_the_weighted_sum_of_every_row():
    X = gaussian(4, 3, 2, 2, 5).B
    Pi = np.random.default_rng(1).standard_normal((3, 5))
    mixed = mean_over_agents(X, Pi)
    for i in range(3):
        expected = sum(Pi[i, j] * X[:, j] for j in range(5))
        # five roundings of five terms, on either side
        allowed = 2 * 5 * 5 * EPS / 2 * np.max(np.abs(X)) * np.max(np.abs(Pi))
        assert_near(mixed[:, i], expected, allowed)


TORCH_SPARSE = {
    "csr": lambda Pi: torch.from_numpy(Pi).to_sparse_csr(),
    "coo": lambda Pi: torch.from_numpy(Pi).to_sparse(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("kind", [sp.csr_array, sp.coo_array, sp.csc_matrix, *TORCH_SPARSE])
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(b, d) for b in ("numpy", "torch") for d in ("float64", "float32", "float16")]
    + [("torch", "bfloat16")],
)
def test_a_sparse_mixing_matrix_gives_what_the_dense_one_gives(backend, dtype, kind):
    X = gaussian(4, 3, 2, 5).B
    Pi = np.array([[0.5, 0.5, 0, 0, 0], [0, 0.25, 0.25, 0.5, 0]])
    given = torch.from_numpy(X).to(getattr(torch, dtype))
    given = given if backend == "torch" else given.numpy()
    mixed = mean_over_agents(given, TORCH_SPARSE.get(kind, kind)(Pi))
    assert type(mixed) is type(given)
    assert mixed.dtype == given.dtype
    # rounding of X, of three products and sums, of the result; weights are powers of two
    allowed = 10 * torch.finfo(getattr(torch, dtype)).eps * np.max(np.abs(X))
    found = mixed.double().numpy() if backend == "torch" else mixed
    assert_near(found, mean_over_agents(X, Pi), allowed)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_mixing_by_a_sparse_matrix_copies_nothing_but_its_weights(dtype, backend):
    N = 5000
    Pi = sp.diags_array([0.25, 0.5, 0.25], offsets=[-1, 0, 1], shape=(N, N), format="csr")
    X = np.ones((N, 8, 8), dtype)
    given = torch.from_numpy(X) if backend == "torch" else X
    mean_over_agents(given, Pi)  # so that all is loaded
    tracemalloc.start()
    mean_over_agents(given, Pi)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the result, the weights in another dtype, and Python's own objects
    assert peak <= X.nbytes + 3 * N * X.itemsize + 10**5


def test_mixing_factors_and_mixing_products_differ_by_the_interference():
    # agents (e1, e1') and (e2, e2') with weights 2/3 and 1/3
    factors = Factors(np.eye(2)[:, :, None], np.eye(2)[:, None, :])
    Pi = np.array([[2 / 3, 1 / 3], [0.0, 1.0]])
    B, A = mix_factors(factors, Pi)
    assert_near(B[0], [[2 / 3], [1 / 3]], EPS)
    assert_near(A[0], [[2 / 3, 1 / 3]], EPS)
    assert np.array_equal(B[1] @ A[1], [[0, 0], [0, 1]])
    assert_near(mix_products(factors, Pi), [np.diag([2 / 3, 1 / 3]), np.diag([0.0, 1.0])], EPS)


FUNCTIONS = {
    "product": lambda X, Y, Pi: product(X),
    "spectrum": lambda X, Y, Pi: spectrum(X),
    "inner": lambda X, Y, Pi: inner(X, Y),
    "subtract": lambda X, Y, Pi: product(subtract(X, Y)),
    "balance": lambda X, Y, Pi: product(balance(X)),
    "pad_rank": lambda X, Y, Pi: pad_rank(X, 4).A,
    "gauge": lambda X, Y, Pi: gauge(X, Y.B[..., :2, :2]).B,
    "align": lambda X, Y, Pi: align(X, Y).B,
    "mix_factors": lambda X, Y, Pi: mix_factors(X, Pi).B,
    "mix_products": lambda X, Y, Pi: mix_products(X, Pi),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_torch_agree(name):
    X, Y = gaussian(5, 4, 2, 3, seed=1), gaussian(5, 4, 2, 3, seed=2)
    Pi = np.full((2, 3), 1 / 3)
    ours = FUNCTIONS[name](X, Y, Pi)
    theirs = FUNCTIONS[name](X.map(torch.from_numpy), Y.map(torch.from_numpy), torch.from_numpy(Pi))
    assert theirs.dtype == torch.float64
    # a solve loses the condition number of the gauge; 100 covers the fixed ones here
    assert_near(ours, theirs, 100 * slack(X, Y))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, np.float16], ids=str)
def test_half_types_are_raised_inside_and_returned_as_given(name, dtype):
    X, Y = gaussian(5, 4, 2, 3, seed=1), gaussian(5, 4, 2, 3, seed=2)
    Pi = np.full((2, 3), 1 / 3)
    if dtype is np.float16:
        cast = [F.map(lambda x: x.astype(dtype)) for F in (X, Y)]
        unit = float(np.finfo(dtype).eps)
    else:
        cast = [F.map(lambda x: torch.from_numpy(x).to(dtype)) for F in (X, Y)]
        unit = torch.finfo(dtype).eps
    half = FUNCTIONS[name](*cast, Pi)
    assert half.dtype == dtype
    widened = [F.map(lambda x: np.asarray(x.tolist())) for F in cast]
    full = FUNCTIONS[name](*widened, Pi)
    # a chain of at most ten half operations; the fixed inputs are well conditioned
    assert_near(np.asarray(half.tolist()), full, 10 * unit * np.max(np.abs(full)))


@st.composite
def drawn_factors(draw):
    branch = draw(st.sampled_from(["generic", "rank-deficient", "graded", "wide rank", "tiny"]))
    event(branch)
    d, k = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)).filter(lambda x: x[0] != x[1]))
    r = draw(st.integers(1, 3)) if branch != "wide rank" else max(d, k) + 1
    B, A = gaussian(d, k, r, seed=draw(st.integers(0, 2**20)))
    if branch == "rank-deficient":
        B[:, -1] = B[:, 0]
    if branch == "graded":
        B *= 10.0 ** -np.arange(0, 5 * r, 5)
    return Factors(B * (1e-120 if branch == "tiny" else 1), A)


@given(drawn_factors())
def test_balanced_factors_are_balanced_whatever_the_product(factors):
    balanced = balance(factors)
    allowed = slack(factors)
    assert_near(product(balanced), product(factors), allowed)
    B, A = balanced
    assert_near(B.T @ B, A @ A.T, allowed)
    assert_near(np.diag(B.T @ B)[: min(*factors.shape, factors.rank)], spectrum(factors), allowed)


def test_a_map_treats_both_factors_alike_and_pairs_those_of_others():
    left, right = Factors(np.ones((3, 2)), np.full((2, 4), 2.0)), Factors(3.0, 4.0)
    twice = left.map(lambda X: 2 * X)
    assert isinstance(twice, Factors)
    assert np.all(twice.B == 2)
    assert np.all(twice.A == 4)
    moved = left.map(lambda X, Y, Z: X + Y * Z, right, right)
    assert np.all(moved.B == 10)
    assert np.all(moved.A == 18)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_stored_zero_is_no_weight(bad):
    stored = sp.csr_array(([0.5, 0.5, 0.0], [0, 1, 2], [0, 3]), shape=(1, 3))
    factors = gaussian(4, 3, 2, 3)
    lost = factors.map(lambda X: np.concatenate([X[:2], np.full_like(X[2:], bad)]))
    mixed = mix_factors(lost, stored)
    assert all(map(np.array_equal, mixed, mix_factors(factors, stored)))
    assert stored.nnz == 3  # the caller's own is left as it is


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_agent_without_weight_adds_nothing_to_a_mean(bad):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((2, 3, 4, 2))
    X[1, 1] = bad
    Pi = np.array([[0.5, 0.0, 0.5], [0.2, 0.3, 0.5]])
    found = mean_over_agents(X, Pi)
    # two products, and their sum
    expected = 0.5 * X[:, 0] + 0.5 * X[:, 2]
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=4 * EPS * np.abs(expected).max())
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1, 1]).any()
    np.testing.assert_array_equal(found, mean_over_agents(X, sp.csr_array(Pi)))
