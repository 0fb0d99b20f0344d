"""The core of the panel path on Gram matrices made by hand: every switch lies where it is derived.

Two directions of unit length, and what is measured is known in closed form. A switch is looked at
from both sides, half a percent apart, and at other scales of the factors by powers of two, which
change no decision and no digit.
"""

import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import array_api_compat
import numpy as np
import pytest

from decaf_theory.tsvd import conditions, core, jacobi
from decaf_theory.tsvd.conditions import REASONS
from decaf_theory.tsvd.core import solve_core
from decaf_theory.tsvd.precision import UNIT, Precision, attainable
from decaf_theory.tsvd.terms import balance
from tests.mixes import EPS, assert_near

U = 2.0**-53  # unit roundoff of float64
PROMISED = {np.float64: 1e-13, np.float32: 1e-6}
SCALES = [(0, 0), (75, 75), (-75, -75), (75, -75)]  # exponents of both factors
EYE = np.eye(2)
NEAR = 0.005
scales = pytest.mark.parametrize("scale", SCALES, ids=str)
dtypes = pytest.mark.parametrize("dtype", PROMISED)


def leaning(cosine):
    """Return the Gram matrix of two unit vectors."""
    return np.array([[1.0, cosine], [cosine, 1.0]])


def solved(G_B, G_A, weights, rank, dtype, longest=2, scale=(0, 0)):
    """Return the core of one row."""
    G = np.stack([G_B * 4.0 ** scale[0], G_A * 4.0 ** scale[1]])[:, None]
    weights = np.array(weights)[None]
    return solve_core(G, None, weights, rank, longest, Precision.of(np.empty(0, dtype)))


def reason(found):
    return "" if found.refused is None else REASONS[int(found.refused[0])]


def graded(found):
    return found.graded is not None and bool(found.graded[0])


@pytest.fixture
def decompositions(monkeypatch):
    """Return a list that grows by the shape of every stack which is given to the SVD."""
    linalg, shapes = array_api_compat.array_namespace(EYE).linalg, []
    svd = linalg.svd

    def spy(C, **options):
        shapes.append(C.shape)
        return svd(C, **options)

    monkeypatch.setattr(linalg, "svd", spy)
    return shapes


def test_precision_is_that_of_the_ieee_types():
    assert Precision.of(np.empty(0)) == (True, 2.0**-53, 1e-13, 2.0**970)
    assert Precision.of(np.empty(0, np.float32)) == (False, 2.0**-24, 1e-6, 2.0**103)
    assert UNIT == U


@scales
@pytest.mark.parametrize("unused", [0, 1])  # directions without weight, which count in n alone
def test_cancellation_is_refused_where_the_rounding_of_the_terms_exceeds_the_promise(scale, unused):
    """M = b (a_1 - a_2)' with a_1, a_2 at an angle 2t: two terms of size one, sigma_1 = 2 sin t."""
    n = 2 + unused
    switch = (n / 2) ** 0.5 * U / PROMISED[np.float64]  # sqrt(n) u |w| = promised 2 sin t
    for sine, expected in ((switch * (1 - NEAR), True), (switch * (1 + NEAR), False)):
        G_B, G_A = np.eye(n), np.eye(n)
        G_B[:2, :2], G_A[:2, :2] = 1.0, leaning(1 - 2 * sine**2)
        found = solved(G_B, G_A, [1.0, -1.0, 0.0][:n], 1, np.float64, 2, scale)
        assert (reason(found) == "cancellation") is expected


# b_1, b_2 at cosine 1/2 with orthonormal rows, or the reverse: sigma^2 = 3/2 and 1/2, and on the
# leaning side X'X = S^-1, on the other S
SIDES = [(leaning(0.5), EYE), (EYE, leaning(0.5))]
sides = pytest.mark.parametrize("grams", SIDES, ids=["B leans", "A leans"])


def length_at(ratio, dtype):
    """Return the length d of vectors at which 2 eta ratio = promised, eta = sqrt(2 d) u."""
    return (PROMISED[dtype] / (2 * U * ratio)) ** 2 / 2


