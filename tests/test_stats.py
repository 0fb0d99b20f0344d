"""Intervals, slopes, extrapolation: against worked numbers, coverage, and exact power laws."""

from math import inf, nan, pi, sqrt, tan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from decaf_theory.rng import generator
from decaf_theory.stats import (
    bonferroni,
    detectable_difference,
    holm,
    local_slopes,
    log_log_slope,
    mean_interval,
    paired_interval,
    paired_p,
    richardson,
    share_interval,
)

EPS = 2.0**-52
# quantiles of Student's t that have a closed form: one degree of freedom is the Cauchy law,
# t = tan(pi (p - 1/2)); two degrees: t = (2 p - 1) sqrt(2 / (1 - (2 p - 1)^2))
T1_AT_95 = tan(0.475 * pi)
T1_AT_HALF = 1.0  # level .5, p = .75: tan(45 degrees)
T2_AT_95 = 0.95 * sqrt(2 / (1 - 0.95**2))
T2_AT_60 = 0.6 * sqrt(2 / 0.64)
QUANTILE = 1e-12  # what scipy's inverse of the t law keeps


def test_the_mean_of_two_values_has_the_cauchy_interval():
    # mean 3, variance 8, error sqrt(8/2) = 2
    mean, low, high = mean_interval([1.0, 5.0], level=0.5)
    assert mean == 3
    assert low == pytest.approx(3 - 2 * T1_AT_HALF, rel=QUANTILE)
    assert high == pytest.approx(3 + 2 * T1_AT_HALF, rel=QUANTILE)


def test_the_mean_of_three_values_has_its_t_interval_at_95_percent():
    # deviations -2, 1, 1 from 2: variance (4 + 1 + 1)/2 = 3, error sqrt(3/3) = 1
    mean, low, high = mean_interval([0.0, 3.0, 3.0])
    assert mean == 2
    assert high - mean == pytest.approx(T2_AT_95, rel=QUANTILE)
    assert mean - low == pytest.approx(T2_AT_95, rel=QUANTILE)


def test_equal_values_leave_no_interval():
    assert mean_interval([2.5, 2.5, 2.5]) == (2.5, 2.5, 2.5)


def test_the_interval_covers_at_its_level():
    rng, runs, level = generator(0, "coverage"), 2000, 0.9
    samples = rng.standard_normal((runs, 5)) + 7
    covered = sum(low <= 7 <= high for _, low, high in (mean_interval(x, level) for x in samples))
    # five standard deviations of a binomial count
    assert abs(covered - level * runs) < 5 * sqrt(runs * level * (1 - level))


def test_pairing_cancels_what_both_share():
    shared = np.array([100.0, -50.0, 7.0])
    first, second = shared + np.array([3.0, 0.0, 3.0]), shared
    assert paired_interval(first, second) == mean_interval([3.0, 0.0, 3.0])
    assert paired_interval(second, first, level=0.6).estimate == -2
    assert paired_interval(first, second, level=0.6).high == pytest.approx(
        2 + T2_AT_60, rel=QUANTILE
    )


@given(slope=st.floats(-3, 3), factor=st.floats(1e-6, 1e6))
def test_a_power_law_has_its_exponent_as_slope_and_local_slopes(slope, factor):
    x = np.array([10.0, 30.0, 100.0, 1000.0])
    y = factor * x**slope
    # logs below 35 of values rounded to eps, over the steps log 3 ... log 10
    rounding = 64 * EPS * 35
    estimate, low, high = log_log_slope(x, y)
    assert estimate == pytest.approx(slope, abs=rounding)
    assert low <= estimate <= high
    assert high - low <= 100 * rounding
    assert local_slopes(x, y) == pytest.approx(np.full(3, slope), abs=rounding)


def test_a_slope_has_its_t_interval():
    # u = -1, 0, 1 and v = -1, 1/2, 1/2 about their means (log base e): slope 3/4,
    # residuals -1/4, 1/2, -1/4: error sqrt((3/8) / 1 / 2) = sqrt(3)/4; one degree of freedom
    x, y = np.exp([1.0, 2.0, 3.0]), np.exp([4.0, 5.5, 5.5])
    slope, low, high = log_log_slope(x, y, level=0.5)
    assert slope == pytest.approx(0.75, rel=64 * EPS)
    assert high - slope == pytest.approx(sqrt(3) / 4, rel=QUANTILE)
    assert slope - low == pytest.approx(sqrt(3) / 4, rel=QUANTILE)
    assert log_log_slope(x, y).high == pytest.approx(slope + T1_AT_95 * sqrt(3) / 4, rel=QUANTILE)


def test_a_slope_of_four_points_has_two_degrees_of_freedom():
    # u = -3, -1, 1, 3 over 2: spread 5; v = 1, -1, -1, 1: slope 0, error sqrt(4 / 2 / 5)
    slope, low, high = log_log_slope(
        np.exp([0.0, 1.0, 2.0, 3.0]), np.exp([1.0, -1, -1, 1]), level=0.6
    )
    assert slope == pytest.approx(0, abs=16 * EPS)
    assert high - low == pytest.approx(2 * T2_AT_60 * sqrt(0.4), rel=1e-11)


