"""Local steps: gradients clipped, noised, smoothed (LA-LoRA); the balanced flow (ODELoRA)."""

import numpy as np
import pytest
import torch

from decaf_theory.lowrank import Factors, balance, product
from decaf_theory.methods import METHODS, Clock, la_lora, odelora, private, smoothed
from decaf_theory.methods.flow import balanced_slope
from decaf_theory.methods.private import low_pass
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config, simulate

EPS = np.finfo(np.float64).eps
N, D, K, R = 3, 5, 4, 2
DLORA, LOCAL = METHODS["dlora"], METHODS["local"]


def factors(*leading, d=D, k=K, r=R, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((*leading, d, r)), rng.standard_normal((*leading, r, k)))


def direction(method, gradients, clock=Clock(), state=None):  # noqa: B008 (immutable)
    state = factors(N) if state is None else state
    return method.step(method.begin(state), gradients, clock).gradients


# ---------------------------------------------------------------- clip and noise


def norms(X):
    return np.linalg.norm(X, axis=(-2, -1))


def test_long_gradients_are_shortened_and_short_ones_left():
    gradients = factors(N, seed=1)
    limit = float(np.median(norms(gradients.B)))
    found = direction(private(DLORA, limit, 0.0), gradients)
    for X, Y in zip(found, gradients, strict=True):
        shorter = np.minimum(1, limit / norms(Y))[:, None, None]
        np.testing.assert_allclose(X, shorter * Y, rtol=10 * EPS)
    assert np.sum(norms(found.B) < norms(gradients.B)) == 1  # of three, the longest
    zero = gradients.map(lambda X: 0 * X)
    np.testing.assert_array_equal(direction(private(DLORA, 1.0, 0.0), zero).B, 0.0)