@scales
@sides
@dtypes
def test_conditioning_is_refused_where_the_gram_matrix_is_off_by_too_much(grams, dtype, scale):
    switch = length_at((2 / 3 + 2) ** 0.5 / 1.5**0.5, dtype)  # |S^-1|_F over sigma_1
    for factor, expected in ((1 - 2 * NEAR, ""), (1 + 2 * NEAR, "conditioning")):
        found = solved(*grams, [1.0, 1.0], 1, dtype, round(switch * factor), scale)
        assert reason(found) == expected


@scales
@sides
@dtypes
def test_dropped_columns_are_formed_only_where_their_bound_leaves_it_open(
    grams, dtype, scale, monkeypatch
):
    columns, expressed = [], core._expressed

    def spy(L, weights, V, US, S):
        columns.append(V.shape[-1])
        return expressed(L, weights, V, US, S)

    monkeypatch.setattr(core, "_expressed", spy)
    bound = 2 * (1.5**-0.5 + 0.5**-0.5)  # |w|^2 sum_i 1/s_i
    switch = length_at(bound / 1.5**0.5, dtype)
    for factor in (1 - 2 * NEAR, 1 + 2 * NEAR):
        found = solved(*grams, [1.0, 1.0], 1, dtype, round(switch * factor), scale)
        assert (reason(found), found.X.shape) == ("", (2, 1, 2, 1))
    assert columns == [1, 2]


@scales
def test_grading_is_refused_where_a_kept_column_turns_too_far_to_the_first(scale):
    # such a value has an SVD, good to 100 u s_1: 100 u = promised sqrt(s_2), s_1 = 1
    switch = (100 * U / PROMISED[np.float64]) ** 2
    for factor, expected in ((1 - NEAR, "grading"), (1 + NEAR, "")):
        second = [1.0, switch * factor]
        assert reason(solved(EYE, EYE, second, 2, np.float64, 2, scale)) == expected
        assert reason(solved(EYE, EYE, second, 1, np.float64, 2, scale)) == ""


@scales
def test_jacobi_rotations_turn_columns_by_their_own_tolerance(scale, monkeypatch):
    monkeypatch.setattr(core, "own_solver", lambda C: jacobi.svd)
    switch = ((4 + 2**0.5) * EPS / PROMISED[np.float64]) ** 2
    for factor, expected in ((1 - NEAR, "grading"), (1 + NEAR, "")):
        second = [1.0, switch * factor]
        assert reason(solved(EYE, EYE, second, 2, np.float64, 2, scale)) == expected


@pytest.mark.parametrize("own", [False, True])
def test_a_single_direction_is_a_core_too(own, monkeypatch):
    if own:
        monkeypatch.setattr(core, "own_solver", lambda C: jacobi.svd)
    found = solved(np.array([[4.0]]), np.array([[9.0]]), [0.5], 1, np.float64)
    assert_near(found.singular_values, [[3.0]], 10 * EPS)
    assert_near(np.abs(found.X[:, 0, 0, 0]) * [2.0, 3.0], [3.0**0.5] * 2, 10 * EPS)


@pytest.mark.parametrize(
    ("n", "longest", "expected"),
    [(450, 1, True), (451, 1, False), (15, 900, True), (15, 904, False)],
)
def test_orthonormal_directions_pass_up_to_450_roots_of_their_length(n, longest, expected):
    """2 n sqrt(longest) u = 1e-13 at 450.4; in float32 at 4.5e9."""
    assert attainable(n, longest, Precision.of(np.empty(0))) is expected
    assert attainable(n, longest * 10**13, Precision.of(np.empty(0, np.float32)))
    assert not attainable(n, longest * 10**15, Precision.of(np.empty(0, np.float32)))


