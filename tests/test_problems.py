"""Every problem keeps what its docstring proves: gradient, L, G, kappa, sigma and the minimum."""

import inspect
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from decaf_theory import bounds, measure
from decaf_theory.lowrank import Factors, product
from decaf_theory.problems import FRAMES, PROBLEMS, approximation, entry_noise, least_loss
from decaf_theory.problems.approximation import planted, spread
from decaf_theory.problems.checking import check_problem
from decaf_theory.problems.frozen import curvatures, frozen_A
from decaf_theory.problems.searching import dissent, norm
from decaf_theory.rng import generator
from decaf_theory.topology import check_mixing_matrix
from decaf_theory.tsvd import tsvd_of_mix

EPS = np.finfo(np.float64).eps

# every problem at its defaults and away from them; d < k and d > k
CASES = {name: [{}] for name in PROBLEMS} | {
    "P1": [{}, {"N": 3, "d": 2, "k": 5, "c": 1.7, "tau": 0.3}],
    "P2": [{}, {"d": 3, "k": 7, "rank": 3, "size": 2.5, "tau": 0.2, "noise": "rademacher"}],
    "P3": [{}, {"N": 5, "d": 2, "k": 4, "kappa": 1.5, "tau": 0.1, "seed": 3}],
    "P4": [{}, {"d": 3, "k": 4, "tau": 0.1}],
    "P5": [{}, {"d": 3, "k": 4, "r": 3, "s": 0.5, "tau": 0.4}, {"d": 4, "k": 3, "r": 1, "s": 2.0}],
    "P6": [{}, {"d": 2, "k": 4, "w": 0.9}],
    "P7": [{}, {"w": 2.5, "N": 3, "tau": 0.5}],
    "P8": [{}, {"p": (0.01, 0.3)}],
    "P9": [{}, {"N": 2, "d": 2, "k": 5, "L": 3.0, "G": 0.5, "x0": -5.0, "tau": 0.1}],
    "P10": [{}, {"d": 3, "k": 4, "r": 3, "s": 0.5, "ratio": 9.0, "tau": 0.3}],
    "P11": [{}, {"L": 2.0, "eps": 0.5, "b": -0.7, "radius": 3.0}],
    "P12": [{}, {"N": 3, "d": 2, "k": 4, "tau": 0.1}],
    "P13": [{}, {"construction": "omitted", "d": 3, "k": 6, "c": 2.0}],
}
NAMED = [
    pytest.param(PROBLEMS[name](**kwargs), id=f"{name}-{i}")
    for name, variants in CASES.items()
    for i, kwargs in enumerate(variants)
]

every_problem = pytest.mark.parametrize("problem", NAMED)


def points(problem, count, size=1.0, seed=0):
    """Gaussian points, one for each agent."""
    shape = (count, problem.N, problem.d, problem.k)
    return size * generator(seed, "points").standard_normal(shape)


def hessians(problem, W, h):
    """Return the Hessians of the agents at W [d, k] by forward differences, [N, d k, d k]."""
    n = problem.d * problem.k
    steps = h * np.eye(n).reshape(n, 1, problem.d, problem.k)
    return (
        ((problem.grad(W + steps) - problem.grad(W[None, None])) / h)
        .reshape(n, problem.N, n)
        .transpose(1, 0, 2)
    )


def test_the_cases_cover_every_problem():
    assert CASES.keys() == PROBLEMS.keys()


@every_problem
def test_shapes_are_as_documented_and_one_point_serves_all_agents(problem):
    W = points(problem, 3)
    assert problem.loss(W).shape == (3, problem.N)
    assert problem.grad(W).shape == W.shape
    assert problem.W0.shape == (problem.d, problem.k)
    shared = np.broadcast_to(W[:, :1], W.shape)
    np.testing.assert_array_equal(problem.loss(W[:, :1]), problem.loss(shared))
    np.testing.assert_array_equal(problem.grad(W[:, :1]), problem.grad(shared))
    if problem.Pi is not None:
        check_mixing_matrix(problem.Pi, problem.N)
    if problem.start is not None:
        assert problem.start.B.shape[0] == problem.N
        assert problem.start.shape == (problem.d, problem.k)


@cache
def checked(number):
    """The findings of one case, searched once."""
    return check_problem(NAMED[number].values[0])