def test_local_slopes_look_at_one_step_each():
    assert local_slopes([1, 2, 8], [1, 4, 4]) == pytest.approx([2, 0], abs=4 * EPS)
    assert local_slopes([8, 2], [1, 4]) == pytest.approx([-1], abs=4 * EPS)


@pytest.mark.parametrize("order", [0.5, 1, 2])
@pytest.mark.parametrize("ratio", [2, 3, 1.5])
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_extrapolation_removes_one_power_for_each_further_value(order, ratio, terms):
    limit, coefficients = 2.0, [0.7, -0.4, 0.3]

    def f(h):
        return limit + sum(a * h ** ((j + 1) * order) for j, a in enumerate(coefficients[:terms]))

    values = [f(0.3 / ratio**i) for i in range(terms + 1)]
    value, error = richardson(values, ratio=ratio, order=order)
    # the weights of the table are below (ratio^order / (ratio^order - 1))^terms < 6^3
    assert value == pytest.approx(limit, abs=216 * 16 * EPS)
    coarser, _ = richardson(values[1:], ratio=ratio, order=order) if terms > 1 else (values[-1], 0)
    assert error == pytest.approx(abs(coarser - limit), abs=216 * 16 * EPS)
    assert error > 0


def test_extrapolation_of_two_values_is_worked():
    # 3 + (3 - 5)/(2 - 1) = 1; 3 + (3 - 5)/(4 - 1) = 7/3
    assert richardson([5, 3]) == (1, 2)
    assert richardson([5, 3], ratio=2, order=2) == pytest.approx((7 / 3, 2 / 3), rel=4 * EPS)
    assert richardson([5, 3], ratio=3) == pytest.approx((2, 1), rel=4 * EPS)
    # 3 - 2/(1.01 - 1) and 3 - 2/(2^.01 - 1): both differences lose two digits
    assert richardson([5, 3], ratio=1.01).value == pytest.approx(-197, rel=1000 * EPS)
    assert richardson([5, 3], order=0.01).value == pytest.approx(
        3 - 2 / (2**0.01 - 1), rel=1000 * EPS
    )


@given(h=st.floats(0.01, 0.3))
def test_the_error_of_an_extrapolation_covers_the_next_power(h):
    def f(x):
        return 1 / (1 - x)  # all powers, all coefficients one

    value, error = richardson([f(h), f(h / 2), f(h / 4)])
    assert abs(value - 1) <= error


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson():
    # no hits in n trials: (1 - p)^n = 0.025 at the upper end
    none = share_interval(0, 10)
    assert (none.estimate, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025**0.1, rel=QUANTILE)
    every = share_interval(10, 10)
    assert (every.estimate, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(0.025**0.1, rel=QUANTILE)
    some = share_interval(3, 20, 0.9)
    assert some.estimate == 0.15
    # three hits or more at the lower end, three or less at the upper one; slopes of some tens
    assert binom.sf(2, 20, some.low) == pytest.approx(0.05, rel=100 * QUANTILE)
    assert binom.cdf(3, 20, some.high) == pytest.approx(0.05, rel=100 * QUANTILE)


def test_levels_reach_up_to_the_ends():
    assert bonferroni(0.99, 2) == pytest.approx(0.995, abs=EPS)
    assert bonferroni(0.01, 1) == pytest.approx(0.01, abs=EPS)


def test_bonferroni_shares_the_risk():
    assert bonferroni(0.95, 1) == pytest.approx(0.95, abs=EPS)
    assert bonferroni(0.95, 10) == pytest.approx(0.995, abs=EPS)


def test_the_p_value_is_below_the_risk_where_the_interval_leaves_zero_out():
    draw = np.random.default_rng(3)
    for _ in range(20):
        x, y = draw.standard_normal((2, 5))
        p = paired_p(x, y)
        assert 0 < p < 1
        for level in (1 - 1.01 * p, 1 - 0.99 * p):
            interval = paired_interval(x, y, level)
            assert (p < 1 - level) is not (interval.low <= 0 <= interval.high)
    # one degree of freedom: T is Cauchy's, P(|T| >= t) = 2 arctan(1/t) / pi; here t = 3
    assert paired_p([4.0, 2.0], [0.0, 0.0]) == pytest.approx(
        2 * np.arctan(1 / 3) / np.pi, rel=QUANTILE
    )
    assert paired_p([1.0, 2.0], [0.0, 1.0]) == 0
    assert paired_p([1.0, 2.0], [1.0, 2.0]) == 1


def test_holm_multiplies_by_the_hypotheses_left_and_keeps_the_order():
    # 4 x .01, then 3 x .02 = .06, then max(.06, 2 x .03), then max(.06, .04)
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06], abs=EPS)
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    draw = np.random.default_rng(0)
    for _ in range(20):
        p = draw.uniform(size=7) ** 3
        adjusted = holm(p)
        # the definition step by step: reject the least p while it is <= alpha / (those left)
        for alpha in (0.01, 0.05, 0.3):
            rejected, left = set(), sorted(range(7), key=lambda i: p[i])
            while left and p[left[0]] <= alpha / len(left):
                rejected.add(left.pop(0))
            assert {i for i in range(7) if adjusted[i] <= alpha} == rejected


