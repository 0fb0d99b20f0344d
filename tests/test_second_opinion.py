"""The library against programs that share nothing with it: fractions, 50 digits, samples."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from decaf_theory import bounds, measure, moments
from decaf_theory.lowrank import Factors, mix_factors, product
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, simulate
from decaf_theory.tsvd import tsvd_of_mix
from tests.second_opinion import closed_form, exact, sampling

EPS = np.finfo(float).eps
HALVES = np.full((2, 2), 0.5)


# ---- worked examples and scalar problems, in fractions


@pytest.mark.parametrize("p", [Fraction(2, 3), Fraction(3, 5)], ids=str)
@pytest.mark.parametrize(("d", "k"), [(2, 2), (4, 3), (3, 5)])
@pytest.mark.parametrize("method", ["dense", "qr"])
def test_mixing_two_unit_products_leaves_what_fractions_say(p, d, k, method):
    mix = exact.two_units(p, d, k)
    factors = Factors(np.eye(2, d)[:, :, None], np.eye(2, k)[:, None, :])
    Pi = np.array([[float(p), float(1 - p)]])
    truncated = tsvd_of_mix(factors, Pi, 1, method=method)
    found = {
        "interference": measure.interference(factors, Pi)[0],
        "gap": product(truncated.factors)[0] - product(mix_factors(factors, Pi))[0],
    }
    rounding = 10 * max(d, k) * EPS  # of a backward stable SVD of a matrix of norm < 1
    np.testing.assert_allclose(found["interference"], mix.interference.astype(float), atol=rounding)
    np.testing.assert_allclose(found["gap"], mix.gap.astype(float), atol=rounding)
    error = float(measure.truncation_error(truncated)[0])
    assert error**2 == pytest.approx(float(exact.square(mix.error)), abs=rounding)
    norm = float(measure.interference_norm(factors, Pi)[0])
    assert norm**2 == pytest.approx(float(exact.square(mix.interference)), abs=rounding)


def test_the_fractions_of_the_unit_products_are_those_of_the_worked_example():
    squares = [exact.square(X) for X in exact.two_units(Fraction(2, 3))]
    assert squares == [Fraction(16, 81), Fraction(1, 9), Fraction(13, 81)]
    squares = [exact.square(X) for X in exact.two_units(Fraction(3, 5))]
    assert squares == [Fraction(144, 625), Fraction(4, 25), Fraction(124, 625)]


def test_averaging_two_gauges_of_one_product_moves_it_as_fractions_say():
    interference, mixed, stepped = exact.scalar_pair(Fraction(1, 4))
    assert (interference, mixed, stepped) == (-Fraction(1, 8), Fraction(9, 8), Fraction(8505, 8192))
    start = Factors(np.array([1.0, 2.0]).reshape(2, 1, 1), np.array([1.0, 0.5]).reshape(2, 1, 1))
    problem = PROBLEMS["P7"](w=1.0, N=2)

    def run(method):
        config = Config(
            problem=problem, method=method, Pi=HALVES, rank=1, start=start,
            lr=0.25, steps=1, order="mix_first",
        )  # fmt: skip
        return simulate(config).require_finished()

    # square roots of the weights, one rounding each
    found = measure.interference(start, HALVES)
    np.testing.assert_allclose(found, float(interference), rtol=4 * EPS)
    # every number on the way is a dyadic fraction of few digits: no rounding at all
    averaged = run("dlora")
    np.testing.assert_array_equal(averaged.adapter_norm[0, 0], float(mixed))
    np.testing.assert_array_equal(product(averaged.final), float(stepped))
    np.testing.assert_allclose(product(run("decaf").final), 1, atol=10 * EPS)


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_opposite_targets_follow_the_path_that_fractions_take(order):
    agents = exact.opposite_targets()
    start = exact.fractions([3, -2])
    path = agents.path(start, Fraction(1, 4), order, 24)
    trajectory = _opposite(start.astype(float), order, 24)
    found = np.stack([trajectory.gradient, trajectory.consensus], axis=-1)
    # 24 steps of a contraction, each a few products of size 2
    np.testing.assert_allclose(found, np.array(path, dtype=float), rtol=0, atol=24 * 16 * EPS)


def test_opposite_targets_come_to_rest_where_fractions_say():
    agents, lr = exact.opposite_targets(), Fraction(1, 4)
    rest = agents.rest(lr, "MS")
    assert rest == (Fraction(1, 14), Fraction(27, 550))
    for order in ("MS", "CB"):
        problem = _opposite_problem()
        recursion = moments.decentralized_sgd(problem, _as_floats(agents.Pi), 0.25, order=order)
        state = moments.limit(recursion)
        squares = moments.quantities(problem)
        found = [float(moments.expectation(squares[x], state)) for x in ("gradient", "consensus")]
        np.testing.assert_allclose(found, _as_floats(agents.rest(lr, order)), rtol=100 * EPS)


def test_the_bounds_at_opposite_targets_are_those_of_the_worked_example():
    q = bounds.network_q(lam=0.5, order="MS")
    S = bounds.network_S(eigenvalues=[0.5], order="MS")
    assert (q, S) == (1, pytest.approx(1 / 3, rel=4 * EPS))
    Xi = bounds.consensus_bound(lr=0.25, L=1, sigma=1, kappa=1, N=2, q=q, S=S)
    with mpmath.workdps(exact.DIGITS):
        expected = (1 + 1 / mpmath.sqrt(6)) ** 2 / 9
    assert Xi == pytest.approx(float(expected), rel=16 * EPS)
    assert exact.opposite_targets().rest(Fraction(1, 4), "MS")[1] < Xi
    whole = bounds.dsgd_rate(F_gap=0, lr=0.25, T=1, L=1, sigma=1, N=2, Xi=Xi)
    assert whole == pytest.approx(1 / 8 + float(expected), rel=16 * EPS)


def _opposite_problem():
    return moments.quadratics(
        np.ones((2, 1, 1)), minimizers=np.array([[1.0], [-1.0]]), noise=np.ones((2, 1, 1))
    )


def _opposite(start, order, steps):
    Pi = _as_floats(exact.opposite_targets().Pi)
    problem = _opposite_problem()
    return moments.trajectory(problem, Pi, 0.25, start=start[:, None], steps=steps, order=order)


def _as_floats(x):
    return np.array(x, dtype=float)


@pytest.mark.parametrize(
    ("s", "c", "w"),
    [(1, 1, -1), (Fraction(1, 2), Fraction(3, 2), Fraction(5, 4)), (4, Fraction(1, 4), -3)],
)
def test_the_scalar_loss_is_as_smooth_as_the_sharp_constant_and_no_smoother(s, c, w):
    s, c, w = Fraction(s), Fraction(c), Fraction(w)
    problem = PROBLEMS["P7"](w=float(w))
    L, G = problem.constants.L, problem.constants.G(float(s), float(c))
    assert Fraction(G) == s * c**2 + abs(w)
    sharp = Fraction(bounds.smoothness_sharp(L=L, c=float(c), G=G, s=float(s)))
    assert sharp == s * (2 * s * c**2 + Fraction(G))  # dyadic numbers: no rounding
    eye = exact.fractions([[1, 0], [0, 1]])
    grid = [c * Fraction(i, 8) for i in range(-8, 9)]
    for a in grid:
        for b in grid:
            H = exact.factor_hessian(a, b, s, w)
            assert exact.is_semidefinite(sharp * eye - H)
            assert exact.is_semidefinite(sharp * eye + H)
    corner = exact.factor_hessian(c, -c if w > 0 else c, s, w)
    tops = [sharp * eye - sign * corner for sign in (1, -1)]
    assert 0 in [X[0, 0] * X[1, 1] - X[0, 1] ** 2 for X in tops]


def test_factor_gradients_at_a_scalar_are_those_of_fractions():
    s, w = Fraction(1, 2), Fraction(-5, 4)
    problem = PROBLEMS["P7"](w=float(w))
    for a, b in ((Fraction(3, 2), Fraction(7, 4)), (Fraction(-1, 8), Fraction(5, 2))):
        factors = Factors(np.full((1, 1, 1), float(b)), np.full((1, 1, 1), float(a)))
        gradient = problem.grad(float(s) * product(factors))
        found = measure.factor_gradients(gradient, factors, float(s))
        wanted = exact.factor_gradient(a, b, s, w)
        assert [Fraction(float(found.A[0, 0, 0])), Fraction(float(found.B[0, 0, 0]))] == [*wanted]


P8 = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(9, 10))


def test_the_constants_of_the_logit_problem_are_those_of_fractions_and_fifty_digits():
    constants = PROBLEMS["P8"]().constants
    mean = sum(P8) / 4
    assert (mean, sum((p - mean) ** 2 for p in P8) / 4) == (Fraction(3, 5), Fraction(49, 800))
    assert constants.kappa**2 == pytest.approx(49 / 800, rel=8 * EPS)
    assert constants.sigma**2 == pytest.approx(float(max(p * (1 - p) for p in P8)), rel=4 * EPS)
    assert constants.G(1.0, 1.0) == float(max(max(p, 1 - p) for p in P8))
    with mpmath.workdps(exact.DIGITS):
        mean = mpmath.mpf(3) / 5
        best = mpmath.findroot(lambda w: exact.logit_slope(w, mean), 0)
        assert mpmath.almosteq(best, mpmath.log(mpmath.mpf(3) / 2), rel_eps=1e-45)
        least = exact.logit_loss(best, mean)
    assert constants.F_star == pytest.approx(float(least), rel=8 * EPS)
    curvatures = [exact.logit_curvature(w) for w in (-3, -0.1, 0, 0.1, 4)]
    assert curvatures[2] == max(curvatures)
    assert constants.L == pytest.approx(float(curvatures[2]), rel=4 * EPS)


@pytest.mark.parametrize("w", [-700.0, -30.0, -1.0, 0.0, 1e-3, 2.0, 40.0, 700.0])
def test_the_logit_losses_and_slopes_have_fifteen_digits(w):
    problem = PROBLEMS["P8"]()
    W = np.full((1, 1, 1), w)
    losses, slopes = problem.loss(W), problem.grad(W)[:, 0, 0]
    for p, loss, slope in zip(P8, losses, slopes, strict=True):
        # four operations on numbers of at most |w| + 1, and of at most 1
        assert abs(loss - exact.logit_loss(w, float(p))) <= 4 * (abs(w) + 1) * EPS
        assert abs(slope - exact.logit_slope(w, float(p))) <= 4 * EPS


def test_the_label_noise_takes_its_two_values_as_often_as_it_should():
    problem = PROBLEMS["P8"]()
    runs = 40_000
    draws = problem.noise(np.random.default_rng(0), (runs, 4, 1, 1))[..., 0, 0]
    for p, noise in zip(P8, draws.T, strict=True):
        assert set(noise) == {float(p), float(p) - 1}
        error = float(p * (1 - p) / runs) ** 0.5
        assert abs(noise.mean()) <= 5 * error


# ---- samples of stochastic runs


def _sampled_problem():
    """Three agents in two dimensions: different curvatures, one not convex, correlated noise."""
    H = np.array([[[2, 0.5], [0.5, 1]], [[0.4, -0.3], [-0.3, 1.5]], [[-0.3, 0.1], [0.1, 0.6]]])
    b = np.array([[1.0, -1.0], [0.5, 2.0], [-1.5, 0.3]])
    root = np.array([[[0.8, 0], [0.3, 0.4]], [[0.2, 0.1], [-0.5, 0.6]], [[1, 0.2], [0, 0.7]]])
    Pi = np.array([[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]])
    start = np.array([[2.0, -1.0], [0.0, 1.0], [1.0, 1.0]])
    return H, b, root, Pi, start


def _z_scores(sampled, assumed, times=(1, 2, 5, 12, 30)):
    """Standard errors between samples in the order `sampled` and the moments of `assumed`."""
    H, b, root, Pi, start = _sampled_problem()
    samples = sampling.gossip_samples(
        H, b, root, Pi, lr=0.3, order=sampled, start=start, times=times, runs=40_000, seed=7
    )
    problem = moments.quadratics(H, b=b, noise=root @ np.swapaxes(root, -1, -2))
    steps = max(times) + 1
    path = moments.trajectory(problem, Pi, 0.3, start=start, steps=steps, order=assumed)
    wanted = [(path.gradient[t], path.consensus[t]) for t in times]
    pairs = zip([x for t in times for x in samples[t]], np.ravel(wanted), strict=True)
    return [(sample.mean - float(exact)) / sample.error for sample, exact in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["MS", "CB"])
def test_sampled_runs_agree_with_the_exact_moments_within_five_standard_errors(order):
    scores = _z_scores(order, order)
    # ten scores: the chance of one beyond 5 is 6e-6
    assert max(map(abs, scores)) <= 5, scores


@pytest.mark.slow
def test_samples_can_tell_one_order_from_the_other():
    assert max(map(abs, _z_scores("MS", "CB"))) > 50


# ---- long horizons in closed form


PAIRS = [
    closed_form.Pair(h=(1.0, 0.25), b=(1.0, -0.5), v=1.0, w=0.75, x0=2.0),
    closed_form.Pair(h=(1.0, -0.5), b=(0.25, 0.5), v=0.5, w=0.625, x0=-1.0),
]


def _library_average(pair, lr, T, order):
    problem = moments.quadratics(
        np.array(pair.h).reshape(2, 1, 1),
        b=np.array(pair.b).reshape(2, 1),
        noise=np.full((2, 1, 1), pair.v),
    )
    Pi = np.array([[pair.w, 1 - pair.w], [1 - pair.w, pair.w]])
    recursion = moments.decentralized_sgd(problem, Pi, lr, order=order)
    start = moments.consensus_start(problem, np.array([pair.x0]))
    squares = {"gradient": moments.mean_gradient(problem)}
    return float(moments.average(recursion, start, squares, T)["gradient"])


@pytest.mark.parametrize("pair", PAIRS, ids=["convex", "one concave agent"])
@pytest.mark.parametrize("order", ["MS", "CB"])
@pytest.mark.parametrize("T", [1, 7, 10**3, 10**4, 10**5])
def test_averages_over_long_runs_are_those_of_the_closed_form(pair, order, T):
    lr = min((2 / T) ** 0.5, 0.5)
    wanted = closed_form.averaged_gradient(pair, lr, T, order)
    # doubling squares a matrix of size 3 log2(T) times; each squaring doubles its relative error
    rounding = 4 * 3 * T * EPS + 64 * EPS
    assert _library_average(pair, lr, T, order) == pytest.approx(float(wanted), rel=rounding)


@pytest.mark.parametrize("pair", PAIRS, ids=["convex", "one concave agent"])
@pytest.mark.parametrize("order", ["MS", "CB"])
def test_the_rate_is_one_over_sqrt_NT_with_half_of_the_bound_as_its_constant(pair, order):
    """At lr = sqrt(N/T): sqrt(N T) x average -> F(x0) - F* + Hbar sigma^2 / 2, off by O(T^-1/2).

    The start decays as sum_t |Hbar (1 - lr Hbar)^t x|^2 -> 2 gap / (2 lr), and at rest
    E|grad F|^2 -> lr Hbar sigma^2 / (2 N).
    """
    limit = pair.gap + sum(pair.h) / 2 * pair.v / 2
    horizons = [10**k for k in (8, 10, 12)]
    scaled = [
        closed_form.averaged_gradient(pair, (mpmath.mpf(2) / T) ** 0.5, T, order) * (2 * T) ** 0.5
        for T in horizons
    ]
    off = [float(x) - limit for x in scaled]
    assert abs(off[-1]) <= 1e-4 * limit
    # the next term is O(1/T), 1e-4 of this one at the first horizon
    assert off[0] / off[1] == pytest.approx(10, rel=1e-2)
    assert off[1] / off[2] == pytest.approx(10, rel=1e-2)
