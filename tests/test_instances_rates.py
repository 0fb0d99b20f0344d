"""The quadratics, targets and turned runs on which claims are tried are what they say."""

import numpy as np
import pytest

from decaf_theory import bounds, moments
from decaf_theory.compare.path import TURNED, path_of, rate_rounding
from decaf_theory.lowrank import Factors
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config
from tests.claim_rows import exactly, invented
from tests.dense import PI, agents, balanced, mix, sharp, size, turned_onto
from verification.claim import Context
from verification.claims.rates import decaf_runs, mean_descent
from verification.instances import quadratics, targets
from verification.instances.consensus import spread_along

EPS = np.finfo(float).eps
CTX = Context("instances")
ROUNDING = 1e3 * EPS  # products and SVDs of fewer than ten numbers of size one


# ---------------------------------------------------------------- quadratics


@pytest.mark.parametrize("family", quadratics.FAMILIES)
def test_each_family_of_quadratics_is_what_it_is_called(family):
    n, N, p = 60, 5, 3
    H, b, noise, x0 = quadratics.draw(np.random.default_rng(0), family, n, N, p)
    assert np.all(H == H.mT)
    values = np.linalg.eigvalsh(H)
    size_of = np.abs(values).max(axis=(-2, -1))[:, None]
    mean = np.linalg.eigvalsh(H.mean(axis=1))
    if family in ("convex", "equal"):
        assert np.all(values.min(axis=-1) >= 1e-4 * size_of)
    if family == "equal":
        assert np.all(H == H[:, :1])
    if family in ("indefinite", "opposed"):
        assert np.all(values.min(axis=(-2, -1)) < 0)
        assert np.all(mean[:, 0] > 0)
    if family == "opposed":
        assert np.all(values[..., 0] == values[..., -1])
        assert np.all(np.sign(values[..., 0]) == [1, 1, 1, -1, -1])
    if family == "singular":
        assert np.all(values[..., :-1] <= 1e-12 * size_of[..., None])
        v = H / np.linalg.norm(H, axis=(-2, -1), keepdims=True)
        np.testing.assert_allclose((v @ b[..., None])[..., 0], b, atol=1e-12 * np.abs(b).max())
    ranks = np.linalg.matrix_rank(noise, hermitian=True, rtol=1e-9)
    none, alone = np.all(ranks == 0, axis=1), np.all(ranks == [1, 0, 0, 0, 0], axis=1)
    assert none.sum() == alone.sum() == n / 3
    assert np.all(ranks[~none & ~alone] == p)
    assert np.all(np.linalg.eigvalsh(noise) >= -1e-12 * np.abs(noise).max())
    curvatures = np.log10(size_of)
    assert curvatures.min() < -1
    assert curvatures.max() > 1
    assert np.std(np.log10(np.abs(x0))) > 1


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_cases_step_up_to_the_longest_allowed_and_long_ones_beyond(order):
    shares = []
    for case in quadratics.cases(CTX, order, 4):
        net = quadratics.network(case.Pi, order)
        u = case.lr * quadratics.constants(case).L
        shares.extend(u * max(1.0, net.q))
        assert np.all(np.isfinite(quadratics.constants(case).F_gap))
        assert case.params == {**case.params, "N": len(case.Pi), "p": case.problem.p}
    assert 1 / 30 <= min(shares) < 0.06
    assert 0.6 < max(shares) <= 1
    case = quadratics.long_steps(CTX, 8)
    u = case.lr * quadratics.constants(case).L
    assert 1 < u.min() < 1.2
    assert 1.8 < u.max() < 2
    assert np.all(u * quadratics.network(case.Pi, "MS").q < 1)


def test_the_constants_of_a_case_are_the_largest_of_any_agent_and_the_gap_of_the_mean():
    H, b = [[[2.0, 0], [0, -3.0]], [[4.0, 0], [0, 5.0]]], [[1.0, 0.0], [3.0, 2.0]]
    noise = [[[1.0, 0.5], [0.5, 2.0]], [[0.5, 0], [0, 0.25]]]
    stored = quadratics.stored(H, b, np.full((2, 2), 0.5), 0.1, [1.0, 2.0], noise)
    found = quadratics.constants(quadratics.load(stored))
    assert found.L == pytest.approx([5.0])
    assert found.sigma == pytest.approx([3**0.5])
    # Hbar = diag(3, 1), bbar = (2, 1): the minimizer (2/3, 1), at x0 = (1, 2) 3/2 (1/3)^2 + 1/2
    assert found.F_gap == pytest.approx([1 / 6 + 1 / 2])