every_number = pytest.mark.parametrize("number", range(len(NAMED)), ids=[p.id for p in NAMED])


@every_number
def test_gradient_and_constants_hold_wherever_they_are_searched(number):
    found = checked(number)
    assert {"L", "m", "kappa", "F_star", "mu"} <= found.keys() | {"mu"}
    assert all(finding.held for finding in found.values())


@every_number
def test_L_is_attained_and_the_minimum_is_reached(number):
    problem, found = NAMED[number].values[0], checked(number)
    L, least = found["L"], found["F_star"]
    # a secant of length eps^(1/4) is off by at most half of that times the third derivative, which
    # is 0 of all but the logistic losses, whose curvature is p (1 - p)
    off = (problem.name == "P8") / (6 * math.sqrt(3)) * EPS**0.25 / 2
    assert abs(L.measured - L.declared) <= off + L.found.rounding
    assert abs(least.measured - least.declared) <= least.found.rounding


@every_number
def test_G_is_attained_where_said(number):
    found = checked(number)
    of_G = [finding for name, finding in found.items() if name.startswith("G")]
    assert len(of_G) == 3
    if "G" not in NAMED[number].values[0].constants.upper:
        for finding in of_G:
            assert finding.measured == pytest.approx(finding.declared, rel=100 * EPS)


@every_problem
def test_kappa_is_the_dissent_at_every_point_where_it_is_global(problem):
    kappa = problem.constants.kappa
    if "kappa" in problem.constants.upper:
        return
    W = points(problem, 50)[:, :1]
    # differences of gradients of the size of W and the targets, d k of them
    rounding = 100 * EPS * (kappa + norm(W).max() * problem.constants.L) ** 2
    np.testing.assert_allclose(dissent(problem, W), kappa**2, rtol=0, atol=rounding)


def test_P11_attains_kappa_at_an_end_of_its_interval():
    for kwargs in CASES["P11"]:
        problem = PROBLEMS["P11"](**kwargs)
        kappa, radius = problem.constants.kappa, problem.constants.within
        ends = radius * np.array([1.0, -1.0])[:, None, None, None]
        assert dissent(problem, ends).max() == pytest.approx(kappa**2, rel=100 * EPS)


def test_P10_has_no_global_kappa_and_its_curvatures_differ():
    problem = PROBLEMS["P10"]()
    far = points(problem, 20, 1e3)[:, :1]
    assert np.all(dissent(problem, far) > 100 * problem.constants.kappa**2)
    H = hessians(problem, problem.W0, 1.0)
    assert np.ptp(H, axis=0).max() > 0.1 * problem.constants.L


def test_P10_states_the_bounds_of_its_docstring():
    s, radius, ratio, N = 0.5, 3.0, 9.0, 4
    problem = PROBLEMS["P10"](d=3, k=4, r=2, s=s, radius=radius, ratio=ratio, kappa=0.6, seed=1)
    A = frozen_A(r=2, k=4, seed=1)
    S = [np.diag(h) for h in curvatures(N=N, k=4, ratio=ratio, seed=1)]
    targets = planted(d=3, k=4, rank=2, seed=1) + spread(N=N, d=3, k=4, kappa=0.6, seed=1)
    H, C = [A @ X @ A.T for X in S], [W @ X for W, X in zip(targets, S, strict=True)]
    square = sum((X - sum(H) / N) @ (X - sum(H) / N) for X in H) / N
    pull = sum(np.sum(((X - sum(C) / N) @ A.T) ** 2) for X in C) / N
    kappa = radius * s**2 * np.linalg.norm(square, ord=2) ** 0.5 + s * pull**0.5
    assert problem.constants.kappa == pytest.approx(kappa, rel=50 * EPS)
    assert min(X.diagonal().min() for X in S) >= 1 / ratio
    assert max(X.diagonal().max() for X in S) <= 1
    L = s**2 * max(np.linalg.norm(X, ord=2) for X in H)
    assert problem.constants.L == pytest.approx(L, rel=50 * EPS)
    # the gradient at B = 0 is -s C_i A'
    np.testing.assert_allclose(
        problem.grad(np.zeros((1, 3, 2))), [-s * X @ A.T for X in C], atol=20 * EPS
    )


