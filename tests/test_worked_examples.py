"""W1 and W2 at other weights and at d != k: the library against fractions."""

from fractions import Fraction

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, mix_factors, mix_products, product
from decaf_theory.measure import interference
from decaf_theory.methods import METHODS
from tests.mixes import EPS
from verification.claim import Context
from verification.claims.examples import fractions

SHAPES = [(2, 2), (2, 5), (7, 3)]


@pytest.mark.parametrize("pi", [Fraction(2, 3), Fraction(3, 5), Fraction(99, 100)])
@pytest.mark.parametrize(("d", "k"), SHAPES)
def test_w1_squared_norms_agree_with_fractions(pi, d, k):
    exact = fractions.orthogonal_pair(pi)
    found = fractions.measured_pair(Context("W1"), pi, d, k)
    assert exact.keys() == found.keys()
    for name, value in exact.items():
        assert found[name] == pytest.approx(float(value), abs=20 * max(d, k) * EPS)


def test_w1_at_two_thirds_and_at_three_fifths():
    assert fractions.orthogonal_pair(Fraction(2, 3)) == {
        "|I|_F^2": Fraction(16, 81),
        "|E|_F^2": Fraction(1, 9),
        "|P - Bbar Abar|_F^2": Fraction(13, 81),
    }
    assert fractions.orthogonal_pair(Fraction(3, 5)) == {
        "|I|_F^2": Fraction(144, 625),
        "|E|_F^2": Fraction(4, 25),
        "|P - Bbar Abar|_F^2": Fraction(124, 625),
    }


@pytest.mark.parametrize(("d", "k"), SHAPES)
def test_w1_matrices_entry_by_entry(d, k):
    B, A = np.zeros((2, d, 1)), np.zeros((2, 1, k))
    B[0, 0] = B[1, 1] = A[0, 0, 0] = A[1, 0, 1] = 1.0
    factors, Pi = Factors(B, A), np.array([[2 / 3, 1 / 3]])
    corner = (slice(None), slice(2), slice(2))
    mean, averaged = mix_products(factors, Pi), product(mix_factors(factors, Pi))
    assert mean[corner] == pytest.approx(np.diag([2 / 3, 1 / 3])[None], abs=EPS)
    expected = np.array([[4, 2], [2, 1]])[None] / 9
    assert averaged[corner] == pytest.approx(expected, abs=EPS)
    for X in (mean, averaged):
        assert np.sum(np.abs(X)) == pytest.approx(np.sum(np.abs(X[corner])), abs=0)


@pytest.mark.parametrize("pi", [Fraction(1, 2), Fraction(3, 5)])
@pytest.mark.parametrize(("d", "k"), [(1, 1), *SHAPES])
def test_w2_one_round_agrees_with_fractions(pi, d, k):
    """Agents (a, b) = (1, 1), (2, 1/2) on E_11, target E_11, step size 1/4."""
    rest, lr = 1 - pi, Fraction(1, 4)
    a, b = pi + 2 * rest, pi + rest / 2
    stepped = (a - lr * b * (a * b - 1)) * (b - lr * a * (a * b - 1))
    if pi == Fraction(1, 2):
        assert (a * b, stepped) == (Fraction(9, 8), Fraction(8505, 8192))

    B, A, target = np.zeros((2, d, 1)), np.zeros((2, 1, k)), np.zeros((d, k))
    A[:, 0, 0], B[:, 0, 0], target[0, 0] = [1, 2], [1, 0.5], 1
    factors, Pi = Factors(B, A), np.array([[float(pi), float(rest)]])
    rounding = 40 * EPS  # a few operations on numbers below two
    lost = interference(factors, Pi)[0]
    assert lost[0, 0] == pytest.approx(float(1 - a * b), abs=rounding)
    expected = {"dlora": (a * b, stepped), "decaf": (Fraction(1), Fraction(1))}
    for method, (mixed, after) in expected.items():
        state = METHODS[method].mix(factors, Pi, 0)
        assert product(state)[0, 0, 0] == pytest.approx(float(mixed), abs=rounding)
        g = product(state) - target
        B_new = state.B - 0.25 * g @ state.A.swapaxes(-1, -2)
        A_new = state.A - 0.25 * state.B.swapaxes(-1, -2) @ g
        assert (B_new @ A_new)[0, 0, 0] == pytest.approx(float(after), abs=rounding)
        assert np.count_nonzero(B_new @ A_new) == 1