def test_the_noise_is_that_of_the_clip_over_the_batch_on_what_trains():
    start = factors(N, d=60, k=50, r=7)
    zero = start.map(lambda X: 0 * X)
    for name, trained in (("dlora", "BA"), ("dlora_fa", "B")):
        method = private(METHODS[name], 3.0, 0.5, batch=10)
        seen = [direction(method, zero, Clock(t, h, 2), start) for t in (0, 1) for h in (0, 1)]
        for part in trained:
            z = np.stack([getattr(found, part) for found in seen])
            # mean squares of normal numbers, within five standard deviations
            assert abs((z**2).mean() / 0.15**2 - 1) < 5 * np.sqrt(2 / z.size)
            each = z.reshape(len(seen) * N, -1)  # rounds, steps and agents draw apart
            cross = each @ each.T / 0.15**2 / each.shape[1]
            assert np.abs(cross - np.eye(len(each))).max() < 5 * np.sqrt(2 / each.shape[1])
        if trained == "B":
            np.testing.assert_array_equal(seen[0].A, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: private(DLORA, 0.0, 1.0), "clip must be > 0, got 0.0"),
        (lambda: private(DLORA, np.inf, 1.0), "sigma must be finite and >= 0, and 0 where clip"),
        (lambda: private(DLORA, 1.0, -1.0), "sigma must be finite and >= 0"),
        (lambda: private(DLORA, 1.0, 1.0, batch=0), "batch must be an integer >= 1, got 0"),
        (lambda: private(METHODS["centralized"], 1.0, 1.0), "of their own, centralized pools"),
        (lambda: private(METHODS["tad_lora"], 1.0, 1.0), r"so tad_lora.on\(Pi\)"),
        (lambda: smoothed(DLORA, -1.0), "amount must be finite and >= 0, got -1.0"),
        (lambda: odelora(METHODS["tad_lora"]), r"odelora needs a method on its graph"),
        (lambda: odelora(METHODS["dsgd"]), "that trains B and A, dsgd does not"),
        (lambda: odelora(METHODS["rolora"]), "that trains B and A, rolora does not"),
        (lambda: odelora(METHODS["la_lora"]), "that trains B and A, la_lora does not"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- smoothing


@pytest.mark.parametrize("shape", [(5, 4), (1, 6), (7, 1), (2, 2), (1, 1), (2, 3, 3, 8)])
@pytest.mark.parametrize("a", [0.0, 0.5, 20.0])
def test_the_low_pass_inverts_one_minus_the_laplacian(shape, a):
    g = np.random.default_rng(0).standard_normal(shape)
    x = low_pass(g, a)
    neighbours = sum(np.roll(x, by, axis) for by in (1, -1) for axis in (-2, -1))
    # transforms of 24 numbers at most, of a system with eigenvalues from 1 to 1 + 8 a
    slip = 20 * 24 * EPS * (1 + 8 * a) * np.abs(g).max()
    np.testing.assert_allclose(x - a * (neighbours - 4 * x), g, rtol=0, atol=slip)
    np.testing.assert_allclose(x.sum((-2, -1)), g.sum((-2, -1)), rtol=0, atol=24 * slip)
    np.testing.assert_allclose(low_pass(0 * g + 3.0, a), 3.0, rtol=0, atol=3 * 20 * 24 * EPS)
    assert np.all(norms(x) <= norms(g) * (1 + 24 * 20 * EPS))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_are_smoothed_alike(dtype):
    g = np.random.default_rng(0).standard_normal((3, 5, 4))
    found = low_pass(torch.tensor(g, dtype=dtype), 2.0)
    assert found.dtype == dtype
    slip = 20 * 20 * torch.finfo(dtype).eps * np.abs(g).max()
    np.testing.assert_allclose(found.double().numpy(), low_pass(g, 2.0), rtol=0, atol=slip)


# ---------------------------------------------------------------- LA-LoRA


def test_local_steps_train_the_factors_by_turns():
    method = METHODS["la_lora"]
    assert [method.trains(Clock(5, h, 4)) for h in range(4)] == [("A",), ("B",)] * 2
    gradients = factors(N, seed=1)
    quiet = la_lora(np.inf, 0.0, 0.0)
    B, _ = direction(quiet, gradients, Clock(0, 1, 2))
    _, A = direction(quiet, gradients, Clock(0, 0, 2))
    np.testing.assert_allclose(B, 2 * gradients.B, rtol=0, atol=100 * EPS)
    np.testing.assert_allclose(A, gradients.A, rtol=0, atol=100 * EPS)


def moved(method, clock):
    """Return W after one local step of size 1/8 along zero gradients, hence along noise alone."""
    state = factors(N)
    step = direction(method, state.map(lambda X: 0 * X), clock)
    trained = {n: getattr(state, n) - getattr(step, n) / 8 for n in method.trains(clock)}
    return product(state._replace(**trained))


def test_a_step_in_W_is_linear_in_the_noise_where_one_factor_stands_still():
    sigmas = (0.0, 1.0, 2.0)
    for step in (0, 1):
        none, one, two = (moved(la_lora(1.0, x, batch=1), Clock(3, step, 2)) for x in sigmas)
        assert np.abs(one - none).max() > 0.05
        # products of numbers below ten
        np.testing.assert_allclose(two - none, 2 * (one - none), rtol=0, atol=100 * 10 * EPS)
    both = [moved(smoothed(private(DLORA, 1.0, x), 1.0), Clock(3)) for x in sigmas]
    assert np.abs(both[2] - both[0] - 2 * (both[1] - both[0])).max() > 0.01


def test_smoothing_takes_noise_away_and_leaves_its_mean():
    gradients = factors(N, d=40, k=30, r=8).map(lambda X: 0 * X)
    start = factors(N, d=40, k=30, r=8)
    rough, smooth = (
        direction(la_lora(1.0, 1.0, a), gradients, Clock(0, 1, 2), start).B for a in (0.0, 1.0)
    )
    np.testing.assert_allclose(smooth.sum((1, 2)), rough.sum((1, 2)), rtol=0, atol=1e4 * EPS)
    # the mean square gain of 1 / (1 - Lap), over the 320 frequencies
    waves = [2 - 2 * np.cos(2 * np.pi * np.arange(n) / n) for n in (40, 8)]
    gain = np.mean(1 / (1 + waves[0][:, None] + waves[1]) ** 2)
    share = (smooth**2).sum() / (rough**2).sum()
    assert abs(share / gain - 1) < 0.3  # 960 numbers, of which the low frequencies count most


# ---------------------------------------------------------------- ODELoRA


def turned(pair, seed=0):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((pair.rank, pair.rank)))[0]
    return Factors(pair.B @ Q, Q.T @ pair.A)


