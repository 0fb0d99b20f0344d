"""What a plan knows of graphs: against dense matrices, fractions, real mixing, and known sums."""

from fractions import Fraction
from math import comb, log, pi

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decaf_theory import bounds
from decaf_theory.plan import NETWORKS, network, rounds_to
from decaf_theory.plan.networks import SPECTRUM, circular_sum
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues

EPS = float(np.finfo(float).eps)
SIZES = {
    "torus": (1, 4, 9, 16, 25),
    "hypercube": (1, 2, 4, 8, 32),
    "bipartite": (2, 4, 10),
}
CASES = [(name, N) for name in NETWORKS for N in SIZES.get(name, (1, 2, 3, 4, 5, 6, 10, 17, 33))]


def test_there_is_a_network_for_every_topology():
    assert list(NETWORKS) == list(TOPOLOGIES)


@pytest.mark.parametrize(("name", "N"), CASES)
def test_gap_links_and_S_are_those_of_the_matrix(name, N):
    Pi, known = TOPOLOGIES[name](N), network(name, N)
    mu = mixing_eigenvalues(Pi)
    # eigenvalues of a symmetric matrix of norm one are off by some N eps
    off = 10 * N * EPS
    lam = float(np.max(np.abs(mu), initial=0.0))
    assert known.gap == pytest.approx(1 - lam, abs=off)
    neighbours = np.count_nonzero(Pi, axis=1) - 1
    assert (known.links, known.degree) == (neighbours.sum(), neighbours.max())
    # 1/(1 - mu^2) moves by 2 off/(1 - mu^2)^2 at most
    room = 2 * off * N / (1 - lam**2) ** 2
    for S, order in ((known.S, "CB"), (known.S_mixed, "MS")):
        assert bounds.network_S(eigenvalues=list(mu), order=order) == pytest.approx(S, abs=room)
    room = 2 * off / (1 - lam) ** 2
    assert known.q == pytest.approx(bounds.network_q(lam=lam, order="MS"), abs=room)
    if N > 1:
        assert known.q_combine == pytest.approx(bounds.network_q(lam=lam, order="CB"), abs=room)


@pytest.mark.parametrize(("name", "N"), [(name, N) for name, N in CASES if N > 1])
def test_the_worst_start_agrees_after_the_rounds_and_no_sooner(name, N):
    Pi, factor = TOPOLOGIES[name](N), 0.037
    t = network(name, N).rounds(factor)
    values, vectors = np.linalg.eigh(Pi + 2 / N)  # consensus last, at 3
    x = vectors[:, np.argmax(np.abs(values[:-1]))]
    for round_ in range(1, t + 1):
        x = Pi @ x
        assert (np.linalg.norm(x) <= factor) == (round_ == t), round_
    assert np.linalg.norm(np.linalg.matrix_power(Pi, t) - 1 / N, 2) <= factor


@pytest.mark.parametrize("D", [1, 2, 3, 6, 30])
def test_S_of_the_hypercube_is_exact_in_fractions(D):
    mu = [(1 - Fraction(2 * j, D + 1), comb(D, j)) for j in range(1, D + 1)]
    S = sum(times / (1 - m**2) for m, times in mu)
    known = network("hypercube", 2**D)
    assert known.S == pytest.approx(float(S), rel=8 * EPS)
    assert known.gap == pytest.approx(float(1 - max(abs(m) for m, _ in mu)), rel=2 * EPS)


@pytest.mark.parametrize("N", [3, 7, 10**9])
def test_S_of_star_and_bipartite_are_exact_in_fractions(N):
    star = [(1 - Fraction(1, N), N - 2), (Fraction(0), 1)]
    sides = [(Fraction(1, N + 1), 2 * N - 2), (Fraction(1 - N, N + 1), 1)]
    for known, spectrum in ((network("star", N), star), (network("bipartite", 2 * N), sides)):
        S = sum(times / (1 - m**2) for m, times in spectrum)
        assert known.S == pytest.approx(float(S), rel=16 * EPS)
        exact = 1 - max(abs(m) for m, _ in spectrum)
        assert known.gap == pytest.approx(float(exact), rel=2 * EPS)