@every_problem
def test_noise_attains_sigma_and_agents_draw_apart(problem):
    sigma = problem.constants.sigma
    if problem.noise is None:
        assert sigma == 0
        return
    n = 4000
    drawn = problem.noise(generator(0, "test noise"), (n, problem.N, problem.d, problem.k))
    square = norm(drawn) ** 2
    # six standard errors: of a mean over n draws, for N agents, by chance below 1e-7
    error = 6 * square.std(axis=0) / np.sqrt(n) + n * EPS * sigma**2
    assert square.mean(axis=0).max() >= sigma**2 - error.max()
    cross = np.mean(drawn[:, :, 0, 0] * np.roll(drawn, 1, axis=1)[:, :, 0, 0], axis=0)
    if problem.N > 1:  # independent agents: products have variance of the squares' product
        assert np.all(np.abs(cross) <= 6 * drawn.std() ** 2 / np.sqrt(n) * 2)


@pytest.mark.parametrize("name", ["P1", "P2", "P3", "P4", "P7", "P9", "P12", "P13"])
def test_isotropic_noise_has_sigma_tau_root_dk(name):
    problem = PROBLEMS[name](tau=0.3)
    assert problem.constants.sigma**2 == pytest.approx(0.09 * problem.d * problem.k, rel=8 * EPS)


@pytest.mark.parametrize(("kind", "fourth"), [("gauss", 3.0), ("rademacher", 1.0)])
def test_entries_of_noise_have_their_moments_and_do_not_know_each_other(kind, fourth):
    tau, shape = 0.3, (50, 20, 30, 40)
    x = entry_noise(tau, kind)(generator(0, kind), shape) / tau
    # six standard errors: x^2 has variance fourth - 1, x^4 of a normal x variance 96
    se = 6 / np.sqrt(x.size)
    assert abs(x.mean()) <= se
    assert abs((x**2).mean() - 1) <= se * np.sqrt(fourth - 1) + 20 * EPS
    assert abs((x**4).mean() - fourth) <= (se * np.sqrt(96) if kind == "gauss" else 20 * EPS)
    for axis in range(4):
        for apart in (1, 2, 7):
            assert abs((x * np.roll(x, apart, axis=axis)).mean()) <= se


def test_rademacher_noise_has_one_size():
    drawn = entry_noise(0.3, "rademacher")(generator(0, "x"), (5, 2, 3, 4))
    np.testing.assert_array_equal(np.abs(drawn), 0.3)
    assert (drawn > 0).any()
    assert (drawn < 0).any()


def test_least_loss_is_what_truncation_of_the_mean_target_reaches():
    targets = planted(d=5, k=4, rank=4, seed=1) + spread(N=3, d=5, k=4, kappa=0.7, seed=1)
    problem = approximation(targets)
    U, S, Vh = np.linalg.svd(targets.mean(axis=0))
    for r in range(1, 5):
        best = (U[:, :r] * S[:r]) @ Vh[:r]
        assert problem.loss(best[None]).mean() == pytest.approx(least_loss(targets, r), rel=1e-13)
    assert least_loss(targets, 4) == pytest.approx(problem.constants.F_star, rel=1e-13)
    assert least_loss(targets, 1) > problem.constants.F_star


def test_P6_has_the_stated_minima():
    problem = PROBLEMS["P6"](w=0.7)
    E = product(problem.start)
    np.testing.assert_array_equal(E[0, :2, :2] + E[1, :2, :2], np.eye(2))
    assert least_loss(E, 1) == 3 / 8
    assert problem.constants.F_star == pytest.approx(1 / 4, rel=4 * EPS)
    assert problem.constants.kappa**2 == pytest.approx(1 / 2, rel=4 * EPS)
    assert problem.loss(np.zeros((1, 3, 2))).mean() == 1 / 2
    np.testing.assert_array_equal(problem.loss(E), 0.0)
    np.testing.assert_array_equal(problem.Pi, [[0.7, 1 - 0.7], [1 - 0.7, 0.7]])


@pytest.mark.parametrize(("s", "c", "w"), [(1, 1, -1), (2, 0.5, 3), (0.25, 3, 0)])
def test_P7_attains_the_sharp_smoothness_in_the_factors(s, c, w):
    G = PROBLEMS["P7"](w=w).constants.G(s, c)
    a, b = np.meshgrid(*[np.linspace(-c, c, 101)] * 2)
    corner = s * (2 * s * a * b - w)
    H = np.stack([np.stack([(s * b) ** 2, corner], -1), np.stack([corner, (s * a) ** 2], -1)], -2)
    sharp = bounds.smoothness_sharp(L=1.0, c=c, G=G, s=s)
    largest = np.abs(np.linalg.eigvalsh(H)).max()
    assert largest == pytest.approx(sharp, rel=20 * EPS)