@scales
@pytest.mark.parametrize("reverse", [False, True], ids=["B leans", "A leans"])
def test_float32_outputs_are_multiplied_in_float64_where_coefficients_are_long(reverse, scale):
    """On the leaning side |x_2|^2 = 1/s_2; s_1 s_2 = sqrt(1 - cosine^2) is the sine."""
    switch = (2.0**-22 / 1e-6) ** 2  # 4 u_t = promised sqrt(s_1 s_2)
    for sine, expected in ((switch * (1 - NEAR), True), (switch * (1 + NEAR), False)):
        grams = (leaning((1 - sine**2) ** 0.5), EYE)[:: -1 if reverse else 1]
        found = solved(*grams, [1.0, 1.0], 2, np.float32, 2, scale)
        assert (graded(found), reason(found)) == (expected, "")
        for rank, dtype in ((1, np.float32), (2, np.float64)):  # the long one is dropped; as it is
            assert not graded(solved(*grams, [1.0, 1.0], rank, dtype, 2, scale))


@pytest.mark.parametrize(("n", "expected"), [(67, False), (68, True)])
def test_many_directions_are_multiplied_in_float64_as_equal_terms_round_one_way(n, expected):
    assert n * 2.0**-24 / 4 < 1e-6 or expected  # n u_t / 4 = promised at 67.1
    one = np.eye(n)
    for others in (1.0, 0.1):  # with one large term nothing else leaves it open
        weights = [1.0] + [others] * (n - 1)
        assert graded(solved(one, one, weights, 1, np.float32)) is expected
        assert not graded(solved(one, one, weights, 1, np.float64))


@scales
@pytest.mark.parametrize(
    ("dtype", "switch"), [(np.float64, 2**0.5 * U), (np.float32, (2**0.5 * U) ** 0.5)]
)
def test_singular_values_below_the_error_of_the_core_are_zero(dtype, switch, scale):
    size = 2.0 ** sum(scale)
    for second, expected in ((switch * (1 - NEAR), 0.0), (switch * (1 + NEAR), 1.0)):
        found = solved(EYE, EYE, [1.0, second], 2, dtype, 2, scale)
        assert_near(found.singular_values[0] / size, [1.0, expected * second], 10 * EPS)
        assert found.X[..., 1].any() == expected  # and so is the direction, at no cost
        assert reason(found) == ("grading" if expected and dtype == np.float64 else "")


@scales
@pytest.mark.parametrize(
    ("dtype", "rank", "switch"),
    [
        (np.float64, 1, 8**0.5 * U / 1e-13),  # dropped: off by 2 sqrt(2) u s_1^2 / s_2
        (np.float64, 2, (8**0.5 * U / 1e-13) ** (2 / 3)),  # kept: rows turn by (s_1/s_2)^(3/2)
        (np.float64, 3, (8**0.5 * U / 1e-13) ** (2 / 3)),
        (np.float32, 2, (8**0.5 * U / 1e-6) ** (2 / 3)),
    ],
)
def test_a_small_singular_value_asks_for_an_svd(dtype, rank, switch, scale, decompositions):
    solved(EYE, EYE, [1.0, switch * (1 + NEAR)], rank, dtype, 2, scale)
    assert decompositions == []
    solved(EYE, EYE, [1.0, switch * (1 - NEAR)], rank, dtype, 2, scale)
    assert decompositions == [(1, 2, 2)]


@dtypes
def test_zero_and_small_dropped_values_of_float32_ask_for_none(dtype, decompositions):
    solved(EYE, EYE, [0.0, 0.0], 2, dtype)
    solved(EYE, EYE, [1.0, 1e-12], 1, np.float32)
    solved(EYE, EYE, [1.0, 0.0], 1, np.float32)
    assert decompositions == []


def test_only_the_rows_that_need_it_have_an_svd(decompositions):
    weights = np.array([[1.0, 0.5], [1.0, 1e-6], [0.5, 1.0]])
    found = solve_core(
        np.stack([EYE, EYE])[:, None], None, weights, 2, 2, Precision.of(np.empty(0))
    )
    assert decompositions == [(1, 2, 2)]
    assert_near(found.singular_values, [[1.0, 0.5], [1.0, 1e-6], [1.0, 0.5]], 10 * EPS)


