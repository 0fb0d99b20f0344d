"""The bounds on rates by hypothesis, and the recursions behind them against plain loops."""

import itertools

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory import bounds, moments
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.topology import reversible as weigh
from verification.claim import RESOLUTION, Outcome
from verification.claims.networks import spectral_gaps
from verification.claims.rates import (
    convex,
    decaf_as_dlora,
    dsgd_sharp,
    joint_errors,
    local_steps,
    mean_descent,
    mixing_errors,
    momentum,
    polyak_lojasiewicz,
    random_rounds,
    reversible,
    reversible_rate,
    time_varying,
)
from verification.instances import descent, erring, laws
from verification.instances.mixes import FAMILIES as MIXES
from verification.instances.mixes import Mix
from verification.instances.quadratics import FAMILIES, GRAPHS, Case, draw, load, network

EPS = np.finfo(float).eps
ALLOWED = (Outcome.HOLDS, Outcome.NOT_APPLICABLE)

cases = st.tuples(
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from([*GRAPHS, ("complete", 1), ("ring", 2)]),
    st.sampled_from([1.0, 0.99, 0.5, 0.01]),
    st.integers(0, 2**32 - 1),
)


def case_of(drawn, order="MS", q=None, largest=1.0):
    """A case of two instances whose step is this share of the largest allowed."""
    family, (name, N), share, seed = drawn
    event(family)
    event(f"{name}, {N} agents")
    H, b, noise, x0 = draw(np.random.default_rng(seed), family, 2, N, 2)
    Pi = TOPOLOGIES[name](N)
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    q = network(Pi, order).q if q is None else q
    lr = share * min(largest, 1 / q if q else np.inf) / L
    problem = moments.quadratics(H, b=b, noise=noise)
    return Case(problem, Pi, lr, x0, {"topology": name, "N": N})


@given(drawn=cases, order=st.sampled_from(moments.ORDERS))
def test_no_quadratic_breaks_the_sharp_rate_up_to_twice_the_step(drawn, order):
    for row in dsgd_sharp.judged(case_of(drawn, order, largest=2.0), order, 20):
        assert row.outcome in ALLOWED


@given(
    drawn=cases,
    dependent=st.booleans(),
    size=st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
    noisy=st.booleans(),
)
def test_no_affine_error_of_mixing_breaks_its_rate(drawn, dependent, size, noisy):
    event(f"dependent {dependent}, noisy {noisy}, errors {size} of a step")
    case, rng = case_of(drawn), np.random.default_rng(drawn[3])
    if noisy:  # noise beyond all slopes
        eye = np.eye(2)[None, None] * np.max(np.abs(case.problem.b)) ** 2 * 100
        case = case._replace(problem=case.problem._replace(noise=0 * case.problem.noise + eye))
    n, step = 2 * case.problem.N, size * case.lr[:, None]
    slope = np.abs(case.problem.b).max(axis=(1, 2))[:, None]
    errors = erring.Errors(
        step[..., None] * rng.standard_normal((2, n, n)) / n,
        step * slope * rng.standard_normal((2, n)),
        -dependent * step[..., None] * rng.uniform(0, 2, (2, 1, 1)) * np.eye(n),
    )
    slip = mixing_errors.rounding_of(case, errors, 12)
    forms = (bounds.mixing_error_rate, bounds.dsgd_sharp, joint_errors.with_cross_term)
    rows = [mixing_errors.rate_row(case, errors, 12, slip, dependent, form) for form in forms]
    for row in (mixing_errors.consensus_row(case, errors, 12), *rows):
        assert row.outcome in ALLOWED


@given(
    family=st.sampled_from(sorted(MIXES)), rows=st.integers(1, 4), seed=st.integers(0, 2**32 - 1)
)
def test_no_mix_breaks_the_bound_on_the_error_of_mixing(family, rows, seed):
    event(family)
    factors, Pi = MIXES[family](np.random.default_rng(seed), 3, rows)
    for row in decaf_as_dlora.bounded(Mix(family, factors, Pi)):
        assert row.outcome in ALLOWED