def test_P8_has_the_stated_fractions():
    problem = PROBLEMS["P8"]()
    assert problem.constants.kappa**2 == pytest.approx(49 / 800, rel=10 * EPS)
    optimum = np.full((1, 1, 1), np.log(3 / 2))  # the logit of pbar = 3/5
    assert problem.grad(optimum).mean() == pytest.approx(0.0, abs=4 * EPS)
    labels = problem.noise(generator(0, "labels"), (7, 4, 1, 1))[..., 0, 0]
    p = np.array([1 / 4, 1 / 2, 3 / 4, 9 / 10])
    assert np.all((labels == p) | (labels == p - 1))


def test_P8_and_P12_state_the_G_of_their_docstrings():
    far = np.array([-50.0, 50.0]).reshape(2, 1, 1, 1)  # where sig is 0 or 1 up to eps
    for p in ((1 / 4, 1 / 2, 3 / 4, 9 / 10), (0.01, 0.3)):
        problem = PROBLEMS["P8"](p=p)
        assert np.abs(problem.grad(far)).max() == pytest.approx(problem.constants.G(1, 1), rel=EPS)
    phi_squared = ((1 + 5**0.5) / 2) ** 2
    G = PROBLEMS["P12"](d=2, k=4).constants.G(0.5, 3.0)
    assert G == pytest.approx(phi_squared * (4.5 * 2**0.5 + 2**0.5), rel=4 * EPS)


def test_P8_overflows_nowhere():
    W = np.array([-1e4, 1e4]).reshape(2, 1, 1, 1)
    problem = PROBLEMS["P8"]()
    np.testing.assert_allclose(problem.loss(W)[0], 1e4 * np.array([1 / 4, 1 / 2, 3 / 4, 9 / 10]))
    np.testing.assert_allclose(problem.grad(W)[1, :, 0, 0], [3 / 4, 1 / 2, 1 / 4, 1 / 10])


def test_P9_attains_the_sharp_smoothness_in_the_factors():
    s, c, L, G = 0.5, 1.5, 2.0, 0.3
    problem = PROBLEMS["P9"](d=4, k=3, L=L, G=G, x0=s * c**2 - G / L)
    h = 1e-6
    B, A = np.zeros((2, 1, 4, 2)), np.zeros((2, 1, 2, 3))
    B[:, 0, 0, 0] = A[:, 0, 0, 0] = [c, c - h]
    gradient = measure.factor_gradients(problem.grad(s * B @ A), Factors(B, A), s)
    change = np.sqrt(sum(np.sum((g[0] - g[1]) ** 2) for g in gradient))
    sharp = bounds.smoothness_sharp(L=L, c=c, G=G, s=s)
    # first order in the step, whose size is sqrt2 h
    assert change / (np.sqrt(2) * h) == pytest.approx(sharp, rel=10 * h)
    assert change / (np.sqrt(2) * h) <= sharp


def test_P9_is_the_huber_function_of_one_entry():
    problem = PROBLEMS["P9"](N=2, d=2, k=3, L=4.0, G=2.0, x0=1.0)
    W = np.random.default_rng(0).standard_normal((6, 1, 2, 3))
    # quadratic within G/L = 1/2 of x0, then linear with slope G
    W[:, 0, 0, 0] = [1.0, 1.25, 1.5, 3.0, 0.5, -9.0]
    expected = [0.0, 0.125, 0.5, 0.5 + 3.0, 0.5, 0.5 + 19.0]
    np.testing.assert_array_equal(problem.loss(W), np.stack([expected] * 2, axis=-1))


