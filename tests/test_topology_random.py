"""Mixing matrices drawn at random, round by round: what they are, how often, and their rho."""

import itertools
from collections import Counter
from fractions import Fraction
from math import sqrt
from re import escape

import numpy as np
import pytest

from decaf_theory.stats import mean_interval
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
    "ring, stragglers": (lambda N: laws.stragglers(TOPOLOGIES["ring"](N), 0.1), "stragglers", {}),
    "star, stragglers": (
        lambda N: laws.stragglers(STAR, 0.6),
        "stragglers",
        {"Pi": STAR, "p": 0.6},
    ),
    "graphs": (lambda N: laws.erdos_renyi(N, 0.3), "erdos_renyi_redrawn", {"p": 0.3}),
}
CASES = [(name, 4) for name in LAWS]
CASES += [(name, N) for name in ("pairs", "matching", "ring, half", "graphs") for N in (2, 3, 5)]
CASES += [("ring, stragglers", N) for N in (1, 2, 3, 5, 7)]
RANDOM = [
    name
    for name in SCHEDULES
    if name != "contacts" and isinstance(SCHEDULES[name](2), RandomSchedule)
]


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
    all_there, nobody = (SCHEDULES["stragglers"](6, p=p) for p in (0.0, 1.0))
    assert np.abs(all_there(0) - ring).max() <= 2 * EPS
    assert all_there.rho() == pytest.approx(4 / 9, abs=100 * EPS)
    assert np.array_equal(nobody(0), np.eye(6))
    assert nobody.rho() >= 1
    assert SCHEDULES["erdos_renyi_redrawn"](6, p=0.0).rho() == pytest.approx(1, abs=100 * EPS)
    assert SCHEDULES["erdos_renyi_redrawn"](6, p=1.0).rho() <= 100 * EPS


def exact(Pis, chances):
    """E Pi'Pi in rational numbers."""
    N = len(Pis[0])
    return [
        [
            sum(
                c * sum(Pi[k][i] * Pi[k][j] for k in range(N))
                for Pi, c in zip(Pis, chances, strict=True)
            )
            for j in range(N)
        ]
        for i in range(N)
    ]


@pytest.mark.parametrize("N", [2, 3, 4])
def test_the_closed_form_of_stragglers_is_exact_in_rational_numbers(N):
    rng = np.random.default_rng(N)
    p, eye = Fraction(2, 7), [[Fraction(i == j) for j in range(N)] for i in range(N)]
    weight = {
        pair: Fraction(int(rng.integers(1, 9)), 8 * N)
        for pair in itertools.combinations(range(N), 2)
    }

    def laplacian(power, there):
        Lap = [[Fraction(0)] * N for _ in range(N)]
        for (i, j), w in weight.items():
            if there[i] and there[j]:
                for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                    Lap[a][b] += sign * w**power
        return Lap

    outcomes = list(itertools.product([0, 1], repeat=N))
    chances = [(1 - p) ** sum(there) * p ** (N - sum(there)) for there in outcomes]
    Pis = [
        [[eye[i][j] - Lap[i][j] for j in range(N)] for i in range(N)]
        for Lap in (laplacian(1, there) for there in outcomes)
    ]
    Lap, Lap_2, a = laplacian(1, [1] * N), laplacian(2, [1] * N), 1 - p
    square = [[sum(Lap[i][k] * Lap[k][j] for k in range(N)) for j in range(N)] for i in range(N)]
    closed = [
        [
            eye[i][j] - 2 * a**2 * Lap[i][j] + a**3 * square[i][j] + 2 * a**2 * p * Lap_2[i][j]
            for j in range(N)
        ]
        for i in range(N)
    ]
    assert exact(Pis, chances) == closed
    Pi = np.array([[float(eye[i][j] - Lap[i][j]) for j in range(N)] for i in range(N)])
    found = SCHEDULES["stragglers"](N, Pi=Pi, p=float(p)).rho()
    expected = np.linalg.norm(np.array(closed, dtype=float) - 1 / N, 2)
    assert found == pytest.approx(expected, abs=100 * EPS)


def test_the_rho_of_stragglers_is_that_of_drawn_rounds():
    N, rounds = 12, 4000
    schedule = SCHEDULES["stragglers"](N, p=0.25, seed=5)
    # the slowest direction on a ring, where all agents are alike
    v = np.cos(2 * np.pi * np.arange(N) / N) / sqrt(N / 2)
    left = [float(np.sum((schedule(t) @ v) ** 2)) for t in range(rounds)]
    _, low, high = mean_interval(left, 0.9999)
    assert low <= schedule.rho() <= high
    for other in (0.2, 0.3):
        assert not low <= SCHEDULES["stragglers"](N, p=other).rho() <= high


def test_large_random_rounds_are_sparse():
    N = 2**17
    ring = TOPOLOGIES["ring"](N, sparse=True)
    for Pi in (
        SCHEDULES["pairwise_gossip"](N, sparse=True)(0),
        SCHEDULES["pairwise_gossip"](N, Pi=ring, sparse=True)(0),
        SCHEDULES["random_matching"](N, sparse=True)(0),
        SCHEDULES["dropped_links"](N, sparse=True)(0),
        SCHEDULES["stragglers"](N, sparse=True)(0),
    ):
        assert Pi.nnz <= 3 * N
        check_mixing_matrix(Pi, N)


DIRECTED = SCHEDULES["one_peer_exponential"](4)(0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("stragglers", {"p": -0.5}, "p must lie in [0, 1], got -0.5"),
        ("stragglers", {"Pi": DIRECTED}, "Pi must be symmetric for stragglers"),
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