def by_least_squares(pair, G):
    """Return the shortest (dB, dA) nearest to G among those tangent to B'B = AA', by matrices."""
    (B, A), r = pair, pair.rank
    units = np.eye(B.size + A.size)
    moves = [(e[: B.size].reshape(B.shape), e[B.size :].reshape(A.shape)) for e in units]
    tilt = np.stack([(B.T @ x + x.T @ B - y @ A.T - A @ y.T).ravel() for x, y in moves], axis=1)
    effect = np.stack([(x @ A + B @ y).ravel() for x, y in moves], axis=1)
    _, S, Vh = np.linalg.svd(tilt)
    normal = r * (r + 1) // 2
    assert S[normal - 1] > 1e-6 * S[0] > 1e6 * EPS * S[0]
    tangent = Vh[normal:].T
    # rotations, r (r - 1)/2 of them, have no effect
    found = tangent @ np.linalg.lstsq(effect @ tangent, G.ravel(), rcond=1e-9)[0]
    return Factors(found[: B.size].reshape(B.shape), found[B.size :].reshape(A.shape))


@pytest.mark.parametrize(("d", "k", "r"), [(5, 4, 2), (3, 6, 1), (4, 4, 4), (6, 5, 3), (1, 1, 1)])
def test_the_closed_form_is_the_solution_by_least_squares(d, k, r):
    pair = turned(balance(factors(d=d, k=k, r=r)))
    S = np.linalg.svd(product(pair), compute_uv=False)
    G = np.random.default_rng(1).standard_normal((d, k))
    found = balanced_slope(pair, Factors(G @ pair.A.T, pair.B.T @ G))
    expected = by_least_squares(pair, G)
    # both systems have the condition sigma_1 / sigma_r, and the first that of its square roots
    slip = 1000 * EPS * S[0] / S[r - 1] * np.linalg.norm(G) / np.sqrt(S[r - 1])
    for X, Y in zip(found, expected, strict=True):
        np.testing.assert_allclose(X, Y, rtol=0, atol=slip)
    if min(d, k) > r:
        left = found.B @ pair.A + pair.B @ found.A - G
        assert np.abs(left).max() > 0.1  # not all of G can be followed


def test_the_field_turns_with_the_gauge_and_a_batch_is_its_singles():
    pair, gradients = factors(2, N), factors(2, N, seed=1)
    found = balanced_slope(pair, gradients)
    one = balanced_slope(*(x.map(lambda X: X[1, 2]) for x in (pair, gradients)))
    for X, Y in zip(found, one, strict=True):
        np.testing.assert_allclose(X[1, 2], Y, rtol=0, atol=1000 * EPS * np.abs(Y).max())
    again = balanced_slope(turned(pair), turned(gradients))
    for X, Y in zip(again, turned(found), strict=True):
        np.testing.assert_allclose(X, Y, rtol=0, atol=1e4 * EPS * np.abs(Y).max())
    tensors = balanced_slope(pair.map(torch.tensor), gradients.map(torch.tensor))
    for X, Y in zip(tensors, found, strict=True):
        np.testing.assert_allclose(X.numpy(), Y, rtol=0, atol=1000 * EPS * np.abs(Y).max())


def test_the_start_of_lora_dead_directions_and_numbers_that_are_not_finite():
    B, A = factors()
    G = np.random.default_rng(1).standard_normal((D, K))
    found = balanced_slope(Factors(0 * B, A), Factors(G @ A.T, 0 * A))
    expected = 2 * G @ A.T @ np.linalg.inv(A @ A.T)
    np.testing.assert_allclose(found.B, expected, rtol=0, atol=1e4 * EPS)
    np.testing.assert_array_equal(found.A, 0.0)
    one = balance(factors(r=1))
    dead = Factors(np.pad(one.B, ((0, 0), (0, 1))), np.pad(one.A, ((0, 1), (0, 0))))
    slope = balanced_slope(dead, Factors(G @ dead.A.T, dead.B.T @ G))
    alone = balanced_slope(one, Factors(G @ one.A.T, one.B.T @ G))
    np.testing.assert_array_equal(slope.B[:, 1], 0.0)
    np.testing.assert_allclose(slope.B[:, :1], alone.B, rtol=0, atol=1000 * EPS)
    for worst in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):
            found = balanced_slope(Factors(worst * B, A), Factors(G @ A.T, worst * A))
        assert not np.all(np.isfinite(found.A))