def test_P12_offers_no_less_than_a_quarter_at_rank_one():
    problem = PROBLEMS["P12"]()
    rng = generator(0, "rank one")
    W = rng.standard_normal((4000, 1, 3, 1)) @ rng.standard_normal((4000, 1, 1, 2))
    assert problem.loss(W).min() >= 1 / 4
    half = np.zeros((1, 3, 2))
    half[0, 0, 0] = 0.5
    np.testing.assert_array_equal(problem.loss(half), 1 / 4)
    first = problem.grad(problem.W0[None])[0]
    np.testing.assert_array_equal(np.argwhere(first), [[0, 0]])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sign_flip", {"d": 4, "k": 3, "r": 2, "c": 1.3}),
        ("sign_flip", {"d": 3, "k": 5, "r": 3, "pi_max": 0.8, "m": 4}),
        ("mercedes", {"d": 5, "k": 4, "r": 4, "c": 0.7}),
        ("mercedes", {"d": 2, "k": 3}),
    ],
)
def test_the_interference_frames_attain_T11_in_all_three_norms(name, parameters):
    (B, A), weights = FRAMES[name](**parameters)
    c, r = parameters.get("c", 1.0), B.shape[-1]
    assert np.linalg.norm(B, ord=2, axis=(1, 2)).max() <= c * (1 + 4 * EPS)
    assert np.linalg.norm(A, ord=2, axis=(1, 2)).max() <= c * (1 + 4 * EPS)
    for kind in measure.NORMS:
        size = measure.interference_norm(Factors(B, A), weights[None], kind)[0]
        worst = bounds.interference_worst_case(c=c, q=r, pi_max=weights.max(), norm=kind)
        assert size == pytest.approx(worst, rel=20 * EPS)


@pytest.mark.parametrize(
    ("name", "parameters", "norms"),
    [
        ("tripod", {"d": 4, "k": 5, "r": 2, "c": 1.3}, ("fro",)),
        ("omitted", {"d": 4, "k": 5, "r": 3, "c": 2.0}, ("op",)),
        ("orthogonal", {"d": 6, "k": 7, "r": 3, "weights": [0.7, 0.3]}, ("fro", "op", "nuc")),
        ("orthogonal", {"d": 6, "k": 9, "r": 2, "weights": [1 / 3] * 3}, ("nuc",)),
    ],
)
def test_the_truncation_frames_attain_T16(name, parameters, norms):
    factors, weights = FRAMES[name](**parameters)
    c, r = parameters.get("c", 1.0), parameters["r"]
    n, pi_max = min(parameters["d"], parameters["k"]), weights.max()
    for X in factors:
        assert np.linalg.norm(X, ord=2, axis=(1, 2)).max() <= c * (1 + 4 * EPS)
    truncated = tsvd_of_mix(factors, weights[None], r)
    for kind in norms:
        size = measure.truncation_error(truncated, kind)[0]
        worst = bounds.truncation_worst_case(c=c, r=r, n=n, pi_max=pi_max, norm=kind)
        assert size == pytest.approx(worst, rel=20 * EPS)


def test_P1_starts_at_one_product_whose_factor_means_vanish():
    for kwargs in CASES["P1"]:
        problem = PROBLEMS["P1"](**kwargs)
        products = product(problem.start)
        np.testing.assert_allclose(products, products[:1].repeat(problem.N, 0), atol=4 * EPS)
        for X in problem.start:
            np.testing.assert_allclose(X.mean(axis=0), 0, atol=4 * EPS)
        assert problem.loss(products).min() > 0.1


def test_the_deviations_sum_to_zero_and_the_target_has_its_rank():
    D = spread(N=5, d=3, k=4, kappa=0.7)
    np.testing.assert_allclose(D.sum(axis=0), 0, atol=20 * EPS)
    S = np.linalg.svd(planted(d=6, k=4, rank=3, size=2.0), compute_uv=False)
    np.testing.assert_allclose(S, [2, 4 / 3, 2 / 3, 0], atol=20 * EPS)


def test_the_frozen_problems_are_the_weight_problems_seen_from_B():
    inner = PROBLEMS["P3"](d=3, k=4, tau=0.2, seed=2)
    outer = PROBLEMS["P5"](d=3, k=4, r=2, s=0.5, tau=0.2, seed=2)
    A = frozen_A(r=2, k=4, seed=2)
    B = points(outer, 3)
    np.testing.assert_array_equal(outer.loss(B), inner.loss(0.5 * B @ A))
    np.testing.assert_allclose(outer.grad(B), 0.5 * inner.grad(0.5 * B @ A) @ A.T, atol=20 * EPS)
    drawn = outer.noise(generator(0, "n"), B.shape)
    pulled = 0.5 * inner.noise(generator(0, "n"), (3, 4, 3, 4)) @ A.T
    np.testing.assert_array_equal(drawn, pulled)


