"""The batched Jacobi solver against LAPACK, on LAPACK's test matrices and on harder ones."""

import subprocess
import sys
from itertools import combinations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory.bench.lapack import SIZES, THRESHOLD, TYPES, as_mix, matrix, orthogonal
from decaf_theory.tsvd import jacobi
from decaf_theory.tsvd.jacobi import SWEEPS, partners, svd

DTYPES = [np.float64, np.float32]
SHAPES = [(d, k) for d, k in SIZES if 0 not in (d, k)]


def ratios(A, U, S, Vh):
    """Return LAPACK's ratios of one matrix, and that of S against LAPACK's; S decreasing, >= 0."""
    (p, q), ulp = A.shape, float(np.finfo(A.dtype).eps)
    m = min(p, q)
    assert U.shape == (p, m)
    assert S.shape == (m,)
    assert Vh.shape == (m, q)
    assert {U.dtype, S.dtype, Vh.dtype} == {A.dtype}
    assert np.all(np.diff(S) <= 0)
    assert S[-1] >= 0
    unit = 2.0 ** np.frexp(np.max(np.abs(A)))[1] if A.any() else 1.0
    exact, s = A.astype(np.float64) / unit, S.astype(np.float64) / unit
    U, Vh = U.astype(np.float64), Vh.astype(np.float64)
    size = np.linalg.norm(exact, 1) if A.any() else 1.0
    values = np.linalg.svd(exact, compute_uv=False)
    largest = values[0] if A.any() else 1.0
    return np.array(
        [
            np.linalg.norm(exact - (U * s) @ Vh, 1) / (size * max(p, q) * ulp),
            np.linalg.norm(np.eye(m) - U.T @ U, 1) / (p * ulp),
            np.linalg.norm(np.eye(m) - Vh @ Vh.T, 1) / (q * ulp),
            np.max(np.abs(s - values)) / (largest * max(p, q) * ulp),
        ]
    )


def worst(stack, solver=svd):
    """Return the largest ratios over a stack of matrices, solved as one batch."""
    return np.max([ratios(*one) for one in zip(stack, *solver(stack), strict=True)], axis=0)


def core(M, agents):
    """Return the small core of the qr path of the mix that equals M."""
    factors, Pi = as_mix(M, agents, by_rows=False)
    B = np.concatenate(list(factors.B * Pi[0][:, None, None].astype(M.dtype)), axis=-1)
    A = np.concatenate(list(factors.A), axis=-2)
    return np.linalg.qr(B, mode="r") @ np.linalg.qr(A.T, mode="r").T


@pytest.mark.parametrize("q", [1, 2, 3, 4, 7, 8, 40, 63, 64])
def test_every_pair_meets_once_a_sweep(q):
    table = partners(q)
    assert np.array_equal(
        np.take_along_axis(table, table, axis=1), np.tile(range(q), (len(table), 1))
    )
    pairs = [(i, j) for row in table for i, j in enumerate(row) if i < j]
    assert sorted(pairs) == list(combinations(range(q), 2))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_one_round_makes_two_columns_orthogonal_and_keeps_their_squares(scale, seed):
    """Some 20 roundings, of numbers up to the size that the short column had before."""
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((2, 2)) * [[1.0], [scale]]
    turned, moved = jacobi._round(Z, 2, np.array([1, 0]))
    assert moved.all()
    lengths = np.linalg.norm(turned, axis=1)
    assert (
        abs(turned[0] @ turned[1]) <= 20 * 2.0**-53 * lengths[0] * np.linalg.norm(Z, axis=1).min()
    )
    assert lengths[0] >= lengths[1]
    assert abs(np.sum(turned**2) / np.sum(Z**2) - 1) <= 20 * 2.0**-53
    values = np.linalg.svd(Z, compute_uv=False)
    assert np.max(np.abs(lengths - values)) <= 20 * 2.0**-53 * values[0]


@pytest.mark.parametrize(("p", "cosine"), [(4, 6 * 2.0**-52), (9, 7 * 2.0**-52)])
def test_columns_are_turned_above_the_cosine_that_rounding_explains(p, cosine):
    """(4 + sqrt(p)) eps, and not at it."""
    for factor, expected in ((0.99, False), (1.0, False), (1.01, True)):
        Z = np.eye(2, p)
        Z[0, 1] = cosine * factor
        _, moved = jacobi._round(Z, p, np.array([1, 0]))
        assert moved.tolist() == [expected] * 2