@given(drawn=cases, order=st.sampled_from(moments.ORDERS))
def test_no_quadratic_breaks_the_rate_of_weakly_convex_losses(drawn, order):
    assert convex.judged(case_of(drawn, order), order, 20).outcome in ALLOWED


@given(drawn=cases, order=st.sampled_from(moments.ORDERS))
def test_no_quadratic_breaks_the_decay_of_the_gap(drawn, order):
    for row in polyak_lojasiewicz.judged(case_of(drawn, order), order, 20):
        assert row.outcome in ALLOWED


@given(drawn=cases, K=st.integers(1, 5))
def test_no_quadratic_breaks_the_bound_for_local_steps(drawn, K):
    event(f"K = {K}")
    first = case_of(drawn)
    q = local_steps.network_of(first, K).q
    assert local_steps.judged(case_of(drawn, q=q), K, 6).outcome in ALLOWED


@given(drawn=cases, beta=st.sampled_from([0.0, 0.3, 0.9, 0.99]))
def test_no_quadratic_breaks_the_bound_for_momentum(drawn, beta):
    event(f"beta = {beta}")
    first = case_of(drawn)
    q = momentum.network_of(first, beta).q
    assert momentum.judged(case_of(drawn, q=q), beta, 20).outcome in ALLOWED


@given(
    drawn=cases,
    graphs=st.lists(st.sampled_from(["ring", "path", "star", "complete"]), min_size=1, max_size=4),
)
def test_no_sequence_of_graphs_breaks_the_bound(drawn, graphs):
    rng, N = np.random.default_rng(drawn[3]), drawn[1][1]
    Pis = []
    for t in range(12):
        order = rng.permutation(N)
        Pis.append(TOPOLOGIES[graphs[t % len(graphs)]](N)[np.ix_(order, order)])
    case = case_of(drawn, q=time_varying.network_of(Pis).q)
    assert time_varying.judged(case, Pis).outcome in ALLOWED


LAWS = {
    "pairs": lambda N, p: laws.pairwise_gossip(N),
    "matching": lambda N, p: laws.random_matching(N),
    "dropped": lambda N, p: laws.dropped_links(TOPOLOGIES["path"](N), p),
    "stragglers": lambda N, p: laws.stragglers(TOPOLOGIES["path"](N), p),
    "contacts": lambda N, p: laws.contacts(N, [[(i, i + 1)] for i in range(N - 1)] + [[]]),
    "directed": lambda N, p: laws.directed_peers(N),
    "all or nothing": laws.all_or_nothing,
}


@given(
    drawn=cases,
    name=st.sampled_from(sorted(LAWS)),
    N=st.integers(2, 5),
    p=st.sampled_from([0.01, 0.3, 0.9]),
)
def test_no_law_of_the_rounds_breaks_the_bound(drawn, name, N, p):
    event(name)
    family, _, share, seed = drawn
    law = LAWS[name](N, p)
    # a ring has the N of the law; its matrix is not used
    case = case_of((family, ("ring", N), share, seed), q=random_rounds.network_of(law).q)
    assert random_rounds.judged(case, law, 12).outcome in ALLOWED
    for row in mean_descent.law_rows(case, law, 12):
        assert row.outcome in ALLOWED


@given(drawn=cases, spread=st.sampled_from([0.0, 0.5, 2.0]), steps=st.sampled_from([2, 12]))
def test_no_weights_break_the_bounds_for_reversible_mixing(drawn, spread, steps):
    event(f"weights spread by 10^{spread}")
    case = case_of(drawn, q=0)
    target = 10.0 ** np.random.default_rng(drawn[3]).uniform(-spread, spread, case.problem.N)
    P = weigh(case.Pi, target)
    net = reversible.weighing(P, target)
    case = case._replace(Pi=P, lr=case.lr / max(1.0, net.q))
    assert reversible.judged(case, target, steps).outcome in ALLOWED
    for row in reversible_rate.rate_rows(case, target, steps):
        assert row.outcome in ALLOWED
    for row in reversible.of_mixing(np.random.default_rng(drawn[3]), P, target):
        assert row.outcome in ALLOWED


