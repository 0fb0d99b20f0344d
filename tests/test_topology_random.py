"""Mixing matrices drawn at random, round by round: what they are, how often, and their rho."""

import itertools
from collections import Counter
from math import sqrt
from re import escape

import numpy as np
import pytest

from decaf_theory.topology import SCHEDULES, TOPOLOGIES, RandomSchedule, check_mixing_matrix
from verification.instances import laws

EPS = 2.0**-52
STAR = TOPOLOGIES["star"](4)
SPOKES = [(0, 1), (0, 2), (0, 3)]
# name: (law by enumeration, schedule, its further arguments), both of N agents
LAWS = {
    "pairs": (laws.pairwise_gossip, "pairwise_gossip", {}),
    "pairs on a star": (lambda N: laws.pairwise_gossip(N, SPOKES), "pairwise_gossip", {"Pi": STAR}),
    "matching": (laws.random_matching, "random_matching", {}),
    "ring, half": (
        lambda N: laws.dropped_links(TOPOLOGIES["ring"](N), 0.5),
        "dropped_links",
        {},
    ),
    "star, rare": (
        lambda N: laws.dropped_links(STAR, 0.2),
        "dropped_links",
        {"Pi": STAR, "p": 0.2},
    ),
    "graphs": (lambda N: laws.erdos_renyi(N, 0.3), "erdos_renyi_redrawn", {"p": 0.3}),
}
CASES = [(name, 4) for name in LAWS]
CASES += [(name, N) for name in ("pairs", "matching", "ring, half", "graphs") for N in (2, 3, 5)]
RANDOM = [name for name in SCHEDULES if isinstance(SCHEDULES[name](2), RandomSchedule)]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("name", "N"), CASES)
def test_rho_is_that_of_all_outcomes(name, N, sparse):
    outcomes, schedule, more = LAWS[name]
    law = outcomes(N)
    assert sum(law.chances) == pytest.approx(1, abs=len(law.chances) * EPS)
    found = SCHEDULES[schedule](N, sparse=sparse, **more).rho()
    # sums of up to 2^10 squares of up to N^2 weights, and an eigenvalue of numbers of size one
    assert found == pytest.approx(law.rho, abs=(len(law.chances) + 100) * EPS)


@pytest.mark.parametrize(("name", "N"), CASES)
def test_rounds_are_drawn_as_often_as_their_probability_says(name, N):
    outcomes, schedule, more = LAWS[name]
    law = outcomes(N)
    drawn = SCHEDULES[schedule](N, seed=3, **more)
    rounds = 2000
    found = Counter(drawn(t).round(12).tobytes() for t in range(rounds))
    expected = Counter()
    for Pi, chance in zip(law.Pis.round(12) + 0.0, law.chances, strict=True):
        expected[Pi.tobytes()] += chance
    assert found.keys() <= expected.keys()
    # five standard deviations of a binomial count; two more where it is a rare event
    for Pi, chance in expected.items():
        spread = sqrt(rounds * chance * (1 - chance))
        assert abs(found[Pi] - rounds * chance) <= 5 * spread + 2


@pytest.mark.parametrize("N", [1, 2, 5, 16])
@pytest.mark.parametrize("name", RANDOM)
def test_a_random_round_is_a_mixing_matrix_and_the_same_again(name, N):
    schedule, thin = SCHEDULES[name](N, seed=1), SCHEDULES[name](N, seed=1, sparse=True)
    for t in range(8):
        Pi = schedule(t)
        check_mixing_matrix(Pi, N)
        assert np.array_equal(Pi, Pi.T)
        assert np.array_equal(SCHEDULES[name](N, seed=1)(t), Pi)
        # a row's weights are summed in another order
        assert np.abs(thin(t).toarray() - Pi).max() <= N * EPS
    if N == 16:
        pairs = itertools.combinations([schedule(t) for t in range(8)], 2)
        assert not any(np.array_equal(*pair) for pair in pairs)
        assert not np.array_equal(SCHEDULES[name](N, seed=2)(0), schedule(0))
    assert 0 <= schedule.rho() < 1


def test_the_laws_without_a_graph_have_their_closed_forms():
    for N in range(2, 40):
        assert SCHEDULES["pairwise_gossip"](N).rho() == 1 - 1 / (N - 1)
        half = 0.5 if N % 2 else 1 - N / (2 * (N - 1))
        assert SCHEDULES["random_matching"](N).rho() == pytest.approx(half, abs=2 * EPS)


def test_links_that_never_or_always_fail_leave_the_graph_or_nothing():
    ring = TOPOLOGIES["ring"](6)
    whole, none = (SCHEDULES["dropped_links"](6, p=p) for p in (0.0, 1.0))
    assert np.abs(whole(0) - ring).max() <= 2 * EPS
    assert np.array_equal(none(0), np.eye(6))
    assert none.rho() >= 1
    # rho of a graph that does not change is lam^2 = (2/3)^2
    assert whole.rho() == pytest.approx(4 / 9, abs=100 * EPS)
    assert SCHEDULES["erdos_renyi_redrawn"](6, p=0.0).rho() == pytest.approx(1, abs=100 * EPS)
    assert SCHEDULES["erdos_renyi_redrawn"](6, p=1.0).rho() <= 100 * EPS


def test_large_random_rounds_are_sparse():
    N = 2**17
    ring = TOPOLOGIES["ring"](N, sparse=True)
    for Pi in (
        SCHEDULES["pairwise_gossip"](N, sparse=True)(0),
        SCHEDULES["pairwise_gossip"](N, Pi=ring, sparse=True)(0),
        SCHEDULES["random_matching"](N, sparse=True)(0),
        SCHEDULES["dropped_links"](N, sparse=True)(0),
    ):
        assert Pi.nnz <= 3 * N
        check_mixing_matrix(Pi, N)


DIRECTED = SCHEDULES["one_peer_exponential"](4)(0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dropped_links", {"p": 1.5}, "p must lie in [0, 1], got 1.5"),
        ("erdos_renyi_redrawn", {"p": float("nan")}, "p must lie in [0, 1], got nan"),
        ("dropped_links", {"Pi": np.eye(3)}, "Pi must be 4 x 4 for 4 agents, got shape (3, 3)"),
        ("pairwise_gossip", {"Pi": np.eye(4)}, "Pi must have a nonzero weight off its diagonal"),
        ("pairwise_gossip", {"Pi": DIRECTED}, "Pi must be symmetric for pairwise_gossip"),
        ("dropped_links", {"Pi": DIRECTED}, "Pi must be symmetric for dropped_links"),
        ("random_matching", {"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_a_bad_law_is_refused_by_name(name, arguments, message):
    with pytest.raises(ValueError, match=f"^{escape(message)}"):
        SCHEDULES[name](4, **arguments)


@pytest.mark.parametrize("law", [laws.directed_peers(5), laws.all_or_nothing(4, 0.3)])
def test_every_outcome_of_a_law_is_doubly_stochastic_and_one_comes(law):
    for axis in (-2, -1):
        np.testing.assert_allclose(law.Pis.sum(axis=axis), 1.0, rtol=8 * EPS)
    assert abs(law.chances.sum() - 1) <= 8 * EPS
