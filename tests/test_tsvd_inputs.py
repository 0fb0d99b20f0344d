"""What every input gets from the truncated SVD of a mix: the right answer, or a named error."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from decaf_theory.lowrank import Factors, product
from decaf_theory.tsvd import PATHS, tsvd, tsvd_of_mix
from decaf_theory.tsvd.mixing import exponent_of, normalized, on_host, padded, scale_by
from tests.mixes import EPS, assert_near, assert_same_result, gaussian, rows, slack

METHODS = PATHS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float16, torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_raised_inside_and_returned_as_given(method, dtype):
    factors, Pi = gaussian(3, 6, 5, 2), rows(2, 3)
    if dtype is np.float16:
        cast, unit = factors.map(lambda X: X.astype(dtype)), 2.0**-10
    else:
        cast = factors.map(lambda X: torch.from_numpy(X).to(dtype))
        unit = torch.finfo(dtype).eps
    truncated = tsvd_of_mix(cast, Pi, 2, method=method)
    widened = cast.map(lambda X: np.asarray(X.tolist()))
    full = tsvd_of_mix(widened, Pi, 2, method=method)
    for found, expected in (
        (truncated.singular_values, full.singular_values),
        (truncated.tail, full.tail),
        (abs(truncated.factors.B), abs(full.factors.B)),  # vectors up to sign
        (abs(truncated.factors.A), abs(full.factors.A)),
    ):
        assert found.dtype == dtype
        # computed in float32, rounded once: half a unit of the largest entry and some float32
        assert_near(np.asarray(found.tolist()), expected, unit * np.max(expected))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_opposite_scales_of_the_factors_cancel(method, scale):
    factors, Pi = gaussian(3, 6, 5, 2), rows(2, 3)
    scaled = Factors(factors.B * scale, factors.A / scale)
    ours, theirs = (tsvd_of_mix(F, Pi, 2, method=method) for F in (factors, scaled))
    assert_near(ours.singular_values, theirs.singular_values, slack(factors, Pi))
    assert_near(product(ours.factors), product(theirs.factors), 100 * slack(factors, Pi))
    # also where the agents, or the rank directions, lie on either side
    B, A = (X.copy() for X in factors)
    B[0] *= scale
    A[0] /= scale
    B[1, :, 1] /= scale
    A[1, 1] *= scale
    mixed = tsvd_of_mix(Factors(B, A), Pi, 2, method=method)
    assert_near(mixed.singular_values, ours.singular_values, slack(factors, Pi))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [-500, 500])
def test_a_power_of_two_of_both_factors_comes_out_exactly(method, power):
    factors, Pi = gaussian(3, 6, 5, 2), rows(2, 3)
    plain = tsvd_of_mix(factors, Pi, 2, method=method)
    scaled = tsvd_of_mix(factors.map(lambda X: X * 2.0**power), Pi, 2, method=method)
    assert np.array_equal(scaled.singular_values, plain.singular_values * 4.0**power)
    assert np.array_equal(scaled.tail, plain.tail * 4.0**power)
    assert np.array_equal(scaled.factors.B, plain.factors.B * 2.0**power)
    assert np.array_equal(scaled.factors.A, plain.factors.A * 2.0**power)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_smallest_subnormal_is_kept(method, dtype):
    tiny = np.nextafter(dtype(0), dtype(1))
    factors = Factors(np.full((1, 2, 1), tiny), np.ones((1, 1, 3), dtype))
    truncated = tsvd_of_mix(factors, np.ones((1, 1)), 1, method=method)
    # sqrt(6) = 2.45 units of the smallest number, rounded to 2
    assert truncated.singular_values[0, 0] == 2 * tiny
    assert tsvd(np.full((2, 3), tiny), 1).singular_values[0] == 2 * tiny
    unit = float(tiny) ** 0.5
    B, A = truncated.factors
    expected = np.full((2, 3), 1.0)
    assert_near(
        np.float64(B[0] / unit) @ np.float64(A[0] / unit), expected, 100 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_an_overflowing_product_is_an_error_that_says_where(method, dtype):
    B, A = (X.astype(dtype) for X in gaussian(2, 3, 4, 1, 2))
    B[1] *= dtype(np.finfo(dtype).max) / 8
    A[1] *= 64
    message = rf"product at index \(1, 0\) overflows {np.dtype(dtype)}"
    with pytest.raises(ValueError, match=message):
        tsvd_of_mix(Factors(B, A), np.full((1, 2), 0.5), 1, method=method)


def test_an_overflowing_product_is_an_error_on_torch_too():
    huge = torch.full((1, 1, 1), 1e200, dtype=torch.float64)
    factors = Factors(huge.expand(1, 2, 1), huge.expand(1, 1, 2))
    with pytest.raises(ValueError, match=r"product at index \(0,\) overflows torch.float64"):
        tsvd_of_mix(factors, np.ones((1, 1)), 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("empty", ["B", "A"])
def test_a_direction_that_is_zero_in_one_factor_adds_nothing_however_large_the_other(method, empty):
    factors, Pi = gaussian(2, 4, 5, 2), np.full((1, 2), 0.5)
    directions = {"B": factors.B[0, :, 1], "A": factors.A[0, 1]}
    directions.pop(empty)[:] = 0.0
    expected = tsvd_of_mix(factors, Pi, 2, method=method)
    for huge in directions.values():
        huge[:] = 1e308
    assert_same_result(tsvd_of_mix(factors, Pi, 2, method=method), expected)


def test_normalized_panels_hold_the_same_products_with_entries_below_one():
    rng = np.random.default_rng(0)
    factors, Pi = gaussian(3, 6, 5, 2, 4), np.array([[0.5, -3.0, 0.0], [0.0, 0.0, 1e-200]])
    size, other = 2.0 ** rng.integers(-300, 300, (2, 4, 3, 1, 2))
    skewed = Factors(factors.B * size, factors.A * other.swapaxes(-1, -2))
    skewed.B[0, 2, :, 0] = 0.0  # beside a row of A: a direction that adds nothing
    (B, A), w, e = normalized(skewed.map(lambda X: X[:, None]), Pi)
    lengths = np.max(np.abs(B), axis=-2), np.max(np.abs(A), axis=-1)
    assert all(np.all((x < 1) & (x >= 0.5) | (x == 0)) for x in lengths)
    assert np.all((np.max(np.abs(w), axis=-1) >= 1 / 8) & (np.max(np.abs(w), axis=-1) < 1))
    assert w.shape == (4, 2, 6)
    assert not w[0, 1, 4].any()
    assert not w[:, 0, 4:].any()
    # powers of two alone: no bit is lost, one direction at a time, but what is negligible
    for row, j, i in np.ndindex(2, 3, 2):
        mine = w[:, row, 2 * j + i, None, None] * 4.0 ** e[:, row, None, None]
        left = mine * (B[:, 0, j, :, i : i + 1] @ A[:, 0, j, i : i + 1, :])
        right = Pi[row, j] * (skewed.B[:, j, :, i : i + 1] @ skewed.A[:, j, i : i + 1, :])
        assert np.all(np.abs(left - right) <= 4 * EPS * np.abs(right))


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize(("dtype", "power"), [(np.float32, 15), (np.float64, 100)])
def test_a_row_of_small_agents_keeps_its_digits_beside_large_ones(method, dtype, power):
    """One row weights all agents, so that a stack serves all; others have small ones alone."""
    factors, Pi = gaussian(6, 9, 8, 1), np.eye(6)
    Pi[0] = 1.0
    scale = np.where(np.arange(6) == 0, 10.0**power, 10.0**-power)[:, None, None]
    given = factors.map(lambda X: (X * scale).astype(dtype))
    found = tsvd_of_mix(given, Pi, 1, method=method).singular_values[1:, 0]
    expected = [np.linalg.norm(b) * np.linalg.norm(a) for b, a in zip(*given, strict=True)][1:]
    assert np.all(np.abs(found / expected - 1) < 100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("weight", "size"), [(1e-46, 1e15), (1e-42, 1e15), (1e39, 1e-15)])
def test_weights_beyond_float32_meet_factors_that_make_up_for_them(method, weight, size):
    factors = gaussian(2, 9, 8, 2).map(lambda X: (X * size).astype(np.float32))
    found = tsvd_of_mix(factors, np.full((1, 2), weight), 2, method=method)
    wide = factors.map(lambda X: X.astype(np.float64))
    expected = tsvd_of_mix(wide, np.full((1, 2), weight), 2, method="qr").singular_values
    assert np.all(np.abs(found.singular_values - expected) <= 2e-6 * expected[:, :1])


def test_scaling_by_a_power_of_two_crosses_the_whole_range():
    smallest, large = np.array([2.0**-1074]), np.array([2.0**1000])
    assert scale_by(smallest, np.array([2046])) == 2.0**972
    assert scale_by(smallest, np.array([2045])) == 2.0**971
    assert scale_by(large, np.array([-2046])) == 2.0**-1046
    assert scale_by(large, np.array([-2045])) == 2.0**-1045
    assert scale_by(np.float32([2.0**-149]), np.array([254])) == np.float32(2.0**105)
    assert np.array_equal(exponent_of(np.array([0.0, 1.0, 0.75, 2.0**-1074])), [0, 1, 0, -1073])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tensors_on_the_cpu_are_seen_as_arrays_of_the_same_memory(dtype):
    tensors = gaussian(3, 4, 5, 2).map(lambda X: torch.from_numpy(X).to(dtype))
    for X, tensor in zip(on_host(tensors), tensors, strict=True):
        assert isinstance(X, np.ndarray)
        X[0, 0, 0] = 7.0
        assert (X.shape, tensor[0, 0, 0]) == (tensor.shape, 7.0)


def test_arrays_half_types_and_tensors_elsewhere_are_left_as_they_are():
    """ "meta" is a device without memory, which no NumPy array could share."""
    arrays = gaussian(3, 4, 5, 2)
    half = arrays.map(lambda X: torch.from_numpy(X).to(torch.bfloat16))
    elsewhere = arrays.map(lambda X: torch.empty(X.shape, device="meta"))
    for factors in (arrays, half, elsewhere):
        assert all(x is y for x, y in zip(on_host(factors), factors, strict=True))


def test_zeros_are_added_only_where_they_are_missing():
    S = np.array([[3.0, 2.0], [1.0, 0.0]])
    assert padded(S, 2) is S
    assert np.array_equal(padded(S, 3), [[3.0, 2.0, 0.0], [1.0, 0.0, 0.0]])


def test_any_memory_layout_gives_the_same_bits_and_stays_unchanged():
    factors, Pi = gaussian(3, 6, 5, 2, 2), rows(2, 3)
    expected = tsvd_of_mix(factors, Pi, 2)
    big = factors.map(lambda X: np.zeros((*X.shape[:-1], 2 * X.shape[-1])))
    for wide, X in zip(big, factors, strict=True):
        wide[..., ::2] = X
    layouts = {
        "Fortran": factors.map(np.asfortranarray),
        "strided": big.map(lambda X: X[..., ::2]),
        "negative": factors.map(lambda X: np.ascontiguousarray(X[..., ::-1, :])[..., ::-1, :]),
        "read-only": factors.map(lambda X: X.copy()),
    }
    for X in layouts["read-only"]:
        X.setflags(write=False)
    for layout in layouts.values():
        before = [X.copy() for X in layout]
        assert_same_result(tsvd_of_mix(layout, np.asfortranarray(Pi), 2), expected)
        assert all(np.array_equal(x, y) for x, y in zip(layout, before, strict=True))


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_a_bad_number_is_named_with_its_agent(fill):
    factors = gaussian(3, 4, 5, 2, 2)
    factors.A[1, 2, 0, 3] = fill
    with pytest.raises(ValueError, match=r"agent 2 at batch index \(1,\) hold nan or inf"):
        tsvd_of_mix(factors, rows(2, 3), 2)
    with pytest.raises(ValueError, match=r"factors of agent 2 hold"):
        tsvd_of_mix(Factors(factors.B[1], factors.A[1]), rows(2, 3), 2)
    M = np.zeros((2, 3, 3))
    M[1, 2, 0] = fill
    with pytest.raises(ValueError, match=r"M must be finite, got nan or inf at batch index \(1,\)"):
        tsvd(M, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_skipping_a_bad_agent_leaves_all_other_rows_as_they_were(method, kind):
    factors = gaussian(4, 5, 6, 2, 2)
    Pi = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1.0]])
    clean = tsvd_of_mix(factors, Pi, 2, method=method)
    factors.B[1, 2, 3, 1] = np.nan
    given = factors.map(torch.from_numpy) if kind == "torch" else factors
    found = tsvd_of_mix(given, Pi, 2, method=method, on_nonfinite="skip")
    assert found.info.skipped == ((1, 1), (1, 2))
    assert found.info.elements == 6
    lost = np.zeros((2, 4), dtype=bool)
    lost[1, 1:3] = True
    # torch calls another LAPACK driver: bits agree within one backend only
    allowed = 0.0 if kind == "numpy" else 10 * slack(gaussian(4, 5, 6, 2, 2), Pi)
    for x, y in (
        (found.singular_values, clean.singular_values),
        (found.tail, clean.tail),
        (product(found.factors), product(clean.factors)),
    ):
        x = np.asarray(x)
        assert np.isnan(x[lost]).all()
        assert_near(x[~lost], y[~lost], allowed)
    assert np.isnan(np.asarray(found.factors.A)[lost]).all()


def test_skipping_where_nothing_is_bad_is_the_plain_call():
    factors, Pi = gaussian(3, 4, 5, 2), rows(2, 3)
    found = tsvd_of_mix(factors, Pi, 2, on_nonfinite="skip")
    assert found.info.skipped == ()
    assert_same_result(found, tsvd_of_mix(factors, Pi, 2))


GOOD = gaussian(3, 4, 5, 2)
NO_AGENT = Factors(np.ones((0, 4, 2)), np.ones((0, 2, 5)))
NO_ROW = Factors(np.ones((3, 0, 2)), np.ones((3, 2, 5)))
NO_COLUMN = Factors(np.ones((3, 4, 2)), np.ones((3, 2, 0)))
NO_RANK = Factors(np.ones((3, 4, 0)), np.ones((3, 0, 5)))
BAD = [
    (GOOD, rows(1, 3), {"rank": 0}, r"rank must be in 1 ... min\(d, k\) = 4 for 4 x 5 .* got 0"),
    (GOOD, rows(1, 3), {"rank": -1}, "got -1"),
    (GOOD, rows(1, 3), {"rank": 5}, "got 5"),
    (GOOD, rows(1, 3), {"rank": 2.0}, "rank must be an integer, got 2.0"),
    (GOOD, rows(1, 3), {"rank": "2"}, "rank must be an integer, got '2'"),
    (GOOD, rows(1, 3), {"method": "svd"}, "method must be one of .*'svd'"),
    (GOOD, rows(1, 3), {"on_nonfinite": "ignore"}, "on_nonfinite must be 'raise' or 'skip'"),
    (GOOD, rows(1, 4), {}, r"Pi must be \[n, 3\] for 3 agents, got shape \(1, 4\)"),
    (GOOD, rows(1, 3)[0], {}, r"got shape \(3,\)"),
    (GOOD, np.ones((2, 1, 3)), {}, r"got shape \(2, 1, 3\)"),
    (GOOD, np.array([[0.5, np.nan, 0.5]]), {}, "Pi must hold real finite weights"),
    (GOOD, sp.csr_array(np.array([[0.5, np.inf, 0.5]])), {}, "Pi must hold real finite weights"),
    (GOOD, np.array([[0.5, 0.5j, 0]]), {}, "Pi must be real, got dtype complex128"),
    (NO_AGENT, np.ones((1, 0)), {}, "with no empty axis"),
    (NO_ROW, rows(1, 3), {}, "with no empty axis"),
    (NO_COLUMN, rows(1, 3), {}, "with no empty axis"),
    (NO_RANK, rows(1, 3), {}, "with no empty axis"),
    (Factors(GOOD.B[0], GOOD.A[0]), rows(1, 3), {}, r"\[\.\.\., agent, d, r\]"),
    (Factors(GOOD.B, GOOD.A[:, :1]), rows(1, 3), {}, "equal leading axes"),
    (Factors(GOOD.B.astype(int), GOOD.A), rows(1, 3), {}, "factors.B must be a real floating"),
    (Factors(GOOD.B, GOOD.A > 0), rows(1, 3), {}, "factors.A must be .* got dtype bool"),
    (Factors(GOOD.B + 0j, GOOD.A), rows(1, 3), {}, "got dtype complex128; convert it first"),
]


@pytest.mark.parametrize(("factors", "Pi", "options", "message"), BAD)
def test_bad_arguments_are_named(factors, Pi, options, message):
    with pytest.raises(ValueError, match=message):
        tsvd_of_mix(factors, Pi, **{"rank": 2, **options})


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_torch_refuses_the_same_dtypes(dtype):
    factors = GOOD.map(lambda X: torch.from_numpy(X).to(dtype))
    with pytest.raises(ValueError, match=r"factors.B must be a real floating.*torch"):
        tsvd_of_mix(factors, rows(1, 3), 2)


@pytest.mark.parametrize(
    ("M", "rank", "message"),
    [
        (np.ones(3), 1, r"M must be \[..., d, k\] with d, k >= 1, got shape \(3,\)"),
        (np.ones((2, 0)), 1, r"got shape \(2, 0\)"),
        (np.ones((2, 3)), 3, "rank must be in"),
        (np.ones((2, 3), dtype=int), 1, "M must be a real floating-point array"),
    ],
)
def test_bad_arguments_of_the_dense_oracle_are_named(M, rank, message):
    with pytest.raises(ValueError, match=message):
        tsvd(M, rank)


@pytest.mark.parametrize(
    "Pi",
    [
        np.array([[0.5, None]], dtype=object),
        [["a", "b"]],
        [[0.5, 0.5], [1.0]],
        np.array([[0.5j, 0.5]]),
        torch.tensor([[0.5j, 0.5]]),
    ],
    ids=["objects", "text", "ragged", "complex", "complex tensor"],
)
def test_weights_that_are_no_real_numbers_are_named(Pi):
    with pytest.raises(ValueError, match=r"Pi must (be real|be a matrix|hold real finite weights)"):
        tsvd_of_mix(gaussian(2, 5, 4, 1), Pi, 1)


def test_the_first_bad_weight_and_a_missing_row_are_named():
    with pytest.raises(ValueError, match=r"weights, got nan at \(1, 0\)"):
        tsvd_of_mix(gaussian(2, 5, 4, 1), np.array([[0.5, 0.5], [np.nan, np.inf]]), 1)
    with pytest.raises(ValueError, match="it needs at least one row"):
        tsvd_of_mix(gaussian(2, 5, 4, 1), np.empty((0, 2)), 1)


@pytest.mark.parametrize("form", ["csr", "coo"])
def test_sparse_weights_of_torch_stay_sparse_and_stored_zeros_count_as_none(form):
    factors, N = gaussian(2000, 6, 5, 1), 2000
    rows, columns = np.arange(N).repeat(3), (np.arange(N)[:, None] + [0, 1, 7]).ravel() % N
    values = np.tile([0.5, 0.5, 0.0], N)
    coo = torch.sparse_coo_tensor(np.stack([rows, columns]), values, (N, N), check_invariants=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's CSR is beta, says torch
        Pi = coo.to_sparse_csr() if form == "csr" else coo
    ring = sp.csr_matrix((values, (rows, columns)), (N, N))
    expected = tsvd_of_mix(factors, ring, 1)
    found = tsvd_of_mix(factors, Pi, 1)
    assert found.tail.shape == expected.tail.shape == (N, 1)
    assert np.array_equal(found.singular_values, expected.singular_values)


def test_half_precision_weights_and_negated_views_are_read_as_they_are():
    factors, Pi = gaussian(2, 5, 4, 1), torch.full((1, 2), 0.5, dtype=torch.bfloat16)
    expected = tsvd_of_mix(factors, np.full((1, 2), 0.5), 1)
    B, A = map(torch.from_numpy, factors)
    negated = torch.complex(torch.zeros_like(B), -B).conj().imag
    for found in (tsvd_of_mix(factors, Pi, 1), tsvd_of_mix(Factors(negated, A), Pi, 1)):
        assert np.array_equal(found.singular_values, expected.singular_values)


@pytest.mark.parametrize("method", ["dense", "qr", "panel"])
@pytest.mark.parametrize("agent", [0, 1, 2])
def test_an_agent_that_no_row_weights_may_hold_anything(method, agent):
    rng = np.random.default_rng(agent)
    factors = Factors(rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 2, 4)))
    Pi = np.full((2, 3), 0.5)
    Pi[:, agent] = 0
    wanted = tsvd_of_mix(factors, Pi, 2, method=method)
    factors.B[agent] = np.nan
    found = tsvd_of_mix(factors, Pi, 2, method=method)
    # the panel path redoes by qr what it refuses: two ways, each within 1e-13 sigma_1 of the truth
    S = wanted.singular_values
    np.testing.assert_allclose(found.singular_values, S, rtol=0, atol=2e-13 * S.max())
    assert np.isfinite(found.factors.B).all()
    Pi[1, agent] = 0.1
    with pytest.raises(ValueError, match=f"factors of agent {agent} hold nan or inf"):
        tsvd_of_mix(factors, Pi, 2, method=method)
