"""Three rounds of each method of the table, against rational numbers computed from its rule."""

import math

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import (
    METHODS,
    Clock,
    adf_lora,
    air_fedavg,
    channel,
    choco,
    fedagg,
    fedrot,
    heavy_ball,
    la_lora,
    noisy,
    odelora,
    rac_lora,
    salf,
    tad_lora,
)
from decaf_theory.problems import Problem
from decaf_theory.rng import generator
from decaf_theory.simulate import Config, simulate
from tests import exact_methods as exact

EPS = np.finfo(np.float64).eps
# three rounds of fewer than 50 roundings an entry
ROUNDINGS = 3 * 50 * EPS


def array(matrices):
    return np.array(matrices, dtype=float)


def run(method, **options):
    """Return the factors after three rounds on the path."""
    return trace(method, **options).final.map(lambda X: X[0])


def trace(
    method, *, B=exact.B_START, A=exact.A_START, targets=exact.TARGETS, K=1, ranks=None, rounds=3
):
    T = array(targets)
    N, d, k = T.shape
    problem = Problem(
        "exact",
        *(N, d, k),
        loss=lambda W: ((W - T) ** 2).sum(axis=(-2, -1)) / 2,
        grad=lambda W: W - T,
    )
    config = Config(
        problem=problem,
        method=method,
        Pi=array(exact.PATH),
        start=Factors(array(B), array(A)),
        ranks=ranks,
        s=float(exact.S),
        lr=float(exact.LR),
        steps=rounds,
        local_steps=K,
    )
    return simulate(config).require_finished()


def merged(method, **options):
    """Return the agents' W - W0 in units of B A after three rounds, the base with it."""
    found = trace(method, **options)
    return found.memory["base"][0] + product(found.final)[0]


def assert_equal(found, expected):
    for X, Y in zip(found, expected, strict=True):
        exactly = array(Y)
        assert np.abs(X - exactly).max() <= ROUNDINGS * np.abs(exactly).max()


AVERAGING = {
    "dlora": ("222", "222", exact.PATH),
    "dlora_fa": ("BBB", "BBB", exact.PATH),
    "fedavg": ("222", "222", exact.SERVER),
    "local": ("222", "---", exact.PATH),
    "ffa_lora": ("BBB", "BBB", exact.SERVER),
    "fedsa_lora": ("222", "AAA", exact.SERVER),
    "rolora": ("BAB", "BAB", exact.SERVER),
    "adf_lora": ("BBB", "222", exact.PATH),  # switches after five rounds
    "tad_lora": ("BAB", "222", exact.PATH),  # 1 / sqrt(1 - 4/9) = 1.34 rounds
}


@pytest.mark.parametrize("name", AVERAGING)
def test_methods_that_average_factors(name):
    assert_equal(run(name), exact.averaging(*AVERAGING[name]))


def test_switching_every_two_rounds():
    expected = exact.averaging("BBA", "222", exact.PATH)
    assert_equal(run(adf_lora(2)), expected)
    assert_equal(run(tad_lora(1.5)), expected)  # 1.5 times 1.34


def test_dec_lora_is_dlora_with_local_steps():
    assert_equal(run("dlora", K=3), exact.averaging("222", "222", exact.PATH, K=3))


def test_methods_that_step_along_what_they_keep():
    assert_equal(run(heavy_ball(METHODS["dlora"], 0.75)), exact.heavy_ball(exact.Q(3, 4)))
    assert_equal(run("heavy_ball"), exact.heavy_ball(exact.Q(9, 10)))
    assert_equal(run("gradient_tracking"), exact.tracking())


def test_compressed_differences():
    assert_equal(run("choco"), exact.choco(exact.Q(1, 2), exact.Q(1, 4)))
    assert_equal(run(choco(0.5, 0.25)), exact.choco(exact.Q(1, 4), exact.Q(1, 2)))


