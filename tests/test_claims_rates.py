"""The claims on rates: single values, and properties by hypothesis."""

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory import bounds, moments
from decaf_theory.compare.path import (
    TURNED,
    difference,
    mixing_error,
    norms,
    slopes_at_mean,
)
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS, Clock
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config, visits
from decaf_theory.topology import TOPOLOGIES
from tests.claim_rows import rows_of
from verification.claim import Outcome
from verification.claims.examples import two_agents
from verification.claims.networks import spectral_gaps
from verification.claims.rates import (
    attainment,
    corollary,
    dsgd,
    spurious_directions,
)
from verification.evidence import attained
from verification.instances.consensus import kappa_ceiling
from verification.instances.quadratics import (
    FAMILIES,
    GRAPHS,
    Case,
    draw,
    load,
    run,
    stored,
)

EPS = np.finfo(float).eps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["T25", "T27"])
def test_torch_tensors_give_the_same_bounds(name):
    for left, right in zip(rows_of(name), rows_of(name, "torch"), strict=True):
        assert left.bound == pytest.approx(right.bound, rel=1e-9, abs=1e-20)


def test_swapping_the_constants_fails_by_the_factor_of_the_docstring():
    row = dsgd.replay_swapped(dsgd.ring_of_four())
    assert row.measured == pytest.approx(1 / 100, rel=1e-12)
    assert row.bound == pytest.approx(1 / 361, rel=1e-12)


def test_the_third_term_needs_its_parameters():
    """Farther from the limit the bound is not reached: the row of nearness can fail."""
    far = attainment.opposed(0.5, 0.5, 1 / 64)
    rows = list(attained(attainment.replay_heterogeneity(far)))
    assert [row.outcome for row in rows] == [Outcome.HOLDS, Outcome.VIOLATED]


def test_kappa_grows_along_the_third_family():
    instance = attainment.opposed(0.25, 0.125, 1 / 128, steps=2**12)
    found = run(load(instance), "MS", 2**12)
    assert found.kappa == pytest.approx(attainment.largest_kappa(instance), rel=1e-6)


@pytest.mark.parametrize("order", moments.ORDERS)
def test_the_ceiling_of_kappa_is_above_every_step_and_near_the_largest(order):
    rng = np.random.default_rng(3)
    H, b, noise, x0 = draw(rng, "convex", 6, 4, 2)
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    problem = moments.quadratics(H, b=b, noise=noise)
    case = Case(problem, TOPOLOGIES["ring"](4), 0.3 / L, x0, {})
    # three blocks of 4 cover 10 steps, seven of 8 cover 50
    for steps, covered in ((1, 1), (2, 2), (10, 12), (50, 56)):
        found, ceiling = run(case, order, steps).kappa, kappa_ceiling(case, order, steps)
        assert (ceiling >= found * (1 - 1e-9)).all()
        quiet = case._replace(problem=problem._replace(noise=0 * noise))
        exact = run(quiet, order, covered).kappa
        np.testing.assert_allclose(kappa_ceiling(quiet, order, steps), exact, rtol=1e-9)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("order", moments.ORDERS)
