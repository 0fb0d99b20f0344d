"""The words of evidence: one row of two numbers, and the row of the worst of many instances."""

import numpy as np
import pytest
import torch

from verification.claim import Outcome, Row
from verification.evidence import EPS, NEAR, at_least, at_most, attained, same, ulps


def test_roundings_are_counted_in_eps_of_a_product_of_sizes():
    assert ulps(3) == 3 * EPS
    assert ulps(3, 0.5, 8.0) == 12 * EPS
    assert np.all(ulps(2, np.array([1.0, 3.0])) == np.array([2 * EPS, 6 * EPS]))


def test_a_row_of_two_numbers_holds_them_and_its_coordinates():
    row = at_most("name", 1, 2, rounding=0.5, held=np.True_, r=3)
    assert row == Row("name", "<=", 1.0, 2.0, 0.5, 1.0, 1.0, True, {"r": 3})
    assert at_least("name", 1, 2, rounding=0).relation == ">="
    assert same("name", -3.0, rounding=1) == Row("name", "==", 3.0, 0.0, 1.0, 3.0, 3.0)
    assert at_most("mean", 1, 2, rounding=0, low=0.5, high=1.5).high == 1.5


def test_arrays_of_one_number_are_one_instance_and_numbers_are_none():
    for array in (np.array([1.0]), torch.tensor([1.0], dtype=torch.float64)):
        assert at_most("name", array, 2, rounding=0.0).params == {"instances": 1}
    for number in (1, np.float64(1), np.array(1.0), torch.tensor(1.0)):
        assert at_most("name", number, 2, rounding=0.0).params == {}


@pytest.mark.parametrize(
    ("judge", "measured", "bound", "nearest"),
    [
        (at_most, [1.0, 5e-9, 0.0], [2.0, 4e-9, 1.0], 5e-9),  # broken, though by little
        (at_most, [1.0, 1.9e9], [4.0, 2e9], 1.9e9),  # in proportion, not in room
        (at_least, [4.0, 2.1e9], [1.0, 2e9], 2.1e9),
        (at_least, [1.0, 3e-9], [0.5, 4e-9], 3e-9),
    ],
)
def test_the_row_of_many_instances_is_the_nearest_to_breaking(judge, measured, bound, nearest):
    row = judge("name", np.array(measured), np.array(bound), rounding=0.0)
    assert row.measured == nearest
    assert row.params["instances"] == len(measured)


def test_an_identity_of_many_instances_shows_the_largest_residual_relative_to_its_rounding():
    row = same("name", np.array([-4e-9, 1e-12]), rounding=np.array([1e-8, 1.5e-12]))
    assert (row.relation, row.measured, row.rounding) == ("==", 1e-12, 1.5e-12)
    assert same("name", np.array([0.0, -2.0]), rounding=1.0).measured == 2.0


def test_an_instance_is_left_out_where_its_assumptions_fail():
    measured = np.array([3.0, 1.0])
    row = at_most("name", measured, 2.0, rounding=0.0, held=np.array([0.0, 1.0]))
    assert (row.measured, row.outcome, row.params["instances"]) == (1.0, Outcome.HOLDS, 1)
    row = at_most("name", measured, 2.0, rounding=0.0, held=False)
    assert (row.outcome, row.params["instances"]) == (Outcome.NOT_APPLICABLE, 2)


def test_one_nan_of_many_instances_is_seen():
    row = at_most("name", np.array([1.0, np.nan, 1.5]), 2.0, rounding=0.0)
    assert row.outcome == Outcome.INCONCLUSIVE


def test_what_is_attained_says_so_in_a_second_row():
    first, second = attained(at_most("name", 1.0, 1.0, rounding=0.0, r=2))
    assert first.relation == "<="
    assert (second.case, second.relation, second.params) == ("name, reached", ">=", {"r": 2})
    assert second.bound == 1 - NEAR
    assert [row.outcome for row in attained(at_most("far", 1 - 2 * NEAR, 1, rounding=0))] == [
        Outcome.HOLDS,
        Outcome.VIOLATED,
    ]
    assert all(not row.assumptions_held for row in attained(at_most("", 1, 1, rounding=0, held=0)))