def flow(method, *, lr, steps, start, target, K=1):
    config = Config(
        problem=approximation(target[None]),
        method=method,
        start=start.map(lambda X: X[None]),
        lr=lr,
        steps=steps,
        local_steps=K,
        record=["loss"],
    )
    return simulate(config).require_finished()


EULER, RUNGE_KUTTA = odelora(LOCAL), odelora(LOCAL, runge_kutta=True)
TARGET = np.random.default_rng(3).standard_normal((D, K))


def test_four_local_steps_are_one_runge_kutta_step():
    x, h = balance(factors()), 0.25

    def slope(B, A):
        G = B @ A - TARGET
        return balanced_slope(Factors(B, A), Factors(G @ A.T, B.T @ G))

    def ahead(k, by):
        return x.map(lambda X, K: X - by * h * K, k)

    for _ in range(2):
        k1 = slope(*x)
        k2 = slope(*ahead(k1, 0.5))
        k3 = slope(*ahead(k2, 0.5))
        k4 = slope(*ahead(k3, 1.0))
        x = x.map(lambda X, a, b, c, d: X - h / 6 * (a + 2 * b + 2 * c + d), k1, k2, k3, k4)
    found = flow(RUNGE_KUTTA, lr=h, steps=1, start=balance(factors()), target=TARGET, K=8)
    for X, Y in zip(found.final, x, strict=True):
        np.testing.assert_allclose(X[0, 0], Y, rtol=0, atol=8 * 100 * EPS * np.abs(Y).max())
    with pytest.raises(ValueError, match=r"rounds of 4, 8, ... local steps, got 3"):
        flow(RUNGE_KUTTA, lr=h, steps=1, start=balance(factors()), target=TARGET, K=3)


@pytest.mark.parametrize(
    ("method", "order", "steps"), [(EULER, 1, (64, 128, 256)), (RUNGE_KUTTA, 4, (16, 32, 64))]
)
def test_balance_is_kept_to_the_order_of_the_integrator(method, order, steps):
    K = 1 if order == 1 else 4
    start = balance(factors(seed=2))
    lost = []
    for n in steps:
        B, A = flow(method, lr=1 / n, steps=n, start=start, target=TARGET, K=K).final
        lost.append(np.linalg.norm(B.mT @ B - A @ A.mT))
    coarse, fine = np.log2(lost[0] / lost[1]), np.log2(lost[1] / lost[2])
    # slopes are p + O(h), of which Richardson's step leaves O(h^2); orders are whole numbers
    assert abs(2 * fine - coarse - order) < 0.1
    assert lost[2] > 1e4 * EPS  # so that it is the integrator that is measured


def test_convergence_is_linear_and_does_not_see_the_condition_of_the_target():
    rng = np.random.default_rng(2)
    U, V = (np.linalg.qr(rng.standard_normal((n, R)))[0] for n in (D, K))
    sizes = np.array([1.0, 0.01])
    near = Factors(
        U * sizes + 0.003 * rng.standard_normal((D, R)),
        V.T + 0.1 * rng.standard_normal((R, K)),
    )
    settings = {"lr": 0.5, "steps": 20, "start": balance(near), "target": (U * sizes) @ V.T}
    loss = flow(EULER, **settings).loss[0]
    # the flow of |W - T|^2 / 2 at a T of rank r is W - T itself: (1 - lr)^2 a step, near T
    assert np.all(loss[1:] <= 0.3 * loss[:-1])
    assert abs(loss[20] / loss[19] - 0.25) < 0.01
    plain = flow(LOCAL, **settings).loss[0]
    assert plain[20] > 0.97 * plain[19]


def test_mixing_products_keeps_balance_and_mixing_factors_does_not():
    start = factors(N)
    balanced = balance(start)
    weights = np.full((N, N), 1 / N)
    for name, kept in (("odelora", True), ("dlora", False)):
        B, A = METHODS[name].mix(balanced, weights)
        off = np.abs(B.mT @ B - A @ A.mT).max()
        assert (off <= 100 * EPS * np.abs(B).max() ** 2) == kept