@every_problem
def test_torch_gives_the_same_numbers_and_keeps_the_dtype(problem):
    W = points(problem, 2)
    for f in (problem.loss, problem.grad):
        expected = f(W)
        wide, narrow = f(torch.tensor(W)), f(torch.tensor(W, dtype=torch.float32))
        assert wide.dtype == torch.float64
        assert narrow.dtype == torch.float32
        scale = 100 * problem.d * problem.k * (np.abs(expected).max() + 1)
        np.testing.assert_allclose(wide.numpy(), expected, rtol=0, atol=scale * EPS)
        np.testing.assert_allclose(narrow.numpy(), expected, rtol=0, atol=scale * 2.0**-23)


def test_draws_are_seeded():
    first, again, other = (
        PROBLEMS["P3"](seed=seed).grad(np.zeros((1, 6, 5))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: approximation(np.zeros((3, 4))), r"targets must be finite \[N, d, k\]"),
        (lambda: approximation(np.full((1, 2, 2), np.nan)), "targets must be finite"),
        (lambda: PROBLEMS["P1"](N=4), "N must be 2 or 3, got 4"),
        (lambda: PROBLEMS["P1"](N=3, r=1), "r must be even, got 1"),
        (lambda: PROBLEMS["P2"](rank=6), r"rank must be in 1 ... min\(d, k\) = 5, got 6"),
        (lambda: PROBLEMS["P2"](tau=-1.0), "tau must be finite and >= 0, got -1.0"),
        (lambda: PROBLEMS["P2"](tau=1.0, noise="uniform"), "noise kind must be"),
        (lambda: PROBLEMS["P3"](N=1), "kappa must be >= 0, and 0 for one agent, got 0.5"),
        (lambda: PROBLEMS["P6"](w=0.5), r"w must be in \(1/2, 1\), got 0.5"),
        (lambda: PROBLEMS["P8"](p=(0.0, 0.5)), "p must be probabilities strictly between"),
        (lambda: PROBLEMS["P9"](L=0.0), "L must be > 0, got 0.0"),
        (lambda: PROBLEMS["P9"](G=0.0), "G must be > 0, got 0.0"),
        (lambda: PROBLEMS["P10"](ratio=0.5), "ratio must be >= 1, got 0.5"),
        (lambda: PROBLEMS["P11"](eps=0.0), r"eps must be in \(0, L\], got 0.0"),
        (lambda: PROBLEMS["P11"](radius=0.0), "radius must be > 0, got 0.0"),
        (lambda: PROBLEMS["P12"](k=1), r"min\(d, k\) must be >= 2, got 1"),
        (lambda: PROBLEMS["P13"](construction="square"), "construction must be one of"),
        (
            lambda: PROBLEMS["P13"](construction="sign_flip", pi_max=0.7),
            "a problem's frame needs equal weights",
        ),
        (lambda: FRAMES["sign_flip"](d=2, k=2, r=3), "1 <= r <= n, got r = 3, n = 2"),
        (lambda: FRAMES["sign_flip"](d=2, k=2, r=1, pi_max=0.3), "1/2 <= pi_max < 1"),
    ],
)
def test_bad_parameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


BUILDERS = PROBLEMS | {f"frame {name}": build for name, build in FRAMES.items()}
FRAME = {"d": 5, "k": 4, "r": 2, "c": 1.0, "angles": np.zeros(3), "weights": np.full(3, 1 / 3)}
INTEGERS = [
    (build, name)
    for build, function in BUILDERS.items()
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.annotation == "int"
]


@pytest.mark.parametrize(("build", "name"), INTEGERS)
def test_a_flag_or_a_fraction_is_no_size(build, name):
    known = inspect.signature(BUILDERS[build]).parameters
    given = {n: x for n, x in FRAME.items() if n in known} if build.startswith("frame") else {}
    for value in (True, 2.5):
        with pytest.raises(ValueError, match=rf"{name} must be (an integer|2 or 3).*got {value}"):
            BUILDERS[build](**{**given, name: value})


def test_a_problem_can_be_changed_by_replacing_a_field():
    problem = replace(PROBLEMS["P2"](), noise=entry_noise(1.0))
    assert problem.noise is not None