@pytest.mark.parametrize("sends", ["model", "difference"])
def test_a_channel_without_noise_is_a_mean(sends):
    expected = exact.averaging("222", "222", exact.SERVER)
    assert_equal(run(air_fedavg(sends, sigma=0.0)), expected)


@pytest.mark.parametrize("base", ["fedavg", "dlora"])
def test_noise_is_added_to_the_mean_that_arrives(monkeypatch, base):
    server = METHODS[base].meets == "server"
    z_B = [[exact.integers([[t + i], [-t], [i]]) for i in range(3)] for t in range(3)]
    z_A = [[exact.integers([[i - t, 2]]) for i in range(3)] for t in range(3)]
    draws = [(b[:1] * 3, a[:1] * 3) if server else (b, a) for b, a in zip(z_B, z_A, strict=True)]

    def normals(factors, names, agents, seed, purpose, t):
        assert agents == ([0] if server else [0, 1, 2])
        drawn = {"B": array(z_B[t])[agents], "A": array(z_A[t])[agents]}
        return {name: drawn[name] / 2 for name in names}

    monkeypatch.setattr(channel, "normals", normals)
    weights = exact.SERVER if server else exact.PATH
    assert_equal(run(noisy(METHODS[base], 2.0)), exact.noised(weights, draws))


def test_layers_that_arrive_in_time(monkeypatch):
    came = [[1], [0, 2], []]

    def arrivals(factors, n, chance, seed, purpose, t):
        assert chance == 0.75
        return np.isin(np.arange(n), came[t]).astype(float)[:, None, None]

    monkeypatch.setattr(channel, "arrivals", arrivals)
    assert_equal(run(salf(0.25)), exact.late(came, exact.Q(1, 4)))


def test_one_factor_after_the_other_in_a_round():
    smooth = la_lora(np.inf, 0.0, 0.5)
    assert_equal(run(smooth, K=2), exact.smoothing(exact.Q(1, 2)))
    *expected, clipped = exact.clipping(exact.Q(1, 16))
    assert 0 < clipped < 18
    numbers = {"B": exact.NUMBERS_B, "A": exact.NUMBERS_A, "targets": exact.SCALAR_TARGETS}
    assert_equal(run(la_lora(1 / 16, 0.0, 0.0), **numbers, K=2), expected)


@pytest.mark.parametrize(
    ("penalty", "own", "K", "rounds"), [(1.0, 0.5, 1, 3), (16.0, 1.0, 1, 3), (4.0, 0.75, 2, 2)]
)
def test_steps_of_aggregated_gradients_that_keep_near_the_mean(penalty, own, K, rounds):
    numbers = {"B": exact.NUMBERS_B, "A": exact.NUMBERS_A, "targets": exact.SCALAR_TARGETS}
    # rational numbers of three rounds of two steps have more than a million digits
    options = {"K": K, "rounds": rounds}
    *expected, sizes = exact.mean_field(exact.Q(penalty), exact.Q(own), **numbers, **options)
    assert any(size < 0 for size in sizes) == (penalty == 16.0)  # which are cut to 0
    assert any(size > 0 for size in sizes)
    assert_equal(run(fedagg(penalty, own), **numbers, **options), expected)


def test_the_defaults_of_fedagg():
    start = exact.B_START, exact.A_START, exact.TARGETS
    *expected, _ = exact.mean_field(exact.Q(1), exact.Q(1, 2), *start)
    assert_equal(run("fedagg"), expected)


def test_the_flow_of_balanced_factors_of_rank_one():
    assert_equal(run(odelora(METHODS["local"])), exact.balanced_flow())


def test_clients_of_unequal_rank():
    wide = {"B": exact.WIDE_B, "A": exact.WIDE_A, "ranks": exact.RANKS}
    assert_equal(run("raflora", **wide), exact.raflora())
    scalar = {"B": exact.SCALAR_B, "A": exact.SCALAR_A, "targets": exact.SCALAR_TARGETS}
    assert_equal(run("hetlora", **scalar, ranks=exact.RANKS), exact.hetlora())


