"""Exact moments against enumeration of every noise path, plain loops and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory import moments
from decaf_theory.lowrank import mean_over_agents

EPS = np.finfo(float).eps
# not symmetric, so that a transposed Pi shows; rows and columns sum to one
SKEW = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])


SHARES = np.array([0.5, 0.3, 0.2])


def test_the_squares_of_weighted_means_are_those_of_plain_sums():
    rng = np.random.default_rng(4)
    H = symmetric(rng.standard_normal((3, 2, 2))) + 3 * np.eye(2)
    b, x = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    problem = moments.quadratics(H, b=b)
    mean = SHARES @ x
    slopes = H @ mean - b
    slope = SHARES @ slopes
    best = np.linalg.solve(np.einsum("i,iab->ab", SHARES, H), SHARES @ b)

    def F(y):
        return SHARES @ np.array([y @ H[i] @ y / 2 - b[i] @ y for i in range(3)])

    expected = {
        moments.mean_gradient: slope @ slope,
        moments.consensus: SHARES @ np.sum((x - mean) ** 2, axis=1),
        moments.heterogeneity: SHARES @ np.sum((slopes - slope) ** 2, axis=1),
        moments.optimality_gap: F(mean) - F(best),
    }
    for square, value in expected.items():
        found = moments.expectation(square(problem, SHARES), moments.at(x))
        assert found == pytest.approx(value, rel=1e3 * EPS)


def symmetric(x):
    return (x + np.swapaxes(x, -1, -2)) / 2


def draw(seed, *batch, N=3, p=2, indefinite=False):
    """A heterogeneous problem, with the square roots of its noise covariances."""
    rng = np.random.default_rng(seed)
    H = symmetric(rng.normal(size=(*batch, N, p, p)))
    if not indefinite:
        H = H @ H + 0.1 * np.eye(p)
    root = rng.normal(size=(*batch, N, p, p))
    noise = symmetric(root @ np.swapaxes(root, -1, -2))
    b = rng.normal(size=(*batch, N, p))
    return moments.quadratics(H, b=b, noise=noise), root, rng.normal(size=(*batch, N, p))


def one_round(problem, Pi, lr, order, x, noise):
    """The algorithm itself, agent by agent."""
    N = len(x)
    step = [lr * (problem.H[i] @ x[i] - problem.b[i] + noise[i]) for i in range(N)]
    if order == "MS":
        return np.array([sum(Pi[i, j] * (x[j] - step[j]) for j in range(N)) for i in range(N)])
    return np.array([sum(Pi[i, j] * x[j] for j in range(N)) - step[i] for i in range(N)])


def measured(problem, x):
    """Gradient, consensus, heterogeneity and F of one point, from their definitions."""
    N = len(x)
    mean = sum(x) / N
    gradients = [problem.H[i] @ mean - problem.b[i] for i in range(N)]
    total = sum(gradients) / N
    return np.array(
        [
            total @ total,
            sum((xi - mean) @ (xi - mean) for xi in x) / N,
            sum((g - total) @ (g - total) for g in gradients) / N,
            sum(mean @ h @ mean / 2 - b @ mean for h, b in zip(problem.H, problem.b, strict=True))
            / N,
        ]
    )


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_moments_equal_the_average_over_all_sign_paths(order):
    problem, root, x0 = draw(1)
    N, p, steps, lr = 3, 2, 2, 0.3
    values, points = np.zeros((steps + 1, 4)), [[] for _ in range(steps + 1)]
    for signs in itertools.product([-1.0, 1.0], repeat=N * p * steps):
        noise = np.einsum("iab,tib->tia", root, np.reshape(signs, (steps, N, p)))
        x = x0
        for t in range(steps + 1):
            values[t] += measured(problem, x) / 2 ** (N * p * steps)
            points[t].append(x.ravel())
            x = one_round(problem, SKEW, lr, order, x, noise[t]) if t < steps else x
    found = moments.trajectory(problem, SKEW, lr, start=x0, steps=steps + 1, order=order)
    best = np.linalg.solve(problem.H.mean(0), problem.b.mean(0))
    values[:, 3] -= measured(problem, np.array([best] * N))[3]
    # sums of 4096 terms and 20 products of numbers of the size of the largest value
    rounding = 1e3 * EPS * np.abs(values).max()
    for k, name in enumerate(["gradient", "consensus", "heterogeneity", "gap"]):
        np.testing.assert_allclose(getattr(found, name), values[:, k], rtol=0, atol=rounding)
    state = moments.at(x0)
    for t in range(steps + 1):
        cloud = np.array(points[t])
        np.testing.assert_allclose(state.mean, cloud.mean(0), rtol=0, atol=rounding)
        np.testing.assert_allclose(found.mean[t].ravel(), cloud.mean(0), rtol=0, atol=rounding)
        np.testing.assert_allclose(state.cov, np.cov(cloud.T, bias=True), rtol=0, atol=rounding)
        state = moments.advance(moments.decentralized_sgd(problem, SKEW, lr, order=order), state)


@pytest.mark.parametrize("order", ["MS", "CB"])
@pytest.mark.parametrize("steps", [1, 2, 3, 6, 7, 13, 100])
def test_doubling_equals_the_loop(order, steps):
    problem, _, x0 = draw(2, 4)
    recursion = moments.decentralized_sgd(problem, SKEW, 0.2, order=order)
    start = moments.at(x0)
    start = start._replace(cov=start.cov + np.diag(np.arange(6.0)))
    squares = moments.quantities(problem)
    looped = moments.trace(recursion, start, squares, steps)
    averaged = moments.average(recursion, start, squares, steps)
    state = start
    for _ in range(steps):
        state = moments.advance(recursion, state)
    jumped = moments.advance(moments.repeat(recursion, steps), start)
    rounding = 1e3 * EPS * max(np.abs(v).max() for v in looped.values())
    for name, values in looped.items():
        np.testing.assert_allclose(averaged[name], values.mean(-1), rtol=0, atol=rounding)
    np.testing.assert_allclose(jumped.mean, state.mean, rtol=0, atol=rounding)
    np.testing.assert_allclose(jumped.cov, state.cov, rtol=0, atol=rounding)


def test_no_steps_leave_the_state_alone():
    problem, _, x0 = draw(3)
    recursion = moments.decentralized_sgd(problem, SKEW, 0.2)
    state = moments.at(x0)
    state = state._replace(cov=state.cov + np.diag(np.arange(6.0)))
    same = moments.advance(moments.repeat(recursion, 0), state)
    np.testing.assert_array_equal(same.mean, state.mean)
    np.testing.assert_array_equal(same.cov, state.cov)


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_the_limit_is_where_a_step_changes_nothing(order):
    problem, _, _ = draw(4, 5)
    recursion = moments.decentralized_sgd(problem, SKEW, 0.1, order=order)
    rest = moments.limit(recursion)
    after = moments.advance(recursion, rest)
    # the condition number of I - A multiplies rounding; lr lambda_min >= 0.01 here
    rounding = 1e4 * EPS * np.abs(rest.cov).max()
    np.testing.assert_allclose(after.mean, rest.mean, rtol=0, atol=rounding)
    np.testing.assert_allclose(after.cov, rest.cov, rtol=0, atol=rounding)
    far = moments.advance(moments.repeat(recursion, 10**5), moments.at(np.ones((5, 3, 2))))
    np.testing.assert_allclose(far.mean, rest.mean, rtol=0, atol=rounding)
    np.testing.assert_allclose(far.cov, rest.cov, rtol=0, atol=rounding)


@pytest.mark.parametrize("lr", [1.0, 0.5, 1e-6])
def test_the_limit_of_equal_curvatures_has_the_closed_form_of_each_mode(lr):
    # f_i = x^2/2 - b_i x, unit noise: mode l of Pi has A = l (1 - lr), noise lr^2 l^2 (MS)
    Pi = np.array([[0.75, 0.25], [0.25, 0.75]])
    problem = moments.quadratics(
        np.ones((2, 1, 1)), b=np.array([[3.0], [1.0]]), noise=np.ones((2, 1, 1))
    )
    rest = moments.limit(moments.decentralized_sgd(problem, Pi, lr))
    squares = moments.quantities(problem)
    of_mean = lr**2 / (1 - (1 - lr) ** 2) / 2
    mode = 0.5 * lr / (1 - 0.5 * (1 - lr))
    of_mode = (0.5 * lr) ** 2 / (1 - 0.25 * (1 - lr) ** 2) / 2
    # 1 - (1 - lr)^2 loses 1/lr digits; so does the solve
    rounding = 100 * EPS / lr
    assert moments.expectation(squares["gradient"], rest) == pytest.approx(of_mean, rel=rounding)
    assert moments.expectation(squares["consensus"], rest) == pytest.approx(
        mode**2 + of_mode, rel=rounding
    )
    np.testing.assert_allclose(rest.mean, [2 + mode, 2 - mode], rtol=rounding)


def test_a_nilpotent_recursion_is_at_rest_after_n_steps():
    A = np.diag([1.0, 1.0, 1.0], k=1)
    rest = moments.limit(moments.Recursion(A, np.ones(4), np.eye(4)))
    np.testing.assert_array_equal(rest.cov, np.diag([4.0, 3.0, 2.0, 1.0]))
    np.testing.assert_array_equal(rest.mean, [4.0, 3.0, 2.0, 1.0])


def test_an_unstable_recursion_has_no_limit():
    problem, _, _ = draw(5)
    with pytest.raises(ValueError, match=r"spectral radius .* >= 1; lower lr"):
        moments.limit(moments.decentralized_sgd(problem, SKEW, 50.0))


def test_a_recursion_that_never_forgets_has_no_limit():
    with pytest.raises(ValueError, match="spectral radius 1 >= 1"):
        moments.limit(moments.Recursion(np.eye(2), np.zeros(2), np.eye(2)))


def test_local_step_then_mixing_is_the_order_MS():
    problem, _, _ = draw(6)
    both = moments.compose(moments.local_step(problem, 0.2), moments.mixing(SKEW, problem))
    for left, right in zip(both, moments.decentralized_sgd(problem, SKEW, 0.2), strict=True):
        np.testing.assert_array_equal(left, right)


def test_composition_applies_the_first_recursion_first():
    double = moments.Recursion(np.array([[2.0]]), np.array([0.0]), np.array([[0.0]]))
    shift = moments.Recursion(np.array([[1.0]]), np.array([1.0]), np.array([[3.0]]))
    then_double = moments.compose(shift, double)
    assert (then_double.a[0], then_double.Q[0, 0]) == (2.0, 12.0)
    then_shift = moments.compose(double, shift)
    assert (then_shift.a[0], then_shift.Q[0, 0]) == (1.0, 3.0)


@pytest.mark.parametrize("curved", [False, True])
def test_the_frozen_factor_problem_is_the_loop_over_factors(curved):
    rng = np.random.default_rng(7)
    N, d, k, r, s, lr = 3, 4, 5, 2, 0.5, 0.1
    A, D, B = rng.normal(size=(r, k)), rng.normal(size=(N, d, k)), rng.normal(size=(N, d, r))
    X = rng.normal(size=(N, k, 6))
    K = X @ np.swapaxes(X, -1, -2) if curved else np.broadcast_to(np.eye(k), (N, k, k))
    problem = moments.frozen_factor_problem(A, D, s=s, curvature=K if curved else None)
    found = moments.trajectory(problem, SKEW, lr, start=moments.stack_columns(B), steps=6)
    for t in range(6):
        Bbar = B.mean(0)
        weight = np.stack([(s * Bbar @ A - D[i]) @ K[i] for i in range(N)])
        factor = s * weight @ A.T
        mean = factor.mean(0)
        scale = 1e3 * EPS * max(1.0, np.abs(factor).max() ** 2)
        assert found.gradient[t] == pytest.approx((mean**2).sum(), abs=scale)
        assert found.consensus[t] == pytest.approx(((B - Bbar) ** 2).sum() / N, abs=scale)
        assert found.heterogeneity[t] == pytest.approx(((factor - mean) ** 2).sum() / N, abs=scale)
        np.testing.assert_allclose(moments.unstack_columns(found.mean[t], d), B, atol=scale)
        step = np.stack([s * (s * B[i] @ A - D[i]) @ K[i] @ A.T for i in range(N)])
        B = mean_over_agents(B - lr * step, SKEW)


def test_the_noise_of_the_frozen_factor_is_that_of_all_signs_of_the_weight_noise():
    rng = np.random.default_rng(8)
    d, k, r, s, tau = 2, 3, 2, 0.5, 0.7
    A, D = rng.normal(size=(r, k)), np.zeros((1, d, k))
    problem = moments.frozen_factor_problem(A, D, s=s, tau=tau)
    cloud = [
        moments.stack_columns(s * tau * np.reshape(signs, (d, k)) @ A.T)
        for signs in itertools.product([-1.0, 1.0], repeat=d * k)
    ]
    expected = np.cov(np.array(cloud).T, bias=True)
    np.testing.assert_allclose(problem.noise[0], expected, rtol=0, atol=100 * EPS)


def test_stacking_columns_goes_down_the_first_column_first():
    B = np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
    np.testing.assert_array_equal(moments.stack_columns(B), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(moments.unstack_columns(moments.stack_columns(B), 3), B)


@pytest.mark.parametrize(
    ("H", "b", "gap"),
    [
        ([2.0, 0.0], [2.0, 0.0], 1.0),  # flat without slope: F = (x - 1)^2 - 1 at x = 2
        ([2.0, 0.0], [2.0, 1.0], math.inf),  # flat with slope
        ([2.0, -1.0], [2.0, 0.0], math.inf),  # falls for ever
        ([2.0, 4.0], [2.0, 4.0], 1.0 + 2.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
    ],
)
def test_the_gap_is_infinite_exactly_where_F_is_unbounded_below(H, b, gap):
    problem = moments.quadratics(np.diag(H)[None], b=np.array([b]))
    state = moments.at(np.array([[2.0, 2.0]]))
    assert float(moments.expectation(moments.optimality_gap(problem), state)) == (
        pytest.approx(gap, rel=8 * EPS)
    )


def test_a_batch_of_problems_steps_and_graphs_is_its_singles():
    problem, _, x0 = draw(9, 3)
    lr = np.array([0.05, 0.1, 0.2])
    Pi = np.stack([SKEW, np.eye(3), np.full((3, 3), 1 / 3)])
    batch = moments.trajectory(problem, Pi, lr, start=x0, steps=4, order="CB")
    recursion = moments.decentralized_sgd(problem, Pi, lr)
    averages = moments.average(recursion, moments.at(x0), moments.quantities(problem), 5)
    for i in range(3):
        single = moments.Quadratics(*(x[i] for x in problem))
        alone = moments.trajectory(single, Pi[i], lr[i], start=x0[i], steps=4, order="CB")
        for whole, part in zip(batch, alone, strict=True):
            np.testing.assert_allclose(whole[i], part, rtol=1e3 * EPS, atol=1e3 * EPS)
        one = moments.decentralized_sgd(single, Pi[i], lr[i])
        mine = moments.average(one, moments.at(x0[i]), moments.quantities(single), 5)
        for name, value in mine.items():
            np.testing.assert_allclose(averages[name][i], value, rtol=1e3 * EPS)


def test_one_problem_may_meet_many_steps_and_graphs():
    problem, _, x0 = draw(10)
    lr = np.array([[0.05], [0.1]])
    Pi = np.stack([SKEW, np.eye(3), np.full((3, 3), 1 / 3)])
    for order in ("MS", "CB"):
        recursion = moments.decentralized_sgd(problem, Pi, lr, order=order)
        squares = moments.quantities(problem)
        averages = moments.average(recursion, moments.at(x0), squares, 5)
        one = moments.decentralized_sgd(problem, Pi[2], 0.1, order=order)
        mine = moments.average(one, moments.at(x0), squares, 5)
        for name, value in mine.items():
            assert averages[name].shape == (2, 3)
            np.testing.assert_allclose(averages[name][1, 2], value, rtol=1e3 * EPS)


def test_torch_tensors_give_what_arrays_give():
    problem, _, x0 = draw(11, 2)
    tensors = moments.Quadratics(*map(torch.as_tensor, problem))
    arrays = moments.trajectory(problem, SKEW, 0.1, start=x0, steps=4)
    other = moments.trajectory(tensors, SKEW, 0.1, start=torch.as_tensor(x0), steps=4)
    for left, right in zip(arrays, other, strict=True):
        assert isinstance(right, torch.Tensor)
        assert right.dtype == torch.float64
        np.testing.assert_allclose(left, right.numpy(), rtol=1e3 * EPS, atol=1e3 * EPS)
    recursion = moments.decentralized_sgd(tensors, SKEW, 0.1)
    rest = moments.limit(recursion)
    expected = moments.limit(moments.decentralized_sgd(problem, SKEW, 0.1))
    np.testing.assert_allclose(rest.cov.numpy(), expected.cov, rtol=1e5 * EPS)
    start = moments.consensus_start(tensors, torch.ones(2, 2, dtype=torch.float64))
    averages = moments.average(recursion, start, moments.quantities(tensors), 9)
    assert isinstance(averages["gradient"], torch.Tensor)


def test_a_consensus_start_puts_every_agent_at_the_point():
    problem, _, _ = draw(12)
    state = moments.consensus_start(problem, np.array([5.0, 7.0]))
    np.testing.assert_array_equal(state.mean, [5, 7, 5, 7, 5, 7])
    assert not state.cov.any()


@given(
    branch=st.sampled_from(["convex", "indefinite", "noiseless", "one agent"]),
    order=st.sampled_from(["MS", "CB"]),
    seed=st.integers(0, 2**32 - 1),
    p=st.integers(1, 3),
)
def test_renaming_agents_or_turning_coordinates_changes_no_quantity(branch, order, seed, p):
    event(branch)
    rng = np.random.default_rng(seed)
    N = 1 if branch == "one agent" else 4
    problem, _, x0 = draw(seed, N=N, p=p, indefinite=branch == "indefinite")
    if branch == "noiseless":
        problem = problem._replace(noise=0 * problem.noise)
    Pi = rng.random((N, N))
    P, Q = rng.permutation(N), np.linalg.qr(rng.normal(size=(p, p)))[0]
    turned = moments.Quadratics(
        (Q @ problem.H @ Q.T)[P], (problem.b @ Q.T)[P], (Q @ problem.noise @ Q.T)[P]
    )
    turned = turned._replace(H=symmetric(turned.H))
    before = moments.trajectory(problem, Pi, 0.1, start=x0, steps=3, order=order)
    after = moments.trajectory(
        turned, Pi[np.ix_(P, P)], 0.1, start=(x0 @ Q.T)[P], steps=3, order=order
    )
    names = ["gradient", "consensus", "heterogeneity"] + ["gap"] * (branch != "indefinite")
    for name in names:
        left, right = getattr(before, name), getattr(after, name)
        assert (left >= 0).all()
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e5 * EPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"H": np.ones((2, 2)), "b": np.ones(2)}, "H must be"),
        ({"H": np.ones((2, 1, 2)), "b": np.ones((2, 1))}, "H must be"),
        ({"H": np.ones((2, 1, 1), dtype=int), "b": np.ones((2, 1))}, "floating"),
        ({"H": np.ones((2, 1, 1))}, "exactly one of b and minimizers"),
        ({"H": np.ones((2, 1, 1)), "b": np.ones((2, 1)), "minimizers": np.ones((2, 1))}, "one of"),
        ({"H": np.triu(np.ones((2, 2, 2))), "b": np.ones((2, 2))}, "H must be symmetric"),
        ({"H": np.full((1, 1, 1), np.nan), "b": np.ones((1, 1))}, "H must be symmetric"),
        ({"H": np.ones((2, 1, 1)), "b": np.ones((3, 1))}, r"b must end in the axes \(2, 1\)"),
        (
            {"H": np.ones((2, 1, 1)), "b": np.ones((2, 1)), "noise": np.ones((2, 1))},
            "noise must end in",
        ),
    ],
)
def test_bad_problems_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        moments.quadratics(**arguments)


def test_minimizers_are_where_the_losses_have_no_slope():
    problem, _, x0 = draw(14, 2)
    same = moments.quadratics(problem.H, minimizers=x0, noise=problem.noise)
    slopes = np.einsum("...ab,...b->...a", same.H, x0) - same.b
    np.testing.assert_allclose(slopes, 0, atol=100 * EPS)
    np.testing.assert_array_equal(same.noise, problem.noise)


def test_an_unknown_order_and_an_empty_average_are_named():
    problem, _, x0 = draw(13)
    with pytest.raises(ValueError, match="order must be one of"):
        moments.decentralized_sgd(problem, SKEW, 0.1, order="SM")
    recursion = moments.decentralized_sgd(problem, SKEW, 0.1)
    with pytest.raises(ValueError, match="steps must be >= 1"):
        moments.average(recursion, moments.at(x0), moments.quantities(problem), 0)


def test_the_product_with_an_identity_may_be_rectangular():
    wide = moments.with_identity(np.array([[1.0, 2.0, 3.0]]), 2)
    np.testing.assert_array_equal(wide, [[1, 0, 2, 0, 3, 0], [0, 1, 0, 2, 0, 3]])


def test_a_step_at_random_is_the_mixture_of_its_outcomes():
    """Two steps of three outcomes each: the mean and covariance over all nine paths."""
    rng = np.random.default_rng(5)
    A, a, root = (rng.normal(size=(3, *shape)) for shape in ((2, 2), (2,), (2, 2)))
    outcomes = moments.Recursion(A, a, root @ root.mT)
    chances = np.array([0.5, 0.3, 0.2])
    start = moments.at(np.array([[1.0, -2.0]]))
    state = start
    for _ in range(2):
        state = moments.advance_at_random(outcomes, state, chances=chances)
    mean, square = np.zeros(2), np.zeros((2, 2))
    for path in itertools.product(range(3), repeat=2):
        after = start
        for i in path:
            after = moments.advance(moments.Recursion(*(X[i] for X in outcomes)), after)
        chance = np.prod(chances[list(path)])
        mean += chance * after.mean
        square += chance * (after.cov + np.outer(after.mean, after.mean))
    np.testing.assert_allclose(state.mean, mean, rtol=0, atol=1000 * EPS)
    np.testing.assert_allclose(state.cov, square - np.outer(mean, mean), rtol=0, atol=1000 * EPS)