@pytest.mark.parametrize("N", [1, 3])
def test_roundings_of_a_run_are_relative_to_the_largest_points_and_slopes(N):
    H, b = [[[2.0]], [[0.5]], [[1.0]]][:N], [[3.0], [0.0], [-1.0]][:N]
    stored = quadratics.stored(H, b, np.full((N, N), 1 / N), 0.1, [4.0])
    case = quadratics.load(stored)
    assert moments.expectation(quadratics.size(case.problem), case.start) == pytest.approx([16.0])
    found = quadratics.run(case, "MS", 5)
    # the points move towards 0 from 4
    assert found.slip_points == exactly([4 * N * 5 * 16 * EPS])
    assert found.slip_gradient == exactly([4 * found.slip_points[0] + 4 * N * 9 * EPS])
    spread = spread_along(case.problem, case.start, [case.recursion("MS")] * 5)
    assert spread.slip == exactly([4 * N * 5 * 16 * EPS])


def test_rounding_of_a_rate_is_that_of_one_more_error():
    eta = 4 * 7 * EPS * 3.0 / 0.25
    found = rate_rounding(9.0, 3.0, terms=7, lr=0.25)
    assert found == exactly(4 * eta * 3 + 2 * eta**2)


def test_noise_on_a_path_has_a_doubly_stochastic_matrix():
    case = quadratics.load(quadratics.noise_on_a_path())
    np.testing.assert_allclose(case.Pi.sum(axis=0), 1, rtol=4 * EPS)
    np.testing.assert_array_equal(case.Pi, case.Pi.T)
    assert np.all(case.problem.H == 0)
    assert np.all(case.problem.noise == 1)


# ---------------------------------------------------------------- targets


def test_a_setting_has_a_mean_of_its_rank_and_deviations_of_its_size_on_six_graphs():
    found = targets.setting(CTX, N=8, d=4, k=3, rank=2, kappa=0.7)
    assert np.max(np.abs(found.D.sum(axis=0))) <= 20 * EPS
    assert np.sum(found.D**2) / 8 == pytest.approx(0.49)
    assert np.linalg.matrix_rank(found.Wbar) == 2
    np.testing.assert_allclose(found.targets.mean(axis=0), found.Wbar, atol=20 * EPS)
    assert found.N == 8
    assert [name for name, _ in found.simulations(rank=2, lr=0.1, steps=1)] == list(found.names)
    B, A = targets.fitted(found.Wbar, 3, 0.5)
    np.testing.assert_allclose(0.5 * B @ A, found.Wbar, atol=ROUNDING)
    np.testing.assert_allclose(B.T @ B, A @ A.T, atol=ROUNDING)
    assert B.shape == (4, 3)


def test_the_gap_and_the_smoothness_of_targets_are_worked():
    problem = approximation(np.array([[[3.0]], [[1.0]]]))
    # F(W) = (W - 2)^2 / 2 + 1/2
    assert targets.loss_gap(problem, np.array([[[5.0]]])) == pytest.approx(4.5)
    # s (2 s c^2 + G), G = s c^2 + 3
    assert targets.smoothness(problem, 0.5, 2.0) == pytest.approx(0.5 * (4 + 2 + 3))
    common = targets.at_all_agents(CTX, Factors(np.ones((4, 2)), np.ones((2, 3))), 5)
    assert (common.B.shape, common.A.shape) == ((5, 4, 2), (5, 2, 3))


# ---------------------------------------------------------------- DeCAF turned onto DLoRA


