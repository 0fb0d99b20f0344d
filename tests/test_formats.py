import pytest

from decaf_theory.formats import digits, ratio, size


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (66.0854, "66.1"),
        (100.0, "100"),
        (1234.5, "1234"),
        (99999.0, "99999"),
        (1234567.0, "1.23e+06"),
        (0.0123456, "0.0123"),
        (1.5e-7, "1.50e-07"),
        (-0.5, "-0.500"),
        (5, "5.00"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_three_digits(x, text):
    assert digits(x) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (None, "-"),
        (0.0, "0.0000"),
        (0.99996, "1.0000"),
        (-0.25, "-0.2500"),
        (9999.0, "9999.0000"),
        (1e4, "1.0e+04"),
        (4.2e-5, "4.2e-05"),
    ],
)
def test_a_ratio_has_four_decimals_or_an_exponent(x, text):
    assert ratio(x) == text


def test_a_ratio_that_is_missing_is_what_the_reader_expects_there():
    assert ratio(None, "–") == "–"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1_234_567, "1.235 MB"),
        (13.48e9, "13.48 GB"),
        (2e12, "2 TB"),
    ],
)
def test_a_size_has_a_decimal_unit(number, text):
    assert size(number) == text
