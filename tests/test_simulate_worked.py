"""The loop on runs known by hand: W2, P1, P6, P12, dead starts, exact means."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from decaf_theory import moments
from decaf_theory.lowrank import Factors, product
from decaf_theory.problems import PROBLEMS, approximation
from decaf_theory.simulate import Config, DeadStartWarning, simulate
from decaf_theory.topology import TOPOLOGIES

EPS = np.finfo(np.float64).eps


def points(trace):
    """Return the final products, [runs, N, d, k]; of problems with W0 = 0 and s = 1."""
    return product(trace.final)


def test_worked_example_W2_to_the_last_bit():
    problem = PROBLEMS["P7"](w=1.0, N=2)
    start = Factors(np.array([1.0, 0.5]).reshape(2, 1, 1), np.array([1.0, 2.0]).reshape(2, 1, 1))
    config = Config(
        problem=problem,
        method="dlora",
        Pi=np.full((2, 2), 0.5),
        lr=1 / 4,
        steps=1,
        order="mix_first",
        start=start,
    )
    # by hand: the mix is (3/2)(3/4); one step of (a, b) along (b, a)(ab - 1), alpha = 1/4
    a, b = Fraction(3, 2), Fraction(3, 4)
    slope = Fraction(1, 4) * (a * b - 1)
    after = (a - slope * b) * (b - slope * a)
    assert (a * b, after) == (Fraction(9, 8), Fraction(8505, 8192))
    trace = simulate(config)
    np.testing.assert_array_equal(points(trace), float(after))
    exact = [float((x - 1) ** 2 / 2) for x in (a * b, after)]
    np.testing.assert_array_equal(trace.loss[0], exact)
    assert trace.interference[0, 0] == pytest.approx(1 / 8, rel=4 * EPS)
    assert trace.interference[0, 1] == 0
    still = simulate(replace(config, method="decaf"))
    np.testing.assert_allclose(points(still), 1.0, rtol=4 * EPS)
    assert np.all(still.loss <= (4 * EPS) ** 2)


@pytest.mark.parametrize("N", [2, 3])
@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_P1_stops_dlora_at_the_first_mix_and_not_decaf(N, tau):
    problem = PROBLEMS["P1"](N=N, tau=tau)
    config = Config(problem=problem, method="dlora", lr=0.2, steps=100, order="mix_first")
    stuck = simulate(config)
    target = -problem.grad(problem.W0[None])[0]
    half = np.sum(target**2) / 2
    # N = 3: cosines of 120 degrees sum to zero up to rounding, which grows by (1 + lr |W*|) a step
    if N == 2:
        np.testing.assert_array_equal(stuck.loss, half)
        np.testing.assert_array_equal(stuck.adapter_norm, 0.0)
    np.testing.assert_allclose(stuck.loss[:, 0], half, rtol=20 * EPS)
    assert stuck.gradient[0, 0] == pytest.approx(2 * half, rel=20 * EPS)
    if tau == 0:
        assert simulate(replace(config, method="decaf")).loss[0, -1] <= 1e-12 * half


@pytest.mark.parametrize("w", [0.6, 0.8])
@pytest.mark.parametrize("share", [0.95, 1.05])
def test_P6_decaf_collapses_up_to_the_threshold_and_not_beyond(w, share):
    threshold = w**-0.5 - 1
    lr, steps = share * threshold, 800
    problem = PROBLEMS["P6"](w=w)
    run = Config(problem=problem, lr=lr, steps=steps, order="mix_first", record_every=steps)
    trace = simulate(run)
    p = w
    for _ in range(steps):
        p = w * p * (1 + lr * (1 - p)) ** 2
    # a few roundings a round, which the attracting recursion does not amplify by more than rounds
    assert trace.adapter_norm[0, -1] == pytest.approx(p, rel=20 * steps * EPS)
    assert trace.loss[0, -1] == pytest.approx(0.5 - p / 2 + p**2 / 4, rel=20 * steps * EPS)
    if share < 1:  # below the rate of the linear recursion
        assert trace.adapter_norm[0, -1] < w * (w * (1 + lr) ** 2) ** steps * (1 + 1e-9)
    else:  # within a thousandth of the other fixed point
        assert trace.adapter_norm[0, -1] == pytest.approx(1 - threshold / lr, rel=1e-3)


@pytest.mark.parametrize("method", ["decaf", "dlora"])
def test_P6_a_tilt_of_the_start_ends_near_the_best_rank_one_loss(method):
    problem = PROBLEMS["P6"]()
    tilt = Factors(problem.start.B + 1e-12, problem.start.A)
    excess = []
    for lr in (0.1, 0.05):
        steps = round(30 / lr)
        config = Config(problem=problem, method=method, start=tilt, lr=lr, steps=steps)
        trace = simulate(replace(config, order="mix_first", record_every=steps))
        # agents differ, so the mean has rank two and may lie below the best of rank one
        excess.append(abs(trace.loss[0, -1] - 3 / 8))
    assert excess[0] < 1e-4
    assert excess[0] / excess[1] == pytest.approx(4, rel=0.1)  # second order in lr


def test_a_dead_start_stays_exactly_zero_and_the_two_ways_out_of_it_do_not():
    problem = PROBLEMS["P3"](tau=0.2)
    run = {"problem": problem, "Pi": TOPOLOGIES["ring"](4), "rank": 2, "lr": 0.1, "steps": 50}
    with pytest.warns(DeadStartWarning, match="zero forever"):
        dead = Config(order="mix_first", **run)
    trace = simulate(dead)
    for X in trace.final:
        np.testing.assert_array_equal(X, 0.0)
    np.testing.assert_array_equal(trace.loss, trace.loss[0, 0])
    np.testing.assert_array_equal(trace.numerical_rank, 0)
    assert trace.gradient[0, -1] > 0.1  # dead, not converged
    for alive in (Config(**run), Config(order="mix_first", zero_directions="keep", **run)):
        assert simulate(alive).loss[0, -1] < 0.9 * trace.loss[0, 0]


def test_dead_starts_are_warned_of_where_they_are_dead_and_only_there():
    problem, Pi = PROBLEMS["P2"](d=3, k=4), TOPOLOGIES["path"](4)
    rng = np.random.default_rng(0)
    B, A = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 2, 4))
    zero_A = Factors(B, 0 * A)
    one_alive = Factors(np.concatenate([B[:1], 0 * B[1:]]), A)
    run = {"problem": problem, "Pi": Pi, "lr": 0.1, "steps": 1, "order": "mix_first"}
    with pytest.warns(DeadStartWarning):
        Config(start=zero_A, **run)
    with pytest.warns(DeadStartWarning):
        Config(start=zero_A, zero_directions="keep", **run)
    Config(start=one_alive, **run)
    Config(start=Factors(0 * B, A), zero_directions="keep", **run)
    Config(method="dlora", start=Factors(0 * B, A), **run)


def test_P12_traps_decaf_at_rank_one_unless_directions_are_kept():
    run = {"problem": PROBLEMS["P12"](), "Pi": np.full((2, 2), 0.5), "lr": 0.2, "steps": 300}
    trapped = simulate(Config(**run))
    np.testing.assert_array_equal(trapped.numerical_rank[0, 1:], 1)
    assert trapped.loss[0, -1] == pytest.approx(1 / 4, rel=20 * EPS)
    for method, rule in (("decaf", "keep"), ("dlora", "drop")):
        free = simulate(Config(method=method, zero_directions=rule, **run))
        assert free.numerical_rank[0, -1] == 2
        assert free.loss[0, -1] < 1e-6


@pytest.mark.parametrize(("order", "label"), [("step_first", "MS"), ("combine", "CB")])
def test_without_noise_dsgd_follows_the_exact_mean_of_the_moments(order, label):
    rng = np.random.default_rng(0)
    x_star = rng.standard_normal((3, 1))
    Pi = TOPOLOGIES["path"](3)
    problem = approximation(x_star[..., None])
    trace = simulate(Config(problem=problem, method="dsgd", Pi=Pi, lr=0.25, steps=6, order=order))
    family = moments.quadratics(np.ones((3, 1, 1)), minimizers=x_star)
    start = np.zeros((3, 1))
    exact = moments.trajectory(family, Pi, 0.25, start=start, steps=7, order=label)
    np.testing.assert_allclose(trace.gradient[0], exact.gradient, atol=100 * EPS)
    np.testing.assert_allclose(trace.consensus_products[0], exact.consensus, atol=100 * EPS)
    np.testing.assert_allclose(points(trace)[-1, :, 0, 0], exact.mean[-1, :, 0], atol=100 * EPS)


@pytest.mark.parametrize("method", ["dlora", "decaf", "dsgd"])
def test_a_base_moves_the_targets_and_nothing_else(method):
    rng = np.random.default_rng(0)
    base, targets = rng.standard_normal((4, 3)), rng.standard_normal((4, 4, 3))
    moved = replace(approximation(targets + base), W0=base)
    run = {"Pi": TOPOLOGIES["ring"](4), "method": method, "rank": 2, "lr": 0.2, "steps": 6}
    plain, based = (
        simulate(Config(problem=problem, **run)) for problem in (approximation(targets), moved)
    )
    # six contractions of numbers of size one
    np.testing.assert_allclose(product(based.final), product(plain.final), atol=1e3 * EPS)
    for name in ("loss", "agent_loss", "gradient", "adapter_norm"):
        np.testing.assert_allclose(
            getattr(based, name), getattr(plain, name), rtol=1e4 * EPS, atol=1e3 * EPS
        )


@pytest.mark.parametrize("order", ["step_first", "combine"])
def test_round_t_mixes_on_the_graph_of_round_t(order):
    targets = np.random.default_rng(0).standard_normal((4, 3, 2))
    graphs = [TOPOLOGIES[name](4) for name in ("ring", "star", "path")]
    W = np.zeros((4, 3, 2))
    for t in range(5):
        Pi, step = graphs[t % 3], 0.3 * (W - targets)
        mixed = np.tensordot(Pi, W if order == "combine" else W - step, axes=1)
        W = mixed - step if order == "combine" else mixed
    run = {"method": "dsgd", "order": order, "lr": 0.3, "steps": 5}
    config = Config(problem=approximation(targets), Pi=lambda t: graphs[t % 3], **run)
    np.testing.assert_allclose(simulate(config).final.B[0], W, rtol=0, atol=100 * EPS)