def scaled_to(*columns):
    """Return a matrix that `svd` scales until its first entry is 2^508 and the others as given."""
    A = np.zeros((3, 3))
    A[0, 0] = 0.5
    A[1:, 1:] = np.array(columns).T * 2.0**-509
    return A


def test_columns_count_as_zeros_below_the_length_whose_square_keeps_its_digits():
    """2^-485 = sqrt(2^-1022/2^-52); at it they count, and are turned like all others."""
    least = 2.0**-485
    for factor, kept in ((1 - 2.0**-53, False), (1.0, True)):
        A = scaled_to([least * factor, 0.0], [0.0, 0.0])
        assert jacobi.prepare(A)[0][1, 1] == least * factor
        assert svd(A)[1].tolist() == [0.5, A[1, 1] * kept, 0.0]
    A = scaled_to([least, 0.0], [least, least])
    U, _, Vh = svd(A)
    for Q in (U, Vh):
        assert np.max(np.abs(Q @ Q.T - np.eye(3))) <= 3 * 10 * 2.0**-53
    batch = svd(np.stack([A] * 2**12))
    assert all(np.array_equal(x[7], y) for x, y in zip(batch, svd(A), strict=True))


def test_the_whole_range_above_them_is_used():
    """Of q columns of p entries just below one, the longest singular value is their root of pq."""
    for shape in ((2, 2), (4, 4), (8, 2)):
        A = np.full(shape, 1 - 2.0**-53)
        assert svd(A)[1][0] == pytest.approx(np.prod(shape) ** 0.5, rel=1e-14)
        top = np.max(jacobi.prepare(A)[0])
        size = np.prod(shape) * top * top  # |A|_F^2 is a quarter of overflow, or less by rounding
        assert np.finfo(float).max / 16 <= size <= np.finfo(float).max / 4


def test_a_vector_filled_in_is_orthogonal_up_to_the_rounding_of_a_dot_product():
    """No axis is closer than 1/sqrt(p) to the one direction that is left: all ones."""
    p = 64
    mirror = np.ones(p) / p**0.5 - np.eye(p)[-1]
    others = (np.eye(p) - 2 * np.outer(mirror, mirror) / (mirror @ mirror))[:, :-1]
    columns = others @ orthogonal(np.random.default_rng(0), p - 1) * np.linspace(2, 1, p - 1)
    U, S, _ = svd(np.concatenate([columns, np.zeros((p, 1))], axis=1))
    assert S[-1] == 0
    assert np.max(np.abs(U[:, :-1].T @ U[:, -1])) <= p**0.5 * 2.0**-53


def test_what_has_not_converged_is_an_error_that_names_the_matrix(monkeypatch):
    monkeypatch.setattr(jacobi, "SWEEPS", 2)
    A = np.stack([np.eye(6), np.eye(6), np.random.default_rng(0).standard_normal((6, 6))])
    with pytest.raises(np.linalg.LinAlgError, match=r"index \(2,\) did not converge in 2 sweeps"):
        svd(A)
    svd(A[:2])


