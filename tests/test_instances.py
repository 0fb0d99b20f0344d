"""The instances on which claims are tried are what their docstrings say."""

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from tests.claim_rows import exactly
from tests.dense import agents, mix, size
from verification.claim import Context
from verification.instances import mixes, omega, pairs, slopes

EPS = np.finfo(float).eps
CTX = Context("instances")
ROUNDING = 1e3 * EPS  # products and SVDs of fewer than ten numbers of size one


# ---------------------------------------------------------------- mixes


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3)])
def test_isometries_are_uniform_and_keep_lengths(shape):
    n = 4000
    X = mixes.isometry(np.random.default_rng(0), n, *shape)
    values = np.linalg.svd(X, compute_uv=False)
    assert np.max(np.abs(values - 1)) <= ROUNDING
    # an entry of a uniform one has mean 0 and variance 1 / (the larger size): six standard errors
    variance = 1 / max(shape)
    assert np.all(np.abs(X.mean(axis=0)) <= 6 * np.sqrt(variance / n))
    assert np.all(np.abs((X**2).mean(axis=0) - variance) <= 6 * variance * np.sqrt(2 / n))
    if shape == (3, 3):
        assert abs(np.mean(np.linalg.det(X) > 0) - 0.5) <= 3 / np.sqrt(n)


def test_rows_are_of_all_weights_and_the_first_is_uniform():
    Pi = mixes.stochastic(np.random.default_rng(0), 3000, 4)
    assert np.all(Pi[0] == 0.25)
    assert np.all(Pi >= 0)
    assert np.max(np.abs(Pi.sum(axis=1) - 1)) <= 4 * EPS
    # uniform on the simplex: mean 1/m, variance (m - 1)/(m^2 (m + 1)) = 3/80
    assert np.all(np.abs(Pi.mean(axis=0) - 0.25) <= 6 * np.sqrt(3 / 80 / 3000))
    assert np.all(np.abs(Pi.var(axis=0) - 3 / 80) <= 0.1 * 3 / 80)


FOUND = {found.family: found for found in mixes.mixes(CTX, instances=5, rows=3)}


def sizes(X):
    return np.linalg.norm(X, axis=(-2, -1))


def test_each_family_of_mixes_is_what_it_is_called():
    deficient, tie, same = (FOUND[x] for x in ("rank-deficient", "tie", "gauge-rotated"))
    B, A = deficient.factors
    assert np.all(B[:, 0, :, 1] == 0)
    assert np.all(B[:, 1:] != 0)
    assert np.all(A[:, 2] == A[:, 1])
    assert not np.any(A[:, 0] == A[:, 1])
    values = np.linalg.svd(mix(*(X[0] for X in tie.factors), tie.Pi[0])[0], compute_uv=False)
    assert np.max(np.abs(values - 1 / 3)) <= ROUNDING
    np.testing.assert_allclose(FOUND["heavy weight"].Pi[:, 0], [0.9, 0.999, 0.99999], rtol=4 * EPS)
    assert np.all(FOUND["heavy weight"].Pi[:, 1] < FOUND["heavy weight"].Pi[:, 2])
    products = product(same.factors)
    assert np.max(np.abs(products - products[:, :1])) <= ROUNDING * np.max(np.abs(products))
    assert np.all(sizes(same.factors.B[:, 1:] - same.factors.B[:, :1]) > 0.01)
    for X in FOUND["near consensus"].factors:
        apart = sizes(X - X.mean(axis=1, keepdims=True)) / sizes(X)
        assert 1e-4 < apart.mean() < 1e-2
    for family, scale in (("tiny", 1e-8), ("huge", 1e8)):
        for X in FOUND[family].factors:
            assert 0.1 * scale < sizes(X).mean() < 10 * scale
    B, A = FOUND["unbalanced"].factors
    assert 1e15 < sizes(B).mean() / sizes(A).mean() < 1e17


@pytest.mark.parametrize("family", mixes.FAMILIES)
def test_instances_and_agents_of_a_family_differ_and_are_labelled(family):
    found = FOUND[family]
    B, A = found.factors
    count, m, d, r = B.shape
    assert count == 5
    params = {"family": family, "m": m, "d": d, "k": A.shape[-1], "r": r}
    assert found.params == params
    assert found.Pi.shape[1] == m
    assert not np.any(B[0][B[0] != 0] == B[1][B[0] != 0])


def test_the_allowance_grows_with_the_longest_sum_and_the_weighted_sizes():
    found = FOUND["generic"]
    weighted = (sizes(found.factors.B) * sizes(found.factors.A)) @ found.Pi.T
    np.testing.assert_allclose(mixes.allowance(found), 10 * 6 * EPS * weighted, rtol=1e-12)
    many = FOUND["gauge-rotated"]  # four agents of rank two are longer than six rows
    weighted = (sizes(many.factors.B) * sizes(many.factors.A)) @ many.Pi.T
    np.testing.assert_allclose(mixes.allowance(many), 10 * 8 * EPS * weighted, rtol=1e-12)


