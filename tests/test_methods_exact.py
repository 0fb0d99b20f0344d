"""Three rounds of each method of the table, against rational numbers computed from its rule."""

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS, Clock, adf_lora, choco, fedrot, heavy_ball, tad_lora
from decaf_theory.problems import Problem
from decaf_theory.simulate import Config, simulate
from tests import exact_methods as exact

EPS = np.finfo(np.float64).eps
# three rounds of fewer than 50 roundings an entry
ROUNDINGS = 3 * 50 * EPS


def array(matrices):
    return np.array(matrices, dtype=float)


def run(method, *, B=exact.B_START, A=exact.A_START, targets=exact.TARGETS, K=1, ranks=None):
    """Return the factors after three rounds on the path."""
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
        steps=3,
        local_steps=K,
    )
    return simulate(config).require_finished().final.map(lambda X: X[0])


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


def test_every_method_without_a_server_of_products_or_a_full_matrix_is_here():
    # worked by hand in test_methods and test_feedback, or no mix
    elsewhere = {"dsgd", "decaf", "decaf_ef", "centralized"}
    here = {*AVERAGING, "heavy_ball", "gradient_tracking", "choco", "raflora", "hetlora"}
    assert METHODS.keys() - elsewhere == here | {"flexlora", "fedrot"}