def test_a_swap_is_not_taken_for_convergence(monkeypatch):
    """A sweep that only reorders columns has not met every pair."""
    monkeypatch.setattr(jacobi, "SWEEPS", 1)
    with pytest.raises(np.linalg.LinAlgError):
        svd(np.diag([1.0, 2.0]))
    monkeypatch.setattr(jacobi, "SWEEPS", 2)
    assert svd(np.diag([1.0, 2.0]))[1].tolist() == [2.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_passes_lapacks_test_on_every_matrix(dtype):
    for shape in SHAPES:
        stack = np.stack([matrix(kind, *shape, dtype) for kind in TYPES])
        assert np.all(worst(stack) < THRESHOLD), shape


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_passes_lapacks_test_on_the_core_of_every_mix(dtype):
    for number, shape in enumerate(SHAPES):
        stack = np.stack([core(matrix(kind, *shape, dtype), 1 + number % 3) for kind in TYPES])
        assert np.all(worst(stack) < THRESHOLD), shape


def hard(rng, n, dtype):
    """Return matrices that are graded, rank-deficient, tied, clustered or nearly so."""
    decades = 290 if dtype == np.float64 else 30
    X, steep = rng.standard_normal((n, n)), 10.0 ** -np.linspace(0, decades, n)
    some = rng.integers(-2, 3, (n, 2)) @ rng.integers(-2, 3, (2, n)) * 1.0
    return np.stack(
        [
            *(X * steep, X * steep[::-1], X * steep[:, None], X * rng.permutation(steep)[:, None]),
            X * np.sqrt(steep[:, None] * steep[::-1]),
            X * 10.0 ** -rng.uniform(0, decades, (n, n)),
            *(some, X * (np.arange(n) < 2), X * (np.arange(n) < 2)[:, None], np.ones((n, n))),
            *(rng.choice([-1.0, 1.0], (n, n)), np.eye(n) + 1e-9 * X, np.triu(X) * steep[:, None]),
            *(np.zeros((n, n)), -np.eye(n)[::-1], orthogonal(rng, n)),
        ]
    ).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 33, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_matrices_pass_as_well_and_well_within_the_sweeps_allowed(dtype, n, monkeypatch):
    monkeypatch.setattr(jacobi, "SWEEPS", SWEEPS // 2)
    assert np.all(worst(hard(np.random.default_rng(n), n, dtype)) < THRESHOLD)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_and_numpy_agree(dtype):
    A = hard(np.random.default_rng(3), 9, dtype)
    assert np.all(worst(A, lambda A: [x.numpy() for x in svd(torch.from_numpy(A))]) < THRESHOLD)


@pytest.mark.parametrize("decades", [12, 250])
def test_singular_values_are_right_in_relation_to_themselves_however_steep(decades):
    """Of A = X D: moved by kappa(X) times the rounding of each column's rotations."""
    rng = np.random.default_rng(decades)
    q = 8
    X, D = rng.standard_normal((q, q)), 10.0 ** np.linspace(-decades, 0, q)
    A = X * D
    with mpmath.workdps(2 * decades + 40):
        exact = sorted(mpmath.svd_r(mpmath.matrix(A.tolist()), compute_uv=False), reverse=True)
        errors = [abs(float(s / e - 1)) for s, e in zip(svd(A)[1], exact, strict=True)]
        lapack = [
            abs(float(s / e - 1))
            for s, e in zip(np.linalg.svd(A, compute_uv=False), exact, strict=True)
        ]
    eps, sweeps = 2.0**-52, 10  # more than it takes, see the test of hard matrices
    bound = np.linalg.cond(X) * (3 * sweeps * (q - 1) + q * (4 + q**0.5)) * eps
    assert max(errors) <= bound
    assert bound < 1e-10 < max(lapack) or decades == 12


def test_eigenvectors_of_the_square_come_without_the_square():
    """sigma = 1e-10 survives; the eigenvalue 1e-20 of C'C, beside 1, does not."""
    rng = np.random.default_rng(0)
    C = orthogonal(rng, 6) @ np.diag(10.0 ** -np.arange(0, 12, 2)) @ orthogonal(rng, 6)
    _, S, Vh = svd(C)
    assert S[-1] == pytest.approx(1e-10, rel=1e-4)  # C itself is off by eps
    assert np.linalg.norm(C @ Vh[-1]) == pytest.approx(1e-10, rel=1e-4)
    squares = np.linalg.eigvalsh(C.T @ C)
    assert abs(squares[0] / 1e-20 - 1) > 1


def test_a_sorted_diagonal_matrix_is_returned_to_the_last_bit():
    values = np.array([3.0, 0.1, 1e-200])
    U, S, Vh = svd(np.diag(values))
    assert np.array_equal(S, values)
    assert np.array_equal(U, np.eye(3))
    assert np.array_equal(Vh, np.eye(3))


@pytest.mark.parametrize("backend", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4), (6, 6)])
def test_any_batch_axes_and_the_same_results_as_one_by_one(backend, shape):
    A = np.random.default_rng(1).standard_normal((2, 3, *shape))
    A[0, 1] = 0
    A[1, 2, -1] = A[1, 2, 0]
    stack = backend(A)
    batch = [np.asarray(x) for x in svd(stack)]
    for i, j in np.ndindex(2, 3):
        single = [np.asarray(x) for x in svd(stack[i, j])]
        assert np.all(ratios(A[i, j], *single) < THRESHOLD)
        if backend is np.asarray:  # torch sums in another order
            assert all(np.array_equal(x[i, j], y) for x, y in zip(batch, single, strict=True))
        assert np.all(ratios(A[i, j], *(x[i, j] for x in batch)) < THRESHOLD)


