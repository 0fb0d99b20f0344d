"""Claims T15-T24: what refutes them, and the instances they share."""

import numpy as np
import pytest

from decaf_theory import bounds
from decaf_theory.lowrank import Factors
from decaf_theory.measure import NORMS
from decaf_theory.methods import METHODS, keeping_directions
from decaf_theory.tsvd import tsvd_of_mix
from tests.claim_rows import CLAIMS, rows_of
from tests.mixes import assert_near, mix
from verification import attack
from verification.claim import Context, Outcome
from verification.claims.truncation import (
    beats_averaging,
    dead_directions,
    eckart_young,
    golden_ratio,
    second_order,
    without_neighbourhood,
    worst_case,
)
from verification.evidence import at_least, at_most
from verification.instances.mixes import FAMILIES, Mix, load
from verification.instances.mixes import mixes as claimed_mixes

EPS = float(np.finfo(float).eps)


def violated(name):
    """Whether a run of the claim, by the functions as they are now, violates it."""
    return any(row.outcome == Outcome.VIOLATED for row in CLAIMS[name].rows(Context(name)))


@pytest.mark.parametrize("norm", NORMS)
def test_t18_and_t16_are_attained_in_every_norm(norm):
    for name in ("T16", "T18"):
        best = max(
            row.tightness or 0.0 for row in rows_of(name) if row.params.get("norm", "") == norm
        )
        assert 1 - 1e-6 <= best <= 1 + 1e-9


def test_t16_is_attained_at_every_rank_size_and_largest_weight():
    found = [row for row in rows_of("T16") if row.params["family"] == "sharpest"]
    bounded = [row for row in found if row.relation == "<="]
    assert {(row.params["r"], row.params["k"]) for row in bounded} == SIZES
    assert len(bounded) == len(SIZES) * 4 * len(NORMS)
    for row in bounded:
        # of d and k the lesser counts: a bound by the greater would not be reached
        assert row.params["d"] > row.params["k"]
        assert abs(row.measured - row.bound) <= row.rounding


SIZES = {(1, 2), (1, 4), (2, 3), (2, 5), (3, 4), (3, 5)}


def test_t16_is_not_attained_by_every_list_of_weights():
    row = worst_case.replay(worst_case.given_weights())
    # |E|_F^2 = .6^2 + .4^2 against 2 (3/5)^2
    assert abs(row.measured - np.sqrt(0.52 / 0.72) * row.bound) <= row.rounding


@pytest.mark.night
def test_a_search_comes_near_what_those_weights_reach_and_not_above():
    pytest.importorskip("torch")
    found, _ = attack.run(CLAIMS["T16"], "fro, given weights", seconds=0.0, seed=0)
    best = np.sqrt(0.52 / 0.72)
    assert attack.WEAKENED * best < found.ratio <= best * (1 + 1e-9)


@pytest.mark.parametrize("t", [1 - 2.0**-20, 1.0, 1 + 2.0**-20])
def test_t21_applies_until_the_farthest_agent_is_sigma_r_away(t):
    # e_1 e_1' and (1 + t) e_1 e_1', with the first as reference: sigma_r = 1, delta = t
    B = [[[1.0], [0.0]], [[1.0], [0.0]]]
    A = [[[1.0, 0.0]], [[1 + t, 0.0]]]
    reference = [[1.0, 0.0], [0.0, 0.0]]
    row = second_order.replay({"B": B, "A": A, "weights": [0.5, 0.5], "reference": reference})
    assert row.assumptions_held is (t < 1)
    if t < 1:
        # (t^2/2 + t^2/4) / (2 (1 - t)); of 1 - t = 2^-20 nothing is lost
        assert row.bound == pytest.approx(0.75 * t**2 / (2 * (1 - t)), rel=1e-9)


def test_t21_global_is_stronger_than_t21():
    case = without_neighbourhood.Spread.of(load(second_order.extremal(0.3)))
    P0 = np.array([[[[1.0, 0.0], [0.0, 0.0]]]])
    ours = case.against(P0, "T21's own")
    theirs = second_order.replay(second_order.extremal(0.3))
    assert abs(ours.measured - theirs.measured) <= ours.rounding + theirs.rounding
    assert ours.bound < (1 - np.sin(0.3) / 2) * theirs.bound