def test_the_distance_of_a_mix_from_each_agent_is_that_of_dense_matrices():
    found = FOUND["generic"]
    values = mixes.mix_apart(found)
    B, A = (X[1] for X in found.factors)
    for i, row in enumerate(found.Pi):
        M = mix(B, A, row)[0]
        for j in range(3):
            expected = np.linalg.svd(M - B[j] @ A[j], compute_uv=False)
            np.testing.assert_allclose(values[1, i, j], expected, rtol=0, atol=ROUNDING * size(M))


# ---------------------------------------------------------------- Omega_c


def test_scaling_and_clipping_bring_matrices_to_omega():
    B, A = agents(5, 3, 2)
    B[2] = 0.0
    scaled = omega.on_omega(Factors(B, A), 1.5)
    tops = [np.linalg.norm(X, 2, axis=(-2, -1)) for X in scaled]
    np.testing.assert_allclose(tops[0], [1.5, 1.5, 0.0], rtol=ROUNDING)
    np.testing.assert_allclose(tops[1], 1.5, rtol=ROUNDING)
    direction = scaled.B[0] / size(scaled.B[0])
    np.testing.assert_allclose(direction, B[0] / size(B[0]), atol=ROUNDING)
    U, S, Vh = np.linalg.svd(A[0], full_matrices=False)
    top = (S[0] + S[1]) / 2
    np.testing.assert_allclose(omega.clip(A[0], top), (U * [top, S[1]]) @ Vh, atol=ROUNDING)
    np.testing.assert_allclose(omega.polar(A[0]), U @ Vh, atol=ROUNDING)


@pytest.mark.parametrize(
    "weights", [[0.5, 0.5], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.3, 0.25, 0.2, 0.15, 0.1]]
)
def test_closing_angles_close_the_polygon(weights):
    angles = omega.closing_angles(weights)
    assert abs(np.sum(weights * np.exp(1j * angles))) <= 20 * EPS
    thirds = np.degrees(omega.closing_angles([1 / 3] * 3)) % 360
    np.testing.assert_allclose(np.sort(thirds), [0, 120, 240], atol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        [0.25, 0.2, 0.2, 0.2, 0.15],
        [0.27, 0.22, 0.2, 0.19, 0.12],
        [0.2] * 5,
        [3 / 8, 1 / 4, 1 / 4, 1 / 16, 1 / 16],
    ],
)
def test_closing_rotations_are_orthogonal_and_cancel(weights):
    turns = omega.closing_rotations(weights)
    assert np.max(np.abs(turns @ turns.mT - np.eye(3))) <= ROUNDING
    assert np.max(np.abs(np.tensordot(weights, turns, 1))) <= ROUNDING


def test_weights_without_closing_rotations_are_refused():
    with pytest.raises(ValueError, match="weights must meet the criterion"):
        omega.closing_rotations([0.3, 0.26, 0.2, 0.15, 0.09 + 1e-3])


def test_a_bound_is_taken_at_every_point_of_broadcast_letters():
    found = omega.each(lambda a, b: a - b, a=np.array([[1.0], [2.0]]), b=np.array([3.0, 5.0, 7.0]))
    np.testing.assert_array_equal(found, [[-2, -4, -6], [-1, -3, -5]])
    B, A = omega.signed(np.ones((2, 1)), 2 * np.ones((1, 3)), (1, -1))
    np.testing.assert_array_equal(B[:, 0, 0], [1, -1])
    np.testing.assert_array_equal(A[:, 0, 0], [2, -2])


# ---------------------------------------------------------------- pairs and slopes

PAIRS = {}
for found in pairs.pairs(CTX, 40, 1.5):
    PAIRS.setdefault(found.family, found)


@pytest.mark.parametrize("family", [*pairs.FAMILIES, *pairs.SCALES])
def test_each_family_of_pairs_is_in_omega_and_what_it_is_called(family):
    found = PAIRS[family]
    (B, A), (C, D) = found.start, found.end
    assert np.all(found.held)
    ratio = max(np.max(np.linalg.norm(X, 2, axis=(-2, -1))) for X in (B, A)) / found.c
    assert ratio == pytest.approx(1, abs=ROUNDING)
    moved = max(np.max(sizes(X - Y)) for X, Y in ((B, C), (A, D))) / found.c
    if family == "near":
        assert 0 < moved < 1e-5
    else:
        assert moved > 0.1
    if family == "towards zero":
        t = sizes(C) / sizes(B)
        np.testing.assert_allclose(C, t[:, None, None] * B, atol=ROUNDING)
        np.testing.assert_allclose(D, t[:, None, None] * A, atol=ROUNDING)
        assert t.min() < 0.2
        assert t.max() > 0.8
    if family == "one factor moves":
        np.testing.assert_allclose(D, A, atol=ROUNDING)
    if family == "rank-deficient":
        assert np.all(np.linalg.matrix_rank(B, tol=1e-9) == 1)
        assert np.all(C == 0)
    if family == "tie":
        for X in (B, A, C, D):
            values = np.linalg.svd(X, compute_uv=False)
            np.testing.assert_allclose(values, 1.5, rtol=ROUNDING)
    if family == "gauge-rotated":
        np.testing.assert_allclose(C @ D, B @ A, atol=ROUNDING)
    np.testing.assert_array_equal(found.step.B, B - C)
    np.testing.assert_array_equal(found.step.A, A - D)
    np.testing.assert_allclose(found.product_step, B @ A - C @ D, rtol=0, atol=found.slip)


