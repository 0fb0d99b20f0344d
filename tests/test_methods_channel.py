"""Messages on their way: differences, noise and stragglers; AirFedAvg and SALF; their draws."""

from dataclasses import replace
from fractions import Fraction
from itertools import product as cartesian

import numpy as np
import pytest
import torch

from decaf_theory.lowrank import Factors
from decaf_theory.methods import (
    METHODS,
    Clock,
    air_fedavg,
    channel,
    choco,
    differences,
    heavy_ball,
    noisy,
    private,
    salf,
    smoothed,
    stragglers,
)
from decaf_theory.methods.draws import agents_of, arrivals, normals, numbered
from decaf_theory.moments import Recursion, limit
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config, simulate
from decaf_theory.stats import mean_interval
from decaf_theory.topology import TOPOLOGIES
from tests import exact_methods as exact

EPS = np.finfo(np.float64).eps
N, D, K, R = 4, 5, 3, 2
RING = TOPOLOGIES["ring"](N)
PROBLEM = approximation(np.random.default_rng(5).standard_normal((N, D, K)))
FEDAVG, DLORA = METHODS["fedavg"], METHODS["dlora"]
SERVED = replace(METHODS["dsgd"], meets="server")


def factors(*leading, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(
        rng.standard_normal((*leading, N, D, R)), rng.standard_normal((*leading, N, R, K))
    )


def run(method, **changes):
    start = factors().map(lambda X: np.stack([X[0]] * N))
    settings = {"start": start, "lr": 0.05, "steps": 6, "local_steps": 2, "Pi": RING, **changes}
    return simulate(Config(problem=PROBLEM, method=method, **settings)).require_finished()


# ---------------------------------------------------------------- identities

# each wrapper at its neutral parameter, methods that it must take, and some that it must refuse
NEUTRAL = {
    "differences": (
        differences,
        {"fedavg", "ffa_lora", "fedsa_lora", "rolora"},
        {"dlora", "fedrot"},
    ),
    "noisy": (lambda m: noisy(m, 0.0), {"dlora", "dlora_fa", "fedavg", "dsgd"}, {"decaf", "choco"}),
    "stragglers": (lambda m: stragglers(m, 0.0), {"fedavg", "rolora"}, {"dlora", "flexlora"}),
    "private": (lambda m: private(m, np.inf, 0.0), {"dlora", "decaf", "choco"}, {"centralized"}),
    "smoothed": (lambda m: smoothed(m, 0.0), {"dlora", "decaf", "centralized"}, {"tad_lora"}),
}


def refusal(wrap, method):
    """Return the words of the error, None where there is none."""
    try:
        wrap(method)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("wrapper", NEUTRAL)
@pytest.mark.parametrize("name", METHODS)
def test_a_neutral_wrapper_changes_nothing_or_refuses_by_name(wrapper, name):
    wrap, takes, refuses = NEUTRAL[wrapper]
    method = METHODS[name]
    words = refusal(wrap, method)
    if words is not None:
        assert wrapper in words
        assert name in words
        assert name not in takes
        return
    assert name not in refuses
    assert wrap(method).name == f"{wrapper} {name}"
    found, expected = run(wrap(method)), run(method)
    np.testing.assert_array_equal(found.comm_bytes, expected.comm_bytes)
    for X, Y in zip(found.final, expected.final, strict=True):
        # six rounds of sums of four terms, two transforms of 15 numbers, amplified by few steps
        np.testing.assert_allclose(X, Y, rtol=0, atol=6 * 500 * EPS * np.abs(Y).max())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noisy(DLORA, -1.0), r"sigma must be in \[0, inf\), got -1.0"),
        (lambda: noisy(METHODS["tad_lora"], 0.1), r"on its graph, so tad_lora.on\(Pi\)"),
        (lambda: noisy(DLORA, 0.1, power_control=True), "only a server hears all agents at once"),
        (
            lambda: noisy(METHODS["decaf"], 0.1),
            "mean of the factors it sends, which decaf's is not",
        ),
        (lambda: stragglers(FEDAVG, 1.0), r"p_drop must be in \[0, 1\), got 1.0"),
        (lambda: stragglers(DLORA, 0.1), "needs a method of a server, got dlora; on a graph leave"),
        (
            lambda: stragglers(differences(FEDAVG), 0.1),
            "keeps 'anchor', and so does differences fedavg",
        ),
        (lambda: noisy(METHODS["local"], 0.1), "that mixes, local receives nothing"),
        (lambda: noisy(METHODS["centralized"], 0.1), "that mixes, centralized receives nothing"),
        (lambda: noisy("dlora", 0.1), r"noisy needs a Method, got 'dlora'; METHODS\['dlora'\]"),
        (lambda: differences(DLORA), "got dlora; choco sends differences on a graph"),
        (lambda: differences(METHODS["fedrot"]), "which fedrot's is not"),
        (lambda: air_fedavg("gradient"), "the difference over lr, a factor that power control"),
        (lambda: salf(-0.1), r"p_drop must be in \[0, 1\), got -0.1"),
    ],
)
def test_what_a_channel_cannot_do_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_anchor_is_the_last_mix_and_the_first_message_is_whole():
    method = differences(heavy_ball(FEDAVG, 0.5))
    state = method.begin(factors())
    assert {*state.memory} == {"momentum", "anchor"}
    for X, Y in zip(method.send(state, Clock()).values(), state.factors, strict=True):
        np.testing.assert_array_equal(X, Y)
    mixed = method.exchange(state, method.weights(None, N, Clock()), Clock()).state
    for X, Y in zip(mixed.memory["anchor"], mixed.factors, strict=True):
        np.testing.assert_array_equal(X, Y)
    moved = mixed._replace(factors=mixed.factors.map(lambda X: X + 0.25))
    for X in method.send(moved, Clock(1)).values():
        np.testing.assert_allclose(X, 0.25, rtol=0, atol=4 * EPS * np.abs(factors().B).max())
    assert choco(1.0, 1.0).meets == "graph"  # the same, where agents do not share an anchor


