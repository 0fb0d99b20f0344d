"""Gini, coefficient of variation, kurtosis and the median split, against their definitions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory.concentration import (
    STATISTICS,
    coefficient_of_variation,
    gini,
    kurtosis,
    median_split,
)

EPS = float(np.finfo(np.float64).eps)
# whole numbers below 1000: no two different ones are so near that a variance cancels
NUMBERS = st.lists(st.integers(0, 999), min_size=2, max_size=12)
UNEQUAL = NUMBERS.filter(lambda x: len({*x}) > 1)


def exact(x):
    """Gini, squared CV and kurtosis by their definitions, as fractions."""
    n, mean = len(x), Fraction(sum(x), len(x))
    pairs = sum(abs(a - b) for a in x for b in x)
    second = sum((a - mean) ** 2 for a in x) / n
    fourth = sum((a - mean) ** 4 for a in x) / n
    return Fraction(pairs, 2 * n * sum(x)), second / mean**2, fourth / second**2


def rounding(n):
    """Of sums over n terms, of squares of squares, and of what they are divided by."""
    return 8 * (n + 4) * EPS


@given(UNEQUAL)
def test_the_statistics_are_those_of_fractions(x):
    g, square, k = exact(x)
    # the distance from the mean is known to eps of the largest number, and it is at least 1/n
    lost = rounding(len(x)) * len(x) * max(x)
    assert gini(x) == pytest.approx(float(g), rel=0, abs=rounding(len(x)))
    assert coefficient_of_variation(x) == pytest.approx(float(square) ** 0.5, rel=lost)
    assert kurtosis(x) == pytest.approx(float(k), rel=lost)


@given(UNEQUAL)
def test_the_statistics_stay_in_their_ranges(x):
    n = len(x)
    lost = rounding(n) * n * max(x)
    assert 0 < gini(x) <= 1 - 1 / n + rounding(n)
    assert 0 < coefficient_of_variation(x) <= (n - 1) ** 0.5 * (1 + lost)
    assert (1 - lost) <= kurtosis(x) <= (n - 2 + 1 / (n - 1)) * (1 + lost)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_single_number_that_is_not_zero_is_the_most_concentrated(n):
    one = np.eye(n)[0]
    assert gini(one) == pytest.approx(1 - 1 / n, rel=2 * EPS)
    assert coefficient_of_variation(one) == pytest.approx((n - 1) ** 0.5, rel=rounding(n))
    assert kurtosis(one) == pytest.approx(n - 2 + 1 / (n - 1), rel=rounding(n))
    assert kurtosis(1 - one) == pytest.approx(n - 2 + 1 / (n - 1), rel=rounding(n))


@pytest.mark.parametrize(("a", "b"), [(9, 3), (5, 4), (1, 0)])
@pytest.mark.parametrize(("m", "n"), [(2, 12), (6, 12), (1, 3)])
def test_of_two_values_the_statistics_are_in_closed_form(a, b, m, n):
    x, p = [a] * m + [b] * (n - m), Fraction(m, n)
    g, square, k = exact(x)
    total = m * a + (n - m) * b
    assert g == Fraction(m * (n - m) * (a - b), n * total)
    assert square == Fraction(m * (n - m) * (a - b) ** 2, total**2)
    assert k == 1 / (p * (1 - p)) - 3  # without a and b: it cannot tell how far they are apart


def test_equal_numbers_are_not_concentrated_and_have_no_kurtosis():
    x = np.array([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [1.0, 2.0, 6.0]])
    assert gini(x).tolist()[:2] == [0, 0]
    assert coefficient_of_variation(x).tolist()[:2] == [0, 0]
    assert np.isnan(kurtosis(x)).tolist() == [True, True, False]


@pytest.mark.parametrize("name", STATISTICS)
def test_no_statistic_knows_the_scale_and_rows_are_treated_alone(name):
    x = np.random.default_rng(0).random((3, 4, 9))
    of = STATISTICS[name]
    found = of(x)
    assert found.shape == (3, 4)
    assert of(x[1, 2]) == found[1, 2]
    for factor in (2.0**-1000, 2.0**1000):  # products with a power of two are exact
        assert np.array_equal(of(factor * x), found)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=15))
def test_a_median_split_takes_those_above_and_half_of_them_at_most(x):
    split = median_split(x)
    assert 2 * sum(split) <= len(x)
    middle = sorted(x)[(len(x) - 1) // 2 : len(x) // 2 + 1]
    assert split.tolist() == [a > Fraction(sum(middle), len(middle)) for a in x]
    if len({*x}) == len(x):
        assert sum(split) == len(x) // 2


@pytest.mark.parametrize("of", STATISTICS.values())
@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([], "values must be at least one number in a row"),
        (3.0, "values must be at least one number in a row"),
        ([1.0, -1.0], r"values must be finite and >= 0, got -1\.0; give norms"),
        ([1.0, float("nan")], "values must be finite and >= 0, got nan"),
    ],
)
def test_what_are_no_norms_is_refused(of, x, words):
    with pytest.raises(ValueError, match=words):
        of(x)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([], "values must be at least one number in a row"),
        ([[1.0, 2.0]], r"got shape \(1, 2\)"),
        ([1.0, float("inf")], "values must be finite, got inf; leave them out"),
    ],
)
def test_what_has_no_median_is_refused(x, words):
    with pytest.raises(ValueError, match=words):
        median_split(x)