def test_products_truncated_to_the_rank_of_each_client():
    roots = np.array([np.diag(np.sqrt(array(p))) / 2 for p in exact.DIAGONAL])
    targets = [np.diag(array(t)) for t in exact.DIAGONAL_TARGETS]
    found = run("flexlora", B=roots, A=roots, targets=targets, ranks=exact.RANKS)
    expected = np.array([np.diag(array(p)) for p in exact.flexlora()])
    assert np.abs(product(found) - expected).max() <= ROUNDINGS * expected.max()


@pytest.mark.parametrize("soft", [False, True])
def test_gauges_turned_back_all_of_the_way_or_half(soft):
    method = fedrot(0.5) if soft else METHODS["fedrot"]
    first = Factors(array([exact.FIRST_B] * 3), array([exact.FIRST_A] * 3))
    state = method.begin(first)
    weights = method.weights(None, 3, Clock())
    for t, (held, expected) in enumerate(exact.fedrot(soft)):
        own = Factors(array([b for b, _ in held]), array([a for _, a in held]))
        state = method.exchange(state._replace(factors=own), weights, Clock(t)).state
        # the rotations have the condition of a product of two factors, below ten each
        assert max(np.linalg.cond(array(X)) for X in expected) < 10
        for X, Y in zip(state.factors, expected, strict=True):
            assert np.abs(X - array(Y)).max() <= 100 * ROUNDINGS * np.abs(array(Y)).max()


def assert_all_are(found, W):
    expected = array(W)
    assert np.abs(found - expected).max() <= ROUNDINGS * np.abs(expected).max()


DRAWS = [
    generator(0, "A after a merge", t).standard_normal((1, 2)) / math.sqrt(2) for t in range(3)
]
EXACT_DRAWS = [[[exact.Q(float(x)) for x in row] for row in A] for A in DRAWS]


def test_products_and_residuals_merged_into_W0():
    assert_all_are(merged("flora"), exact.flora(EXACT_DRAWS))
    base, B, A = exact.fedex()
    found = trace("fedex_lora")
    assert_equal(found.final.map(lambda X: X[0]), (B, A))
    assert_all_are(found.memory["base"][0], base)
    np.testing.assert_array_equal(found.final.B[0], found.final.B[0, [0] * 3])


@pytest.mark.parametrize("period", [1, 2, 3, 4])
def test_blocks_merged_after_so_many_rounds(period):
    assert_all_are(merged(rac_lora(period)), exact.rac(EXACT_DRAWS, period))


def test_a_square_matrix_between_two_frozen_factors():
    B = [exact.times(exact.FRAME, exact.R_START)] * 3
    found = run("fed_sb", B=B, A=[exact.WIDE_A[0]] * 3)
    assert_all_are(product(found), exact.fed_sb())
    np.testing.assert_array_equal(found.A, array([exact.WIDE_A[0]] * 3))


def test_a_server_that_keeps_all_of_W():
    roots = np.array([np.diag(np.sqrt(array(exact.DIAGONAL[0]))) / 2] * 3)
    targets = [np.diag(array(t)) for t in exact.DIAGONAL_TARGETS]
    found = trace("fedhl", B=roots, A=roots, targets=targets, ranks=exact.RANKS)
    W, P = exact.fedhl()
    assert_all_are(found.memory["server"][0], np.diag(array(W)))
    assert_all_are(product(found.final)[0], [np.diag(array(p)) for p in P])


def test_every_method_without_a_server_of_products_or_a_full_matrix_is_here():
    # worked by hand in test_methods and test_feedback, or no mix
    elsewhere = {"dsgd", "decaf", "decaf_ef", "centralized"}
    here = {*AVERAGING, "heavy_ball", "gradient_tracking", "choco", "raflora", "hetlora"}
    here |= {"flora", "fedex_lora", "rac_lora", "fedhl", "fed_sb"}
    here |= {"air_fedavg", "salf", "la_lora", "odelora", "fedagg"}
    assert METHODS.keys() - elsewhere == here | {"flexlora", "fedrot"}