def power_by_integration(centre, t, degrees):
    """P(|T'| > t): the mean over V of the normal tails at t sqrt(V / degrees) from the centre."""
    from scipy import integrate, stats

    def tail(v):
        at = t * np.sqrt(v / degrees)
        both = stats.norm.sf(at - centre) + stats.norm.cdf(-at - centre)
        return both * stats.chi2.pdf(v, degrees)

    return integrate.quad(tail, 0, np.inf, epsabs=1e-10, epsrel=1e-10, limit=200)[0]


@pytest.mark.parametrize(("count", "level"), [(3, 0.95), (5, 0.999), (10, 0.95), (40, 0.99)])
def test_a_detectable_difference_is_found_with_its_power(count, level):
    from scipy import stats

    found = detectable_difference(2.0, count, level)
    t = stats.t.isf((1 - level) / 2, count - 1)
    power = power_by_integration(found * np.sqrt(count) / 2.0, t, count - 1)
    # the quadrature's 1e-10, and the root's tolerance of 2e-12 times a slope of the power below 1
    assert power == pytest.approx(0.8, abs=1e-9)
    assert detectable_difference(4.0, count, level) == pytest.approx(2 * found, rel=QUANTILE)
    assert detectable_difference(2.0, count + 1, level) < found


def test_without_spread_every_difference_is_seen():
    assert detectable_difference(0.0, 5) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_p([1.0], [2.0]), "^first must be at least 2 numbers"),
        (lambda: holm([]), "^p_values must be at least 1 numbers"),
        (lambda: holm([0.5, 1.5]), r"^p_values must lie in \[0, 1\], got 1\.5"),
        (lambda: detectable_difference(-1.0, 5), "^deviation must be finite and >= 0, got -1"),
        (lambda: detectable_difference(1.0, 1), "^count must be an integer >= 2, got 1"),
        (lambda: detectable_difference(1.0, 5, 0.95, 0.04), r"^power must lie in \(1 - level, 1\)"),
        (lambda: mean_interval([1.0]), r"^values must be at least 2 numbers in a row, .* \(1,\)"),
        (lambda: mean_interval(np.ones((3, 3))), r"^values must be .* in a row, .* \(3, 3\)"),
        (lambda: mean_interval([1.0, nan]), "^values must be finite, got nan"),
        (lambda: mean_interval([inf, 1.0]), "^values must be finite, got inf"),
        (lambda: mean_interval([1.0, 2.0], 1.0), r"^level must lie in \(0, 1\), got 1\.0"),
        (lambda: mean_interval([1.0, 2.0], 0.0), r"^level must lie in \(0, 1\), got 0\.0"),
        (lambda: mean_interval([1.0, 2.0], nan), r"^level must lie in \(0, 1\), got nan"),
        (lambda: paired_interval([1.0, 2.0, 3.0], [1.0, 2.0]), "^first and second .* 3 and 2"),
        (lambda: paired_interval([1.0, 2.0], [1.0]), "^second must be at least 2 numbers"),
        (lambda: log_log_slope([1.0, 2.0], [1.0, 2.0]), "^x must be at least 3 numbers"),
        (lambda: log_log_slope([1.0, 2.0, 3.0], [1.0, 2.0]), "^y must be at least 3 numbers"),
        (lambda: log_log_slope([2.0] * 3, [1.0, 2.0, 3.0]), "^x must hold at least two different"),
        (lambda: log_log_slope([1.0, 2, 3], [1.0, 0, 2]), r"^y must be positive .* got 0\.0"),
        (lambda: log_log_slope([-1.0, 2, 3], [1.0, 1, 2]), r"^x must be positive .* got -1\.0"),
        (lambda: log_log_slope([1.0, 2, 3], [1.0, nan, 2]), "^y must be finite, got nan"),
        (lambda: local_slopes([1.0], [1.0]), "^x must be at least 2 numbers"),
        (lambda: local_slopes([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]), "^x must differ from point to"),
        (lambda: richardson([1.0]), "^values must be at least 2 numbers"),
        (lambda: richardson([1.0, nan]), "^values must be finite"),
        (lambda: richardson([1.0, 2.0], ratio=1), r"^ratio must be > 1 .*, got 1$"),
        (lambda: richardson([1.0, 2.0], order=0), "^order must be > 0, got 0"),
        (lambda: share_interval(3, 2), "^hits must be <= count = 2, got 3"),
        (lambda: share_interval(0, 0), "^count must be an integer >= 1, got 0"),
        (lambda: share_interval(-1, 2), "^hits must be an integer >= 0, got -1"),
        (lambda: share_interval(1, 2, 1.0), r"^level must lie in \(0, 1\), got 1\.0"),
        (lambda: bonferroni(1.0, 3), r"^level must lie in \(0, 1\), got 1\.0"),
        (lambda: bonferroni(0.95, 0), "^rows must be an integer >= 1, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
