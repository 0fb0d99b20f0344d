"""The rates against what they are made of: matrix powers, impulse responses, extremal runs."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory import bounds
from decaf_theory.rng import generator
from decaf_theory.topology import check_reversible, reversible, reversible_eigenvalues

EPS = 2.0**-52
positive = st.floats(0.05, 20)


# lam <= .9 below: an eigenvalue off by eps moves q and S by eps/(1 - lam)^2 = 100 eps of them
SPECTRAL = 1000 * EPS


def random_mixing(seed, N):
    """Symmetric, doubly stochastic, eigenvalues of both signs, and these without the leading 1."""
    rng = generator(seed, "mixing")
    swaps = [np.eye(N)[rng.permutation(N)] for _ in range(N)]
    Pi = 0.9 * sum(P + P.T for P in swaps) / (2 * N) + 0.1 / N
    return Pi, np.linalg.eigvalsh(Pi)[:-1]


@pytest.mark.parametrize("N", [2, 3, 6])
def test_q_and_S_are_the_series_of_matrix_powers(N):
    Pi, eigenvalues = random_mixing(N, N)
    lam = max(abs(eigenvalues))
    power, terms = np.eye(N) - 1 / N, []
    for _ in range(400):  # .9^400 < eps / 100
        terms.append((np.linalg.norm(power, 2), np.sum(power**2)))
        power = Pi @ power
    # order MS mixes once before anything is seen
    for order, start in (("CB", 0), ("MS", 1)):
        drift, noise = np.sum(terms[start:], axis=0)
        q = bounds.network_q(lam=lam, order=order)
        S = bounds.network_S(eigenvalues=eigenvalues, order=order)
        assert q == pytest.approx(drift, rel=SPECTRAL)
        assert S == pytest.approx(noise, rel=SPECTRAL)


@given(seed=st.integers(0, 10**6), N=st.integers(2, 8))
def test_S_is_below_what_the_spectral_gap_alone_gives(seed, N):
    _, eigenvalues = random_mixing(seed, N)
    lam = max(abs(eigenvalues))
    mixed, combined = (bounds.network_S(eigenvalues=eigenvalues, order=o) for o in ("MS", "CB"))
    slack = 1 + SPECTRAL
    assert mixed <= lam**2 * combined * slack
    assert combined / N <= (1 - 1 / N) / (1 - lam**2) * slack
    assert mixed <= bounds.time_varying_S(lam=lam, N=N) * slack
    assert combined == pytest.approx(mixed + N - 1, rel=SPECTRAL)


@given(seed=st.integers(0, 10**6), N=st.integers(1, 8))
def test_reversible_S_is_the_noise_that_weighted_mixing_leaves_at_most(seed, N):
    rng = np.random.default_rng(seed)
    target = 10.0 ** rng.uniform(-1, 1, N)
    pi = target / target.sum()
    P = reversible(random_mixing(seed, N)[0], target)
    lam = np.abs(reversible_eigenvalues(P, target)).max(initial=0.0)
    if lam > 0.99:
        return
    # sum over k >= 1 of sum_i pi_i |row i of (P - 1 pi')^k|^2, of unit noise at every agent
    mixing, power, left = P - pi, np.eye(N), 0.0
    for _ in range(2000):
        power = power @ mixing
        left += float(pi @ (power**2).sum(axis=1))
    slack = 1 + 100 * SPECTRAL
    assert left <= bounds.reversible_S(lam=lam, pi=pi.tolist()) * slack
    equal = [1 / N] * N
    S = bounds.time_varying_S(lam=lam, N=N)
    assert bounds.reversible_S(lam=lam, pi=equal) == pytest.approx(S / N, rel=8 * N * EPS)
    flat = lam * np.eye(N) + (1 - lam) * pi
    kept = sum(float(pi @ ((lam**k * (np.eye(N) - pi)) ** 2).sum(axis=1)) for k in range(1, 2000))
    check_reversible(flat, pi)
    assert kept == pytest.approx(bounds.reversible_S(lam=lam, pi=pi.tolist()), rel=1e4 * EPS)


def test_time_varying_S_is_that_of_a_matrix_with_equal_eigenvalues():
    S = bounds.network_S(eigenvalues=[0.6, -0.6, 0.6], order="MS")
    assert bounds.time_varying_S(lam=0.6, N=4) == pytest.approx(S, rel=8 * EPS)


def impulse(lam, steps, beta):
    """Deviation after one unit gradient: v+ = beta v + g, x+ = lam (x - v+), for t = 1, 2, ..."""
    x, v, response = 0.0, 0.0, []
    for t in range(steps):
        v = beta * v + (t == 0)
        x = lam * (x - v)
        response.append(x)
    return np.array(response)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.8])
def test_momentum_is_the_impulse_response_summed(beta):
    eigenvalues = [0.7, 0.2, -0.5]
    q, S = bounds.momentum_q_S(lam=0.7, eigenvalues=eigenvalues, beta=beta)
    responses = [impulse(mu, 400, beta) for mu in eigenvalues]  # .8^400 < 1e-38
    assert S == pytest.approx(sum(np.sum(x**2) for x in responses), rel=1e-13)
    assert q == pytest.approx(np.sum(np.abs(responses[0])), rel=1e-13)
    if beta == 0:
        assert q == bounds.network_q(lam=0.7, order="MS")


@pytest.mark.parametrize("K", [1, 2, 5])
def test_local_steps_count_every_gradient_since_the_start(K):
    eigenvalues = [0.7, -0.5]
    q, S = bounds.local_steps_q_S(lam=0.7, eigenvalues=eigenvalues, N=3, K=K)
    # at the last local point: K - 1 gradients unmixed, K of each earlier round j mixed j times
    mixed = np.arange(1, 200)  # .7^200 < 1e-30
    assert q == pytest.approx(K - 1 + K * np.sum(0.7**mixed), rel=1e-13)
    squares = sum(K - 1 + K * np.sum(mu ** (2.0 * mixed)) for mu in eigenvalues)
    assert S == pytest.approx(squares, rel=1e-13)
    if K == 1:
        assert (q, S) == (
            bounds.network_q(lam=0.7, order="MS"),
            bounds.network_S(eigenvalues=eigenvalues, order="MS"),
        )


LETTERS = dict(lr=0.1, L=0.8, kappa=1.5, N=2)


@pytest.mark.parametrize("order", ["MS", "CB"])
@pytest.mark.parametrize("error", [0.0, 0.03])
def test_two_opposed_concave_agents_attain_the_consensus_bound(order, error):
    # f_i = -L x^2/2 -+ kappa x from 0: the mean stays at 0, agent 0 sits at x, agent 1 at -x
    lam, lr, L, kappa = 0.5, LETTERS["lr"], LETTERS["L"], LETTERS["kappa"]
    x = 0.0
    for _ in range(200):
        step = lr * (L * x + kappa)
        x = (lam * (x + step) if order == "MS" else lam * x + step) + error
    letters = dict(LETTERS, sigma=0, q=bounds.network_q(lam=lam, order=order), S=1)
    bound = bounds.mixing_error_consensus(**letters, lam=lam, eps=sqrt(2) * error)
    assert x**2 == pytest.approx(bound, rel=64 * EPS)
    if error == 0:
        assert bound == pytest.approx(bounds.consensus_bound(**letters), rel=8 * EPS)


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_noise_alone_attains_the_consensus_bound(order):
    # L = 0, covariance recursion of the deviations under unit noise of each agent
    N, lr = 5, 0.1
    Pi, eigenvalues = random_mixing(7, N)
    project = np.eye(N) - 1 / N
    enters = Pi @ project if order == "MS" else project
    C = np.zeros((N, N))
    for _ in range(400):
        C = Pi @ C @ Pi + (lr * enters) @ (lr * enters).T
    S = bounds.network_S(eigenvalues=eigenvalues, order=order)
    letters = dict(lr=lr, L=0, kappa=0, N=N, q=1, S=S)
    assert np.trace(C) / N == pytest.approx(bounds.consensus_bound(sigma=1, **letters), rel=1e-11)


GROWING = ["lr", "L", "sigma", "kappa", "q", "S"]


@given(letter=st.sampled_from(GROWING), factor=st.floats(1, 3), data=st.data())
def test_the_consensus_bound_grows_with_all_but_the_number_of_agents(letter, factor, data):
    letters = {name: data.draw(st.floats(0.05, 2), name) for name in GROWING}
    before = bounds.consensus_bound(N=4, **letters)
    grown = {**letters, letter: letters[letter] * factor}
    after = bounds.consensus_bound(N=4, **grown)
    assert after >= before * (1 - 16 * EPS)
    assert bounds.consensus_bound(N=5, **letters) <= before


STEP = dict(F_gap=3.0, T=50, L=0.8, sigma=2.0, N=4)


def test_one_step_from_rest_attains_the_descent_term():
    # f = L x^2/2, lr L = 1, no noise: one step ends at 0, so that the sum is L^2 x^2 = 2 L F_gap
    for T in (1, 7):
        bound = bounds.dsgd_rate(F_gap=3, lr=1 / 0.8, T=T, L=0.8, sigma=0, N=4, Xi=0)
        assert bound == pytest.approx(2 * 0.8 * 3 / T, rel=4 * EPS)


def test_each_letter_enters_the_rate_with_its_power():
    # second term: lr L sigma^2/N; third: L^2 Xi
    base = bounds.dsgd_rate(**STEP, lr=0.25, Xi=0.5)
    silent = bounds.dsgd_rate(**{**STEP, "sigma": 0}, lr=0.25, Xi=0.5)
    agreed = bounds.dsgd_rate(**STEP, lr=0.25, Xi=0)
    assert base - silent == pytest.approx(0.25 * 0.8 * 4 / 4, rel=64 * EPS)
    assert base - agreed == pytest.approx(0.64 * 0.5, rel=64 * EPS)
    convex = bounds.convex_curvature(L=0.8, m=0)
    assert convex == pytest.approx(0.64 / 4, rel=4 * EPS)


@given(kappa=positive, sigma=positive, S=positive, q=positive, share=st.floats(0.01, 1))
def test_the_textbook_form_is_never_below_the_rate(kappa, sigma, S, q, share):
    lr = share * bounds.safe_step(L=0.8, q=q)
    letters = dict(lr=lr, L=0.8, sigma=sigma, N=4)
    Xi = bounds.consensus_bound(kappa=kappa, q=q, S=S, **letters)
    rate = bounds.dsgd_rate(F_gap=3, T=50, Xi=Xi, **letters)
    textbook = bounds.dsgd_textbook(F_gap=3, T=50, kappa=kappa, q=q, S=S, **letters)
    assert rate <= textbook * (1 + 16 * EPS)


@pytest.mark.parametrize("q", [2, 3])
def test_the_corollary_at_its_horizon_is_the_rate_at_the_safe_step(q):
    # L = 1/2, N = 4: horizon 4 q^2, and there lr = sqrt(N/T) = 1/q makes lr L q = 1/2
    network, shared = dict(kappa=1.5, q=q, S=0.7), dict(L=0.5, sigma=2.0, N=4)
    T = bounds.corollary_horizon(L=0.5, N=4, q=q)
    lr = bounds.safe_step(L=0.5, q=q)
    Xi = bounds.consensus_bound(lr=lr, **network, **shared)
    rate = bounds.dsgd_rate(F_gap=3, lr=lr, T=T, Xi=Xi, **shared)
    corollary = bounds.dsgd_corollary(F_gap=3, T=T, **network, **shared)
    assert corollary == pytest.approx(rate, rel=16 * EPS)


def test_noise_fed_back_through_the_mixing_attains_the_general_form():
    # N = 1, f = L x^2/2, lr L = 1, e = -lr xi: x+ = -2 lr xi, so E |grad|^2 = 4 sigma^2 from t = 1
    L, sigma, x0 = 0.8, 2.0, 3.0
    letters = dict(F_gap=L * x0**2 / 2, lr=1 / L, L=L, sigma=sigma, N=1, Xi=0, ebar=sigma / L)
    for T in (1, 1000):
        measured = ((L * x0) ** 2 + 4 * sigma**2 * (T - 1)) / T
        bound = bounds.mixing_error_rate(T=T, **letters)
        assert bound - measured == pytest.approx(4 * sigma**2 / T, rel=4000 * EPS)
    # the predictable form does not hold for such errors: it is too small by the factor 2
    assert bounds.mixing_error_rate(T=10**9, errors="predictable", **letters) == pytest.approx(
        2 * sigma**2, rel=1e-8
    )


def test_errors_that_cancel_the_step_attain_the_predictable_form():
    # e = lr grad F(x0) at every step: the point stays, |grad|^2 = (e/lr)^2 for ever
    bound = bounds.mixing_error_rate(
        F_gap=1, lr=0.5, T=10**12, L=1, sigma=0, N=1, Xi=0, ebar=0.5 * 3, errors="predictable"
    )
    assert bound == pytest.approx(9, rel=1e-11)


def test_the_worked_example_of_two_agents_has_its_bounds():
    # f_i = (x -+ 1)^2/2, Pi = [[3/4, 1/4], [1/4, 3/4]], lr = 1/4, sigma = 1, MS: q = 1, S = 1/3
    q = bounds.network_q(lam=0.5, order="MS")
    S = bounds.network_S(eigenvalues=[0.5], order="MS")
    Xi = bounds.consensus_bound(lr=0.25, L=1, sigma=1, kappa=1, N=2, q=q, S=S)
    assert Xi == pytest.approx((1 + 1 / sqrt(6)) ** 2 / 9, rel=16 * EPS)
    assert Xi > 27 / 550
    floor = bounds.dsgd_rate(F_gap=0, lr=0.25, T=1, L=1, sigma=1, N=2, Xi=0)
    assert floor == 1 / 8 > 1 / 14


PL = dict(L=0.8, mu=0.5, sigma=2.0, N=4, Xi=0.3)


@given(share=st.floats(0.01, 1), T=st.integers(1, 9), gap=positive)
def test_the_gap_after_T_steps_is_that_of_T_single_steps(share, T, gap):
    lr = share / 0.8
    once = gap
    for _ in range(T):
        # (1 - lr mu) gap + lr/2 (L^2 Xi + lr L sigma^2/N)
        own = (1 - lr / 2) * once + lr / 2 * (0.64 * 0.3 + lr * 0.8)
        once = bounds.dsgd_gap(F_gap=once, lr=lr, T=1, **PL)
        assert once == pytest.approx(own, rel=16 * EPS)
    # T products and sums of numbers of one sign
    assert bounds.dsgd_gap(F_gap=gap, lr=lr, T=T, **PL) == pytest.approx(once, rel=32 * T * EPS)


def test_noise_at_the_longest_step_attains_the_gap_and_exceeds_it_beyond():
    # f = x^2/2: at rest E x^2/2 = lr sigma^2/(2 N (2 - lr))
    letters = dict(F_gap=3.0, T=2**60, L=1.0, mu=1.0, sigma=2.0, N=4, Xi=0.0)
    longest = bounds.dsgd_gap(lr=1.0, **letters)
    assert longest == 1 / 2
    assert bounds.dsgd_gap(lr=1.01, **letters) == np.inf
    assert 1.01 / (2 * (2 - 1.01)) > 1.01 * longest  # what the formula would be there


def test_a_short_step_is_not_rounded_away():
    letters = dict(F_gap=1.0, L=1.0, mu=1.0, sigma=0.0, N=1)
    assert bounds.dsgd_gap(lr=1e-18, T=10**18, Xi=0, **letters) == pytest.approx(np.exp(-1))
    floor = bounds.dsgd_gap(lr=1e-18, T=1, Xi=1.0, **{**letters, "F_gap": 0.0})
    assert floor == pytest.approx(5e-19, rel=4 * EPS)
