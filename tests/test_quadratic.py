"""Quadratics with curvatures of their own: constants against brute force and other forms."""

import re

import numpy as np
import pytest
import torch

from decaf_theory.problems import PROBLEMS, approximation, check_problem, quadratic
from decaf_theory.problems.quadratic import largest_on_ball
from decaf_theory.problems.searching import dissent, norm

EPS = float(np.finfo(np.float64).eps)
RNG = np.random.default_rng(0)
TARGETS = RNG.standard_normal((3, 4, 5))
ROOTS = RNG.standard_normal((3, 5, 3))
PSD = ROOTS @ ROOTS.mT  # of rank 3, their mean of rank 5
SKEWED = RNG.standard_normal((3, 5, 5))
INDEFINITE = SKEWED + SKEWED.mT
KINDS = {
    "a number": 2.0,
    "one for each agent": np.array([1.0, 0.5, 2.0]),
    "diagonals": RNG.random((3, 5)),
    "matrices": PSD,
    "of both signs": INDEFINITE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_constants_hold_at_searched_points_and_are_attained(kind):
    problem = quadratic(KINDS[kind], TARGETS, radius=1.5, tau=0.1)
    found = check_problem(problem)
    # a secant along an eigenvector attains the largest and the least curvature
    assert found["L"].measured == pytest.approx(found["L"].declared, abs=found["L"].found.rounding)
    if problem.constants.m:
        assert found["m"].measured == pytest.approx(found["m"].declared, rel=1e-6)
    if problem.constants.F_star is not None:
        least = found["F_star"]
        assert least.measured == pytest.approx(least.declared, abs=least.found.rounding)


@pytest.mark.parametrize("kind", ["one for each agent", "diagonals", "matrices", "of both signs"])
def test_kappa_is_the_largest_value_on_the_ball(kind):
    radius = 1.5
    problem = quadratic(KINDS[kind], TARGETS, radius=radius)
    kappa = problem.constants.kappa
    W = RNG.standard_normal((12, 1, 4, 5))
    W *= radius / norm(W)[..., None, None]
    assert dissent(problem, W).max() <= kappa**2
    # uphill: a convex quadratic is largest where its gradient points outward
    for _ in range(150):
        step = _slope(problem, W)
        W = radius * step / norm(step)[..., None, None]
    assert dissent(problem, W).max() == pytest.approx(kappa**2, rel=1e-6)


def _slope(problem, W):
    """The gradient of the dissent, by exact differences: it is quadratic."""
    units = np.eye(20).reshape(20, 1, 1, 4, 5)
    change = dissent(problem, W + units) - dissent(problem, W - units)
    return (change / 2).T.reshape(W.shape)


def test_the_dual_of_the_ball_serves_the_hard_case_and_no_radius():
    M, Q = np.diag([3.0, 1.0]), np.array([[0.0, 1.0]])  # nothing pulls along the first axis
    # max 3 x^2 + y^2 - 2 y on x^2 + y^2 = 1, at y = -1/2: 3 - 2 y^2 - 2 y = 3 + 1/2
    assert largest_on_ball(M, Q, 1.0) == pytest.approx(3.5, rel=4 * EPS)
    assert largest_on_ball(M, Q, 0.0) == 0
    assert largest_on_ball(M, 0 * Q, 2.0) == 12


def test_equal_curvatures_give_a_kappa_that_holds_everywhere():
    problem = quadratic(PSD[:1].repeat(3, 0), TARGETS)
    assert problem.constants.within == np.inf
    assert problem.constants.upper == ("G",)
    W = 100 * RNG.standard_normal((20, 1, 4, 5))
    np.testing.assert_allclose(dissent(problem, W), problem.constants.kappa**2, rtol=1e-9)
    assert quadratic(PSD, TARGETS).constants.kappa is None  # no radius, no bound


def test_curvature_one_is_matrix_approximation():
    ours, known = quadratic(1.0, TARGETS, tau=0.2), approximation(TARGETS, tau=0.2)
    W = RNG.standard_normal((2, 3, 4, 5))
    np.testing.assert_array_equal(ours.grad(W), known.grad(W))
    np.testing.assert_allclose(ours.loss(W), known.loss(W), rtol=40 * EPS)
    for name in ("L", "kappa", "sigma", "F_star", "m", "mu"):
        mine, theirs = (getattr(p.constants, name) for p in (ours, known))
        assert mine == pytest.approx(theirs, rel=1e-12)


def test_a_diagonal_and_its_matrix_are_the_same_loss():
    h = RNG.random((3, 5))
    slim, wide = (quadratic(S, TARGETS, radius=1.0) for S in (h, h[:, None, :] * np.eye(5)))
    W = RNG.standard_normal((2, 3, 4, 5))
    np.testing.assert_allclose(slim.grad(W), wide.grad(W), rtol=4 * EPS)
    np.testing.assert_allclose(slim.loss(W), wide.loss(W), rtol=40 * EPS)
    assert slim.constants.kappa == pytest.approx(wide.constants.kappa, rel=1e-12)
    tensor = wide.grad(torch.tensor(W, dtype=torch.float32))
    assert tensor.dtype == torch.float32


def test_two_agents_on_1_x_1_attain_every_bound():
    radius, s, c = 2.0, 0.5, 1.5
    targets, h = np.array([3.0, -1.0]).reshape(2, 1, 1), np.array([2.0, 0.5])
    problem = quadratic(h, targets, radius=radius, tau=0.1)
    ends = np.array([radius, -radius]).reshape(2, 1, 1, 1)
    kappa, G, L = problem.constants.kappa, problem.constants.G(s, c), problem.constants.L
    assert dissent(problem, ends).max() == pytest.approx(kappa**2, rel=8 * EPS)
    corner = np.full((1, 1, 1), -s * c**2)  # away from the target 3 of the steeper agent
    assert np.abs(problem.grad(corner)).max() == pytest.approx(G, rel=8 * EPS)
    assert (L, problem.constants.m, problem.constants.mu) == (2.0, 0.0, 1.25)
    # (2 (x - 3)^2 + (x + 1)^2 / 2) / 4 is least at x = 11/5
    exact = problem.loss(np.full((1, 1, 1), 11 / 5)).mean()
    assert problem.constants.F_star == pytest.approx(exact, rel=50 * EPS)
    wider = quadratic(1.0, np.zeros((2, 2, 3)), tau=0.1)
    assert wider.constants.sigma == pytest.approx(0.1 * 6**0.5, rel=4 * EPS)


def test_a_mean_curvature_below_zero_has_no_minimum_and_says_so():
    assert quadratic(INDEFINITE, TARGETS).constants.F_star is None
    # a slope along a direction that the mean curvature does not hold
    apart = quadratic(np.array([1.0, -1.0]), np.array([[[1.0]], [[-1.0]]]))
    assert (apart.constants.F_star, apart.constants.mu) == (None, None)
    same = quadratic(np.array([[1.0, 0.0]] * 2), np.ones((2, 1, 2)))
    assert (same.constants.F_star, same.constants.mu) == (0.0, 1.0)
    pair = PROBLEMS["P11"]().constants
    ours = quadratic(np.array([1.0, -0.97]), np.array([[[-1.0]], [[1 / 0.97 * -1]]]), radius=1.0)
    assert ours.constants.kappa == pytest.approx(pair.kappa, rel=1e-12)
    assert (ours.constants.m, ours.constants.mu) == pytest.approx((pair.m, pair.mu), rel=1e-12)


@pytest.mark.parametrize(
    ("curvatures", "targets", "message"),
    [
        (
            np.ones((3, 4)),
            TARGETS,
            "curvatures must be a number, one for each agent [3], diagonals",
        ),
        (SKEWED, TARGETS, "curvatures must be symmetric, those of agent"),
        (np.nan, TARGETS, "curvatures must be finite and real, got NaN or infinite entries"),
        (1j, TARGETS, "curvatures must be finite and real, got complex128"),
        (1.0, TARGETS[0], "targets must be finite [N, d, k], got shape (4, 5)"),
        (1.0, np.ma.masked_array(TARGETS, TARGETS > 1), "targets must be plain, got numpy.ma"),
        (1.0, torch.tensor(TARGETS) * 1j, "targets must be finite and real, got complex128"),
    ],
)
def test_bad_parameters_are_named(curvatures, targets, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        quadratic(curvatures, targets)