# ---------------------------------------------------------------- noise


def test_deviations_are_linear_in_the_noise_path_by_path():
    """On quadratics; so the floor, a mean square, is linear in the variance of the noise."""
    runs = {sigma: run(noisy(METHODS["dsgd"], sigma), steps=9).final.B for sigma in (0, 0.5, 1)}
    one, two = runs[0.5] - runs[0], runs[1] - runs[0]
    assert np.abs(one).max() > 0.1
    # nine rounds of ten sums of numbers below ten
    np.testing.assert_allclose(two, 2 * one, rtol=0, atol=9 * 10 * 10 * EPS)


def at_rest(method, lr, *, targets=(2.0, 4.0), runs=1500):
    """Return the squared distances from the optimum 3 after 20/lr rounds, one for each run."""
    problem = approximation(np.array(targets)[:, None, None])
    start = Factors(np.full((len(targets), 1, 1), 3.0), np.ones((len(targets), 1, 1)))
    config = Config(
        problem=problem,
        method=method,
        start=start,
        lr=lr,
        steps=int(20 / lr),
        runs=runs,
        record_every=10**6,
        record=(),
    )
    final = simulate(config).require_finished().final.B[:, :, 0, 0]
    assert np.ptp(final, axis=1).max() == 0
    return (final[:, 0] - 3) ** 2


def floor(lr, variance, mean_square=0.0):
    """Return E x^2 at rest of x+ = (1 - lr) x + z, E z^2 = variance + mean_square x^2."""
    shrink = np.sqrt((1 - lr) ** 2 + mean_square)
    return float(
        limit(Recursion(np.array([[shrink]]), np.zeros(1), np.array([[variance]]))).cov[0, 0]
    )


LEVEL = 1 - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.5, 0.125])
def test_the_floor_of_plain_noise_is_that_of_the_exact_moments(lr):
    sigma = 0.1
    _, low, high = mean_interval(at_rest(noisy(SERVED, sigma), lr), LEVEL)
    assert low <= floor(lr, sigma**2) <= high
    assert high - low < 0.5 * floor(lr, sigma**2)
    # differences in place of models change no path
    same = at_rest(noisy(differences(SERVED), sigma), lr, runs=20)
    plain = at_rest(noisy(SERVED, sigma), lr, runs=20)
    np.testing.assert_allclose(np.sqrt(same), np.sqrt(plain), rtol=0, atol=20 / lr * 20 * EPS)