def test_the_golden_ratio_fails_by_two_over_phi_in_operator_and_nuclear_norm():
    for row in rows_of("T18-op"):
        assert row.tightness == pytest.approx(2 / bounds.GOLDEN_RATIO, rel=1e-8)


def test_a_rank_bound_one_too_small_is_violated(monkeypatch):
    right = bounds.mix_rank
    monkeypatch.setattr(bounds, "mix_rank", lambda **letters: right(**letters) - 1)
    assert violated("T15")


def test_a_truncation_that_keeps_the_wrong_direction_is_noticed(monkeypatch):
    def flipped(factors, Pi, rank, **options):
        truncated = tsvd_of_mix(factors, Pi, rank, **options)
        return truncated._replace(factors=Factors(truncated.factors.B, -truncated.factors.A))

    monkeypatch.setattr(eckart_young, "tsvd_of_mix", flipped)
    assert violated("T15")


def test_a_direction_that_stays_alive_breaks_t23_at_every_rank(monkeypatch):
    sizes = ((3, 2, 6, 5), (4, 1, 5, 7), (2, 1, 3, 2))
    ctx = Context("T23")
    held = [dead_directions._rank_after_a_step(ctx, *args) for args in sizes]
    assert [row.outcome for row in held] == [Outcome.HOLDS] * 3
    monkeypatch.setitem(METHODS, "decaf", keeping_directions(METHODS["decaf"]))
    revived = [dead_directions._rank_after_a_step(ctx, *args) for args in sizes]
    assert [row.outcome for row in revived] == [Outcome.VIOLATED] * 3


# ---------------------------------------------------------------- shared instances


def test_every_family_has_stochastic_rows_and_shapes_that_belong_together():
    met = set()
    for found in claimed_mixes(Context("families"), instances=3):
        count, m, d, r = found.factors.B.shape
        assert found.factors.A.shape == (count, m, r, found.params["k"])
        assert found.Pi.shape[-1] == m
        assert np.all(found.Pi >= 0)
        assert_near(found.Pi.sum(-1), np.ones(len(found.Pi)), 4 * EPS)
        met.add((d > found.params["k"]) - (d < found.params["k"]))
    assert met == {-1, 1}
    assert len(FAMILIES) >= 13


def test_the_extremal_mix_of_t18_is_what_its_docstring_says():
    for norm, q in golden_ratio.SHARPEST.items():
        (B, A), row = load(golden_ratio.extremal(norm)).factors, np.full(3, 1 / 3)
        assert_near(
            mix(Factors(B[0], A[0]), row[None])[0], np.diag([1 + golden_ratio.TIE, 1]), 20 * EPS
        )
        mean = row @ B[0, :, :, 0]
        assert_near(np.outer(mean, row @ A[0, :, 0]), np.diag([0, q]), 20 * EPS)


def test_the_row_of_many_instances_is_the_one_that_breaks():
    values = np.array([[1.0, 5e-9], [0.0, 2e9]])
    limits = np.array([[2.0, 4e-9], [1.0, 3e9]])
    row = at_most("any", values, limits, rounding=0.0)
    assert (row.measured, row.bound, row.params["instances"]) == (5e-9, 4e-9, 4)
    assert row.outcome == Outcome.VIOLATED
    held = np.array([[True, False], [True, True]])
    row = at_most("held", values, limits, rounding=0.0, held=held)
    assert (row.measured, row.bound, row.params["instances"]) == (2e9, 3e9, 3)
    row = at_most("none", values, limits, rounding=0.0, held=False)
    assert row.outcome == Outcome.NOT_APPLICABLE
    row = at_least("at least", values, limits, rounding=0.0)
    assert row.outcome == Outcome.VIOLATED
    broken = np.array([1.0, np.nan])
    assert at_most("nan", broken, 2.0, rounding=0.0).outcome == Outcome.INCONCLUSIVE


def test_a_stored_mix_is_one_instance_of_one_row():
    found = load(beats_averaging.extremal())
    assert isinstance(found, Mix)
    assert found.factors.B.shape == (1, 2, 2, 1)
    assert found.Pi.shape == (1, 2)