def test_the_consensus_bound_is_that_of_an_unrolled_sum(graph, order):
    """q and S against powers of Pi - J, summed one by one."""
    Pi = TOPOLOGIES[graph[0]](graph[1])
    N, q, S = len(Pi), 0.0, 0.0
    power = np.eye(N) - 1 / N
    if order == "MS":
        power = Pi - 1 / N
    for _ in range(2000):
        q += np.linalg.norm(power, 2)
        S += np.sum(power**2)
        power = power @ (Pi - 1 / N)
    found = dsgd.network(Pi, order)
    assert found.q == pytest.approx(q, rel=1e-10, abs=1e-12)
    assert found.S == pytest.approx(S, rel=1e-10, abs=1e-12)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    graph=st.sampled_from(GRAPHS),
    order=st.sampled_from(moments.ORDERS),
    share=st.sampled_from([1.0, 0.9, 0.3, 0.01]),
    p=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_quadratic_breaks_the_rate_or_the_consensus_bound(family, graph, order, share, p, seed):
    event(family)
    event(f"step {share} of the largest")
    name, N = graph
    H, b, noise, x0 = draw(np.random.default_rng(seed), family, 3, N, p)
    Pi = TOPOLOGIES[name](N)
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    lr = share / (L * max(1.0, dsgd.network(Pi, order).q))
    problem = moments.quadratics(H, b=b, noise=noise)
    for row in dsgd.judged(Case(problem, Pi, lr, x0, {"N": N}), order, 25):
        assert row.outcome in (Outcome.HOLDS, Outcome.NOT_APPLICABLE)