@pytest.mark.slow
def test_under_power_control_the_floor_of_differences_falls_with_lr_and_that_of_models_grows():
    sigma, found = 0.1, {}
    for lr in (0.5, 0.125):
        model = noisy(SERVED, sigma, power_control=True)
        found[lr] = mean_interval(at_rest(model, lr), LEVEL)
        # a model's size is at least that of the mean, E m^2 >= 9, and m below 4 + |x|
        assert found[lr].high >= floor(lr, 9 * sigma**2)
        assert found[lr].low <= floor(lr, 32 * sigma**2, 2 * sigma**2)
    assert found[0.125].low > found[0.5].high
    for lr in (0.5, 0.125):
        sent = noisy(differences(SERVED), sigma, power_control=True)
        found[lr] = mean_interval(at_rest(sent, lr), LEVEL)
        # the largest of |x - 3 -+ 1| lr: at least lr, and its square at most 2 lr^2 (1 + x^2)
        assert found[lr].high >= floor(lr, (lr * sigma) ** 2)
        assert found[lr].low <= floor(lr, 2 * (lr * sigma) ** 2, 2 * (lr * sigma) ** 2)
    assert found[0.125].high < found[0.5].low


def test_power_is_that_of_the_loudest_message():
    state = factors(2)
    method = noisy(FEDAVG, 0.5, power_control=True, seed=3)
    weights = method.weights(None, N, Clock(7))
    moved, exactly = (
        m.exchange(m.begin(state), weights, Clock(7)).state.factors for m in (method, FEDAVG)
    )
    drawn = normals(state, ("B", "A"), [0], 3, "channel", 7)
    for name, X in state._asdict().items():
        loudest = np.sqrt((X**2).mean(axis=(-2, -1))).max(axis=-1)[:, None, None, None]
        z = getattr(moved, name) - getattr(exactly, name)
        expected = np.broadcast_to(0.5 * loudest * drawn[name], z.shape)
        np.testing.assert_allclose(z, expected, rtol=0, atol=50 * EPS * np.abs(X).max())


def test_a_rank_of_a_graph_receives_its_own_noise():
    method, clock = noisy(DLORA, 0.5), Clock(3)
    state = method.begin(factors())
    every = method.exchange(state, RING, clock).state.factors
    quiet = DLORA.exchange(DLORA.begin(factors()), RING, clock).state.factors
    noise = every.B - quiet.B
    assert np.abs(noise[0] - noise[1]).max() > 0.1
    message = method.send(state, clock)
    for agent in range(N):
        near = np.flatnonzero(RING[agent])
        heard = {name: X[near] for name, X in message.items()}
        own = method.receive(state.take([agent]), heard, RING[None, agent, near], clock)
        for X, Y in zip(own.state.factors, every, strict=True):
            np.testing.assert_allclose(X[0], Y[agent], rtol=0, atol=20 * EPS * np.abs(Y).max())


# ---------------------------------------------------------------- stragglers

SUBSETS = list(cartesian([0, 1], repeat=3))


