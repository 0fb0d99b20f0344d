"""The rate bounds against the exact worst cases of whole runs, from PEPit (extra `dev`).

They come from semidefinite programs, and the multipliers that prove them are checked here; without
PEPit these tests are skipped.
"""

import numpy as np
import pytest

from decaf_theory import bounds
from tests.second_opinion import cases

EPS = np.finfo(float).eps
TOLERANCE = 1e-4
# the absolute gap at which the solver stops; where its last digits stall, `leak` says how much
GAP = 1e-8


@pytest.fixture(scope="module")
def pep():
    pytest.importorskip("PEPit", reason="PEPit solves for worst cases: pip install -e .[dev]")
    from tests.second_opinion import worst_case

    return worst_case


def label(case):
    return f"{case.name}, N={case.N}, T={case.T}, {case.order}"


networks = [case for case in cases.CASES if case.N > 1]


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.CASES, ids=label)
def test_no_smooth_losses_beat_the_rate_bound(case, pep):
    check_gradient(case, pep)


@pytest.mark.slow
@pytest.mark.parametrize("case", networks, ids=label)
def test_the_worst_consensus_distance_is_that_of_the_proof(case, pep):
    check_spread(case, pep)


@pytest.mark.night
@pytest.mark.parametrize("case", cases.LONGER, ids=label)
def test_no_smooth_losses_beat_the_rate_bound_in_longer_runs(case, pep):
    check_gradient(case, pep)
    check_spread(case, pep)


def check_gradient(case, pep):
    worst, Xi = pep.worst_gradient(case), cases.spread_bound(case)
    bound = cases.gradient_bound(case, Xi)
    assert worst.leak <= TOLERANCE * bound
    assert worst.proved <= bound * (1 + TOLERANCE)
    # the steps of the proof, each no looser than the next
    finite = float(np.mean(cases.spread_horizon(case)))
    sharp = cases.gradient_sharp(case, finite)
    assert worst.proved <= sharp * (1 + TOLERANCE)
    assert sharp <= cases.gradient_bound(case, finite) * (1 + 8 * EPS) <= bound * (1 + 16 * EPS)


def check_spread(case, pep):
    worst, finite = pep.worst_spread(case), cases.spread_horizon(case)[-1]
    assert worst.leak <= TOLERANCE * (case.lr * case.kappa) ** 2
    slack = TOLERANCE * finite + worst.leak + GAP
    # from both sides: attained at every horizon, for either sign of the eigenvalue
    assert worst.proved <= finite + slack
    assert worst.attained >= finite - slack
    assert finite <= cases.spread_bound(case) * (1 + 8 * EPS)


@pytest.mark.slow
@pytest.mark.parametrize("T", [1, 2, 6])
def test_the_descent_term_is_attained_at_the_largest_step(T, pep):
    case = cases.Case("one", cases.ONE, T, 1.0, 0.0, "MS")
    worst = pep.worst_gradient(case)
    assert worst.attained >= (1 - TOLERANCE) * cases.gradient_bound(case, 0.0)


@pytest.mark.slow
def test_the_consensus_bound_is_all_but_attained_after_two_short_steps(pep):
    case = cases.Case("complete pair", cases.pair(0.5), 3, 0.01, 20.0, "CB")
    # D_t / D_inf = 1 - g^t, g = lam + lr L
    share = (1 - 0.01**2) ** 2
    worst, bound = pep.worst_spread(case), cases.spread_bound(case)
    assert worst.proved <= bound * (1 + TOLERANCE)
    assert worst.attained >= bound * (share - TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["MS", "CB"])
@pytest.mark.parametrize(("m", "share"), [(1.0, 1.0), (0.5, 0.5625), (0.0, 0.25)])
def test_descent_holds_with_the_curvature_of_the_class_whatever_the_heterogeneity(
    m, share, order, pep
):
    assert share == bounds.convex_curvature(L=1.0, m=m)
    case = cases.Case("pair 3/4", cases.pair(0.75), 3, 1.0, 0.0, order)
    worst, bound = pep.worst_balance(case, m=m, share=share), cases.gradient_bound(case, 0.0)
    assert worst.leak <= TOLERANCE * bound
    assert worst.proved <= (1 + TOLERANCE) * bound
    assert worst.attained >= (1 - TOLERANCE) * bound


@pytest.mark.slow
@pytest.mark.parametrize(
    ("m", "share", "T", "least"), [(1.0, 0.25, 4, 1.25), (1.0, 0.5, 5, 1.1), (0.5, 0.25, 5, 1.1)]
)
def test_a_smaller_weight_of_the_consensus_term_fails(m, share, T, least, pep):
    # so that the check above can fail; F* is held at the points met only, as it is in the proof
    case = cases.Case("pair 3/4", cases.pair(0.75), T, 1.0, 0.0, "MS")
    worst = pep.worst_balance(case, m=m, share=share)
    assert worst.attained >= least * cases.gradient_bound(case, 0.0)


@pytest.mark.slow
def test_the_consensus_constant_of_one_order_fails_in_the_other(pep):
    combine = cases.Case("pair 3/4", cases.pair(0.75), 3, 0.2, 1.0, "CB")
    assert pep.worst_spread(combine).attained >= 1.8 * cases.spread_bound(
        combine._replace(order="MS")
    )


@pytest.mark.slow
@pytest.mark.parametrize("lr", [1.25, 1.75])
def test_the_sharpened_rate_holds_up_to_twice_the_largest_step(lr, pep):
    case = cases.Case("pair 11/20", cases.pair(0.55), 3, lr, 0.5, "MS")
    finite = float(np.mean(cases.spread_horizon(case)))
    worst = pep.worst_gradient(case)
    assert worst.proved <= (1 + TOLERANCE) * cases.gradient_sharp(case, finite)
    # where the plain rate no longer does
    plain = 2 / (case.lr * case.T) + finite
    assert worst.attained > plain