@given(
    family=st.sampled_from(["convex", "equal"]),
    graph=st.sampled_from(GRAPHS),
    order=st.sampled_from(moments.ORDERS),
    T=st.sampled_from([100, 1000, 30_000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_quadratic_breaks_the_corollary(family, graph, order, T, seed):
    name, N = graph
    H, b, noise, x0 = draw(np.random.default_rng(seed), family, 2, N, 2)
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    Pi = TOPOLOGIES[name](N)
    horizon = bounds.corollary_horizon(L=1.0, N=N, q=dsgd.network(Pi, order).q)
    # the largest L that the horizon T allows, or a tenth of it
    scale = np.sqrt(T / horizon) / L * np.array([1.0, 0.1])
    problem = moments.quadratics(H * scale[:, None, None, None], b=b, noise=noise)
    row = corollary.bounded(Case(problem, Pi, 0.0, x0, {"N": N}), order, T)
    event(row.outcome.value)
    assert row.outcome is Outcome.HOLDS
    assert row.params["instances"] >= 1


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_the_first_term_alone_is_an_equality(steps):
    row = attainment.replay_alone(attainment.parabola(steps, L=2.0, p=2))
    assert row.measured == pytest.approx(row.bound, rel=1e-12)


def test_bipartite_graphs_without_self_weights_have_the_eigenvalue_minus_one():
    assert spectral_gaps.replay({"Pi": spectral_gaps.cycle(6).tolist()}).outcome is Outcome.VIOLATED
    assert spectral_gaps.replay({"Pi": spectral_gaps.cycle(7).tolist()}).outcome is Outcome.HOLDS
    assert (
        spectral_gaps.replay({"Pi": spectral_gaps.two_sides(3, 0.1).tolist()}).outcome
        is Outcome.HOLDS
    )


def test_a_stored_case_comes_back_as_it_was():
    instance = stored(np.eye(2)[None], [[1.0, 2.0]], [[1.0]], 0.5, [3.0, 4.0], np.eye(2)[None])
    case = load(instance)
    np.testing.assert_array_equal(case.problem.H[0, 0], np.eye(2))
    np.testing.assert_array_equal(case.problem.b, [[[1, 2]]])
    np.testing.assert_array_equal(case.problem.noise[0, 0], np.eye(2))
    np.testing.assert_array_equal(case.start.mean, [[3, 4]])
    assert case.lr == [0.5]


def test_the_example_in_fractions_is_the_fixed_point():
    assert two_agents.EXACT["gradient"] == two_agents.Fraction(1, 14)
    own, shared = (
        two_agents.Fraction(1, 14) + sign * two_agents.Fraction(1, 110) for sign in (1, -1)
    )
    fifth = two_agents.Fraction(1, 5)
    rest = two_agents.Exact((fifth, -fifth), ((own, shared), (shared, own)))
    assert two_agents.exact_step(rest) == rest


def test_turned_decaf_has_its_products_and_is_nearest_to_dlora():
    rng = np.random.default_rng(5)
    factors = Factors(rng.standard_normal((4, 5, 2)), rng.standard_normal((4, 2, 3)))
    Pi = TOPOLOGIES["path"](4)
    config = Config(
        problem=approximation(rng.standard_normal((4, 5, 3))),
        method=TURNED,
        Pi=Pi,
        start=factors,
        lr=0.1,
        steps=1,
    )
    _, after = visits(config)
    before = after.mix.before
    plain, means = (METHODS[name].mix(before, Pi, 0) for name in ("decaf", "dlora"))
    np.testing.assert_allclose(product(after.factors), product(plain), rtol=0, atol=1e3 * EPS)
    e = mixing_error(after)
    for X, Y, Z in zip(e, after.factors, means, strict=True):
        np.testing.assert_allclose(X, Y - Z, rtol=0, atol=1e3 * EPS)
    for angle in np.linspace(0.1, 6, 9):
        R = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        other = difference(Factors(after.factors.B @ R, R.T @ after.factors.A), means)
        assert (norms(other) > norms(e)).all()


@pytest.mark.parametrize("method", ["dsgd", "dlora_fa", "dlora"])
def test_the_slope_at_the_mean_is_the_derivative_in_what_the_method_trains(method):
    rng = np.random.default_rng(6)
    problem = approximation(rng.standard_normal((3, 4, 3)))
    B, A = rng.standard_normal((3, 4, 2)), np.stack([rng.standard_normal((2, 3))] * 3)
    config = Config(
        problem=problem,
        method=method,
        Pi=TOPOLOGIES["ring"](3),
        start=Factors(B, A),
        s=0.5,
        lr=0.1,
        steps=1,
    )
    visit = next(visits(config))
    gradient, heterogeneity = slopes_at_mean(visit)
    mean = visit.factors.map(lambda X: X[0].mean(axis=0))

    def losses(B, A):
        return problem.loss((config.scale * B @ A)[None])

    h = 1e-5
    slopes = []
    for name in METHODS[method].trains(Clock()):
        X = getattr(mean, name)
        for step in h * np.eye(X.size).reshape(-1, *X.shape):
            ends = (losses(**mean._replace(**{name: X + move})._asdict()) for move in (step, -step))
            slopes.append(np.subtract(*ends) / (2 * h))
    own = np.array(slopes)  # [numbers, agents]
    mixed = own.mean(axis=1)
    # losses of size 30 that are quartic at most: off by eps / h, and by h^2
    atol = 1e4 * EPS / h
    assert gradient == pytest.approx([np.sum(mixed**2)], abs=atol)
    apart = np.sum((own - mixed[:, None]) ** 2, axis=0).mean()
    assert heterogeneity == pytest.approx([apart], abs=atol)


def test_a_fixed_point_is_found_where_plain_rounds_would_take_for_ever():
    slow = np.diag([0.5, 1 - 1e-7])

    def rounds(x, lr, steps):
        for _ in range(steps):
            x = x @ slow + lr[:, None] * x**2 * [0, -1] + [1.0, 1e-8]
        return x

    start, lr = np.full((2, 2), 0.01), np.array([0.1, 0.2])
    x, residual = spurious_directions.fixed_point(rounds, start, lr)
    assert residual < 1e-13
    assert x[:, 0] == pytest.approx(2, rel=1e-12)
    # lr p^2 + 1e-7 p = 1e-8
    expected = [(-1e-7 + (1e-14 + 4e-8 * lr) ** 0.5) / (2 * lr) for lr in (0.1, 0.2)]
    # the residual of 32 eps is magnified by the distance of the slope from 1, 6e-5
    assert x[:, 1] == pytest.approx(expected, abs=64 * EPS / 6e-5)


def test_a_map_without_a_fixed_point_is_no_data():
    with pytest.raises(RuntimeError, match="no fixed point after 12 Newton steps"):
        spurious_directions.fixed_point(
            lambda x, lr, steps: x + steps / (1 + x**2), np.ones((1, 1)), np.ones(1)
        )