def test_what_the_server_makes_of_those_that_arrive_is_unbiased(monkeypatch):
    p_drop = Fraction(1, 4)
    X, old = [exact.integers([[x, 1 - x]]) for x in (1, -5, 7)], [exact.integers([[3, 11]])] * 3
    mean = exact.mix(X, exact.SERVER)[0]
    total, wrong = exact.scaled(mean, 0), exact.scaled(mean, 0)
    for came in SUBSETS:
        chance = Fraction(1)
        for arrives in came:
            chance *= 1 - p_drop if arrives else p_drop
        users = [u for u in range(3) if came[u]]
        total = exact.plus(total, exact.arrived(X, old, users, p_drop**3)[0], chance)
        wrong = exact.plus(wrong, exact.arrived(X, old, users, Fraction(0))[0], chance)
    assert total == mean
    assert wrong != mean  # without the correction the old ones pull
    # and the method does what was summed there
    start = Factors(np.array([[[1.0], [2.0]]] * 3), np.array(old, dtype=float))
    for came in SUBSETS:
        monkeypatch.setattr(
            channel, "arrivals", lambda *_, came=came: np.array(came, float)[:, None, None]
        )
        method = salf(0.25)
        state = method.begin(start)._replace(factors=start._replace(A=np.array(X, dtype=float)))
        mixed = method.exchange(state, np.full((1, 3), 1 / 3), Clock()).state
        users = [u for u in range(3) if came[u]]
        expected = np.array(exact.arrived(X, old, users, p_drop**3), dtype=float)
        np.testing.assert_allclose(mixed.factors.A, expected, rtol=0, atol=50 * EPS)
        np.testing.assert_array_equal(mixed.memory["anchor"].A, mixed.factors.A)


def test_messages_arrive_as_often_as_they_should_and_layers_apart():
    state = factors(500)
    came = np.stack([arrivals(state, N, 0.7, 0, "stragglers", t) for t in range(20)])
    share = came.mean()
    assert {*np.unique(came)} == {0.0, 1.0}
    assert abs(share - 0.7) < 5 * np.sqrt(0.21 / came.size)
    # of all pairs of layers that follow each other, as many agree as by chance
    agree = (came[:, 1:] == came[:, :-1]).mean()
    assert abs(agree - 0.58) < 5 * np.sqrt(0.25 / came.size)
    np.testing.assert_array_equal(arrivals(factors(3), N, 0.7, 0, "stragglers", 0), came[0, :3])
    wider = state._replace(A=np.zeros((500, N, R, K + 1)))  # mixed by itself, in the same round
    agree = (arrivals(wider, N, 0.7, 0, "stragglers", 0) == came[0]).mean()
    assert abs(agree - 0.58) < 5 * np.sqrt(0.25 / came[0].size)


# ---------------------------------------------------------------- draws


def test_streams_differ_by_agent_factor_shape_and_round_and_runs_are_drawn_in_order():
    state = factors(3)
    drawn = normals(state, ("B", "A"), [0, 1], 0, "channel", 5)
    assert {name: X.shape for name, X in drawn.items()} == {"B": (3, 2, D, R), "A": (3, 2, R, K)}
    one = normals(factors(1), ("B",), [1], 0, "channel", 5)["B"]
    np.testing.assert_array_equal(one[0, 0], drawn["B"][0, 1])
    wider = Factors(state.B, np.zeros((3, N, R, K + 1)))
    square = normals(Factors(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))), "BA", [0], 0, "x")
    others = [
        drawn["B"][0, 1],
        drawn["B"][1, 0],
        normals(wider, ("B",), [0], 0, "channel", 5)["B"][0, 0],
        normals(state, ("B",), [0], 0, "channel", 6)["B"][0, 0],
        normals(state, ("B",), [0], 1, "channel", 5)["B"][0, 0],
    ]
    for other in others:
        assert not np.any(other == drawn["B"][0, 0])
    assert not np.any(square["B"] == square["A"])


def test_tensors_get_the_numbers_that_arrays_get():
    state = factors(2)
    tensors = state.map(lambda X: torch.tensor(X, dtype=torch.float32))
    drawn, found = (normals(x, ("B",), [2, 0], 0, "channel") for x in (state, tensors))
    assert found["B"].dtype == torch.float32
    np.testing.assert_array_equal(found["B"].numpy(), drawn["B"].astype(np.float32))
    kept = METHODS["la_lora"].begin(tensors)
    assert agents_of(kept) == [0, 1, 2, 3]
    assert agents_of(kept.take([2])) == [2]
    assert numbered(state).B.shape == (2, N, 1, 1)


def test_the_normal_numbers_are_normal():
    z = normals(Factors(np.zeros((1, 400, 1)), np.zeros((1, 1, 50))), ("B",), range(50), 0, "z")[
        "B"
    ]
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / n)