def test_the_path_of_a_run_holds_what_is_measured_at_each_step_and_c_at_the_end_too():
    B, A = agents(4, 3, 2, top=1.5)
    W = 2 * np.random.default_rng(1).standard_normal((3, 4, 3))
    noise = np.random.default_rng(2).standard_normal((4, 2, 3, 4, 3))
    s, lr = 0.6, 0.1
    options = {"Pi": PI, "start": Factors(B, A), "s": s, "lr": lr, "steps": 4, "runs": 2}
    config = Config(problem=approximation(W), method=TURNED, noise=noise, **options)
    found = path_of(config)
    for run in range(2):
        own = (B, A)
        tops = []
        for t in range(4):
            B0, A0 = own
            tops.append(max(size(X, "op") for pair in own for X in pair))
            z = B0.mean(axis=0), A0.mean(axis=0)
            g = s * z[0] @ z[1] - W
            slopes = [(s * x @ z[1].T, s * z[0].T @ x) for x in g]
            common = [sum(x[i] for x in slopes) / 3 for i in (0, 1)]
            apart = [sum(size(x[i] - common[i]) ** 2 for i in (0, 1)) for x in slopes]
            spread = [np.sum((X - X.mean(axis=0)) ** 2) / 3 for X in own]
            g = s * B0 @ A0 - W + noise[t, run]
            moved = B0 - lr * s * g @ A0.mT, A0 - lr * s * B0.mT @ g
            mixed = [mix(*moved, row) for row in PI]
            means = [(Bbar, Abar) for _, Bbar, Abar in mixed]
            means = [np.stack(X) for X in zip(*means, strict=True)]
            turned = [
                turned_onto(balanced(M, 2), (means[0][i], means[1][i]))
                for i, (M, *_) in enumerate(mixed)
            ]
            own = tuple(np.stack(X) for X in zip(*turned, strict=True))
            e = [X - Y for X, Y in zip(own, means, strict=True)]
            expected = {
                "gradient": sum(size(x) ** 2 for x in common),
                "kappa": np.mean(apart) ** 0.5,
                "Xi": sum(spread),
                "ebar": np.hypot(*(size(x.mean(axis=0)) for x in e)),
                "apart": np.sqrt(sum(np.sum((x - x.mean(axis=0)) ** 2) for x in e)),
                "norm_B": max(size(X) for X in B0),
                "norm_A": max(size(X) for X in A0),
            }
            for name, value in expected.items():
                assert getattr(found, name)[t, run] == pytest.approx(value, rel=1e-9)
        tops.append(max(size(X, "op") for pair in own for X in pair))
        assert found.c[run] == pytest.approx(max(tops), rel=1e-12)


def test_the_certificate_puts_each_measured_letter_in_its_place(monkeypatch):
    path = invented(3, 5)
    monkeypatch.setattr(decaf_runs, "path_of", lambda config: path)
    (row,) = decaf_runs._all_noise_paths(CTX)
    s, tau, lr, T, N, d, k = 0.75, 0.4, 2.0**-3, 3, 2, 2, 1
    targets_of = np.array([[[1.0], [0.5]], [[0.5], [-0.5]]])
    c = path.c.max()
    L = s * (2 * s * c**2 + s * c**2 + max(size(W, "op") for W in targets_of))
    start = s * np.array([[0.49], [0.0]])
    gap = size(start - targets_of.mean(axis=0)) ** 2 / 2
    sigma = s**2 * tau**2 * (k * path.norm_B.max() ** 2 + d * path.norm_A.max() ** 2)
    noise, u, drift = sigma / N, lr * L, L * path.Xi.mean() ** 0.5
    error = (path.ebar**2).mean() ** 0.5 / lr
    cross = 2 * u * error * (np.hypot(drift, noise**0.5) - drift)
    bound = sharp(u, 2 * gap / (lr * T) + u * noise, drift, error, cross)
    assert row.bound == pytest.approx(bound, rel=1e-12)
    assert row.measured == pytest.approx(path.gradient.mean(), rel=1e-12)


def test_the_certificate_without_noise_takes_the_predictable_form_and_the_largest_spread(
    monkeypatch,
):
    path = invented(3, 1)
    monkeypatch.setattr(decaf_runs, "path_of", lambda config: path)
    rows = {(row.case, row.params["topology"]): row for row in decaf_runs._without_noise(CTX)}
    case = targets.setting(CTX)
    s, lr, T, N = 0.75, 2.0**-5, 200, 6
    (c,) = path.c
    L = s * (2 * s * c**2 + s * c**2 + max(size(W, "op") for W in case.targets))
    row = rows["mean gradient, no noise", "ring"]
    assert row.measured == pytest.approx(path.gradient.mean(), rel=1e-12)
    both = L * path.Xi.mean() ** 0.5 + (path.ebar**2).mean() ** 0.5 / lr
    gap = (row.bound - both**2) * lr * T / 2
    assert 0 < gap < size(case.Wbar) ** 2  # from a start near the mean target
    row = rows["largest Xi, no noise", "ring"]
    lam = bounds.sqrt_rho_ring(N=N)
    q = lam / (1 - lam)
    drift = lr * path.kappa.max() * q + path.apart.max() / (np.sqrt(N) * (1 - lam))
    assert row.measured == pytest.approx(path.Xi.max(), rel=1e-12)
    assert row.bound == pytest.approx((drift / (1 - lr * L * q)) ** 2, rel=1e-12)


def test_a_mean_gradient_that_rounding_leaves_below_zero_is_a_row(monkeypatch):
    below = {"gradient": np.array([-1e-40]), "Xi": np.array([-1e-40])}
    monkeypatch.setattr(moments, "average", lambda *_: below)
    row = mean_descent.replay_local_steps(mean_descent.local_descent())
    assert row.measured == exactly(-1e-40)
    assert row.rounding > 0