@given(drawn=cases, K=st.integers(1, 4))
def test_no_quadratic_breaks_the_rate_of_local_steps(drawn, K):
    first = case_of(drawn)
    net = local_steps.network_of(first, K)
    for row in mean_descent.local_rows(case_of(drawn, q=net.q), K, 5):
        assert row.outcome in ALLOWED


@given(
    drawn=cases, beta=st.sampled_from([0.0, 0.3, 0.9, 0.99]), slower=st.sampled_from([1.9, 1, 0.1])
)
def test_no_quadratic_breaks_the_rate_of_momentum(drawn, beta, slower):
    event(f"beta = {beta}, step {slower}")
    case = case_of(drawn)
    case = case._replace(lr=case.lr * slower * (1 - beta))
    for row in mean_descent.momentum_rows(case, beta, 15):
        assert row.outcome in ALLOWED


@given(data=st.data())
def test_closed_forms_of_sqrt_rho_are_those_of_a_dense_eigenvalue_solver(data):
    name, Pi, closed, sizes = data.draw(st.sampled_from(spectral_gaps.graphs()))
    n = data.draw(st.sampled_from(sizes))
    event(name)
    values = np.abs(np.linalg.eigvalsh(Pi(n) - 1 / len(Pi(n))))
    assert closed(n) == pytest.approx(values.max(), abs=200 * EPS)


# ---------------------------------------------------------------- the recursions themselves


def test_errors_of_mixing_are_those_of_all_noise_paths():
    rng, N, steps, lr = np.random.default_rng(8), 2, 3, 0.2
    H, b = rng.uniform(0.5, 1.0, (1, N, 1, 1)), rng.standard_normal((1, N, 1))
    root, x0 = rng.uniform(0.5, 1.5, N), rng.standard_normal((1, 1))
    noise = (root**2)[None, :, None, None]
    Pi = np.array([[0.75, 0.25], [0.25, 0.75]])
    K, k, G = (0.1 * rng.standard_normal(shape) for shape in ((N, N), N, (N, N)))
    case = Case(moments.quadratics(H, b=b, noise=noise), Pi, np.array([lr]), x0, {})
    errors = erring.Errors(K[None], k[None], G[None])
    count = 2 ** (N * steps)
    gradient, Xi, ebar, apart = np.zeros((4, steps))
    for signs in itertools.product([-1.0, 1.0], repeat=N * steps):
        y, xi = np.repeat(x0[0], N), np.reshape(signs, (steps, N)) * root
        for t in range(steps):
            mean = y.mean()
            gradient[t] += np.mean(H.ravel() * mean - b.ravel()) ** 2 / count
            Xi[t] += np.mean((y - mean) ** 2) / count
            e = K @ y + k + G @ xi[t]
            ebar[t] += e.mean() ** 2 / count
            apart[t] += np.sum((e - e.mean()) ** 2) / count
            y = Pi @ (y - lr * (H.ravel() * y - b.ravel() + xi[t])) + e
    found, top = erring.averages(case, errors, steps), erring.suprema(case, errors, steps)
    assert found.gradient[0] == pytest.approx(gradient.mean(), rel=1e-12)
    assert found.Xi[0] == pytest.approx(Xi.mean(), rel=1e-12)
    assert found.ebar[0] ** 2 == pytest.approx(ebar.mean(), rel=1e-12)
    assert top.Xi[0] == pytest.approx(Xi.max(), rel=1e-12)
    assert top.apart[0] ** 2 == pytest.approx(apart.max(), rel=1e-12)


