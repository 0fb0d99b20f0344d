"""Random faults at every door for minutes, others each night."""

import os

import pytest

from tests.fuzz.minutes import withstood
from tests.fuzz.test_doors import DOORS

MINUTES = float(os.environ.get("DECAF_FUZZ_MINUTES", "3"))


def test_a_door_is_tried_until_its_time_is_over():
    assert withstood("stored_rows", 1e-4) > 0


@pytest.mark.night
@pytest.mark.parametrize("door", DOORS)
def test_each_door_withstands_minutes(door):
    assert withstood(door, MINUTES) > 0