@given(
    n=st.integers(1, 40),
    above=st.floats(1e-3, 10),
    b=st.sampled_from([-2.0, 2.0, 0.5]),
)
def test_the_circular_sum_is_the_sum(n, above, b):
    a = abs(b) + above
    terms = 1 / (a + b * np.cos(2 * np.pi * np.arange(n) / n))
    # a term's denominator is off by a few eps of a, and so is 1 - w of n/root
    room = 40 * n * EPS * a / above
    assert circular_sum(n, above, b) == pytest.approx(float(terms.sum()), rel=room)


def test_a_power_of_lam_that_meets_the_factor_is_enough():
    # lam = 1/3 exactly, and the factor is its t-th power in fractions, rounded
    for t in range(1, 33):
        assert network("hypercube", 4).rounds(float(Fraction(1, 3**t))) == t
        assert rounds_to(2.0**-t, 0.5) == t


@example(factor=0.5, gap=1e-17)
@given(factor=st.floats(1e-12, 0.999), gap=st.floats(1e-300, 1, exclude_min=True))
def test_rounds_are_the_least_ones(factor, gap):
    t = rounds_to(factor, gap)
    # in logarithms, as (1 - gap)^t cannot be formed for 1e300 rounds
    rate = np.log1p(-gap) if gap < 1 else -np.inf
    assert t * rate <= np.log(factor) * (1 - 1e-14)
    assert t == 1 or (t - 1) * rate >= np.log(factor) * (1 + 1e-14)


def test_a_billion_agents_keep_their_digits():
    N = 10**9
    ring, path = network("ring", N), network("path", N)
    x = pi / N
    assert ring.gap == pytest.approx(4 * x**2 / 3, rel=4 * EPS)
    assert ring.lam == 1.0
    assert path.gap == pytest.approx(x**2 / 3, rel=4 * EPS)
    assert ring.rounds(1e-3) == pytest.approx(log(1e3) / ring.gap, rel=1e-12)
    # the leading term of S is N^2/8: of order N less, relative 4 sqrt(3)/N
    assert ring.S == pytest.approx(N**2 / 8, rel=8 / N)
    assert network("star", N).gap == 1 / N
    square = network("torus", 31623**2)
    assert square.gap == pytest.approx(4 * (pi / 31623) ** 2 / 5, rel=1e-8)
    assert square.N - 1 < square.S < (square.N - 1) / (square.gap * (2 - square.gap))


def test_the_exponential_graph_of_a_billion_has_the_gap_of_the_smaller_ones():
    large = network("exponential", 2**30)
    assert (large.gap, large.sharp, large.links) == (2 / 30, False, 2**30 * 59)
    small = network("exponential", 2**12)
    assert small.gap == pytest.approx(2 / 12, abs=1e-13)
    assert small.S <= (small.N - 1) / (small.gap * (2 - small.gap))
    assert network("exponential", SPECTRUM).sharp
    # what replaces S is T37's, of order MS with N - 1 added
    S = bounds.time_varying_S(lam=large.lam, N=large.N)
    assert large.S_mixed == pytest.approx(S, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "N", "words"),
    [
        ("rng", 10, "the nearest name is ring"),
        ("RING", 10, "the nearest name is ring"),
        ("hypercube", 10, "power of two for the hypercube, got 10; valid nearby: 8, 16"),
        ("torus", 10, "square for the torus, got 10; valid nearby: 9, 16"),
        ("bipartite", 7, "even for the bipartite, got 7; valid nearby: 6, 8"),
        ("exponential", 10**9, "valid nearby: 536870912, 1073741824"),
        ("erdos_renyi", 513, "agents must be at most 512 for erdos_renyi, got 513"),
        ("ring", 0, "agents must be an integer >= 1, got 0"),
        ("ring", 2.5, "agents must be an integer >= 1, got 2.5"),
        ("ring", 10**12 + 1, "agents must be at most 1e+12"),
    ],
)
def test_graphs_that_do_not_exist_are_named(name, N, words):
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        network(name, N)