def test_heavy_ball_is_its_loop_in_mean_and_covariance():
    rng, N, steps, lr, beta = np.random.default_rng(9), 2, 3, 0.2, 0.6
    H, b = rng.uniform(0.5, 1.0, N), rng.standard_normal(N)
    root, Pi = rng.uniform(0.5, 1.5, N), np.array([[0.75, 0.25], [0.25, 0.75]])
    problem = moments.quadratics(
        H[None, :, None, None], b=b[None, :, None], noise=(root**2)[None, :, None, None]
    )
    recursion = momentum.heavy_ball(Case(problem, Pi, np.array([lr]), np.ones((1, 1)), {}), beta)
    cloud = []
    for signs in itertools.product([-1.0, 1.0], repeat=N * steps):
        x, v = np.ones(N), np.zeros(N)
        for xi in np.reshape(signs, (steps, N)) * root:
            v = beta * v + H * x - b + xi
            x = Pi @ (x - lr * v)
        cloud.append(np.concatenate([x, v]))
    start = np.array([[1.0, 1.0, 0.0, 0.0]])
    state = moments.State(start, np.zeros((1, 4, 4)))
    after = moments.advance(moments.repeat(recursion, steps), state)
    np.testing.assert_allclose(after.mean[0], np.mean(cloud, axis=0), rtol=0, atol=100 * EPS)
    spread = np.cov(np.array(cloud).T, bias=True)
    np.testing.assert_allclose(after.cov[0], spread, rtol=0, atol=100 * EPS)


def test_local_steps_are_measured_before_every_step():
    """f = +-x from 0 with K = 3: deviations 0, 1, 2, then 3/2 after the mix, 5/2, 7/2."""
    found = local_steps.local_steps(load(local_steps.slopes_alone(3)), 3, 2)
    assert found.Xi[0] == pytest.approx(3.5**2, rel=1e-14)


def test_the_point_ahead_of_the_mean_steps_along_the_mean_gradient():
    """z+ = z - lr/(1 - beta) mean gradient, and the agents' distance from z holds its lag."""
    rng = np.random.default_rng(4)
    N, lr, beta, w = 3, 0.2, 0.6, 0.2 * 0.6 / 0.4
    H, b, Pi = rng.uniform(0.5, 1.0, N), rng.standard_normal(N), TOPOLOGIES["path"](3)
    problem = moments.quadratics(H[None, :, None, None], b=b[None, :, None])
    case = Case(problem, Pi, np.array([lr]), np.ones((1, 1)), {})
    x, v = rng.standard_normal((2, N))
    state = moments.State(np.concatenate([x, v])[None], np.zeros((1, 2 * N, 2 * N)))
    z = x.mean() - w * v.mean()
    squares = mean_descent.squares_at_z(case, beta)
    found = {name: moments.expectation(square, state).item() for name, square in squares.items()}
    slope = H.mean() * z - b.mean()
    assert found["gradient"] == pytest.approx(slope**2, rel=100 * EPS)
    assert found["Xi"] == pytest.approx(np.mean((x - z) ** 2), rel=100 * EPS)
    assert found["size"] == pytest.approx(2 * np.mean(x**2 + (w * v) ** 2), rel=100 * EPS)
    after = moments.advance(momentum.heavy_ball(case, beta), state).mean[0]
    ahead = after[:N].mean() - w * after[N:].mean()
    assert ahead == pytest.approx(z - lr / (1 - beta) * np.mean(H * x - b), abs=100 * EPS)


def test_averages_by_doubling_are_those_of_the_loop():
    H, b, noise, x0 = draw(np.random.default_rng(3), "equal", 2, 5, 2)
    problem = moments.quadratics(H, b=b, noise=noise)
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    case = Case(problem, TOPOLOGIES["ring"](5), 0.3 / L, x0, {})
    period = mean_descent.local_period(case, 3)
    squares = descent.squares_of(case.problem)
    doubled = descent.descent_over_periods(case.start, period, squares, 7)
    looped, _ = descent.descent_along(case, case.start, period * 7, squares)
    assert np.all(np.abs(doubled.gradient - looped.gradient) <= looped.slip)
    assert np.all(L**2 * np.abs(doubled.Xi - looped.Xi) <= looped.slip)
    assert np.all(looped.slip <= RESOLUTION * looped.gradient)  # or nothing is compared