def test_blocks_are_combined_in_three_norms():
    X = Factors(np.array([[[3.0]], [[1.0]]]), np.array([[[4.0]], [[-2.0]]]))
    np.testing.assert_allclose(pairs.blocks(X, "sum"), [7, 3])
    np.testing.assert_allclose(pairs.blocks(X, "euclid"), [5, 5**0.5])
    np.testing.assert_allclose(pairs.blocks(X, "max"), [4, 2])


def test_roundings_of_pairs_and_slopes_are_worked():
    pair = PAIRS["generic"]
    d, k, r = *pair.start.shape, pair.start.rank
    slope = slopes.random_slopes(np.random.default_rng(0), pair, 0.8, 0.5, 0.6)
    assert pair.slip == exactly(2 * (r + 4) * r * 1.5**2 * EPS)
    assert slope.eps == exactly(8 * max(d, k, r) * min(d, k, r) * EPS)
    row = slopes.steepness("worked", slope, 3.0, "sum")
    of_gradients = 4 * 0.6 * 1.5 * (slope.eps * 0.5 + 0.8 * 0.6 * pair.slip)
    assert row.rounding == exactly(of_gradients + slope.eps * row.bound)


def test_a_step_of_rounding_alone_keeps_the_gradient():
    pair = PAIRS["gauge-rotated"]
    g = np.zeros_like(pair.product_step)
    assert np.all(slopes.Slope(pair, g, g, 1e3, 1e-6, 1.0).held)


def test_random_slopes_go_along_the_step_against_it_and_elsewhere(monkeypatch):
    pair, L, s = PAIRS["generic"], 1.25, 0.75
    n, move = len(pair.start.B), 0.75 * PAIRS["generic"].product_step
    for G in (0.5, 5.0):
        found = slopes.random_slopes(np.random.default_rng(0), pair, L, G, s)
        assert np.all(found.held)
        assert len(found.g) == 3 * n
        tops = np.linalg.norm(found.h, 2, axis=(-2, -1))
        np.testing.assert_allclose(tops, G, rtol=ROUNDING)
    monkeypatch.setattr(slopes, "clip", lambda X, top: X)
    free = slopes.random_slopes(np.random.default_rng(0), pair, L, 0.5, s)
    np.testing.assert_allclose(np.linalg.norm(free.h, 2, axis=(-2, -1)), 0.75, rtol=ROUNDING)
    along, against, other = np.split(free.g - free.h, 3)
    np.testing.assert_allclose(along, L * move, atol=ROUNDING)
    np.testing.assert_allclose(against, -L * move, atol=ROUNDING)
    np.testing.assert_allclose(sizes(other), L * sizes(move), rtol=ROUNDING)
    assert np.all(sizes(other - along) > 0.1 * sizes(along))


@pytest.mark.parametrize("norm", ["sum", "max", "euclid"])
def test_the_maximizer_attains_the_dual_norm(norm):
    rng = np.random.default_rng(0)
    X = Factors(rng.standard_normal((9, 3, 2)), 1.1 * rng.standard_normal((9, 2, 4)))
    R = slopes._maximizer(X, norm)
    np.testing.assert_allclose(pairs.blocks(R, norm), 1, rtol=ROUNDING)
    inner = sum(np.sum(x * y, axis=(-2, -1)) for x, y in zip(X, R, strict=True))
    np.testing.assert_allclose(inner, pairs.blocks(X, slopes.DUAL[norm]), rtol=ROUNDING)


@pytest.mark.parametrize("shape", [(3, 5, 2), (5, 2, 3)])
def test_searched_and_extremal_slopes_obey_the_assumptions(shape):
    letters = {"L": 0.8, "c": 1.3, "G": 2.0, "s": 0.6}
    found = slopes.climb(CTX, CTX.rng("climb"), shape, "euclid", 8, **letters)
    top = slopes.extremal(CTX, *shape, **letters)
    assert np.all(found.held)
    assert np.all(top.held)
    assert top.g[0, 0, 0] == 2.0
    np.testing.assert_allclose(sizes(top.g), 2.0)
    for X in found.pair.step:
        assert np.all(sizes(X) <= 1.01 * slopes.STEP * 1.3)