@pytest.mark.parametrize("sign", [1, -1])
def test_products_beyond_the_range_are_refused(sign):
    edge = 2.0 ** (400 * sign)
    for factor, expected in ((1 - NEAR * sign, ""), (1.0, "range"), (1 + NEAR * sign, "range")):
        assert reason(solved(EYE, EYE, [edge * factor, 0.0], 1, np.float64)) == expected


@pytest.mark.parametrize("large", [1, -1])
def test_directions_of_unlike_length_are_refused_where_their_coefficients_leave_float32(large):
    """Lengths 2^50 2^p of b and 2^50 2^-p of a: coefficients 2^-p and 2^p beside |w|^(1/2)."""
    for power, expected in ((103, ""), (104, "range")):
        scale = (50 + power * large, 50 - power * large)
        assert reason(solved(EYE, EYE, [1.0, 1.0], 1, np.float32, 2, scale)) == expected
        assert reason(solved(EYE, EYE, [1.0, 1.0], 1, np.float64, 2, scale)) == ""


@pytest.mark.parametrize("long", [0, 1])
def test_a_length_counts_beside_the_root_of_its_product(long):
    """Products of 4: lengths up to 2 * 2^103 of one factor keep the digits of float32."""
    for length, expected in ((1.9, ""), (3.0, "range")):
        sizes = length * 2.0**103, 2.2 * 2.0**-103
        grams = EYE * sizes[long] ** 2, EYE * sizes[1 - long] ** 2
        assert reason(solved(*grams, [4 / (2.2 * length)] * 2, 1, np.float32)) == expected


def test_a_weight_that_vanishes_beside_the_others_refuses_nothing():
    G = np.diag([1.0, 2.0**-1000])
    found = solved(G, G, [1.0, 1e-300], 1, np.float32)  # w_2 = 1e-300 2^-1000 = 0
    assert reason(found) == ""
    assert_near(found.singular_values, [[1.0, 0.0]], 10 * EPS)