def test_an_empty_batch_has_empty_results():
    U, S, Vh = svd(np.ones((0, 5, 3)))
    assert (U.shape, S.shape, Vh.shape) == ((0, 5, 3), (0, 3), (0, 3, 3))


@pytest.mark.parametrize(
    ("dtype", "exponents"), [(np.float64, (-1020, -500, 500, 1020)), (np.float32, (-120, 60, 120))]
)
def test_a_power_of_two_scales_the_values_and_nothing_else(dtype, exponents):
    A = np.random.default_rng(2).uniform(-1, 1, (5, 4)).astype(dtype)
    A[0, 0] = 1
    U, S, Vh = svd(A)
    for e in exponents:
        scaled = svd(np.ldexp(A, e))
        assert np.array_equal(scaled[1], np.ldexp(S, e))
        if e > min(exponents):
            assert np.array_equal(scaled[0], U)
            assert np.array_equal(scaled[2], Vh)


@pytest.mark.parametrize("scale", [1e150, 1e-150, 1e-300])
def test_extreme_scales_pass(scale):
    A = hard(np.random.default_rng(4), 6, np.float32).astype(np.float64) * scale
    assert np.all(worst(A[:, :, :5]) < THRESHOLD)


def test_subnormal_numbers_keep_orthonormal_vectors():
    A = np.array([[5e-324, 0, 5e-324], [0, 1e-323, 5e-324]])
    U, S, Vh = svd(A)
    assert np.allclose(U.T @ U, np.eye(2), atol=1e-15)
    assert np.allclose(Vh @ Vh.T, np.eye(2), atol=1e-15)
    exact = np.linalg.svd(A / 5e-324, compute_uv=False)
    assert np.all(np.abs(S / 5e-324 - exact) <= 0.5 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_raised(dtype):
    A = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype)
    assert all(x.dtype == torch.float32 for x in svd(A))
    assert np.all(ratios(A.float().numpy(), *(x.numpy() for x in svd(A))) < THRESHOLD)


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    decades=st.floats(0, 20),
    rank=st.integers(0, 12),
    tied=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_spectra_ranks_and_shapes_pass(shape, decades, rank, tied, seed):
    rng = np.random.default_rng(seed)
    values = 10.0 ** -(rng.integers(0, 3, min(shape)) if tied else rng.uniform(0, 1, min(shape)))
    values = values**decades * (np.arange(min(shape)) < rank)
    middle = np.zeros(shape)
    np.fill_diagonal(middle, values)
    A = orthogonal(rng, shape[0]) @ middle @ orthogonal(rng, shape[1])
    assert np.all(ratios(A, *svd(A)) < THRESHOLD)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_entry_is_named(bad):
    A = np.ones((2, 3, 4, 4))
    A[1, 2, 3, 0] = bad
    with pytest.raises(ValueError, match=r"A is not finite at batch index \(1, 2\)"):
        svd(A)


def test_what_is_no_matrix_is_an_error():
    with pytest.raises(ValueError, match=r"p, q >= 1, got shape \(3, 0\)"):
        svd(np.ones((3, 0)))
    with pytest.raises(ValueError, match=r"p, q >= 1, got shape \(3,\)"):
        svd(np.ones(3))
    with pytest.raises(ValueError, match=r"real .* of at most 64 bits, got dtype int64"):
        svd(np.ones((2, 2), np.int64))


def test_an_overflowing_singular_value_is_an_error():
    A = np.stack([np.eye(2), np.full((2, 2), 1e308)])
    with pytest.raises(ValueError, match=r"batch index \(1,\) overflows float64"):
        svd(A)
    assert svd(A / 2)[1][1, 0] == pytest.approx(1e308)


def test_the_kernel_package_loads_neither_torch_nor_triton():
    code = (
        "import sys; import decaf_theory.tsvd, decaf_theory.tsvd.jacobi; "
        "sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