@scales
@dtypes
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_power_of_two_scales_the_coefficients_and_changes_no_digit(rank, dtype, scale):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2, 3, 5)) * [[[1.0], [0.7], [0.5]]]
    G, weights = X @ X.swapaxes(-1, -2), [0.5, -0.3, 0.2]
    plain = solved(*G, weights, rank, dtype, 5)
    found = solved(*G, weights, rank, dtype, 5, scale)
    assert np.array_equal(found.singular_values, plain.singular_values * 2.0 ** sum(scale))
    turn = 2.0 ** ((scale[1] - scale[0]) // 2)  # |X_B|^2 = |M|/|B|^2
    assert np.array_equal(found.X, plain.X * np.reshape([turn, 1 / turn], (2, 1, 1, 1)))
    assert reason(found) == reason(plain) == ""


def test_the_factor_of_a_gram_matrix_is_that_with_a_larger_diagonal():
    G = np.stack([leaning(0.5) * 4, np.diag([1.0, 9.0])])
    size = np.sqrt(np.diagonal(G, axis1=-2, axis2=-1))
    expected = G + np.array([np.diag([0.5, 0.5]), np.diag([0.125, 1.125])])
    L = core.factorize(G.copy(), size, 0.125)
    assert_near(L @ L.swapaxes(-1, -2), expected, 40 * EPS)
    assert np.array_equal(L, np.tril(L))


def test_eigenvalues_below_the_shift_are_raised_to_it_where_cholesky_fails():
    """In directions of unit length: eigenvalues 1.125 +- 2 become 3.125 and the shift, 0.125."""
    G, size = np.outer([2.0, 3.0], [2.0, 3.0]) * leaning(2.0), np.array([2.0, 3.0])
    unit = np.array([[1.625, 1.5], [1.5, 1.625]])
    L = core.factorize(G, size, 0.125)
    # 2 n eps of the norm for the eigenvectors, as much for the two products
    assert_near(L @ L.T, np.outer(size, size) * unit, 4 * 2 * EPS * 3.125 * 3.0**2)


def test_the_norm_of_a_product_is_bounded_first_and_then_computed():
    one = np.array([[3.0, 0.0], [0.0, 4.0]])
    X = np.stack([np.stack([one, one, EYE]), np.stack([EYE, 2 * one, EYE])])
    # |X|_F^2 = 25, 100, 2 of the larger side; |X'X|_F = sqrt(9^2 + 16^2), four times that
    exact = (81 + 256) ** 0.5
    assert_near(
        conditions.largest_product(X, np.array([24.0, 99.0, 3.0])), [exact, 4 * exact, 2.0], 1e-13
    )
    for enough in ([25.0, 100.0, 2.0], [26.0, 101.0, 3.0]):  # the bound itself is enough
        assert_near(conditions.largest_product(X, np.array(enough)), [25.0, 100.0, 2.0], 0.0)


def test_on_cuda_cores_of_up_to_64_sides_have_the_own_solver(monkeypatch):
    kernel = ModuleType("jacobi_triton")
    kernel.svd = object()
    monkeypatch.setitem(sys.modules, "decaf_theory.tsvd.jacobi_triton", kernel)

    def chosen(*shape, **where):
        return core.own_solver(SimpleNamespace(shape=shape, **where))

    assert chosen(1000, 100, 64, 64, is_cuda=True) is kernel.svd
    assert chosen(1000, 100, 65, 65, is_cuda=True) is None
    assert chosen(1000, 100, 8, 8, is_cuda=False) is chosen(8, 8) is None


def at_once(S, longest, fine, weights=(1.0, 1.0)):
    """Return the core of two orthonormal directions where compiled code finds S, and the steps'."""
    precision = Precision.of(np.empty(0, np.float32))
    S, G = np.array([S]), np.stack([EYE, EYE])[:, None]
    said = np.full((2, 1, 2, 2), 7.0), S, np.array([longest]), np.array([fine])
    kernels = SimpleNamespace(coefficients=lambda *given: said)
    cores = []
    for compute in (partial(core._at_once, kernels), core._by_steps):
        terms = balance(G.copy(), None, np.array([weights]), precision.reach)
        cores.append(compute(terms, 2, 2 * U, precision))
    return cores


@pytest.mark.parametrize(
    ("S", "longest", "fine", "taken"),
    [
        ((1.0, 1.0), 1.0, True, True),
        ((1.0, 1.0), 1.0, False, False),  # said not to be
        ((1.0, 4.5e-7), 1e-6, True, False),  # (2 sqrt(2) u / 1e-6)^(2/3) = 4.6e-7 asks for an SVD
        ((1.0, 4.7e-7), 1e-6, True, True),
        ((1.0, 1.0), 17.3, True, True),  # (4 u_t)^2 longest <= (1e-6)^2 s_1, u_t = 2^-24
        ((1.0, 1.0), 17.7, True, False),
        ((1.0, 0.0), 1.0, True, False),  # a singular value of zero, and no direction without weight
    ],
)
def test_what_compiled_code_finds_is_taken_where_one_look_shows_it_clear(S, longest, fine, taken):
    found, steps = at_once(S, longest, fine)
    if taken:
        assert np.all(found.X == 7.0)
        assert np.array_equal(found.singular_values, [S])
    else:
        assert np.array_equal(found.X, steps.X)
        assert np.array_equal(found.singular_values, steps.singular_values)


def test_a_direction_without_weight_is_no_reason_to_leave_a_row_to_the_steps():
    """Rank one is kept of it: a second singular value of zero is that of the direction."""
    precision = Precision.of(np.empty(0, np.float32))
    said = np.full((2, 1, 2, 1), 7.0), np.array([[1.0, 0.0]]), np.ones(1), np.ones(1, bool)
    kernels = SimpleNamespace(coefficients=lambda *given: said)
    for weights, taken in (([1.0, 0.0], True), ([1.0, 1.0], False)):
        G = np.stack([EYE, EYE])[:, None]
        terms = balance(G, None, np.array([weights]), precision.reach)
        found = core._at_once(kernels, terms, 1, 2 * U, precision)
        assert np.all(found.X == 7.0) == taken
